"""Name templates: how a row of a dialect's table finds a key and writes one.

A template is a dotted name with places in it. ``{s}`` stands for a stage, ``{b}`` for a block, and ``{s+1}`` or
``{2s+1}`` for a number computed from the stage. A template names a module or a parameter; what follows a module's name
in a key (``.weight``, ``.bias``) is kept as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Row", "Template", "outline"]

_PLACE = re.compile(r"\{(b|(\d*)s(?:\+(\d+))?)\}")
_LEAF = r"(?P<leaf>\.weight|\.bias|)"
_DIGITS = re.compile(r"[0-9]+")


def outline(name: str) -> str:
    """A name without its numbers and its leaf: what names of one row have in common."""
    return _DIGITS.sub("#", name.removesuffix(".weight").removesuffix(".bias"))


@dataclass(frozen=True)
class Template:
    """One name with places in it.

    Attributes:
        text: e.g. ``"features.{2s+1}.{b}.mlp.0"``.
    """

    text: str
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _stage: tuple[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pattern, end, stage = "", 0, (1, 0)
        for place in _PLACE.finditer(self.text):
            pattern += re.escape(self.text[end : place.start()])
            end = place.end()
            if place[1] == "b":
                pattern += "(?P<b>0|[1-9][0-9]*)"
            else:
                stage = int(place[2] or 1), int(place[3] or 0)
                pattern += "(?P<s>0|[1-9][0-9]*)"
        pattern += re.escape(self.text[end:])
        object.__setattr__(self, "_regex", re.compile(pattern + _LEAF))
        object.__setattr__(self, "_stage", stage)

    @property
    def outline(self) -> str:
        """The :func:`outline` of every name that fits."""
        return outline(_PLACE.sub("0", self.text))

    def match(self, name: str) -> dict[str, str] | None:
        """The places' values in ``name``, ``leaf`` among them; None if it does not fit."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        values = found.groupdict()
        if "s" in values:
            stage, rest = divmod(int(values["s"]) - self._stage[1], self._stage[0])
            if rest or stage < 0:
                return None
            values["s"] = str(stage)
        return values

    def fill(self, values: dict[str, str]) -> str:
        """The name with these values."""

        def put(place: re.Match[str]) -> str:
            if place[1] == "b":
                return values["b"]
            return str(int(values["s"]) * self._stage[0] + self._stage[1])

        return _PLACE.sub(put, self.text) + values["leaf"]


@dataclass(frozen=True)
class Row:
    """One line of a table: the same tensor's name in the official checkpoints and in the dialect.

    Attributes:
        official: the name there.
        theirs: the name in the dialect, without the dialect's root.
        rooted: whether the root comes before it.
    """

    official: Template
    theirs: Template
    rooted: bool

    def read(self, name: str) -> str | None:
        """The official name of the dialect's ``name``, which is without its root; None if it is another tensor's."""
        values = self.theirs.match(name)
        return None if values is None else self.official.fill(values)

    def write(self, name: str, root: str) -> str | None:
        """The dialect's name of the official ``name``; None if the row is about another tensor."""
        values = self.official.match(name)
        return None if values is None else (root if self.rooted else "") + self.theirs.fill(values)
