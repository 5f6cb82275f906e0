"""``python -m swinpy convert IN OUT --to timm``: weights of one layout as another's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinpy.console import say
from swinpy.weights import convert_weights
from swinpy.weights.dialects import ALIASES, DIALECTS

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

__all__ = ["HELP", "add_arguments", "run"]

HELP = "convert weights between the layouts of libraries"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    usable = [name for name, dialect in DIALECTS.items() if not dialect.refused]
    add("source", metavar="IN", help="weights of any published layout (.safetensors, .pth, .pt, .bin)")
    add(
        "target",
        metavar="OUT",
        help="file to write, not IN; its suffix chooses the container (.safetensors, .pth, .pt, .bin)",
    )
    add("--to", required=True, choices=[*usable, *ALIASES], metavar="DIALECT", help=f"one of {', '.join(usable)}")
    add("--from", dest="dialect", default="auto", metavar="DIALECT", help="of IN (default: told from its keys)")
    add("--model", metavar="NAME", help="whose weights they are (default: told from the shapes)")
    add("--entry", metavar="NAME", help="part of a .pth file that holds the weights, e.g. model_ema")
    add("--prefix", help="what comes before the network's names where there are several, e.g. student.")


def run(args: Namespace) -> int:
    """Run the command; returns its exit code."""
    options = {"dialect": args.dialect, "model": args.model, "entry": args.entry, "prefix": args.prefix}
    say(convert_weights(args.source, args.target, args.to, **options))
    return 0
