"""Softplus, the smooth ReLU: log(1 + exp(beta x)) / beta.

Source: Dugas et al. 2001, "Incorporating Second-Order Functional Knowledge for Better Option Pricing", section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.kernels.blocks import run_blocks
from autograd.kernels.registry import elementwise, kernel

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["softplus_bwd", "softplus_fwd"]


@kernel(elementwise(8, 1))
def softplus_fwd(x: Array, beta: float, threshold: float) -> Array:
    """max(x, 0) + log1p(exp(-|beta x|)) / beta, which neither overflows nor cancels; x where beta x > threshold.

    Args:
        x: any shape and layout; 16-bit floats are computed in float32.
        beta: positive.
        threshold: above it the function is linear.
    """
    xp, acc = array_module(x), accumulator(x.dtype)
    flat = x.reshape(-1)
    out = xp.empty(flat.shape, x.dtype)

    def compute(block: slice) -> None:
        v = flat[block].astype(acc) * acc.type(beta)
        y = xp.log1p(xp.exp(-abs(v)))
        y += xp.maximum(v, 0)
        y /= acc.type(beta)
        out[block] = xp.where(v > threshold, flat[block], y)

    run_blocks(compute, flat.size, 2 * acc.itemsize, xp)
    return out.reshape(x.shape)


@kernel(elementwise(6, 2))
def softplus_bwd(g: Array, x: Array, beta: float, threshold: float) -> Array:
    """g / (1 + exp(-beta x)); g where beta x > threshold.

    Args:
        g: like x, the gradient of the output.
        x: as in forward.
        beta: as in forward.
        threshold: as in forward.
    """
    xp, acc = array_module(x), accumulator(x.dtype)
    flat, flat_g = x.reshape(-1), g.reshape(-1)
    gx = xp.empty(flat.shape, x.dtype)

    def compute(block: slice) -> None:
        v = flat[block].astype(acc) * acc.type(beta)
        e = xp.exp(-abs(v))
        slope = xp.where(v < 0, e, 1) / (1 + e)
        gx[block] = xp.where(v > threshold, flat_g[block], flat_g[block] * slope)

    run_blocks(compute, flat.size, 2 * acc.itemsize, xp)
    return gx.reshape(x.shape)
