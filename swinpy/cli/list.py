"""``python -m swinpy list``: the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinpy.models import list_models

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

__all__ = ["HELP", "add_arguments", "run"]

HELP = "list model names"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, e.g. 'swin_base*'")


def run(args: Namespace) -> int:
    for name in list_models(args.pattern):
        print(name)
    return 0
