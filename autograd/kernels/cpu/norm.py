"""Layer norm and residual + layer norm, compiled: each row is read into the cache once and finished there."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.cpu.toolkit import (
    add_up,
    jit,
    pieces,
    plain,
    product,
    read,
    rows_of,
    run_pieces,
    write,
)

__all__ = ["layer_norm_bwd", "layer_norm_fwd", "residual_layer_norm_bwd", "residual_layer_norm_fwd"]

# Row sums of gradients are collected this many rows at a time before they are added to the piece's total: sums of few
# numbers stay small, which keeps the rounding error of a long sum down.
_GROUP = 64


# Rows may be short (16 channels), so numbers are read and written at their place: see ``read``.


@jit
def _normalise(x: Any, at: int, weight: Any, bias: Any, eps: Any, out: Any) -> Any:
    """The row at a place: writes the norm, returns mean and rstd. The variance takes a second pass, as in the
    reference."""
    channels = weight.size
    inverse = x.dtype.type(1) / x.dtype.type(channels)
    total = x.dtype.type(0)
    for j in range(channels):
        total += read(x, at + j)
    mean = total * inverse
    total = x.dtype.type(0)
    for j in range(channels):
        total += (read(x, at + j) - mean) * (read(x, at + j) - mean)
    rstd = x.dtype.type(1) / np.sqrt(total * inverse + eps)
    for j in range(channels):
        write(out, at + j, (read(x, at + j) - mean) * rstd * read(weight, j) + read(bias, j))
    return mean, rstd


@jit
def _forward(x: Any, weight: Any, bias: Any, eps: float, out: Any, mean: Any, rstd: Any, start: int, stop: int) -> None:
    # Four rows side by side would be faster, but must not give other bits than after a residual, where they are slower:
    # with and without checkpointing a model takes the one or the other.
    small = x.dtype.type(eps)
    for i in range(start, stop):
        mean[i], rstd[i] = _normalise(x, i * weight.size, weight, bias, small, out)


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
    small, one = x.dtype.type(eps), x.dtype.type(1)
    per_sample = x.shape[0] // max(1, keep.size)
    for i in range(start, stop):
        at, end = i * weight.size, (i + 1) * weight.size
        scale = keep[i // per_sample] if keep.size else one
        if scale == 0:
            for j in range(at, end):
                write(total, j, read(x, j))
        elif branch_bias.size:
            for j in range(at, end):
                write(total, j, read(x, j) + scale * (read(branch, j) + read(branch_bias, j - at)))
        else:
            for j in range(at, end):
                write(total, j, read(x, j) + scale * read(branch, j))
        mean[i], rstd[i] = _normalise(total, at, weight, bias, small, out)


@jit
def _add_group(group: Any, sums: Any) -> None:
    for j in range(group.size):
        write(sums, j, read(sums, j) + read(group, j))
        write(group, j, group.dtype.type(0))


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
