"""Reading Swin-T's 28.3 million parameters from a training checkpoint, against torch.load on the same files.

The files, in torch's zip form and its legacy form, are written by torch: random weights, an optimizer's two moments
left out. Peers: ours (`swinpy.io.read_weights`, arrays in memory of their own), torch
(`torch.load(weights_only=True)`), and both with ``mmap=True``, where numbers come from the file when they are first
used (torch: the zip form only). "read" is the call alone; "use" adds up every element as well, so that a peer that
reads late pays for it. Before the rounds the peers must agree on the SHA-256 of every name and bit; before each step
they hand free memory back to the system.

    python benchmarks/read_weights.py --torch-python PATH [--rounds 15]

PATH is an interpreter with torch (or set SWINPY_TORCH_PYTHON).
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _peers

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "swin_tiny_patch4_window7_224"
FORMS = ("zip", "legacy")


def _steps(folder: Path, read: Callable[[Path], dict[str, Any]], total: Callable[[Any], float]) -> dict[str, Any]:
    """For each form: read, read and use, and a digest of all names and bits."""

    def use(path: Path) -> float:
        return sum(total(value) for value in read(path).values())

    def digest(path: Path) -> str:
        found = hashlib.sha256()
        for name, value in sorted(read(path).items()):
            array = value if hasattr(value, "tobytes") else value.numpy()
            found.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
        return found.hexdigest()

    steps: dict[str, Any] = {}
    for form in FORMS:
        path = folder / f"{form}.pth"
        steps[f"{form}-read"] = lambda path=path: len(read(path))
        steps[f"{form}-use"] = lambda path=path: use(path)
        steps[f"{form}-digest"] = lambda path=path: digest(path)
    return steps


def _ours(folder: Path, mmap: bool) -> tuple[dict[str, Any], dict[str, str]]:
    sys.path.insert(0, str(_peers.ROOT))
    import numpy as np

    import swinpy
    from swinpy.io import read_weights

    steps = _steps(folder, functools.partial(read_weights, mmap=mmap), lambda array: float(array.sum()))
    return steps, {"numpy": np.__version__, "swinpy": swinpy.__version__}


def _torch(folder: Path, mmap: bool) -> tuple[dict[str, Any], dict[str, str]]:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if not mmap:
        _write_files(folder, torch)

    def read(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = torch.load(path, weights_only=True, mmap=mmap)["model"]
        return found

    return _steps(folder, read, lambda tensor: float(tensor.sum())), {"torch": torch.__version__}


def _write_files(folder: Path, torch: Any) -> None:
    torch.manual_seed(0)
    shapes = json.loads((folder / "shapes.json").read_text())
    tree = {"model": {name: torch.randn(shape) for name, shape in shapes.items()}, "epoch": 299, "max_accuracy": 81.2}
    for form in FORMS:
        torch.save(tree, folder / f"{form}.pth", _use_new_zipfile_serialization=form == "zip")


def _worker(name: str, folder: Path) -> None:
    make = _ours if name.startswith("ours") else _torch
    steps, versions = make(folder, name.endswith("mmap"))
    _peers.serve(steps, versions, prepare=_release)


def _release() -> None:
    """Hand free memory back to the system, so that every step finds it as a process does that reads one file."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _shapes() -> dict[str, list[int]]:
    sys.path.insert(0, str(_peers.ROOT))
    import swinpy

    return {name: list(array.shape) for name, array in swinpy.create_model(MODEL).state_dict().items()}


def _ratios(what: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Like against like: copies with copies, mappings with mappings, and our mapping with torch's default."""
    ratios = {}
    for ours, other in (("ours", "torch"), ("ours_mmap", "torch_mmap"), ("ours_mmap", "torch")):
        if other in figures:
            found = ratios[f"{ours} / {other}"] = _peers.ratio(figures, other, ours)
            values = ", ".join(f"{found[key]:.2f}" for key in ("min", "median", "cpu_min", "cpu_median"))
            print(f"{what}: {ours} / {other} = {values} (minima, medians; of processor time likewise)", flush=True)
    return ratios


def _measure(workers: list[_peers.Worker], rounds: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for form in FORMS:
        taking_part = [worker for worker in workers if form == "zip" or worker.peer.name != "torch_mmap"]
        digests = {worker.step(f"{form}-digest")["value"] for worker in taking_part}
        if len(digests) != 1:
            raise SystemExit(f"read_weights: expected the same bits from every peer; got {len(digests)} in {form}.")
        for step in ("read", "use"):
            figures = _peers.interleave(taking_part, f"{form}-{step}", rounds)
            result[f"{form}-{step}"] = {"ratios": _ratios(f"{form} {step}", figures), "figures": figures}
    return result


def main() -> None:
    parser = _peers.add_options(argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]), rounds=15)
    parser.add_argument(
        "--torch-python", default=os.environ.get("SWINPY_TORCH_PYTHON"), help="an interpreter with torch"
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _worker(options.worker, options.folder)
        return
    _peers.refuse_when_loaded(options.max_load, options.force)
    with (
        tempfile.TemporaryDirectory() as folder,
        _peers.environment(options.torch_python, "torch", "numpy") as python,
    ):
        (Path(folder) / "shapes.json").write_text(json.dumps(_shapes()))
        arguments = ("--folder", folder)
        # torch first: it writes the files when it starts.
        peers = [
            _peers.Peer("torch", __file__, python, arguments, options.threads),
            _peers.Peer("torch_mmap", __file__, python, arguments, options.threads),
            _peers.Peer("ours", __file__, arguments=arguments, threads=options.threads),
            _peers.Peer("ours_mmap", __file__, arguments=arguments, threads=options.threads),
        ]
        with _peers.start(peers) as workers:
            measured = _measure(workers, options.rounds)
            size = {form: (Path(folder) / f"{form}.pth").stat().st_size for form in FORMS}
            what = f"reading the weights of {MODEL} from files that torch wrote"
            payload = {"what": what, "bytes": size, "same_bits": True, **measured, **_peers.record(workers, options)}
    print(_peers.write_json("read_weights", payload))


if __name__ == "__main__":
    main()
