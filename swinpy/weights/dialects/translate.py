"""Translate to the official names and back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.io.errors import plain
from swinpy.weights.dialects.buffers import ModelGeometry, buffers_of
from swinpy.weights.dialects.places import bare, find_dialect, find_place
from swinpy.weights.dialects.tables import BUFFERS, DIALECTS, Dialect
from swinpy.weights.dialects.transforms import DialectError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swinpy.weights.dialects.places import Place

__all__ = ["Translation", "Written", "from_official", "has_place", "to_official"]

Array = np.ndarray[Any, Any]

_RECOMPUTED = "a buffer: computed from the geometry"
_COUNTED = "an integer or a counter, no weight"


@dataclass(frozen=True)
class Translation:
    """What came of reading a file's arrays.

    Attributes:
        dialect: whose names they were.
        prefix: what came before the network's names, without the parts that wrappers leave.
        arrays: by official name.
        source: official name -> the key of the file (the first of several that were joined).
        ignored: key of the file -> why it was left out.
        unknown: keys of the file that the dialect has no row for.
        position_map: (H, W) of the absolute position, where the file has it as a map.
        buffers: those of the file by official name; they are among the ignored keys.
        buffer_source: official name of a buffer -> the key of the file.
    """

    dialect: str
    prefix: str
    arrays: dict[str, Array]
    source: dict[str, str]
    ignored: dict[str, str]
    unknown: tuple[str, ...]
    position_map: tuple[int, int] | None = None
    buffers: dict[str, Array] = field(default_factory=dict)
    buffer_source: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """What came of writing.

    Attributes:
        dialect: whose names they are.
        arrays: by the dialect's name, buffers included.
        dropped: official name -> why it was left out.
        notes: what else a user should know.
    """

    dialect: str
    arrays: dict[str, Array]
    dropped: dict[str, str]
    notes: tuple[str, ...]


def _why_needless(name: str, array: Array, place: Place) -> str:
    """Why a key that is not the network's is left out; "" if it is in the way."""
    if array.dtype.kind in "iub" or (array.ndim == 0 and name.rpartition(".")[2] == "decay"):
        return _COUNTED
    if place.holds(name):
        return ""
    where = plain(place.prefix)
    return f"of another part of the file's model: not under {where}" if where else "of another network"


def to_official(state: Mapping[str, Array], dialect: str = "auto", prefix: str | None = None) -> Translation:
    """Arrays of any dialect under the official names, in the official layout.

    Args:
        state: arrays by key.
        dialect: "auto" to tell it from the keys, or a name.
        prefix: what comes before the network's names; None to find it.

    Raises:
        DialectError: keys of no dialect or of several, of several networks, two keys for one tensor, a tensor of which
            a part is missing.
    """
    place = find_place(state, dialect, prefix)
    chosen = place.dialect
    if chosen.refused:
        raise DialectError(
            f"load_weights: expected a dialect of Swin V1 or V2; got {chosen.about}: {chosen.refused}. "
            "They cannot be loaded."
        )
    arrays: dict[str, Array] = {}
    source: dict[str, str] = {}
    read = Translation(chosen.name, place.prefix, arrays, source, {}, ())
    unknown: list[str] = []
    for key, array in state.items():
        inner = bare(key)
        name = place.official(inner)
        if name is None:
            why = _why_needless(inner, array, place)
            if why:
                read.ignored[key] = why
            else:
                unknown.append(key)
        elif name.endswith(BUFFERS):
            read.ignored[key], read.buffers[name], read.buffer_source[name] = _RECOMPUTED, array, key
        elif name in arrays:
            both = f"{plain(source[name])} and {plain(key)}"
            raise DialectError(f"load_weights: expected one key for {name}; got {both}. Remove one.")
        else:
            arrays[name], source[name] = array, key
    position = arrays.get("absolute_pos_embed")
    size = (position.shape[2], position.shape[3]) if position is not None and position.ndim == 4 else None
    keys = {id(array): source[name] for name, array in arrays.items()}
    for transform in reversed(chosen.transforms):
        arrays = transform.read(arrays)
    first = {name: keys.get(id(a)) or source.get(name, _part_of(name, source)) for name, a in arrays.items()}
    return replace(read, arrays=arrays, source=first, unknown=tuple(unknown), position_map=size)


def _part_of(name: str, source: Mapping[str, str]) -> str:
    """The key from which a transform made ``name``."""
    block = name.rpartition(".attn.")[0] + ".attn."
    kind = "bias" if name.endswith("bias") else "weight"
    part = "value" if name.endswith("v_bias") else "query"
    for candidate in (f"{block}{part}.{kind}", f"{block}qkv.{kind}"):
        if candidate in source:
            return source[candidate]
    return name


def has_place(dialect: Dialect, name: str) -> bool:
    """Whether the dialect's files have something for an official name."""
    return name.split(".")[0] not in dialect.absent and any(row.official.match(name) for row in dialect.rows)


def _root(dialect: Dialect, state: Mapping[str, Array]) -> str:
    if not dialect.root:
        return ""
    kind = "v2" if any(name.endswith(".attn.logit_scale") for name in state) else "v1"
    if kind not in dialect.root:
        others = ", ".join(d.name for d in DIALECTS.values() if not d.refused and (not d.root or kind in d.root))
        got, wanted = ("V2", "V1") if kind == "v2" else ("V1", "V2")
        raise DialectError(
            f"save_weights: expected {wanted} for the dialect {dialect.name}, which has no names for {got}; got {got}. "
            f"Use one of the dialects {others}."
        )
    stages = any(re.match(r"norm\d", name) for name in state)
    return dialect.root["backbone" if stages and "head.weight" not in state else kind]


def from_official(state: Mapping[str, Array], dialect: str, geometry: ModelGeometry | None = None) -> Written:
    """Arrays under the official names as a dialect has them.

    Args:
        state: arrays by official name, without buffers.
        dialect: a name.
        geometry: of the model as built, for the buffers that the dialect's files contain; without it they are left
            out, with a note.

    Raises:
        DialectError: for an unknown dialect, or a tensor that the dialect has no place for.
    """
    chosen = find_dialect(dialect)
    if chosen.refused:
        raise DialectError(f"save_weights: expected a dialect of Swin V1 or V2; got {chosen.name}: {chosen.refused}.")
    root = _root(chosen, state)
    kept = {name: a for name, a in state.items() if name.split(".")[0] not in chosen.absent}
    dropped = {name: f"{chosen.name} models have no such part" for name in state if name not in kept}
    for transform in chosen.transforms:
        kept = transform.write(kept, geometry.maps[0] if geometry else None)
    notes: tuple[str, ...] = ()
    if chosen.buffers and geometry is None:
        notes = ("without the buffers of such files, which depend on the window and the image size",)
    elif geometry is not None:
        made, notes = buffers_of(geometry, chosen.buffers, chosen.flat_index)
        kept = {**kept, **made}
    arrays: dict[str, Array] = {}
    for name, array in kept.items():
        theirs = next((found for row in chosen.rows if (found := row.write(name, root)) is not None), None)
        if theirs is None:
            raise DialectError(
                f"save_weights: expected tensors that {chosen.name} has a place for; got {name}. "
                f"Models of {chosen.name} have no such part: use the dialect official."
            )
        arrays[theirs] = array
    return Written(chosen.name, arrays, dropped, notes)
