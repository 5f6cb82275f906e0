"""Batch norm of maps whose channels are the last axis, as they lie in memory after a convolution.

Statistics are in float32 for 16-bit inputs (else in the input's dtype), the variance in two passes.

Source: Ioffe & Szegedy 2015, "Batch Normalization", algorithm 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.kernels.registry import Cost, elementwise, kernel
from autograd.shapes import sum_over

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["batch_norm_bwd", "batch_norm_eval_fwd", "batch_norm_fwd"]


def _of_channels(x: Array) -> Array:
    """The sum (C,) over all other axes."""
    return sum_over(x, tuple(range(x.ndim - 1))).reshape(-1)


@kernel(elementwise(8, 1))
def batch_norm_fwd(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, Array, Array, Array]:
    """(x - mean) * rstd * weight + bias for each channel.

    Args:
        x: (..., C), any layout, with at least two values a channel.
        weight: (C,).
        bias: (C,).
        eps: added to the variance.

    Returns:
        y like x; mean, rstd and the unbiased variance, each (C,), in the accumulation dtype.
    """
    xp, n = array_module(x), math.prod(x.shape[:-1])
    mean = _of_channels(x) / n
    centred = x - mean
    squares = _of_channels(xp.square(centred))
    rstd = 1 / xp.sqrt(squares / n + eps)
    centred *= rstd * weight
    centred += bias
    return centred.astype(x.dtype, copy=False), mean, rstd, squares / (n - 1)


def _bwd_cost(g: Any, x: Any, *_: Any) -> Cost:
    return Cost(10 * x.size, g.nbytes + 2 * x.nbytes)


@kernel(_bwd_cost)
def batch_norm_bwd(
    g: Array, x: Array, weight: Array, mean: Array, rstd: Array, g_mean: Array, g_var: Array
) -> tuple[Array, Array, Array]:
    """Gradients of :func:`batch_norm_fwd`.

    With n values a channel, xhat = (x - mean) rstd and means over these values:
    gx = weight rstd (g - mean(g) - xhat mean(g xhat)) + g_mean / n + 2 (x - mean) g_var / (n - 1).

    Args:
        g: (..., C), the gradient of y.
        x: (..., C), the input.
        weight: (C,).
        mean: (C,).
        rstd: (C,).
        g_mean: (C,), the gradient of mean.
        g_var: (C,), the gradient of the variance.

    Returns:
        gx like x, gweight (C,), gbias (C,).
    """
    n = math.prod(x.shape[:-1])
    centred = x - mean
    total, along = _of_channels(g), _of_channels(g * centred)
    scale = rstd * weight
    centred *= 2 / (n - 1) * g_var - scale * rstd**2 * along / n
    centred += g * scale
    centred += (g_mean - scale * total) / n
    gx, gweight, gbias = (a.astype(g.dtype, copy=False) for a in (centred, along * rstd, total))
    return gx, gweight, gbias


@kernel(elementwise(3, 1))
def batch_norm_eval_fwd(x: Array, weight: Array, bias: Array, mean: Array, var: Array, eps: float) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias for each channel.

    Args:
        x: (..., C), any layout.
        weight: (C,).
        bias: (C,).
        mean: (C,).
        var: (C,).
        eps: added to the variance.
    """
    acc = accumulator(x.dtype)
    y = x - mean.astype(acc, copy=False)
    y *= weight / array_module(x).sqrt(var.astype(acc, copy=False) + eps)
    y += bias
    return y.astype(x.dtype, copy=False)
