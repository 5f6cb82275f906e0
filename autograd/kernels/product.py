"""Matrix products: one pool of threads, no copies of transposed operands, weight gradients as one product.

BLAS takes a matrix row by row or column by column, so a transposed view costs nothing; anything else is copied once,
and the copies are counted (:func:`operand_copies`), so that tests can assert that there are none where it matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.kernels.blocks import sum_in_order
from autograd.kernels.buffers import empty
from autograd.kernels.threads import blas_is_single, map_pieces, one_blas_thread

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["linear_gradients", "operand_copies", "product", "worth_one_pass"]

# Multiply-adds from which a product is worth cutting: below, waking a thread costs more than it saves.
_LARGE = 1 << 22
_PIECES = 8  # of a product that gives gradients; a fixed number, so that the bits do not depend on the threads
_copies = 0


def operand_copies() -> int:
    """How many operands of products have been copied so far because BLAS could not take them as they lay."""
    return _copies


def _operand(x: Array) -> Array:
    """A matrix that BLAS takes: one axis contiguous, the other at a positive whole stride."""
    global _copies
    rows, columns = x.shape
    for long, short, n in ((x.strides[0], x.strides[1], columns), (x.strides[1], x.strides[0], rows)):
        if short == x.itemsize and long % x.itemsize == 0 and long >= n * x.itemsize:
            return x
    if min(x.shape) <= 1 or not x.size:  # a vector: NumPy has other ways
        return x
    _copies += 1
    return np.ascontiguousarray(x)


def _parts(n: int, least: int, most: int) -> list[slice]:
    """Up to ``most`` nearly equal slices of range(n), of at least about ``least`` each."""
    count = max(1, min(most, n // least))
    ends = [n * i // count for i in range(count + 1)]
    return list(map(slice, ends[:-1], ends[1:]))


def product(x: Array, y: Array, bias: Array | None = None) -> Array:
    """``x @ y``, plus ``bias`` on every row; 16-bit floats in float32 on the CPU (NumPy has no BLAS for them).

    A large 2-D product is cut, and the engine's threads take the parts: by rows or columns of the result, or, where a
    long sum gives a small result as in weight gradients, by parts of the sum. The cut depends on sizes alone, so that
    the bits do not depend on the threads.
    """
    acc = accumulator(x.dtype)
    if array_module(x) is np and acc != x.dtype:
        return _plus(product(x.astype(acc), y.astype(acc)).astype(x.dtype), bias)
    if array_module(x) is not np:
        return _plus((x @ y).astype(x.dtype, copy=False), bias)  # a library may give float32 for bfloat16
    if x.ndim != 2 or y.ndim != 2 or x.dtype.kind != "f":
        return _plus(x @ y, bias)
    x, y = _operand(x), _operand(y)
    if x.size * y.shape[1] < _LARGE or not blas_is_single():
        with one_blas_thread():
            return _plus(x @ y, bias)
    return _cut_product(x, y, bias)


def _plus(out: Array, bias: Array | None) -> Array:
    if bias is not None:
        out += bias
    return out


def _cut_product(x: Array, y: Array, bias: Array | None) -> Array:
    (m, k), n = x.shape, y.shape[1]
    if k >= 4 * max(m, n):
        total: Array = sum_in_order(map_pieces(lambda part: x[:, part] @ y[part], _parts(k, 1, _PIECES)))
        return _plus(total, bias)
    out = empty((m, n), x.dtype)
    if m >= 2 * n or m >= 1024:
        map_pieces(lambda rows: _plus(np.matmul(x[rows], y, out=out[rows]), bias), _parts(m, 192, 16))
        return out

    def columns(part: slice) -> None:
        _plus(np.matmul(x, y[:, part], out=out[:, part]), None if bias is None else bias[part])

    map_pieces(columns, _parts(n, 192, 8))
    return out


def worth_one_pass(g: Array, weight: Array) -> bool:
    """Whether a linear layer's gradients are large enough to share out, and the partial sums of the weight's small
    enough."""
    return (
        array_module(g) is np
        and accumulator(g.dtype) == g.dtype
        and 2 * g.shape[0] * weight.size >= _LARGE
        and g.shape[0] >= max(weight.shape)
        and blas_is_single()
    )


def linear_gradients(g: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Gradients of a linear layer for x, weight and bias, in one pass over pieces of the rows by all threads.

    Args:
        g: (rows, out), the gradient of the output.
        x: (rows, in).
        weight: (out, in).
    """
    g, x, weight = _operand(g), _operand(x), _operand(weight)
    gx = empty((len(g), weight.shape[1]), g.dtype)

    def piece(block: slice) -> tuple[Array, Array]:
        part = g[block]
        np.matmul(part, weight, out=gx[block])
        return part.T @ x[block], part.sum(axis=0)

    pieces = _PIECES if len(g) >= _PIECES * max(weight.shape) else _PIECES // 2
    parts = map_pieces(piece, _parts(len(g), 1, pieces))
    return gx, sum_in_order([w for w, _ in parts]), sum_in_order([b for _, b in parts])
