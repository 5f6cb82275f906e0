"""Recognise a dialect, translate to the official names and back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.io.errors import plain
from swinpy.weights.dialects.buffers import ModelGeometry, buffers_of
from swinpy.weights.dialects.tables import ALIASES, BUFFERS, DIALECTS, Dialect
from swinpy.weights.dialects.transforms import DialectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Translation", "Written", "detect", "find_dialect", "from_official", "has_place", "to_official"]

Array = np.ndarray[Any, Any]

# Put before every key by wrappers of a model (data parallel, compiled, a training program's module).
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_FEATURES_ONLY = re.compile(r"layers_\d+\.")
_USABLE = ", ".join(name for name, dialect in DIALECTS.items() if not dialect.refused)
_RECOMPUTED = "a buffer: computed from the geometry"


@dataclass(frozen=True)
class Translation:
    """What came of reading a file's arrays.

    Attributes:
        dialect: whose names they were.
        arrays: by official name.
        source: official name -> the key of the file (the first of several that were joined).
        ignored: key of the file -> why it was left out.
        unknown: keys of the file that the dialect has no row for.
        position_map: (H, W) of the absolute position, where the file has it as a map.
        buffers: those of the file by official name; they are among the ignored keys.
        buffer_source: official name of a buffer -> the key of the file.
    """

    dialect: str
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


def unwrap(name: str) -> str:
    """A key without the prefixes that wrappers of a model put before it."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _some(names: Iterable[str], most: int = 4) -> str:
    listed = [plain(name) for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "") if listed else "none"


def _fits(dialect: Dialect, names: list[str]) -> bool:
    def some(pattern: str) -> bool:
        regex = re.compile(pattern)
        return any(regex.fullmatch(name) for name in names)

    return all(map(some, dialect.needs)) and not any(map(some, dialect.never))


def detect(names: Iterable[str]) -> str:
    """The dialect of a file from its keys alone.

    Args:
        names: the keys.

    Returns:
        Its name, one of :data:`DIALECTS`.

    Raises:
        DialectError: if the keys fit none, or several at once.

    >>> detect(["features.0.0.weight", "features.1.0.norm1.weight"])
    'torchvision'
    """
    keys = [unwrap(name) for name in names]
    fitting = [d for d in DIALECTS.values() if _fits(d, keys)]
    hidden = {name for d in fitting for name in d.before}
    fitting = [d for d in fitting if d.name not in hidden]
    if len(fitting) == 1:
        return fitting[0].name
    if fitting:
        raise DialectError(
            f"load_weights: expected keys of one dialect; got keys of {' and '.join(d.name for d in fitting)} at once "
            f"({_some(keys)}). Take one model's keys, or name the dialect with dialect=."
        )
    if any(_FEATURES_ONLY.match(name) for name in keys):
        raise DialectError(
            "load_weights: expected the keys of a whole model; got those of timm's features_only=True "
            f"({_some(keys)}), which have neither the final norm nor the head. Save the state_dict() of the model made "
            "without features_only, or rename layers_N to layers.N and pass dialect='timm', strict=False."
        )
    raise DialectError(
        f"load_weights: expected the keys of a Swin checkpoint in one of the dialects {_USABLE}; got "
        f"{len(keys)} keys that fit none: {_some(keys)}. Use the tensors of the model alone (for .pth files the dict "
        "under 'model' or 'state_dict'), or name the dialect with dialect= to see which keys are in the way."
    )


def _official_name(dialect: Dialect, key: str) -> str | None:
    name = unwrap(key)
    for old, new in dialect.spellings:
        name = name.replace(old, new)
    return next((found for row in dialect.rows if (found := row.read(name)) is not None), None)


def to_official(state: Mapping[str, Array], dialect: str = "auto") -> Translation:
    """Arrays of any dialect under the official names, in the official layout.

    Args:
        state: arrays by key.
        dialect: "auto" to tell it from the keys, or a name.

    Raises:
        DialectError: keys of no dialect or of several, two keys for one tensor, a tensor of which a part is missing.
    """
    chosen = find_dialect(detect(state) if dialect == "auto" else dialect)
    if chosen.refused:
        raise DialectError(
            f"load_weights: expected a dialect of Swin V1 or V2; got {chosen.about}: {chosen.refused}. "
            "They cannot be loaded."
        )
    arrays: dict[str, Array] = {}
    source: dict[str, str] = {}
    ignored: dict[str, str] = {}
    buffers: dict[str, Array] = {}
    buffer_source: dict[str, str] = {}
    unknown: list[str] = []
    for key, array in state.items():
        name = _official_name(chosen, key)
        if name is None:
            if any(re.fullmatch(pattern, unwrap(key)) for pattern in chosen.foreign):
                ignored[key] = "of another part of the file's model"
            else:
                unknown.append(key)
        elif name.endswith(BUFFERS):
            ignored[key], buffers[name], buffer_source[name] = _RECOMPUTED, array, key
        elif name in arrays:
            raise DialectError(f"load_weights: expected one key for {name}; got {source[name]} and {key}. Remove one.")
        else:
            arrays[name], source[name] = array, key
    position = arrays.get("absolute_pos_embed")
    size = (position.shape[2], position.shape[3]) if position is not None and position.ndim == 4 else None
    for transform in reversed(chosen.transforms):
        arrays = transform.read(arrays)
    first = {name: source.get(name, _part_of(name, source)) for name in arrays}
    return Translation(chosen.name, arrays, first, ignored, tuple(unknown), size, buffers, buffer_source)


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
        raise DialectError(
            f"save_weights: expected V1 for the dialect {dialect.name}, which has no names for V2; got V2. Use one of "
            f"the dialects {others}."
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
