"""Cutting an array into pieces that fit the cache, and running the pieces on all cores.

A chain of ufuncs over a large array reads and writes main memory at every link; over pieces of a few hundred kilobytes
it stays in the second-level cache. NumPy lets other threads run while it computes, so pieces go to a small pool. The
cut does not depend on the number of threads and results come back in order: the same bits with any number of them.
Arrays of other modules (CuPy) are one piece: a GPU wants few large launches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.kernels.threads import map_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PIECE_BYTES", "as_rows", "row_blocks", "run_blocks", "sum_in_order", "sum_rows", "total_of"]

PIECE_BYTES = 1 << 20


def row_blocks(rows: int, row_bytes: int, xp: Any = np) -> Iterator[slice]:
    """Slices of consecutive rows, each at most about 1 MiB (at least one row), covering ``range(rows)``."""
    step = rows if xp is not np else max(1, PIECE_BYTES // max(1, row_bytes))
    for start in range(0, rows, max(1, step)):
        yield slice(start, min(start + step, rows))


def run_blocks(piece: Callable[[slice], Any], rows: int, row_bytes: int, xp: Any = np) -> list[Any]:
    """``piece`` of each of :func:`row_blocks`, on all threads, results in order.

    Args:
        piece: takes a slice of rows and works on these alone.
        rows: number of rows.
        row_bytes: bytes that a row takes in the cache.
        xp: the array module; other than NumPy there is one piece.
    """
    return map_pieces(piece, list(row_blocks(rows, row_bytes, xp)))


def as_rows(x: Any) -> Any:
    """``x`` (..., C) as (rows, C), also where a size is 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def total_of(parts: list[Any], like: Any) -> Any:
    """Partial sums of the pieces added up in order, as the dtype and shape of ``like``; zeros for no pieces."""
    if not parts:
        return array_module(like).zeros_like(like)
    return sum_in_order(parts).astype(like.dtype, copy=False)


def sum_in_order(parts: list[Any]) -> Any:
    """The first part with the others added into it, one after another."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def sum_rows(rows: Any, acc: Any) -> Any:
    """Sum over the first axis of (rows, C), by pieces in the accumulation dtype."""
    xp = array_module(rows)
    parts = run_blocks(lambda block: rows[block].sum(axis=0, dtype=acc), len(rows), rows.shape[1] * rows.itemsize, xp)
    return total_of(parts, xp.zeros(rows.shape[1], acc))
