"""``python -m swinpy inspect FILE``: what is in a weight file."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from swinpy.console import say
from swinpy.io import read_checkpoint
from swinpy.io.errors import plain
from swinpy.weights import WeightsError, find_weights, model_of, read_model_info
from swinpy.weights.dialects import find_place
from swinpy.weights.info import METADATA

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator
    from pathlib import Path

    from swinpy.io import Checkpoint

__all__ = ["HELP", "add_arguments", "report", "run"]

_COLUMN = 100  # letters that a column takes at most; a longer cell moves what follows
_METADATA = 1000  # letters that are told of a text
HELP = "list what is in a weight file; nothing in it is run"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("file", help=".pth, .pt, .bin or .safetensors, or the folder of a run or a snapshot")
    parser.add_argument("--entry", help="which part of the file, e.g. model_ema; the weights are found without it")
    parser.add_argument("--prefix", help="what comes before the network's names where there are several, e.g. student.")


def run(args: Namespace) -> int:
    """Run the command; returns its exit code."""
    file, said = find_weights(args.file)
    found = read_checkpoint(file, entry=args.entry, load=False)
    told = _own_words(file, args.entry)
    others = {key: text for key, text in found.metadata.items() if key != METADATA or not told}
    lines = [said, _kind(found, file, args), *told]
    for line in report(replace(found, metadata=others), "\n".join(filter(None, lines))):
        say(line)
    return 0


def _own_words(file: Path, entry: str | None) -> list[str]:
    """What the file says of itself, if that can be read."""
    try:
        info = read_model_info(file, entry)
    except WeightsError as error:
        return [str(error)]
    return info.lines() if info else []


def _kind(found: Checkpoint, file: Path, args: Namespace) -> str:
    """The dialect and the model, as far as the weights tell; for the model their numbers are read too."""
    try:
        place = find_place(found.stored, prefix=args.prefix)
    except ValueError:
        return ""
    words = f"dialect: {place.dialect.name}" + (f", under {plain(place.prefix)}" if place.prefix else "")
    try:
        name, classes = model_of(file, entry=args.entry, prefix=args.prefix)
    except (ValueError, OSError, MemoryError):  # no whole model, one of several, or of no known shape: not told
        return words
    return f"{words}; model: {name}, {f'{classes:,} classes' if classes else 'no head'}"


def report(found: Checkpoint, kind: str = "") -> Iterator[str]:
    """The lines that the command prints.

    Args:
        found: a file's contents; the numbers need not be loaded.
        kind: what weights they are, for lines of its own.

    Yields:
        A head, a table of names, shapes and types, the total, and what was skipped.
    """
    yield f"{found.form}, {found.size:,} bytes; weights at {plain(found.entry) or 'the top'}"
    if kind:
        yield kind
    yield ""
    yield from _table(found)
    yield ""
    elements = sum(math.prod(t.shape) for t in found.stored.values())
    size = sum(math.prod(t.shape) * t.dtype.itemsize for t in found.stored.values())
    kinds = ", ".join(sorted({t.dtype.name for t in found.stored.values()}))
    yield f"{len(found.stored):,} tensors, {elements:,} elements, {size:,} bytes: {kinds}"
    for title, lines in (
        ("skipped", (f"{plain(path)}: {plain(what)}" for path, what in found.skipped.items())),
        ("code that the file names, none of it imported", (plain(name) for name in found.globals)),
        ("metadata", (f"{plain(key)}: {plain(text, _METADATA)}" for key, text in found.metadata.items())),
    ):
        for number, line in enumerate(lines):
            if not number:
                yield f"{title}:"
            yield f"  {line}"


def _table(found: Checkpoint) -> Iterator[str]:
    """The tensors, a row each: made one by one, and no column as wide as one long name in the file would have it."""

    def rows() -> Iterator[tuple[str, str, str]]:
        yield "name", "shape", "dtype"
        for name, t in found.stored.items():
            yield plain(name), plain(" x ".join(map(str, t.shape)) or "scalar"), t.dtype.name

    widths = [0, 0]
    for row in rows():
        widths = [max(width, min(len(cell), _COLUMN)) for width, cell in zip(widths, row, strict=False)]
    for name, shape, dtype in rows():
        yield f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {dtype}"
