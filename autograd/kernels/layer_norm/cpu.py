"""Layer norm and residual + layer norm, compiled: each row is read into the cache once and finished there.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import add_up, row_pieces, run_pieces
from autograd.kernels.compiled.toolkit import (
    jit,
    plain,
    product,
    read,
    rows_of,
    will_write,
    write,
)

__all__ = ["layer_norm_bwd", "layer_norm_fwd", "residual_layer_norm_bwd", "residual_layer_norm_fwd"]

_GROUP = 64  # rows whose gradients are summed before they are added to the partial sum, which rounds less
_AHEAD = 8  # rows; see ``will_write``


# Rows may be short (16 channels), so that views of rows would cost too much: see ``read``.


@jit
def _normalise_far(x: Any, i: int, weight: Any, bias: Any, eps: Any, out: Any, mean: Any, rstd: Any) -> None:
    """Norm, mean and rstd of row i, whose sum or variance overflows or is NaN, as the reference has them: the mean is a
    sum of parts, and 1 / sqrt(inf) is 0. Where that is vectorised, it is NaN."""
    channels, at, one = weight.size, i * weight.size, x.dtype.type(1)
    inverse, m, v = one / x.dtype.type(channels), x.dtype.type(0), x.dtype.type(0)
    for j in range(channels):
        m += read(x, at + j) * inverse
    for j in range(channels):
        v += (read(x, at + j) - m) * (read(x, at + j) - m)
    r = x.dtype.type(0) if v == np.inf else one / np.sqrt(v * inverse + eps)
    for j in range(channels):
        write(out, at + j, (read(x, at + j) - m) * r * read(weight, j) + read(bias, j))
    mean[i], rstd[i] = m, r


@jit
def _normalise(x: Any, i: int, stop: int, weight: Any, bias: Any, eps: Any, out: Any, mean: Any, rstd: Any) -> None:
    """Write norm, mean and rstd of rows i to i + 3, as far as they are below ``stop``.

    Four rows at once, because the operations on one row wait for each other. Kernels with and without a residual call
    the same code: a model runs one or the other with and without checkpointing, and its bits must not change.
    """
    channels, zero, one = weight.size, x.dtype.type(0), x.dtype.type(1)
    inverse = one / x.dtype.type(channels)
    i1, i2, i3 = min(i + 1, stop - 1), min(i + 2, stop - 1), min(i + 3, stop - 1)  # past the end the last row again
    at0, at1, at2, at3 = i * channels, i1 * channels, i2 * channels, i3 * channels
    mean0 = mean1 = mean2 = mean3 = zero
    for j in range(channels):
        mean0 += read(x, at0 + j)
        mean1 += read(x, at1 + j)
        mean2 += read(x, at2 + j)
        mean3 += read(x, at3 + j)
    mean0, mean1, mean2, mean3 = mean0 * inverse, mean1 * inverse, mean2 * inverse, mean3 * inverse
    sum0 = sum1 = sum2 = sum3 = zero
    for j in range(channels):
        sum0 += (read(x, at0 + j) - mean0) * (read(x, at0 + j) - mean0)
        sum1 += (read(x, at1 + j) - mean1) * (read(x, at1 + j) - mean1)
        sum2 += (read(x, at2 + j) - mean2) * (read(x, at2 + j) - mean2)
        sum3 += (read(x, at3 + j) - mean3) * (read(x, at3 + j) - mean3)
    rstd0, rstd1 = one / np.sqrt(sum0 * inverse + eps), one / np.sqrt(sum1 * inverse + eps)
    rstd2, rstd3 = one / np.sqrt(sum2 * inverse + eps), one / np.sqrt(sum3 * inverse + eps)
    for j in range(channels):
        w, b = read(weight, j), read(bias, j)
        y0 = (read(x, at0 + j) - mean0) * rstd0 * w + b
        y1 = (read(x, at1 + j) - mean1) * rstd1 * w + b
        y2 = (read(x, at2 + j) - mean2) * rstd2 * w + b
        y3 = (read(x, at3 + j) - mean3) * rstd3 * w + b
        write(out, at0 + j, y0)
        write(out, at1 + j, y1)
        write(out, at2 + j, y2)
        write(out, at3 + j, y3)
    mean[i], mean[i1], mean[i2], mean[i3] = mean0, mean1, mean2, mean3
    rstd[i], rstd[i1], rstd[i2], rstd[i3] = rstd0, rstd1, rstd2, rstd3
    if not (np.isfinite(sum0) and np.isfinite(sum1) and np.isfinite(sum2) and np.isfinite(sum3)):
        for k, total in ((i, sum0), (i1, sum1), (i2, sum2), (i3, sum3)):
            if not np.isfinite(total):  # that row alone: the bits of its neighbours are their own affair
                _normalise_far(x, k, weight, bias, eps, out, mean, rstd)


@jit
def _forward(
    x: Any, weight: Any, bias: Any, eps: float, out: Any, mean: Any, rstd: Any, _: int, start: int, stop: int
) -> None:
    small = x.dtype.type(eps)
    for i in range(start, stop, 4):
        will_write(out, (i + _AHEAD) * weight.size, (i + _AHEAD + 4) * weight.size)
        _normalise(x, i, stop, weight, bias, small, out, mean, rstd)


@jit
def _residual_forward(
    x: Any,
    branch: Any,
    branch_bias: Any,  # may be empty
    keep: Any,  # a scale for each sample, or empty
    weight: Any,
    bias: Any,
    eps: float,
    total: Any,
    out: Any,
    mean: Any,
    rstd: Any,
    _: int,
    start: int,
    stop: int,
) -> None:
    small, one = x.dtype.type(eps), x.dtype.type(1)
    per_sample = x.shape[0] // max(1, keep.size)
    for i in range(start, stop):
        at, end = i * weight.size, (i + 1) * weight.size
        scale = keep[i // per_sample] if keep.size else one
        will_write(out, at + _AHEAD * weight.size, end + _AHEAD * weight.size)
        if scale == 0:
            for j in range(at, end):
                write(total, j, read(x, j))
        elif branch_bias.size:
            for j in range(at, end):
                write(total, j, read(x, j) + scale * (read(branch, j) + read(branch_bias, j - at)))
        else:
            for j in range(at, end):
                write(total, j, read(x, j) + scale * read(branch, j))
        if (i - start) % 4 == 3 or i == stop - 1:
            _normalise(total, i - (i - start) % 4, i + 1, weight, bias, small, out, mean, rstd)


@jit
def _add_group(group: Any, sums: Any) -> None:
    """Add a group's sum to ``sums``, and clear it."""
    for j in range(group.size):
        write(sums, j, read(sums, j) + read(group, j))
        write(group, j, group.dtype.type(0))


@jit
def _projection(g: Any, x: Any, weight: Any, m: Any, r: Any, at: int) -> Any:
    """The sum of h xhat over the row at ``at``, with r in each term, as in the reference: a sum of h (x - m) may be too
    large for its dtype where this one is not, or make an infinity where terms of both signs make a NaN."""
    total = x.dtype.type(0)
    for j in range(weight.size):
        total += product(product(read(g, at + j), read(weight, j)), product(read(x, at + j) - m, r))
    return total


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
    partials: Any,
    number: int,
    start: int,
    stop: int,
) -> None:
    """Rows [start, stop) of gx, plus ``extra`` unless that is empty, and of gbranch = keep gx unless keep is empty.

    ``partials`` (pieces, 2, C) get the sums for weight and bias; with a third row, also for the branch's bias.
    """
    sums = partials[number]
    channels, zero, shifts = weight.size, x.dtype.type(0), len(sums) == 3
    per_sample = x.shape[0] // max(1, keep.size)
    inverse = x.dtype.type(1) / x.dtype.type(channels)
    group = np.zeros(len(sums) * channels, x.dtype)
    sums[:] = zero
    for i in range(start, stop):
        at, m, r = i * channels, mean[i], rstd[i]
        first, second = zero, zero
        for j in range(channels):
            h = product(read(g, at + j), read(weight, j))
            first += h
            second += h * (read(x, at + j) - m)
        first *= inverse
        second *= inverse * r
        if not np.isfinite(second):
            second = _projection(g, x, weight, m, r, at) * inverse
        for j in range(channels):
            xhat, gj = (read(x, at + j) - m) * r, read(g, at + j)
            write(group, j, read(group, j) + gj * xhat)
            write(group, channels + j, read(group, channels + j) + gj)
            write(gx, at + j, r * (product(gj, read(weight, j)) - first - xhat * second))
        if extra.size:
            for j in range(at, at + channels):
                write(gx, j, read(gx, j) + read(extra, j))
        if keep.size:
            scale = keep[i // per_sample]
            for j in range(at, at + channels):
                write(gbranch, j, scale * read(gx, j))
        if shifts:
            branch = gbranch if keep.size else gx
            for j in range(channels):
                write(group, 2 * channels + j, read(group, 2 * channels + j) + read(branch, at + j))
        if (i - start) % _GROUP == _GROUP - 1 or i == stop - 1:
            _add_group(group, sums)


def layer_norm_fwd(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    """One pass over x, four rows at once; the variance comes from a second loop over rows in the cache."""
    rows = rows_of(x)
    out, mean, rstd = empty(rows.shape, x.dtype), np.empty(len(rows), x.dtype), np.empty(len(rows), x.dtype)
    weight, bias = plain(weight), plain(bias)
    pieces = row_pieces(len(rows), 2 * rows.shape[1] * x.itemsize)
    run_pieces(_forward, pieces, rows, weight, bias, eps, out, mean, rstd)
    return out.reshape(x.shape), mean, rstd


def _none(x: Any) -> Any:
    """Rows (0, 0), in place of an argument that is None."""
    return np.empty((0, 0), x.dtype)


def _optional(vector: Any | None, x: Any) -> Any:
    """A vector made contiguous, or an empty one in place of None."""
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
    pieces = row_pieces(len(rows), (4 if keeps.size else 3) * rows.shape[1] * x.itemsize)
    partials = np.empty((len(pieces), results, rows.shape[1]), x.dtype)
    run_pieces(_backward, pieces, g_rows, rows, weight, mean, rstd, extra, keeps, gx, gbranch, partials)
    return gx.reshape(x.shape), gbranch.reshape(x.shape), *(total.copy() for total in add_up(partials))


def layer_norm_bwd(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, g_sum: Any | None = None) -> tuple[Any, Any, Any]:
    """One pass for all three gradients, with a partial sum per piece for weight and bias."""
    gx, _, gweight, gbias = _gradients(g, x, weight, mean, rstd, g_sum, None, 2)
    return gx, gweight, gbias


def residual_layer_norm_fwd(
    x: Any,
    branch: Any,
    keep: Any | None,
    weight: Any,
    bias: Any,
    eps: float,
    branch_bias: Any | None = None,
    y_dtype: Any | None = None,  # x's; others are refused
) -> tuple[Any, Any, Any, Any]:
    """One pass: each row of the sum is normalised while it is in the cache."""
    rows, branches, keeps, shift = rows_of(x), rows_of(branch), _optional(keep, x), _optional(branch_bias, x)
    total, out = empty(rows.shape, x.dtype), empty(rows.shape, x.dtype)
    mean, rstd = np.empty(len(rows), x.dtype), np.empty(len(rows), x.dtype)
    weight, bias = plain(weight), plain(bias)
    pieces = row_pieces(len(rows), 4 * rows.shape[1] * x.itemsize)
    run_pieces(_residual_forward, pieces, rows, branches, shift, keeps, weight, bias, eps, total, out, mean, rstd)
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
    branch_dtype: Any | None = None,  # total's; others are refused
) -> tuple[Any, Any, Any, Any, Any | None]:
    """As :func:`layer_norm_bwd`; the same pass scales the branch's gradient and sums that of its bias."""
    gx, gbranch, *sums = _gradients(g, total, weight, mean, rstd, g_sum, keep, 3 if to_branch_bias else 2)
    gweight, gbias, gbranch_bias = (*sums, None)[:3]
    return gx, gbranch, gweight, gbias, gbranch_bias
