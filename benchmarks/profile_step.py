"""Where the time of a step on the CPU goes: seconds in each kernel, and in what is between them.

The steps are those of benchmarks/cpu_vs_torch.py, of each case the last: a train step where it has one. A kernel's
seconds are from its call to its return, on all threads; the rest is Python: the engine, allocation, the optimiser's
bookkeeping.

    python benchmarks/profile_step.py [--case swin_t_b8 --case swin_t_b1] [--steps 10]
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from dataclasses import replace
from statistics import median
from typing import Any

import _peers
import numba
import numpy as np
from cpu_vs_torch import CASES, _ours, _ours_imported


def _watch(seconds: Counter[str], calls: Counter[str]) -> None:
    """From now on every kernel's compiled implementation adds how long it took."""
    from autograd.kernels import KERNELS
    from autograd.kernels.registry import register_implementation

    for name, row in list(KERNELS.items()):
        if row.cpu is not None:
            run = row.cpu.run

            def timed(*args: Any, run: Any = run, name: str = name, **kwargs: Any) -> Any:
                started = time.perf_counter()
                result = run(*args, **kwargs)
                seconds[name] += time.perf_counter() - started
                calls[name] += 1
                return result

            register_implementation(name, cpu=replace(row.cpu, run=timed))


def _profile(name: str, steps: int, seconds: Counter[str], calls: Counter[str]) -> dict[str, Any]:
    """Means over the faster half of the steps: others were disturbed."""
    runs, _ = _ours(CASES[name])
    kind = CASES[name].steps[-1]
    for _ in range(2):
        runs[kind]()
    found = []
    for _ in range(steps):
        seconds.clear()
        calls.clear()
        started = time.perf_counter()
        runs[kind]()
        found.append((time.perf_counter() - started, dict(seconds), dict(calls)))
    limit = median(total for total, *_ in found)
    kept = [f for f in found if f[0] <= limit]
    mean = {n: sum(f[1].get(n, 0.0) for f in kept) / len(kept) for n in sorted(set().union(*(f[1] for f in kept)))}
    total = sum(f[0] for f in kept) / len(kept)
    for n, value in sorted(mean.items(), key=lambda item: -item[1]):
        print(f"{n:28s}{1e3 * value:9.1f} ms {100 * value / total:5.1f}%  {kept[0][2][n]} calls", flush=True)
    rest = total - sum(mean.values())
    print(
        f"{'between kernels':28s}{1e3 * rest:9.1f} ms {100 * rest / total:5.1f}%  of {1e3 * total:.1f} ms\n", flush=True
    )
    return {"step": kind, "seconds": total, "kernels": mean, "calls": kept[0][2], "between_kernels": rest}


def _main() -> None:
    parser = _peers.add_options(argparse.ArgumentParser(description=__doc__.partition("\n")[0]), rounds=1)
    parser.set_defaults(threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--case", action="append", default=[], choices=list(CASES))
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    _peers.refuse_when_loaded(options.max_load, options.force)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    _ours_imported()
    seconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    _watch(seconds, calls)
    results = {}
    for name in options.case or ["swin_t_b8", "swin_t_b1", "swin_cifar_tiny_b128"]:
        print(name)
        results[name] = _profile(name, options.steps, seconds, calls)
    record = _peers.record((), options) | {"versions": {"numpy": np.__version__, "numba": numba.__version__}}
    payload = {"what": "a step on the CPU, by kernel", "results": results, **record}
    print(f"written: {_peers.write_json('profile', payload).relative_to(_peers.ROOT)}")


if __name__ == "__main__":
    _main()
