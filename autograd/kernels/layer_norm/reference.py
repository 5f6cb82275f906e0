"""Layer norm, and residual + layer norm.

Statistics are in float32 for 16-bit inputs (else in the input's dtype), the variance in two passes.

Source: Ba et al. 2016, "Layer Normalization", equation 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.kernels.blocks import as_rows, run_blocks, sum_rows, total_of
from autograd.kernels.registry import Cost, elementwise, kernel

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["layer_norm_bwd", "layer_norm_fwd", "residual_layer_norm_bwd", "residual_layer_norm_fwd"]


@kernel(elementwise(8, 1))
def layer_norm_fwd(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, Array, Array]:
    """(x - mean) * rstd * weight + bias over the last axis.

    Args:
        x: (..., C), any layout.
        weight: (C,).
        bias: (C,).
        eps: added to the variance.

    Returns:
        y like x; mean and rstd, each (rows,), in the accumulation dtype.
    """
    xp = array_module(x)
    acc = accumulator(x.dtype)
    channels = x.shape[-1]
    rows = as_rows(x)
    out = xp.empty(rows.shape, x.dtype)
    mean = xp.empty(rows.shape[0], acc)
    rstd = xp.empty(rows.shape[0], acc)
    weight, bias = weight.astype(acc, copy=False), bias.astype(acc, copy=False)
    average = xp.full(channels, 1 / channels, acc)

    def compute(block: slice) -> None:
        v = rows[block].astype(acc, copy=False)
        xp.matmul(v, average, out=mean[block])
        centred = v - mean[block, None]
        variance = xp.einsum("nc,nc->n", centred, centred) / channels
        rstd[block] = 1 / xp.sqrt(variance + eps)
        centred *= rstd[block, None]
        centred *= weight
        xp.add(centred, bias, out=out[block], casting="same_kind")

    run_blocks(compute, rows.shape[0], channels * acc.itemsize, xp)
    return out.reshape(x.shape), mean, rstd


def _norm_bwd_cost(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, g_sum: Any = None) -> Cost:
    return Cost((14 + (g_sum is not None)) * x.size, g.nbytes + (2 + (g_sum is not None)) * x.nbytes)


@kernel(_norm_bwd_cost)
def layer_norm_bwd(
    g: Array, x: Array, weight: Array, mean: Array, rstd: Array, g_sum: Array | None = None
) -> tuple[Array, Array, Array]:
    """Gradients of :func:`layer_norm_fwd`.

    With xhat = (x - mean) rstd and h = g weight: gx = rstd (h - mean(h) - xhat mean(h xhat)).

    Args:
        g: (..., C), the gradient of y.
        x: (..., C), the input.
        weight: (C,).
        mean: (rows,).
        rstd: (rows,).
        g_sum: (..., C), a further gradient that reaches x past the norm (a residual); added to gx.

    Returns:
        gx like x, gweight (C,), gbias (C,).
    """
    xp = array_module(x)
    acc = accumulator(x.dtype)
    channels = x.shape[-1]
    rows, g_rows = as_rows(x), as_rows(g)
    extra = None if g_sum is None else as_rows(g_sum)
    gx = xp.empty(rows.shape, x.dtype)
    wide, average = weight.astype(acc, copy=False), xp.full(channels, 1 / channels, acc)

    def compute(block: slice) -> tuple[Array, Array]:
        gp = g_rows[block].astype(acc, copy=False)
        xhat = rows[block] - mean[block, None]
        xhat *= rstd[block, None]
        sums = xp.einsum("nc,nc->c", gp, xhat), gp.sum(axis=0)
        h = gp * wide
        projection = xp.einsum("nc,nc->n", h, xhat) / channels
        h -= xp.matmul(h, average)[:, None]
        xhat *= projection[:, None]
        h -= xhat
        h *= rstd[block, None]
        if extra is not None:
            h += extra[block]
        gx[block] = h
        return sums

    partials = run_blocks(compute, rows.shape[0], channels * acc.itemsize, xp)
    gweight, gbias = (total_of([p[i] for p in partials], weight) for i in (0, 1))
    return gx.reshape(x.shape), gweight, gbias


def _scaled(branch: Array, keep: Array | None) -> Array:
    """branch times the keep-scale of its sample."""
    if keep is None:
        return branch
    return branch * keep.reshape((-1,) + (1,) * (branch.ndim - 1))


def _residual_fwd_cost(
    x: Any, branch: Any, keep: Any, weight: Any, bias: Any, eps: float, branch_bias: Any = None, y_dtype: Any = None
) -> Cost:
    y = x.size * np.dtype(y_dtype or x.dtype).itemsize
    return Cost((10 + (branch_bias is not None)) * x.size, 2 * x.nbytes + branch.nbytes + y)


@kernel(_residual_fwd_cost)
def residual_layer_norm_fwd(
    x: Array,
    branch: Array,
    keep: Array | None,
    weight: Array,
    bias: Array,
    eps: float,
    branch_bias: Array | None = None,
    y_dtype: Any = None,
) -> tuple[Array, Array, Array, Array]:
    """s = x + keep * (branch + branch_bias); y = layer_norm(s). Where keep is 0, s is x whatever the branch holds.

    Args:
        x: (B, ..., C).
        branch: like x, or in 16 bits where x is float32.
        keep: (B,) keep-scales of DropPath (0 or 1 / (1 - p)), or None for 1.
        weight: (C,).
        bias: (C,).
        eps: added to the variance.
        branch_bias: (C,), or None for 0: the bias of the branch's last linear layer, if it was left to be added here.
        y_dtype: of y, by default x's.

    Returns:
        s and y like x; mean and rstd, each (rows,).
    """
    acc = accumulator(x.dtype)  # 16-bit floats are rounded once, not at every step
    wide = branch.astype(acc, copy=False)
    wide = wide if branch_bias is None else wide + branch_bias
    total = (x + _scaled(wide, keep)).astype(x.dtype, copy=False)
    if keep is not None and x.size:
        dropped = keep == 0
        total[dropped] = x[dropped]  # also where the branch is not finite
    y, mean, rstd = layer_norm_fwd.reference(total, weight, bias, eps)
    return total, y if y_dtype is None else y.astype(y_dtype, copy=False), mean, rstd


def _residual_bwd_cost(
    g_sum: Any,
    g: Any,
    total: Any,
    keep: Any,
    weight: Any,
    mean: Any,
    rstd: Any,
    to_branch_bias: bool = False,
    branch_dtype: Any = None,
) -> Cost:
    gbranch = total.size * np.dtype(branch_dtype or total.dtype).itemsize
    return Cost((16 + to_branch_bias) * g.size, 3 * total.nbytes + g.nbytes + gbranch)


@kernel(_residual_bwd_cost)
def residual_layer_norm_bwd(
    g_sum: Array,
    g: Array,
    total: Array,
    keep: Array | None,
    weight: Array,
    mean: Array,
    rstd: Array,
    to_branch_bias: bool = False,
    branch_dtype: Any = None,
) -> tuple[Array, Array, Array, Array, Array | None]:
    """Gradients of :func:`residual_layer_norm_fwd` for x, branch, weight, bias and branch_bias.

    Args:
        g_sum: the gradient of s.
        g: the gradient of y, in y's dtype.
        total: s, as forward returned it.
        keep: as in forward.
        weight: (C,).
        mean: (rows,).
        rstd: (rows,).
        to_branch_bias: whether the last gradient is wanted; it is None otherwise.
        branch_dtype: of the branch and its gradient, by default that of s.
    """
    gx, gweight, gbias = layer_norm_bwd.reference(g, total, weight, mean, rstd, g_sum)
    gbranch, gbranch_bias = _scaled(gx, keep), None
    if to_branch_bias:
        gbranch_bias = sum_rows(as_rows(gbranch), accumulator(gx.dtype)).astype(gx.dtype, copy=False)
    if branch_dtype is not None:
        gbranch = gbranch.astype(branch_dtype, copy=False)
    return gx, gbranch, gweight, gbias, gbranch_bias
