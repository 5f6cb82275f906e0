"""``python -m swinpy complexity``: parameters, multiply-adds and activation memory of each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinpy.console import say
from swinpy.models import create_model, model_config
from swinpy.verify import complexity

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

__all__ = ["HELP", "add_arguments", "run"]

HELP = "print parameters, multiply-adds and activation memory of each layer"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--model", required=True, help="a name that `list` prints")
    parser.add_argument("--img-size", type=int, nargs="+", metavar="N", help="pixels, one number or H W")
    parser.add_argument("-b", "--batch-size", type=int, default=1)
    parser.add_argument("--depth", type=int, default=4, help="levels of the table (default: 4, down to blocks)")


def run(args: Namespace) -> int:
    """Run the command; returns its exit code."""
    size = args.img_size or list(model_config(args.model).image)
    if len(size) > 2 or min(*size, args.batch_size) < 1:
        raise ValueError(f"--img-size, --batch-size: expected positive numbers; got {size} and {args.batch_size}.")
    if args.depth < 0:
        raise ValueError(f"--depth: expected 0 (the whole model) or more levels; got {args.depth}.")
    counted = complexity(create_model(args.model), (size[0], size[-1]), args.batch_size)
    say(counted.table(args.depth))
    say(counted.summary())
    return 0
