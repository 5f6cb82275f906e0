"""Where in a file's names the networks are: what wrappers and other models put before and between the names.

A network is found by its anchor, the patch embedding's weight, at any depth. What stands before the anchor is its
prefix. A place is a network whose further names are those of a dialect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from swinpy.io.errors import plain
from swinpy.weights.dialects.tables import ALIASES, DIALECTS, Dialect
from swinpy.weights.dialects.transforms import DialectError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["Place", "bare", "detect", "find_dialect", "find_place", "some_of"]

# Parts of a name that wrappers of a module leave, at the front or in the middle: DataParallel, FSDP (its older name,
# too), activation checkpointing, torch.compile, Lightning's strategies. No layout has a part of such a name.
WRAPPERS = frozenset(
    (
        "module",
        "_fsdp_wrapped_module",
        "_fpw_module",
        "_checkpoint_wrapped_module",
        "_orig_mod",
        "_forward_module",
    )
)

# Of two copies in one file, the one that its own programs load: MoBY's momentum encoder (encoder_k) is left out by
# utils.py of SwinTransformer/Transformer-SSL.
_SECOND = {"encoder_k.": "encoder."}

_USABLE = ", ".join(name for name, dialect in DIALECTS.items() if not dialect.refused)
_ANCHORS = sorted({dialect.anchor for dialect in DIALECTS.values()})
# Longer than any name of a layout, in parts and in letters: further parts are a prefix, longer names no network's. A
# file can have names of any length; this keeps the search proportional to them.
_PARTS = 12
_LETTERS = 200
_MOST = 64


@dataclass(frozen=True)
class Place:
    """A network in a file.

    Attributes:
        dialect: whose names it has.
        outer: what comes before the dialect's names.
        root: of the dialect.
        others: prefixes of the file's other networks.
    """

    dialect: Dialect
    outer: str
    root: str
    others: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What comes before the network's names."""
        return self.outer + self.root

    def holds(self, name: str) -> bool:
        """Whether a bare key is under the prefix, and not under another network's that begins with it."""
        return name.startswith(self.prefix) and not name.startswith(self.others)

    def official(self, name: str) -> str | None:
        """The official name of a bare key; None if this network does not have it."""
        found = None
        if name.startswith(self.prefix):
            found = self.dialect.read(name[len(self.prefix) :], rooted=True)
        if found is None and name.startswith(self.outer):
            found = self.dialect.read(name[len(self.outer) :], rooted=not self.root)
        return found


def bare(key: str) -> str:
    """A key without the parts that wrappers of a module leave.

    >>> bare("module.layers.0.blocks.1._checkpoint_wrapped_module.norm1.weight")
    'layers.0.blocks.1.norm1.weight'
    """
    if not any(part in key for part in WRAPPERS):
        return key
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def find_dialect(name: str) -> Dialect:
    """A dialect by name or alias.

    Raises:
        DialectError: for an unknown name.
    """
    dialect = DIALECTS.get(ALIASES.get(name, name))
    if dialect is None:
        known = ", ".join([_USABLE, *ALIASES])
        raise DialectError(f"dialect: expected one of {known} (or auto, for reading); got {name!r}.")
    return dialect


def some_of(names: Collection[str], most: int = 4) -> str:
    """The first names, and how many more."""
    listed = [plain(name) for name, _ in zip(names, range(most), strict=False)]
    rest = len(names) - len(listed)
    return ", ".join(listed) + (f" and {rest} more" if rest else "") if listed else "none"


@lru_cache
def _regex(pattern: str, root: str) -> re.Pattern[str]:
    return re.compile(pattern.replace("{root}", re.escape(root)))


class _Candidate:
    """A place, and what its dialect's description still asks for."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.needs = [_regex(pattern, place.root) for pattern in place.dialect.needs]
        self.never = [_regex(pattern, place.root) for pattern in place.dialect.never]
        self.refuted = False

    def see(self, name: str) -> None:
        """A name of the file, without what comes before the dialect's."""
        self.needs = [regex for regex in self.needs if not regex.fullmatch(name)]
        self.refuted = self.refuted or any(regex.fullmatch(name) for regex in self.never)

    @property
    def fits(self) -> bool:
        return not self.needs and not self.refuted


def _anchors(names: Iterable[str]) -> dict[str, list[str]]:
    """Prefix -> the anchors that stand after it."""
    found: dict[str, list[str]] = {}
    for name in names:
        for anchor in _ANCHORS:
            prefix, _, rest = name.rpartition(anchor)
            if name.endswith(anchor) and not rest and (not prefix or prefix.endswith(".")):
                found.setdefault(prefix, []).append(anchor)
    if len(found) > _MOST:
        raise DialectError(
            f"load_weights: expected at most {_MOST} networks in one dict; got {len(found)} patch embeddings "
            f"({some_of([*found])}). Take one model's keys."
        )
    return found


def _candidates(names: Collection[str], dialects: Iterable[Dialect]) -> list[_Candidate]:
    """Every network of the dialects, or of what begins like one."""
    found = []
    anchors = _anchors(names)
    for dialect in dialects:
        for prefix, there in anchors.items():
            for root in dialect.roots if dialect.anchor in there else ():
                outer = prefix.removesuffix(root)
                if prefix.endswith(root) and (not outer or outer.endswith(".")):
                    found.append(_Candidate(Place(dialect, outer, root)))
    by_outer: dict[str, list[_Candidate]] = {}
    for candidate in found:
        by_outer.setdefault(candidate.place.outer, []).append(candidate)
    for name in names:
        end = len(name)
        for _ in range(_PARTS):
            end = name.rfind(".", 0, end) if end > 0 else -1
            if len(name) - end > _LETTERS:
                break
            for candidate in by_outer.get(name[: end + 1], ()):
                candidate.see(name[end + 1 :])
            if end < 0:
                break
    return found


def _places(candidates: Iterable[_Candidate]) -> dict[str, list[Place]]:
    """By prefix, the places that fit, of each dialect the first root's, without dialects that another hides."""
    found: dict[str, dict[str, Place]] = {}
    for candidate in candidates:
        if candidate.fits:
            place = candidate.place
            found.setdefault(place.prefix, {}).setdefault(place.dialect.name, place)
    for there in found.values():
        for hidden in {name for place in there.values() for name in place.dialect.before}:
            there.pop(hidden, None)
    for second, first in _SECOND.items():
        for prefix in [p for p in found if p.endswith(second)]:
            if prefix.removesuffix(second) + first in found:
                del found[prefix]
    return {prefix: list(there.values()) for prefix, there in found.items()}


def _asked_for(places: dict[str, list[Place]], prefix: str) -> dict[str, list[Place]]:
    """The places under a prefix, or the one that is just there."""
    if prefix in places:
        return {prefix: places[prefix]}
    return {p: there for p, there in places.items() if prefix and p.startswith(prefix)}


def _the_only(places: dict[str, list[Place]]) -> Place | None:
    if len(places) > 1:
        listed = some_of([repr(prefix) for prefix in places], 8)
        raise DialectError(
            f"load_weights: expected one network; got {len(places)}, under {listed}. Choose one with prefix= "
            "(--prefix of 'python -m swinpy convert')."
        )
    for there in places.values():
        if len(there) > 1:
            raise DialectError(
                f"load_weights: expected keys of one dialect; got keys of "
                f"{' and '.join(place.dialect.name for place in there)} at once. Take one model's keys, or name the "
                "dialect with dialect=."
            )
        return there[0]
    return None


def _named(names: Collection[str], dialect: Dialect, prefix: str | None) -> Place:
    """Where a dialect that was asked for is, whether or not its description fits."""
    candidates = _candidates(names, [dialect])
    for fitting in (True, False):
        places: dict[str, list[Place]] = {}
        for candidate in candidates:
            if candidate.fits or not fitting:
                places.setdefault(candidate.place.prefix, [candidate.place])
        place = _the_only(places if prefix is None else _asked_for(places, prefix))
        if place is not None:
            return place
    outer = prefix or ""
    used = [root for root in dialect.roots if any(name.startswith(outer + root) for name in names)]
    return Place(dialect, outer, (used or dialect.roots)[0])


def _prefix(text: str) -> str:
    """A prefix as it stands before bare names."""
    text = bare(text.removesuffix("."))
    return "" if text in ("", *WRAPPERS) else text + "."


def find_place(keys: Iterable[str], dialect: str = "auto", prefix: str | None = None) -> Place:
    """The one network in a file.

    Args:
        keys: the file's.
        dialect: "auto" to tell it from the keys, or a name.
        prefix: what comes before the network's names, or the begin of that; None to find it.

    Raises:
        DialectError: if the keys are no network's, several networks', or fit several dialects; or an unknown dialect.
    """
    names = [bare(key) for key in keys]
    wanted = None if prefix is None else _prefix(prefix)
    if dialect != "auto":
        return _named(names, find_dialect(dialect), wanted)
    every = _places(_candidates(names, DIALECTS.values()))
    place = _the_only(every if wanted is None else _asked_for(every, wanted))
    if place is not None:
        return replace(place, others=tuple(p for p in every if not place.prefix.startswith(p)))
    if every:
        raise DialectError(
            f"load_weights: expected a network under the prefix {prefix!r}; got none there, but under "
            f"{some_of([repr(p) for p in every], 8)}. Pass one of these as prefix=, or none."
        )
    raise DialectError(
        f"load_weights: expected the keys of a Swin checkpoint in one of the dialects {_USABLE}; got "
        f"{len(names)} keys that fit none: {some_of(names)}. Use the tensors of the model alone (for .pth files the "
        "dict under 'model' or 'state_dict'), or name the dialect with dialect= to see which keys are in the way."
    )


def detect(keys: Iterable[str], prefix: str | None = None) -> str:
    """The dialect of a file from its keys alone.

    Args:
        keys: the file's.
        prefix: as for :func:`find_place`.

    Returns:
        Its name, one of :data:`DIALECTS`.

    Raises:
        DialectError: if the keys fit none, or several at once.

    >>> detect(["features.0.0.weight", "features.1.0.norm1.weight"])
    'torchvision'
    """
    return find_place(keys, prefix=prefix).dialect.name
