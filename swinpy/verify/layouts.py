"""How other frameworks name and lay out the values that are compared: names, joined axes, windows before tokens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from swinpy.geometry import geometry, window_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Renaming", "joined", "renamer", "windows_to_map"]

Array = np.ndarray[Any, Any]
Renaming: TypeAlias = "Mapping[str, str] | Callable[[str], str]"


def renamer(names: Renaming | None) -> Callable[[str], str]:
    """A function from rules in which ``*`` stands for the same text on both sides; the first that fits counts."""
    if callable(names):
        return names
    rules = [
        (re.compile("".join("(.+)" if c == "*" else re.escape(c) for c in theirs)), replacement.split("*"))
        for theirs, replacement in (names or {}).items()
    ]

    def rename(name: str) -> str:
        for pattern, pieces in rules:
            match = pattern.fullmatch(name)
            if match:
                texts = [*match.groups(), ""]
                return "".join(p + t for p, t in zip(pieces, texts, strict=False))
        return name

    return rename


def joined(got: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """Whether one shape is the other with neighbouring axes joined."""
    if got == want or len(got) == len(want):
        return False
    short, long = sorted((got, want), key=len)
    i = 0
    for n in short:
        size = 1
        while i < len(long) and (size < n or long[i] == 1):
            size *= long[i]
            i += 1
        if size != n:
            return False
    return i == len(long)


def windows_to_map(array: Array, size: Any, window: Any, shift: Any = (0, 0)) -> Array:
    """Windows first, as other implementations hold tokens, to a map; what padding added is dropped.

    Args:
        array: (B * nW, N, C) or (B, nW, N, C).
        size: (H, W) of the map.
        window: (wh, ww).
        shift: (sh, sw) that the map was rolled by, upwards and to the left.

    Returns:
        (B, H, W, C).

    Raises:
        ValueError: if the array holds no whole number of maps.
    """
    pairs = [(int(n[0]), int(n[1])) for n in (size, window, shift)]
    cut = geometry(pairs[0], pairs[1], pairs[2], "pad")
    table = window_tokens(cut)
    channels = array.shape[-1]
    if array.size % (table.size * channels) or not array.size:
        raise ValueError(
            f"windows_to_map: expected maps of {table.shape[0]} windows of {table.shape[1]} tokens; got {array.shape}."
        )
    rows = array.reshape(-1, table.size, channels)
    out = np.empty((rows.shape[0], size[0] * size[1], channels), array.dtype)
    inside = np.flatnonzero(table.reshape(-1) >= 0)
    out[:, table.reshape(-1)[inside]] = rows[:, inside]
    return out.reshape(-1, size[0], size[1], channels)
