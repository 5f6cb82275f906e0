"""Division of an array into blocks of rows that fit the cache, and the threads that compute the blocks.

A chain of ufuncs over a large array reads and writes main memory at every step. Over blocks of about a megabyte it
stays in the second-level cache. NumPy lets other threads run while it computes, so each block is a piece for the thread
pool: in plain NumPy a piece is one block. The blocks do not depend on the number of threads and results come back in
order, so neither do the bits. An array of another module (CuPy) is one block: a GPU wants few large launches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.kernels.threads import map_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BLOCK_BYTES", "as_rows", "row_blocks", "run_blocks", "sum_in_order", "sum_rows", "total_of"]

BLOCK_BYTES = 1 << 20


def row_blocks(rows: int, row_bytes: int, xp: Any = np) -> Iterator[slice]:
    """Slices that cover ``range(rows)``, each of at most about 1 MiB but at least one row; all rows, if not NumPy's."""
    step = rows if xp is not np else max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, rows, max(1, step)):
        yield slice(start, min(start + step, rows))


def run_blocks(compute: Callable[[slice], Any], rows: int, row_bytes: int, xp: Any = np) -> list[Any]:
    """Call ``compute`` with each of :func:`row_blocks`, on all threads; returns the results in order.

    Args:
        compute: takes a block as a slice of rows, and works on these rows alone.
        rows: number of rows.
        row_bytes: bytes that a row takes in the cache.
        xp: the array module; if it is not NumPy, all rows are one block.
    """
    return map_pieces(compute, list(row_blocks(rows, row_bytes, xp)))


def as_rows(x: Any) -> Any:
    """``x`` (..., C) as (rows, C); sizes of 0 are allowed."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def total_of(partials: list[Any], like: Any) -> Any:
    """Partial sums added up in order, in the dtype of ``like``; without partial sums, zeros of its shape."""
    if not partials:
        return array_module(like).zeros_like(like)
    return sum_in_order(partials).astype(like.dtype, copy=False)


def sum_in_order(partials: list[Any]) -> Any:
    """The first partial sum, after the others were added to it in place, one after another."""
    total = partials[0]
    for partial in partials[1:]:
        total += partial
    return total


def sum_rows(rows: Any, acc: Any) -> Any:
    """Sum over the first axis of (rows, C), block by block, in the dtype ``acc``."""
    xp = array_module(rows)
    row_bytes = rows.shape[1] * rows.itemsize
    partials = run_blocks(lambda block: rows[block].sum(axis=0, dtype=acc), len(rows), row_bytes, xp)
    return total_of(partials, xp.zeros(rows.shape[1], acc))
