"""What every parser returns, whatever the form of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Content"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Content:
    """A file's contents before any tensor's numbers are read.

    Attributes:
        form: what kind of file it is.
        tree: dicts, lists, tuples, plain values and the records of `swinpy.io.weights.records`. It may contain itself.
        unknown: the names of code in the file that mean nothing here.
        order: byte order of the numbers, "<" or ">".
        metadata: free text that came with the tensors.
    """

    form: str
    tree: Any
    unknown: tuple[str, ...] = ()
    order: str = "<"
    metadata: dict[str, str] = field(default_factory=dict)
