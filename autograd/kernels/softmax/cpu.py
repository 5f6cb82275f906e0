"""Softmax over the last axis, compiled: each row is finished while it lies in the cache.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import row_pieces, run_pieces
from autograd.kernels.compiled.toolkit import exp, jit, larger, read, rows_of, write

__all__ = ["softmax_bwd", "softmax_fwd"]


@jit
def _softmax(x: Any, mask: Any, out: Any, _: int, start: int, stop: int) -> None:
    """Rows may be short (49 scores), so that even a view of a row would cost too much: see ``read``."""
    zero, one, width, masked = x.dtype.type(0), x.dtype.type(1), x.shape[1], mask.size > 0
    for i in range(start, stop):
        at = i * width
        if masked:
            for j in range(at, at + width):
                write(out, j, read(x, j) + read(mask, j))
        else:
            for j in range(at, at + width):
                write(out, j, read(x, j))
        peak = read(out, at)
        for j in range(at, at + width):
            peak = larger(peak, read(out, j))
        if peak == -np.inf:  # a row of -inf alone
            peak = zero
        total = zero
        for j in range(at, at + width):
            e = exp(read(out, j) - peak)
            write(out, j, e)
            total += e
        scale = one / total if total != zero else one
        for j in range(at, at + width):
            write(out, j, read(out, j) * scale)


@jit
def _softmax_backward(g: Any, y: Any, out: Any, _: int, start: int, stop: int) -> None:
    width = y.shape[1]
    for i in range(start, stop):
        at, total = i * width, y.dtype.type(0)
        for j in range(at, at + width):
            total += read(g, j) * read(y, j)
        for j in range(at, at + width):
            write(out, j, read(y, j) * (read(g, j) - total))


def softmax_fwd(x: Any, mask: Any | None = None) -> Any:
    """One pass; a mask is first broadcast to the shape of x."""
    rows = rows_of(x)
    masks = np.empty((0, 0), x.dtype)
    if mask is not None:
        masks = rows_of(np.broadcast_to(mask, x.shape).astype(x.dtype, copy=False))
    out = empty(rows.shape, x.dtype)
    pieces = row_pieces(len(rows), 2 * rows.shape[1] * x.itemsize)
    run_pieces(_softmax, pieces, rows, masks, out)
    return out.reshape(x.shape)


def softmax_bwd(g: Any, y: Any) -> Any:
    """One pass over g and y."""
    g_rows, rows = rows_of(g), rows_of(y)
    out = empty(rows.shape, y.dtype)
    pieces = row_pieces(len(rows), 3 * rows.shape[1] * y.itemsize)
    run_pieces(_softmax_backward, pieces, g_rows, rows, out)
    return out.reshape(y.shape)
