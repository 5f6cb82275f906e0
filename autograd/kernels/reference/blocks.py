"""Cutting an array into pieces that fit the cache, and running the pieces on all cores.

A chain of ufuncs over a large array reads and writes main memory at every link; over pieces of a few hundred kilobytes
it stays in the second-level cache. NumPy lets other threads run while it computes, so pieces go to a small pool. The
cut does not depend on the number of threads and results come back in order: the same bits with any number of them.
Arrays of other modules (CuPy) are one piece: a GPU wants few large launches.
"""

from __future__ import annotations

import contextvars
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "PIECE_BYTES",
    "as_rows",
    "blas_is_single",
    "map_blocks",
    "num_threads",
    "row_blocks",
    "run_blocks",
    "total_of",
]

PIECE_BYTES = 1 << 20

_pool: ThreadPoolExecutor | None = None


def num_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blas_is_single() -> bool:
    """Whether BLAS was told, before NumPy was imported, to use one thread: then large products are cut here."""
    return any(os.environ.get(name) == "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))


def _helpers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=max(1, num_threads() - 1), thread_name_prefix="autograd")
    return _pool


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def row_blocks(rows: int, row_bytes: int, xp: Any = np) -> Iterator[slice]:
    """Slices of consecutive rows, each at most about 1 MiB (at least one row), covering ``range(rows)``."""
    step = rows if xp is not np else max(1, PIECE_BYTES // max(1, row_bytes))
    for start in range(0, rows, max(1, step)):
        yield slice(start, min(start + step, rows))


def run_blocks(piece: Callable[[slice], Any], rows: int, row_bytes: int, xp: Any = np) -> list[Any]:
    """:func:`map_blocks` over :func:`row_blocks`.

    Args:
        piece: see :func:`map_blocks`.
        rows: number of rows.
        row_bytes: bytes that a row takes in the cache.
        xp: the array module; other than NumPy there is one piece.
    """
    return map_blocks(piece, list(row_blocks(rows, row_bytes, xp)))


def map_blocks(piece: Callable[[slice], Any], blocks: list[slice]) -> list[Any]:
    """``[piece(block) for block in blocks]`` on all cores; each call works on its rows alone."""
    threads = min(num_threads(), len(blocks))
    if threads < 2:
        return [piece(block) for block in blocks]
    results: list[Any] = [None] * len(blocks)
    numbers = iter(range(len(blocks)))  # shared: each thread takes the next piece

    def work() -> None:
        for i in numbers:
            results[i] = piece(blocks[i])

    helpers = [_helpers().submit(contextvars.copy_context().run, work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            if not helper.cancel():  # one that never started has nothing left to do
                helper.result()
    return results


def as_rows(x: Any) -> Any:
    """``x`` (..., C) as (rows, C), also where a size is 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def total_of(parts: list[Any], like: Any) -> Any:
    """Partial sums of the pieces added up in order, as the dtype and shape of ``like``; zeros for no pieces."""
    if not parts:
        return array_module(like).zeros_like(like)
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total.astype(like.dtype, copy=False)
