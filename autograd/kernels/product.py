"""Matrix products on the one thread pool, without copies of transposed operands, and all gradients of a linear layer.

BLAS reads a matrix in row-major or in column-major order, so a transposed view needs no copy. Any other layout is
copied once. The copies are counted (:func:`operand_copies`), so that tests can assert that there are none where it
matters.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.kernels.blas import blas_is_single, one_blas_thread
from autograd.kernels.blocks import sum_in_order
from autograd.kernels.buffers import empty
from autograd.kernels.threads import map_pieces

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["linear_gradients", "operand_copies", "product", "worth_one_pass"]

# Multiply-adds from which a product is divided into pieces. Below that, to wake a thread costs more than it saves.
_LARGE = 1 << 22
_PIECES = 8  # of a product that is a long sum; a fixed number, so that the bits do not depend on the threads
_copies = 0


def operand_copies() -> int:
    """The number of operands that have been copied so far because BLAS could not read their layout."""
    return _copies


def _operand(x: Array) -> Array:
    """``x`` in a layout that BLAS reads (one axis contiguous, the other with a positive stride of whole elements),
    copied if need be."""
    global _copies
    rows, columns = x.shape
    for long, short, n in ((x.strides[0], x.strides[1], columns), (x.strides[1], x.strides[0], rows)):
        if short == x.itemsize and long % x.itemsize == 0 and long >= n * x.itemsize:
            return x
    if min(x.shape) <= 1 or not x.size:  # a vector, which NumPy multiplies in other ways
        return x
    _copies += 1
    return np.ascontiguousarray(x)


def _pieces(n: int, least: int, most: int) -> list[slice]:
    """Up to ``most`` slices of range(n) of nearly equal sizes, each of at least about ``least`` elements."""
    count = max(1, min(most, n // least))
    ends = [n * i // count for i in range(count + 1)]
    return list(map(slice, ends[:-1], ends[1:]))


def product(x: Array, y: Array, bias: Array | None = None) -> Array:
    """``x @ y``, plus ``bias`` on every row; 16-bit floats in float32 on the CPU (NumPy has no BLAS for them).

    A large product is divided into pieces for the engine's threads: matrices of a stack, rows or columns of the result,
    or, where a long sum gives a small result as in weight gradients, partial sums. The pieces depend on sizes alone, so
    that the bits do not depend on the threads.

    Args:
        x: (..., m, k).
        y: (..., k, n).
        bias: (n,) or None.

    Returns:
        (..., m, n), a new array.
    """
    acc = accumulator(x.dtype)
    if array_module(x) is np and acc != x.dtype:
        return _plus(product(x.astype(acc), y.astype(acc)).astype(x.dtype), bias)
    if array_module(x) is not np:
        return _plus((x @ y).astype(x.dtype, copy=False), bias)  # a library may give float32 for bfloat16
    if x.dtype.kind != "f":
        return _plus(x @ y, bias)
    if x.ndim != 2 or y.ndim != 2:
        return _plus(_stacked(x, y), bias)
    x, y = _operand(x), _operand(y)
    if x.size * y.shape[1] < _LARGE or not blas_is_single():
        with one_blas_thread():
            return _plus(x @ y, bias)
    return _product_of_pieces(x, y, bias)


def _plus(out: Array, bias: Array | None) -> Array:
    """``out`` after ``bias`` was added in place."""
    if bias is not None:
        out += bias
    return out


def _stacked(x: Array, y: Array) -> Array:
    """``x @ y`` of vectors or stacks of matrices: large stacks are divided along their longest axis."""
    stack = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    n = max(stack, default=1)
    large = math.prod(stack) * math.prod(x.shape[-2:]) * y.shape[-1] >= _LARGE
    if n < 2 or min(x.ndim, y.ndim) < 2 or not large or not blas_is_single():
        with one_blas_thread():
            result: Array = x @ y
            return result
    axis = stack.index(n) - len(stack)  # from the end, where the stacks of both operands meet
    out = empty((*stack, x.shape[-2], y.shape[-1]), x.dtype)

    def part(a: Array, matrices: slice) -> Array:
        at = a.ndim - 2 + axis
        return a if at < 0 or a.shape[at] == 1 else a[(slice(None),) * at + (matrices,)]

    def compute(matrices: slice) -> None:
        np.matmul(part(x, matrices), part(y, matrices), out=part(out, matrices))

    map_pieces(compute, _pieces(n, 1, 16))
    return out


def _product_of_pieces(x: Array, y: Array, bias: Array | None) -> Array:
    (m, k), n = x.shape, y.shape[1]
    if k >= 4 * max(m, n):
        total: Array = sum_in_order(map_pieces(lambda terms: x[:, terms] @ y[terms], _pieces(k, 1, _PIECES)))
        return _plus(total, bias)
    out = empty((m, n), x.dtype)
    if m >= 2 * n or m >= 1024:
        map_pieces(lambda rows: _plus(np.matmul(x[rows], y, out=out[rows]), bias), _pieces(m, 192, 16))
        return out

    def compute(columns: slice) -> None:
        _plus(np.matmul(x, y[:, columns], out=out[:, columns]), None if bias is None else bias[columns])

    map_pieces(compute, _pieces(n, 192, 8))
    return out


def worth_one_pass(g: Array, weight: Array) -> bool:
    """Whether :func:`linear_gradients` pays: the gradients are large enough for several threads, and the partial sums
    of the weight's gradient are small enough."""
    return (
        array_module(g) is np
        and accumulator(g.dtype) == g.dtype
        and 2 * g.shape[0] * weight.size >= _LARGE
        and g.shape[0] >= max(weight.shape)
        and blas_is_single()
    )


def linear_gradients(g: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Gradients of a linear layer for x, weight and bias, in one pass over its rows by all threads.

    Args:
        g: (rows, out), the gradient of the output.
        x: (rows, in).
        weight: (out, in).

    Returns:
        (rows, in), (out, in) and (out,).
    """
    g, x, weight = _operand(g), _operand(x), _operand(weight)
    gx = empty((len(g), weight.shape[1]), g.dtype)

    def compute(rows: slice) -> tuple[Array, Array]:
        g_rows = g[rows]
        np.matmul(g_rows, weight, out=gx[rows])
        return g_rows.T @ x[rows], g_rows.sum(axis=0)

    count = _PIECES if len(g) >= _PIECES * max(weight.shape) else _PIECES // 2
    partials = map_pieces(compute, _pieces(len(g), 1, count))
    return gx, sum_in_order([w for w, _ in partials]), sum_in_order([b for _, b in partials])
