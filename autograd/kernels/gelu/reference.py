"""GELU with the exact erf, and bias + GELU.

Source: Hendrycks & Gimpel 2016, gelu(x) = x Phi(x). Swin uses the erf form, not the tanh approximation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module
from autograd.kernels.blocks import as_rows, run_blocks, total_of
from autograd.kernels.gelu.erf import erf32_into, erf_block
from autograd.kernels.registry import elementwise, kernel

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["bias_gelu_bwd", "bias_gelu_fwd", "gelu_bwd", "gelu_fwd"]

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)


def _cdf(x: Array) -> Array:
    """Phi(x) of one block, float32 or float64."""
    if x.dtype == np.float64:
        cdf = erf_block(x * _SQRT_HALF)
    else:
        t = x * np.float32(_SQRT_HALF)
        cdf = erf32_into(t, t)
    cdf *= 0.5
    cdf += 0.5
    return cdf


def _compute_dtype(x: Array) -> type:
    return np.float64 if x.dtype == np.float64 else np.float32


@kernel(elementwise(25, 1))
def gelu_fwd(x: Array) -> Array:
    """x Phi(x), same shape and dtype; any layout."""
    return bias_gelu_fwd.reference(x, None)


@kernel(elementwise(35, 2))
def gelu_bwd(g: Array, x: Array) -> Array:
    """g * (Phi(x) + x phi(x))."""
    return bias_gelu_bwd.reference(g, x, None)[0]


@kernel(elementwise(26, 1))
def bias_gelu_fwd(x: Array, bias: Array | None) -> Array:
    """gelu(x + bias).

    Args:
        x: (..., C), any layout.
        bias: (C,) or None.
    """
    xp = array_module(x)
    wide = _compute_dtype(x)
    rows = x.reshape(-1, 1) if bias is None else as_rows(x)
    out = xp.empty(rows.shape, x.dtype)

    def compute(block: slice) -> None:
        v = rows[block].astype(wide)
        if bias is not None:
            v += bias
        xp.multiply(v, _cdf(v), out=out[block], casting="same_kind")

    run_blocks(compute, rows.shape[0], rows.shape[1] * wide().itemsize * 2, xp)
    return out.reshape(x.shape)


@kernel(elementwise(37, 2))
def bias_gelu_bwd(g: Array, x: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """Gradients for x and bias, Phi recomputed from x, so that nothing but x needs to be kept.

    Args:
        g: (..., C), the output gradient.
        x: (..., C), the input.
        bias: (C,) or None.

    Returns:
        (gx, gbias); gbias is None without a bias, else summed in float32 or wider.
    """
    xp = array_module(x)
    wide = _compute_dtype(x)
    rows, g_rows = (x.reshape(-1, 1), g.reshape(-1, 1)) if bias is None else (as_rows(x), as_rows(g))
    gx = xp.empty(rows.shape, x.dtype)

    def compute(block: slice) -> Array | None:
        v = rows[block].astype(wide)
        if bias is not None:
            v += bias
        slope = v * v
        slope *= -0.5
        xp.exp(slope, out=slope)
        slope *= v
        slope *= _INV_SQRT_2PI
        slope += _cdf(v)
        slope *= g_rows[block]
        gx[block] = slope
        return None if bias is None else slope.sum(axis=0)

    partials = run_blocks(compute, rows.shape[0], rows.shape[1] * wide().itemsize * 2, xp)
    return gx.reshape(x.shape), None if bias is None else total_of(partials, bias)
