"""What loading and saving say about themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swinpy.io.errors import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["LoadReport", "SaveReport", "some"]


def some(names: Iterable[str], most: int = 4) -> str:
    """The first names, and how many more; a file may have chosen them, so that they are made fit to be printed."""
    listed = [plain(name) for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def _table(title: str, rows: Iterable[tuple[str, int, str]]) -> str:
    lines = [f"{name:<11}{count:>6}  {text}".rstrip() for name, count, text in rows]
    return "\n".join([title, *lines])


def _grouped(reasons: Mapping[str, str]) -> str:
    """Each reason with its number."""
    return "; ".join(
        f"{count} {why}" if len(reasons) > count else why for why, count in Counter(reasons.values()).items()
    )


@dataclass(frozen=True)
class LoadReport:
    """What :func:`swinpy.load_weights` did with each key. Print it for a short table.

    Attributes:
        source: the file, or "memory".
        dialect: whose names the keys were.
        entry: the part of the source that was read; "" for the top.
        prefix: what came before the names of the network; "" if nothing did.
        used: parameters of the model that were read.
        ignored: key of the file -> why it was not needed.
        resized: parameter -> from what to what, and how.
        cast: parameter -> from what dtype to what.
        missing: parameter that the file does not have -> what was done instead.
        unexpected: key of the file that the model has no place for -> why (with ``strict=False`` alone).
        notes: what the weights mean differently in this model, although they fit.

    A resized or cast parameter is among the used ones as well.
    """

    source: str
    dialect: str
    entry: str = ""
    prefix: str = ""
    used: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    resized: Mapping[str, str] = field(default_factory=dict)
    cast: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    unexpected: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [("used", len(self.used), "")]
        for name in ("ignored", "resized", "cast", "missing", "unexpected"):
            entries: Mapping[str, str] = getattr(self, name)
            text = f"{some(entries, 2)}: {_grouped(entries)}" if entries else ""
            rows.append((name, len(entries), text))
        entry = f", entry {plain(self.entry)}" if self.entry else ""
        prefix = f", under {plain(self.prefix)}" if self.prefix else ""
        table = _table(f"weights of {self.source}{entry} (dialect {self.dialect}{prefix})", rows)
        return "\n".join([table, *(f"ATTENTION: {note}" for note in self.notes)])


@dataclass(frozen=True)
class SaveReport:
    """What :func:`swinpy.save_weights` wrote. Print it for a short table.

    Attributes:
        path: the file.
        dialect: whose names the keys are.
        written: keys of the file, buffers included.
        dropped: parameter of the model -> why it is not in the file.
        notes: what else is to be known.
    """

    path: str
    dialect: str
    written: tuple[str, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [("written", len(self.written), "")]
        if self.dropped:
            rows.append(("dropped", len(self.dropped), f"{some(self.dropped)}: {_grouped(self.dropped)}"))
        lines = [_table(f"{self.path} (dialect {self.dialect})", rows), *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)
