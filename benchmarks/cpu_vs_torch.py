"""Swin-T at 224 on the CPU, float32: forward and train step, against transformers' Swin (sdpa) in torch.

The train step is forward, backward and AdamW. Both peers run the same weights on the same images, so that their
losses can be compared.

    python benchmarks/cpu_vs_torch.py --torch-python PATH [--batch 8] [--threads 2] [--rounds 5]

PATH is an interpreter with torch and transformers (or set SWINPY_TORCH_PYTHON).
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

import _peers

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE, CLASSES = 224, 1000
Steps = dict[str, "Callable[[], float]"]


def _inputs(batch: int) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
    return images, rng.integers(0, CLASSES, batch)


def _ours(batch: int) -> tuple[Steps, dict[str, str]]:
    sys.path.insert(0, str(_peers.ROOT))
    import numpy as np

    import autograd as ag
    import swinpy
    from swinpy.train.optim import AdamW

    model = swinpy.create_model("swin_tiny_patch4_window7_224", drop_path_rate=0.0)
    images, labels = _inputs(batch)
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

    return {"forward": forward, "train": train}, {"numpy": np.__version__, "swinpy": swinpy.__version__}


def _torch(batch: int) -> tuple[Steps, dict[str, str]]:
    import torch

    sys.path.insert(0, str(_peers.ROOT / "tests"))
    from support.torchvision_stub import make_importable

    make_importable(torch)  # transformers imports torchvision, whose wheel may be for another build
    import transformers

    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    config = transformers.SwinConfig(num_labels=CLASSES, drop_path_rate=0.0, attn_implementation="sdpa")
    model = transformers.SwinForImageClassification(config)
    images, labels = _inputs(batch)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.05)

    def forward() -> float:
        with torch.no_grad():
            return float(model(x).logits.abs().mean())

    def train() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(x).logits, y)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"forward": forward, "train": train}, versions


PEERS = {"ours": _ours, "torch": _torch}


def _main() -> None:
    parser = _peers.add_options(argparse.ArgumentParser(description=__doc__.partition("\n")[0]))
    parser.set_defaults(threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, default=8, help="images (default %(default)s)")
    parser.add_argument("--torch-python", default=os.environ.get("SWINPY_TORCH_PYTHON", sys.executable))
    options = parser.parse_args()
    if options.worker:
        steps, versions = PEERS[options.worker](options.batch)
        _peers.serve(steps, versions)
        return
    _peers.refuse_when_loaded(options.max_load, options.force)
    arguments = ("--batch", str(options.batch))
    peers = [
        _peers.Peer("ours", __file__, arguments=arguments, threads=options.threads),
        _peers.Peer("torch", __file__, options.torch_python, arguments, options.threads),
    ]
    results = {}
    with _peers.start(peers) as workers:
        for step in ("forward", "train"):
            figures = _peers.interleave(workers, step, options.rounds)
            r = _peers.ratio(figures, "torch")
            results[step] = {"figures": figures, "ours_divided_by_torch": r}
            times = "  ".join(
                f"{n} {1e3 * f['min']:.0f} ms (median {1e3 * f['median']:.0f})" for n, f in figures.items()
            )
            print(f"{step:8s}{times}  ours/torch {r['min']:.2f} of minima, {r['median']:.2f} of medians", flush=True)
            print(
                f"{'':8s}memory growth " + "  ".join(f"{n} {f['peak_growth_mib']:.0f} MiB" for n, f in figures.items())
            )
        record = _peers.record(workers, options)
    what = f"Swin-T {SIZE}, batch {options.batch}, float32"
    path = _peers.write_json(f"cpu_vs_torch_b{options.batch}", {"what": what, "results": results, **record})
    print(f"written: {path.relative_to(_peers.ROOT)}")


if __name__ == "__main__":
    _main()
