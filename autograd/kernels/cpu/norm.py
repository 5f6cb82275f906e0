"""Layer norm and residual + layer norm, compiled: each row is read into the cache once and finished there."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.cpu.toolkit import add_up, jit, pieces, plain, rows_of, run_pieces

__all__ = ["layer_norm_bwd", "layer_norm_fwd", "residual_layer_norm_bwd", "residual_layer_norm_fwd"]

# Row sums of gradients are collected this many rows at a time before they are added to the piece's total: sums of few
# numbers stay small, which keeps the rounding error of a long sum down.
_GROUP = 64


@jit
def _normalise(row: Any, weight: Any, bias: Any, eps: Any, out: Any) -> Any:
    """One row: writes the norm, returns mean and rstd. The variance takes a second pass, as in the reference."""
    channels = row.size
    inverse = row.dtype.type(1) / row.dtype.type(channels)
    total = row.dtype.type(0)
    for j in range(channels):
        total += row[j]
    mean = total * inverse
    total = row.dtype.type(0)
    for j in range(channels):
        total += (row[j] - mean) * (row[j] - mean)
    rstd = row.dtype.type(1) / np.sqrt(total * inverse + eps)
    for j in range(channels):
        out[j] = (row[j] - mean) * rstd * weight[j] + bias[j]
    return mean, rstd


@jit
def _forward(x: Any, weight: Any, bias: Any, eps: float, out: Any, mean: Any, rstd: Any, start: int, stop: int) -> None:
    small = x.dtype.type(eps)
    for i in range(start, stop):
        mean[i], rstd[i] = _normalise(x[i], weight, bias, small, out[i])


@jit
def _residual_forward(
    x: Any,
    branch: Any,
    branch_bias: Any,  # may be empty
    keep: Any,  # a scale a sample, or empty
    weight: Any,
    bias: Any,
    eps: float,
    total: Any,
    out: Any,
    mean: Any,
    rstd: Any,
    start: int,
    stop: int,
) -> None:
    small = x.dtype.type(eps)
    per_sample = x.shape[0] // max(1, keep.size)
    for i in range(start, stop):
        scale = keep[i // per_sample] if keep.size else x.dtype.type(1)
        xi, bi, ti = x[i], branch[i], total[i]
        if scale == 0:
            for j in range(xi.size):
                ti[j] = xi[j]
        elif branch_bias.size:
            for j in range(xi.size):
                ti[j] = xi[j] + scale * (bi[j] + branch_bias[j])
        else:
            for j in range(xi.size):
                ti[j] = xi[j] + scale * bi[j]
        mean[i], rstd[i] = _normalise(ti, weight, bias, small, out[i])


@jit
def _backward(
    g: Any,
    x: Any,
    weight: Any,
    mean: Any,
    rstd: Any,
    extra: Any,
    keep: Any,
    gx: Any,
    gbranch: Any,
    sums: Any,
    start: int,
    stop: int,
) -> None:
    """Rows of gx, with ``extra`` added (where it has rows), and of gbranch = keep gx (where there is keep).

    sums (2, C) get what the rows give to weight and bias; a third row what they give to the branch's bias.
    """
    channels = x.shape[1]
    per_sample = x.shape[0] // max(1, keep.size)
    zero = x.dtype.type(0)
    inverse = x.dtype.type(1) / x.dtype.type(channels)
    gweight, gbias, gshift = np.zeros(channels, x.dtype), np.zeros(channels, x.dtype), np.zeros(channels, x.dtype)
    sums[:] = zero
    for i in range(start, stop):
        xi, gi, oi, m, r = x[i], g[i], gx[i], mean[i], rstd[i]
        first, second = zero, zero
        for j in range(channels):
            h = gi[j] * weight[j]
            oi[j] = h  # kept rounded: h - mean(h) from an unrounded product would not cancel where it must
            first += h
            second += h * ((xi[j] - m) * r)
        first *= inverse
        second *= inverse
        for j in range(channels):
            xhat = (xi[j] - m) * r
            gweight[j] += gi[j] * xhat
            gbias[j] += gi[j]
            oi[j] = r * (oi[j] - first - xhat * second)
        if extra.size:
            ei = extra[i]
            for j in range(channels):
                oi[j] += ei[j]
        if keep.size:
            scale, bi = keep[i // per_sample], gbranch[i]
            for j in range(channels):
                bi[j] = scale * oi[j]
        if len(sums) == 3:
            bi = gbranch[i] if keep.size else oi
            for j in range(channels):
                gshift[j] += bi[j]
        if (i - start) % _GROUP == _GROUP - 1 or i == stop - 1:
            for j in range(channels):
                sums[0, j] += gweight[j]
                sums[1, j] += gbias[j]
                gweight[j] = zero
                gbias[j] = zero
            if len(sums) == 3:
                for j in range(channels):
                    sums[2, j] += gshift[j]
                    gshift[j] = zero


def layer_norm_fwd(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    rows = rows_of(x)
    out, mean, rstd = empty(rows.shape, x.dtype), np.empty(len(rows), x.dtype), np.empty(len(rows), x.dtype)
    weight, bias = plain(weight), plain(bias)
    cut = pieces(len(rows), 2 * rows.shape[1] * x.itemsize)
    run_pieces(lambda _, a, b: _forward(rows, weight, bias, eps, out, mean, rstd, a, b), cut)
    return out.reshape(x.shape), mean, rstd


def _none(x: Any) -> Any:
    """Stands for rows that there are none of."""
    return np.empty((0, 0), x.dtype)


def _optional(vector: Any | None, x: Any) -> Any:
    return np.empty(0, x.dtype) if vector is None else plain(vector)


def _gradients(
    g: Any, x: Any, weight: Any, mean: Any, rstd: Any, g_sum: Any | None, keep: Any | None, results: int
) -> tuple[Any, ...]:
    """gx, gbranch, and the first ``results`` of the gradients of weight, bias and the branch's bias."""
    rows, g_rows = rows_of(x), rows_of(g)
    extra, keeps = _none(x) if g_sum is None else rows_of(g_sum), _optional(keep, x)
    weight, mean, rstd = plain(weight), plain(mean), plain(rstd)
    gx = empty(rows.shape, x.dtype)
    gbranch = empty(rows.shape, x.dtype) if keeps.size else gx
    cut = pieces(len(rows), (4 if keeps.size else 3) * rows.shape[1] * x.itemsize)
    sums = np.empty((len(cut), results, rows.shape[1]), x.dtype)

    def piece(i: int, a: int, b: int) -> None:
        _backward(g_rows, rows, weight, mean, rstd, extra, keeps, gx, gbranch, sums[i], a, b)

    run_pieces(piece, cut)
    return gx.reshape(x.shape), gbranch.reshape(x.shape), *(total.copy() for total in add_up(sums))


def layer_norm_bwd(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, g_sum: Any | None = None) -> tuple[Any, Any, Any]:
    gx, _, gweight, gbias = _gradients(g, x, weight, mean, rstd, g_sum, None, 2)
    return gx, gweight, gbias


def residual_layer_norm_fwd(
    x: Any, branch: Any, keep: Any | None, weight: Any, bias: Any, eps: float, branch_bias: Any | None = None
) -> tuple[Any, Any, Any, Any]:
    rows, branches, keeps, shift = rows_of(x), rows_of(branch), _optional(keep, x), _optional(branch_bias, x)
    total, out = empty(rows.shape, x.dtype), empty(rows.shape, x.dtype)
    mean, rstd = np.empty(len(rows), x.dtype), np.empty(len(rows), x.dtype)
    weight, bias = plain(weight), plain(bias)

    def piece(_: int, a: int, b: int) -> None:
        _residual_forward(rows, branches, shift, keeps, weight, bias, eps, total, out, mean, rstd, a, b)

    run_pieces(piece, pieces(len(rows), 4 * rows.shape[1] * x.itemsize))
    return total.reshape(x.shape), out.reshape(x.shape), mean, rstd


def residual_layer_norm_bwd(
    g_sum: Any,
    g: Any,
    total: Any,
    keep: Any | None,
    weight: Any,
    mean: Any,
    rstd: Any,
    to_branch_bias: bool = False,
) -> tuple[Any, Any, Any, Any, Any | None]:
    gx, gbranch, *sums = _gradients(g, total, weight, mean, rstd, g_sum, keep, 3 if to_branch_bias else 2)
    gweight, gbias, gbranch_bias = (*sums, None)[:3]
    return gx, gbranch, gweight, gbias, gbranch_bias
