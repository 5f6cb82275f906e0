"""Softmax, with and without an additive mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.kernels.blocks import run_blocks
from autograd.kernels.registry import elementwise, kernel

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["softmax_bwd", "softmax_fwd", "softmax_rows_"]


def softmax_rows_(z: Array, xp: Any) -> None:
    """Softmax over the last axis, in place. A row of -inf alone becomes zeros."""
    peak = z.max(axis=-1, keepdims=True)
    peak[peak == -np.inf] = 0
    z -= peak
    xp.exp(z, out=z)
    total = z.sum(axis=-1, keepdims=True)
    total[total == 0] = 1
    z /= total


@kernel(elementwise(5, 1))
def softmax_fwd(x: Array, mask: Array | None = None) -> Array:
    """softmax(x + mask) over the last axis.

    Args:
        x: (..., N), any layout; 16-bit floats are computed in float32.
        mask: broadcasts to x, or None. -inf excludes an element; a row of -inf alone gives zeros.

    Returns:
        An array like x.
    """
    xp = array_module(x)
    acc = accumulator(x.dtype)
    if x.ndim < 2 or (mask is not None and mask.shape[-1] != x.shape[-1]):
        z = x.astype(acc) if mask is None else (x + mask).astype(acc, copy=False)
        softmax_rows_(z, xp)
        return z.astype(x.dtype, copy=False)
    out = xp.empty(x.shape, x.dtype)
    full = None if mask is None else xp.broadcast_to(mask, x.shape)

    def compute(block: slice) -> None:
        z = x[block].astype(acc)
        if full is not None:
            z += full[block]
        softmax_rows_(z, xp)
        out[block] = z

    run_blocks(compute, x.shape[0], x.size // max(1, x.shape[0]) * acc.itemsize, xp)
    return out


@kernel(elementwise(4, 2))
def softmax_bwd(g: Array, y: Array) -> Array:
    """y (g - sum(g y)) over the last axis; the difference is taken first, because it may cancel."""
    acc = accumulator(y.dtype)
    wide = y.astype(acc, copy=False)
    product = g * wide
    total = product.sum(axis=-1, keepdims=True, dtype=acc)
    array_module(y).subtract(g, total, out=product)
    product *= wide
    return product.astype(y.dtype, copy=False)
