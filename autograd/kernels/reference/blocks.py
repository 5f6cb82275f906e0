"""Cutting an array into pieces that fit the cache, for references that make several passes.

A chain of ufuncs over a large array reads and writes main memory at every link; over pieces of a few hundred kilobytes
it stays in the second-level cache. Arrays of other modules (CuPy) are one piece: a GPU wants few large launches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PIECE_BYTES", "as_rows", "row_blocks"]

PIECE_BYTES = 1 << 17


def row_blocks(rows: int, row_bytes: int, xp: Any = np) -> Iterator[slice]:
    """Slices of consecutive rows, each at most about 128 KiB (at least one row), covering ``range(rows)``."""
    step = rows if xp is not np else max(1, PIECE_BYTES // max(1, row_bytes))
    for start in range(0, rows, max(1, step)):
        yield slice(start, min(start + step, rows))


def as_rows(x: Any) -> Any:
    """``x`` (..., C) as (rows, C), also where a size is 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
