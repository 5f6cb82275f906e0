"""What activation checkpointing saves and costs: Swin-T at 224, forward and backward, with and without.

Two measures of memory: what the graph keeps between forward and backward (the bytes of every array that an op saved,
each array once, parameters not counted), and the growth of the resident set in a step.

    python benchmarks/checkpointing.py [--batch 8] [--threads 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

import _peers

if TYPE_CHECKING:
    from collections.abc import Callable

MODES = ("none", "block", "stage")


def _owner(array: Any) -> Any:
    """The array that owns the memory a view looks into (or has it on loan: autograd.kernels.buffers)."""
    while hasattr(getattr(array, "base", None), "nbytes"):
        array = array.base
    return array


def _kept_bytes(loss: Any, model: Any) -> int:
    """Bytes of the distinct arrays that the graph behind ``loss`` holds, without the parameters'."""
    from autograd.extend import graph_nodes

    parameters = {id(_owner(p.data)) for p in model.parameters()}
    owners = [_owner(array) for node in graph_nodes([loss]) for array in node.ctx.saved]
    kept = {id(o): o.nbytes for o in owners if hasattr(o, "nbytes") and id(o) not in parameters}
    return sum(kept.values())


def _step(mode: str, batch: int) -> tuple[dict[str, Callable[[], float]], dict[str, str]]:
    sys.path.insert(0, str(_peers.ROOT))
    import numpy as np

    import autograd as ag
    import swinpy

    ag.manual_seed(0)
    model = swinpy.create_model("swin_tiny_patch4_window7_224", checkpoint=mode)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, 224, 224)).astype(np.float32)
    labels = rng.integers(0, 1000, batch)

    def step() -> float:
        ag.manual_seed(1)
        model.zero_grad()
        loss = ag.cross_entropy(model(images), labels)
        loss.backward()
        return float(loss.item())

    def kept() -> float:
        return _kept_bytes(ag.cross_entropy(model(images), labels), model) / 2**20

    return {"step": step, "kept": kept}, {"numpy": np.__version__, "swinpy": swinpy.__version__}


def _main() -> None:
    parser = _peers.add_options(argparse.ArgumentParser(description=__doc__.partition("\n")[0]))
    parser.set_defaults(threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, default=8, help="images (default %(default)s)")
    options = parser.parse_args()
    if options.worker:
        _peers.serve(*_step(options.worker, options.batch))
        return
    _peers.refuse_when_loaded(options.max_load, options.force)
    arguments = ("--batch", str(options.batch))
    peers = [_peers.Peer(mode, __file__, arguments=arguments, threads=options.threads) for mode in MODES]
    with _peers.start(peers) as workers:
        kept = {worker.peer.name: worker.step("kept")["value"] for worker in workers}
        figures = _peers.interleave(workers, "step", options.rounds)
        record = _peers.record(workers, options)
    losses = {f["value"] for f in figures.values()}
    if len(losses) > 1:
        raise SystemExit(f"checkpointing: expected the same loss from every mode; got {losses}.")
    table = {}
    for mode in MODES:
        time = {key: figures[mode][key] / figures["none"][key] for key in ("min", "median")}
        memory = kept[mode] / kept["none"]
        growth = figures[mode]["peak_growth_mib"] / figures["none"]["peak_growth_mib"]
        table[mode] = {"kept_mib": kept[mode], "kept_ratio": memory, "time_ratio": time, "growth_ratio": growth}
        print(
            f"{mode:6s} kept {kept[mode]:6.0f} MiB ({memory:.2f})  peak growth "
            f"{figures[mode]['peak_growth_mib']:6.0f} MiB ({growth:.2f})  time {figures[mode]['min']:.2f} s "
            f"(x{time['min']:.2f} of minima, x{time['median']:.2f} of medians)"
        )
    what = f"Swin-T 224, batch {options.batch}, float32, forward and backward"
    payload = {"what": what, "modes": table, "figures": figures, **record}
    print(f"written: {_peers.write_json('checkpointing', payload).relative_to(_peers.ROOT)}")


if __name__ == "__main__":
    _main()
