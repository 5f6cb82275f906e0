"""``python -m swinpy validate``: every kernel of a training step against its reference.

Exit codes: 0 kernels were compared and none differs; 1 a kernel differs or raised, and is named; 2 wrong arguments, or
nothing to compare: no implementation of any kernel took these arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import autograd as ag
from swinpy.console import say
from swinpy.models import create_model, model_config
from swinpy.train.optim import AdamW
from swinpy.verify import validate_kernels

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from swinpy.verify import KernelReport

__all__ = ["HELP", "add_arguments", "run"]

HELP = (
    "run a training step with every kernel compared with its reference (exit code 1 where one differs, 2 if none ran)"
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--model", default="swin_cifar_nano", help="a name that `list` prints")
    parser.add_argument("--img-size", type=int, nargs="+", metavar="N", help="pixels, one number or H W")
    parser.add_argument("-b", "--batch-size", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "float64", "float16"), default="float32")
    parser.add_argument("--amp", action="store_true", help="autocast to float16")
    parser.add_argument("--device", default="cpu", help="cpu, gpu, cuda, cuda:N or auto")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, images and labels")


def run(args: Namespace) -> int:
    """Run the command; returns its exit code."""
    config = model_config(args.model)
    size = args.img_size or list(config.image)
    if len(size) > 2 or min(*size, args.batch_size) < 1:
        raise ValueError(f"--img-size, --batch-size: expected positive numbers; got {size} and {args.batch_size}.")
    ag.manual_seed(args.seed)
    model = create_model(args.model, device=ag.use_device(args.device), dtype=args.dtype)
    rng = np.random.default_rng(args.seed)
    images = rng.standard_normal((args.batch_size, config.in_chans, size[0], size[-1]))
    x = ag.Tensor(images.astype(args.dtype)).to(model.device)
    labels = ag.Tensor(rng.integers(0, model.num_classes, args.batch_size)).to(model.device)
    optimizer = AdamW(model.named_parameters(), model.no_weight_decay())

    def step() -> None:
        with ag.autocast("float16", enabled=args.amp):
            loss = ag.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step(lr=1e-3)

    report = validate_kernels(step)
    say(f"{args.model} at {size[0]}x{size[-1]}, batch {args.batch_size}, {args.dtype} on {model.device}")
    say(report)
    if report.faulty:
        return 1
    if not report.compared:
        raise ValueError(_nothing_compared(report, model.device))
    return 0


def _nothing_compared(report: KernelReport, device: str) -> str:
    """Why every kernel ran by its reference alone; the registry's reasons say what to install."""
    reasons = list(dict.fromkeys(reason for check in report.checks for reason in check.refused))
    shown = "; ".join(reasons[:3]) + ("; ..." if len(reasons) > 3 else "")
    return f"NOTHING WAS COMPARED: expected kernels besides the references on {device}; got none: {shown}."
