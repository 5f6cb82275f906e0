"""What one op costs beyond its arithmetic: 100 chained multiplies of 8 elements, forward and backward.

On 8 elements the arithmetic is free, so the time is the engine's: recording a node, walking back through it. Peers are
HIPS autograd (it has the same import name, so it lives in an environment of its own) and, if asked for, torch.

    python benchmarks/engine_overhead.py [--hips-python PATH] [--torch-python PATH] [--rounds 40]

Without ``--hips-python`` or SWINPY_HIPS_PYTHON a virtual environment is made and HIPS autograd installed into it.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

import _peers

if TYPE_CHECKING:
    from collections.abc import Callable

OPS = 100
ELEMENTS = 8
REPEATS = 20  # forward and backward passes in one timed step


def _ours() -> tuple[Callable[[], float], dict[str, str]]:
    sys.path.insert(0, str(_peers.ROOT))
    import numpy as np

    import autograd as ag

    x = ag.Tensor(np.full(ELEMENTS, 1.0), requires_grad=True)
    factor = ag.Tensor(np.full(ELEMENTS, 1.001))

    def step() -> float:
        y = x
        for _ in range(OPS):
            y = y * factor
        x.grad = None
        y.sum().backward()
        return float(x.grad[0])

    return step, {"numpy": np.__version__}


def _hips() -> tuple[Callable[[], float], dict[str, str]]:
    from importlib.metadata import version

    import autograd.numpy as anp
    import numpy as np

    import autograd

    start = np.full(ELEMENTS, 1.0)
    factor = np.full(ELEMENTS, 1.001)

    def loss(x: Any) -> Any:
        for _ in range(OPS):
            x = x * factor
        return anp.sum(x)

    gradient = autograd.grad(loss)
    return lambda: float(gradient(start)[0]), {"numpy": np.__version__, "autograd": version("autograd")}


def _torch() -> tuple[Callable[[], float], dict[str, str]]:
    import torch

    torch.set_num_threads(1)
    x = torch.full((ELEMENTS,), 1.0, dtype=torch.float64, requires_grad=True)
    factor = torch.full((ELEMENTS,), 1.001, dtype=torch.float64)

    def step() -> float:
        y = x
        for _ in range(OPS):
            y = y * factor
        x.grad = None
        y.sum().backward()
        return float(x.grad[0])

    return step, {"torch": torch.__version__}


PEERS: dict[str, Callable[[], tuple[Callable[[], float], dict[str, str]]]] = {
    "ours": _ours,
    "hips": _hips,
    "torch": _torch,
}


def _worker(name: str) -> None:
    once, versions = PEERS[name]()

    def step() -> float:
        for _ in range(REPEATS - 1):
            once()
        return once()

    _peers.serve({"pass": step}, versions)


def _main() -> None:
    parser = _peers.add_options(argparse.ArgumentParser(description=__doc__.partition("\n")[0]), rounds=40)
    parser.add_argument("--hips-python", default=os.environ.get("SWINPY_HIPS_PYTHON"), help="has HIPS autograd")
    parser.add_argument("--torch-python", default=os.environ.get("SWINPY_TORCH_PYTHON"), help="has torch")
    options = parser.parse_args()
    if options.worker:
        _worker(options.worker)
        return
    _peers.refuse_when_loaded(options.max_load, options.force)
    with _peers.environment(options.hips_python, "autograd") as hips_python:
        peers = [_peers.Peer("ours", __file__), _peers.Peer("hips", __file__, python=hips_python)]
        if options.torch_python:
            peers.append(_peers.Peer("torch", __file__, python=options.torch_python))
        with _peers.start(peers) as workers:
            figures = _peers.interleave(workers, "pass", options.rounds, warmup=2)
            record = _peers.record(workers, options)
    values = [f["value"] for f in figures.values()]
    if max(values) - min(values) > 1e-12:
        raise SystemExit(f"engine_overhead: expected the same gradient from every peer; got {values}.")
    per_op = {name: {key: f[key] / (OPS * REPEATS) * 1e6 for key in ("min", "median")} for name, f in figures.items()}
    ratios = {name: _peers.ratio(figures, name) for name in figures if name != "ours"}
    for name, microseconds in per_op.items():
        print(f"{name:6s} {microseconds['min']:6.2f} us/op (median {microseconds['median']:.2f})", end="")
        r = ratios.get(name)
        print(f"   ours/{name}: {r['min']:.3f} of minima, {r['median']:.3f} of medians" if r else "")
    path = _peers.write_json(
        "engine_overhead",
        {
            "what": f"{OPS} chained float64 multiplies of {ELEMENTS} elements, forward and backward",
            "microseconds_per_op": per_op,
            "ours_divided_by": ratios,
            "figures": figures,
            **record,
        },
    )
    print(f"written: {path.relative_to(_peers.ROOT)}")


if __name__ == "__main__":
    _main()
