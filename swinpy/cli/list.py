"""``python -m swinpy list``: the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinpy.console import say
from swinpy.models import list_models

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

__all__ = ["HELP", "add_arguments", "run"]

HELP = "list model names"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, e.g. 'swin_base*'")


def run(args: Namespace) -> int:
    """Run the command; returns its exit code."""
    names = list_models(args.pattern)
    if not names:
        raise ValueError(
            f"list: expected a pattern that fits a model's name; got {args.pattern!r}. "
            "'python -m swinpy list' prints all names."
        )
    for name in names:
        say(name)
    return 0
