"""Swin on the CPU, float32: forward and train step, against transformers' Swin (sdpa) in torch, eager and compiled.

The train step is forward, backward and AdamW. Peers, each in a process of its own, taking turns:

    ours      this interpreter: with the extra ``fast`` installed, compiled kernels
    plain     --plain-python: an interpreter without the extra
    torch     --torch-python: torch and transformers, eager
    compiled  the same with torch.compile (--compile; needs a C++ compiler)
    floor     the matrix products of the step alone, by NumPy's BLAS with its own threads: what no program that uses
              this BLAS can undercut

    python benchmarks/cpu_vs_torch.py --torch-python PATH [--plain-python PATH] [--compile] [--case swin_t_b8 ...]

PATHs may also come from SWINPY_TORCH_PYTHON and SWINPY_PLAIN_PYTHON. One JSON a case in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import _peers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Steps = dict[str, "Callable[[], float]"]


@dataclass(frozen=True)
class Case:
    """What is run: a model, a batch, and which steps."""

    model: str
    batch: int
    steps: tuple[str, ...]
    classes: int = 1000


CASES = {
    "swin_t_b1": Case("swin_tiny_patch4_window7_224", 1, ("forward",)),
    "swin_t_b8": Case("swin_tiny_patch4_window7_224", 8, ("forward", "train")),
    "swin_cifar_tiny_b128": Case("swin_cifar_tiny", 128, ("forward", "train"), classes=10),
    "swinv2_t_b8": Case("swinv2_tiny_window8_256", 8, ("forward", "train")),
}


def _ours_imported() -> Any:
    sys.path.insert(0, str(_peers.ROOT))
    import swinpy

    return swinpy


def _inputs(case: Case, size: int) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.standard_normal((case.batch, 3, size, size)).astype(np.float32)
    return images, rng.integers(0, case.classes, case.batch)


# ---- the peers


def _ours(case: Case) -> tuple[Steps, dict[str, str]]:
    swinpy = _ours_imported()
    import numpy as np

    import autograd as ag
    from swinpy.train.optim import AdamW

    swinpy.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    ag.kernels.warmup()  # torch has loaded its code by now, too
    model = swinpy.create_model(case.model, num_classes=case.classes, drop_path_rate=0.0)
    images, labels = _inputs(case, model.config.image[0])
    optimizer = AdamW(model.named_parameters(), model.no_weight_decay())

    def forward() -> float:
        with ag.no_grad():
            return float(abs(model(images).data).mean())

    def train() -> float:
        optimizer.zero_grad()
        loss = ag.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step(1e-5)
        return float(loss.item())

    versions = {"numpy": np.__version__, "swinpy": swinpy.__version__}
    try:
        import numba

        versions["numba"] = numba.__version__
    except ImportError:
        versions["numba"] = "none"
    return {"forward": forward, "train": train}, versions


def _torch_model(case: Case) -> tuple[Any, int]:
    """transformers' model of the same configuration as ours, and its image size."""
    import transformers

    # our configurations are read from our package: torch's interpreter needs NumPy, safetensors and tqdm, as ours does
    from swinpy.models.registry import VARIANTS

    config = VARIANTS[case.model]
    kind = "Swinv2" if case.model.startswith("swinv2") else "Swin"
    made = getattr(transformers, f"{kind}Config")(
        image_size=config.image[0],
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.num_heads),
        window_size=config.window_size,
        mlp_ratio=config.mlp_ratio,
        num_labels=case.classes,
        drop_path_rate=0.0,
        **({"attn_implementation": "sdpa"} if kind == "Swin" else {}),
    )
    return getattr(transformers, f"{kind}ForImageClassification")(made), config.image[0]


def _torch(case: Case, compiled: bool = False) -> tuple[Steps, dict[str, str]]:
    import torch

    sys.path.insert(0, str(_peers.ROOT / "tests"))
    from support.swin.torchvision_stub import make_importable

    make_importable(torch)  # transformers imports torchvision, whose wheel may be for another build
    _ours_imported()
    import transformers

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model, size = _torch_model(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.05)
    images, labels = _inputs(case, size)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    run = torch.compile(model) if compiled else model

    def forward() -> float:
        with torch.no_grad():
            return float(run(x).logits.abs().mean())

    def train() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(run(x).logits, y)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"forward": forward, "train": train}, versions


def _products(config: Any, batch: int) -> Iterator[tuple[int, int, int]]:
    """(rows, in, out) of every linear layer."""
    h, w = config.map_size(0)
    yield batch * h * w, config.in_chans * config.patch_size**2, config.embed_dim
    for stage, depth in enumerate(config.depths):
        h, w = config.map_size(stage)
        rows, c = batch * h * w, config.embed_dim * 2**stage
        for _ in range(depth):
            hidden = int(c * config.mlp_ratio)
            yield from ((rows, c, 3 * c), (rows, c, c), (rows, c, hidden), (rows, hidden, c))
        if stage < len(config.depths) - 1:
            yield rows // 4, 4 * c, 2 * c


def _floor(case: Case) -> tuple[Steps, dict[str, str]]:
    _ours_imported()
    import numpy as np

    from swinpy.models.registry import VARIANTS

    shapes = list(_products(VARIANTS[case.model], case.batch))
    most = max(max(m * k, m * n, k * n) for m, k, n in shapes)
    memory = [np.random.default_rng(i).random(most, np.float32) for i in range(4)]

    def matrix(i: int, rows: int, columns: int) -> Any:
        return memory[i][: rows * columns].reshape(rows, columns)

    def forward() -> float:
        for m, k, n in shapes:
            np.matmul(matrix(0, m, k), matrix(1, n, k).T, out=matrix(2, m, n))
        return 0.0

    def train() -> float:
        forward()
        for i, (m, k, n) in enumerate(shapes):
            g = matrix(0, m, n)
            np.matmul(g.T, matrix(1, m, k), out=matrix(2, n, k))
            if i:  # the images want no gradient
                np.matmul(g, matrix(3, n, k), out=matrix(2, m, k))
        return 0.0

    return {"forward": forward, "train": train}, {"numpy": np.__version__}


PEERS = {
    "ours": _ours,
    "plain": _ours,
    "torch": _torch,
    "compiled": lambda case: _torch(case, compiled=True),
    "floor": _floor,
}


# ---- the parent


def _peers_of(name: str, options: argparse.Namespace) -> list[_peers.Peer]:
    pythons = {"ours": sys.executable, "torch": options.torch_python, "floor": sys.executable}
    if options.plain_python:
        pythons["plain"] = options.plain_python
    if options.compile:
        pythons["compiled"] = options.torch_python
    return [_peers.Peer(p, __file__, python, ("--case", name), options.threads) for p, python in pythons.items()]


def _measure(name: str, options: argparse.Namespace) -> None:
    case, results = CASES[name], {}
    with _peers.start(_peers_of(name, options)) as workers:
        for step in case.steps:
            figures = _peers.interleave(workers, step, options.rounds)
            others = [p for p in figures if p != "ours"]
            results[step] = {"figures": figures, "ours_divided_by": {p: _peers.ratio(figures, p) for p in others}}
            if "plain" in figures:
                results[step]["plain_divided_by_torch"] = _peers.ratio(figures, "torch", ours="plain")
            times = "  ".join(f"{p} {1e3 * f['min']:.0f} ({1e3 * f['median']:.0f})" for p, f in figures.items())
            ratios = "  ".join(f"/{p} {results[step]['ours_divided_by'][p]['min']:.2f}" for p in others)
            growth = "  ".join(f"{p} {f['peak_growth_mib']:.0f}" for p, f in figures.items())
            print(f"{name} {step}: ms, minimum (median): {times}\n  ours{ratios}\n  growth, MiB: {growth}", flush=True)
        record = _peers.record(workers, options)
    what = f"{case.model}, batch {case.batch}, float32"
    path = _peers.write_json(f"cpu_vs_torch_{name}", {"what": what, "results": results, **record})
    print(f"  written: {path.relative_to(_peers.ROOT)}", flush=True)


def _main() -> None:
    parser = _peers.add_options(argparse.ArgumentParser(description=__doc__.partition("\n")[0]))
    parser.set_defaults(threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--case", action="append", choices=CASES, help="may be given more than once (default: all)")
    parser.add_argument("--torch-python", default=os.environ.get("SWINPY_TORCH_PYTHON", sys.executable))
    parser.add_argument("--plain-python", default=os.environ.get("SWINPY_PLAIN_PYTHON"))
    parser.add_argument("--compile", action="store_true", help="torch.compile as a further peer")
    options = parser.parse_args()
    if options.worker:
        _peers.serve(*PEERS[options.worker](CASES[options.case[0]]))
        return
    _peers.refuse_when_loaded(options.max_load, options.force)
    known = _ours_imported().list_models()
    for name in options.case or [n for n, case in CASES.items() if case.model in known]:
        _measure(name, options)


if __name__ == "__main__":
    _main()
