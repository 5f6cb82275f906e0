"""``python -m swinpy gradcheck``: gradients of a model against numerical derivatives.

Exit codes: 0 all parts pass; 1 a gradient is wrong or cannot be told; 2 wrong arguments.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.console import say
from swinpy.models import create_model, model_config
from swinpy.verify import gradcheck_model

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from swinpy.models import SwinTransformer

__all__ = ["HELP", "add_arguments", "run"]

HELP = "check every block's and the whole model's gradients in float64 (exit code 1 where one is wrong)"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--model", required=True, help="a name that `list` prints")
    parser.add_argument(
        "--img-size", type=int, nargs="+", metavar="N", help="pixels, one number or H W (default: one window and a bit)"
    )
    parser.add_argument(
        "--full", action="store_true", help="the model as it is, not narrowed: every part along one joint direction"
    )
    parser.add_argument("--train", action="store_true", help="in training mode, with DropPath's draws repeated")
    parser.add_argument("--step", type=float, default=1e-3, help="largest step of a component (default: 0.001)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the image and the directions")


def run(args: Namespace) -> int:
    """Run the command; returns its exit code."""
    config = model_config(args.model)
    if not 0 < args.step < math.inf:
        raise ValueError(f"--step: expected a positive number; got {args.step:g}.")
    narrow: dict[str, Any] = {}
    if not args.full:
        heads = config.num_heads[0]
        narrow = {
            "embed_dim": heads * max(4, -(-8 // heads)),
            "depths": tuple(min(d, 2) for d in config.depths),
            "num_classes": 3,
        }
    size = _size(args.img_size, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about small maps, which are wanted here
        model = create_model(args.model, dtype="float64", **narrow).train(args.train)
    _redraw(model, args.seed)
    changed = ", ".join(f"{k}={v}" for k, v in narrow.items())
    say(f"{args.model} at {size[0]}x{size[1]}" + (f", narrowed: {changed}" if narrow else ""))
    image = np.random.default_rng(args.seed).standard_normal((1, config.in_chans, *size))
    report = gradcheck_model(
        model,
        image,
        each=not args.full,
        step=args.step,
        seed=args.seed,
        on_row=say,
    )
    say(f"{len(report.rows) - len(report.failed)} of {len(report.rows)} parts pass")
    return 0 if report.passed else 1


def _size(given: list[int] | None, config: Any) -> tuple[int, int]:
    """As asked for; by default a map one window and a bit high and wide, so that windows are shifted and padded."""
    if given is None:
        side = max(config.window(0))
        return (side + 2) * config.patch_size, (side + 1) * config.patch_size
    if len(given) > 2 or min(given) < 1:
        raise ValueError(f"--img-size: expected one positive number or two; got {' '.join(map(str, given))}.")
    return given[0], given[-1]


def _redraw(model: SwinTransformer, seed: int) -> None:
    """Values that leave no gradient near 0: fresh weights have zero biases and norms that hide faults.

    The ReLUs of V2's position bias (coordinates within +-8) get biases that keep them clear of their kinks, half of
    them on and half off: there are thousands, and finite differences must step over none.
    """
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        shape = parameter.shape
        if "norm" in name and name.endswith("weight"):
            value = rng.uniform(0.5, 1.5, shape)
        elif name.endswith("cpb_mlp.0.bias"):
            value = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
        elif name.endswith("cpb_mlp.0.weight"):
            value = rng.uniform(-0.02, 0.02, shape)
        else:
            spread = 0.2 if len(shape) == 1 else 0.5 / math.sqrt(math.prod(shape[1:]))
            value = rng.standard_normal(shape) * spread
        parameter.assign_(value)
