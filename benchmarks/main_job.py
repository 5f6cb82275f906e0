"""The README's training command with the extra ``fast`` and without: whole runs, and optimiser steps in turns.

Both run ``examples/train_cifar.py --dataset scenes`` with its defaults on data that was made before. Short runs take
turns and give seconds a step, the loader's part and the start left out; then, with --whole, one run each to the end.

    python benchmarks/main_job.py --plain-python PATH [--whole]

This interpreter has the extra, the one at PATH (or in SWINPY_PLAIN_PYTHON) NumPy alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import _peers

STEPS, SKIPPED = 60, 10  # of a short run; its first steps compile, load and fill caches


def _run(python: str, data: Path, output: Path, threads: int, *more: str) -> float:
    """Seconds of one run of the example, from start to exit."""
    command = [python, str(_peers.ROOT / "examples" / "train_cifar.py"), "--dataset", "scenes", "--no-plots"]
    command += ["--data-dir", str(data), "--output", str(output), "--threads", str(threads), *more]
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    started = time.perf_counter()
    subprocess.run(command, env={**clean, "PYTHONPATH": str(_peers.ROOT)}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _versions(python: str) -> dict[str, str]:
    """Of an interpreter and what it computes with."""
    code = (
        "import json, platform; from importlib.metadata import distributions as d; names = ('numpy', 'numba', 'scipy')"
    )
    code += "; found = {x.name.lower(): x.version for x in d() if x.name.lower() in names}"
    code += "; print(json.dumps({'python': platform.python_version(), **found}))"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _records(output: Path) -> list[dict[str, Any]]:
    (log,) = output.rglob("metrics.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def _steps(output: Path) -> list[float]:
    return [r["step_s"] - r["data_s"] for r in _records(output) if r["kind"] == "step"][SKIPPED:]


def _short(pythons: dict[str, str], data: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of each: the median of a run, by run."""
    found: dict[str, list[float]] = {name: [] for name in pythons}
    for i in range(options.rounds):
        for name in list(pythons) if i % 2 == 0 else list(reversed(pythons)):
            output = work / f"{name}{i}"
            _run(pythons[name], data, output, options.threads, "--max-steps", str(STEPS))
            found[name].append(median(_steps(output)))
    return found


def _whole(pythons: dict[str, str], data: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and last accuracy of a run to the end."""
    found = {}
    for name, python in pythons.items():
        seconds = _run(python, data, work / name, options.threads)
        last = [r for r in _records(work / name) if r["kind"] == "eval"][-1]
        found[name] = {"seconds": seconds, "top1": last["eval_top1"]}
        print(f"{name}: {seconds:.0f} s, {last['eval_top1']:.2f}% top-1", flush=True)
    return found


def _main() -> None:
    parser = _peers.add_options(argparse.ArgumentParser(description=__doc__.partition("\n")[0]), rounds=5)
    parser.set_defaults(threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--plain-python", default=os.environ.get("SWINPY_PLAIN_PYTHON"))
    parser.add_argument("--whole", action="store_true", help="also one run each to the end (ten minutes)")
    options = parser.parse_args()
    if options.plain_python is None:
        parser.error("expected --plain-python: an interpreter with NumPy and without Numba.")
    _peers.refuse_when_loaded(options.max_load, options.force)
    pythons = {"fast": sys.executable, "plain": options.plain_python}
    result: dict[str, Any] = {"what": "examples/train_cifar.py --dataset scenes, with and without the extra fast"}
    with tempfile.TemporaryDirectory() as folder:
        work, data = Path(folder), Path(folder) / "data"
        for name, python in pythons.items():  # makes the data, compiles what is to be compiled
            _run(python, data, work / f"first-{name}", options.threads, "--max-steps", "3")
        record = _peers.record((), options)
        record |= {
            "versions": {name: _versions(python) for name, python in pythons.items()},
            "threads": options.threads,
        }
        steps = _short(pythons, data, work, options)
        of = {"min": min(steps["fast"]) / min(steps["plain"]), "median": median(steps["fast"]) / median(steps["plain"])}
        result |= {"step_seconds": steps, "fast_divided_by_plain": of}
        print(f"a step: fast over plain {of['min']:.2f} (medians {of['median']:.2f})", flush=True)
        if options.whole:
            whole = _whole(pythons, data, work, options)
            result |= {"whole": whole, "whole_ratio": whole["fast"]["seconds"] / whole["plain"]["seconds"]}
            print(f"the whole job: fast over plain {result['whole_ratio']:.2f}")
    print(f"written: {_peers.write_json('main_job', {**result, **record}).relative_to(_peers.ROOT)}")


if __name__ == "__main__":
    _main()
