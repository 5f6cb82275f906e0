"""Layer norm and residual + layer norm, compiled: each row is read into the cache once and finished there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.cpu.toolkit import add_up, jit, pieces, plain, read, rows_of, run_pieces, write

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
    small = x.dtype.type(eps)
    for i in range(start, stop):
        mean[i], rstd[i] = _normalise(x, i * weight.size, weight, bias, small, out)


@jit
def _residual_forward(
    x: Any,
    branch: Any,
    keep: Any,  # one scale a sample, or none
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
    g: Any, x: Any, weight: Any, mean: Any, rstd: Any, extra: Any, gx: Any, sums: Any, start: int, stop: int
) -> None:
    """Rows of gx, with ``extra`` added (where it has rows); sums (2, C) get what the rows give to weight and bias."""
    channels, zero = weight.size, x.dtype.type(0)
    inverse = x.dtype.type(1) / x.dtype.type(channels)
    group = np.zeros(2 * channels, x.dtype)
    sums[:] = zero
    for i in range(start, stop):
        at, m, r = i * channels, mean[i], rstd[i]
        first, second = zero, zero
        for j in range(channels):
            h = read(g, at + j) * read(weight, j)
            write(gx, at + j, h)  # kept rounded: h - mean(h) from an unrounded product would not cancel where it must
            first += h
            second += h * ((read(x, at + j) - m) * r)
        first *= inverse
        second *= inverse
        for j in range(channels):
            xhat, gj = (read(x, at + j) - m) * r, read(g, at + j)
            write(group, j, read(group, j) + gj * xhat)
            write(group, channels + j, read(group, channels + j) + gj)
            write(gx, at + j, r * (read(gx, at + j) - first - xhat * second))
        if extra.size:
            for j in range(at, at + channels):
                write(gx, j, read(gx, j) + read(extra, j))
        if (i - start) % _GROUP == _GROUP - 1 or i == stop - 1:
            _add_group(group, sums)


@jit
def _scale(x: Any, keep: Any, out: Any, start: int, stop: int) -> None:
    per_sample = x.shape[0] // keep.size
    for i in range(start, stop):
        scale = keep[i // per_sample]
        for j in range(i * x.shape[1], (i + 1) * x.shape[1]):
            write(out, j, scale * read(x, j))


def layer_norm_fwd(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    rows = rows_of(x)
    out, mean, rstd = empty(rows.shape, x.dtype), np.empty(len(rows), x.dtype), np.empty(len(rows), x.dtype)
    weight, bias = plain(weight), plain(bias)
    cut = pieces(len(rows), 2 * rows.shape[1] * x.itemsize)
    run_pieces(lambda _, a, b: _forward(rows, weight, bias, eps, out, mean, rstd, a, b), cut)
    return out.reshape(x.shape), mean, rstd


def layer_norm_bwd(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, g_sum: Any | None = None) -> tuple[Any, Any, Any]:
    rows, g_rows = rows_of(x), rows_of(g)
    extra = np.empty((0, 0), x.dtype) if g_sum is None else rows_of(g_sum)
    weight, mean, rstd = plain(weight), plain(mean), plain(rstd)
    gx = empty(rows.shape, x.dtype)
    cut = pieces(len(rows), 3 * rows.shape[1] * x.itemsize)
    sums = np.empty((len(cut), 2, rows.shape[1]), x.dtype)
    run_pieces(lambda i, a, b: _backward(g_rows, rows, weight, mean, rstd, extra, gx, sums[i], a, b), cut)
    gweight, gbias = add_up(sums)
    return gx.reshape(x.shape), gweight.copy(), gbias.copy()


def _keeps(keep: Any | None, x: Any) -> Any:
    """A scale for each sample, none for 1."""
    return np.empty(0, x.dtype) if keep is None else plain(keep)


def residual_layer_norm_fwd(
    x: Any, branch: Any, keep: Any | None, weight: Any, bias: Any, eps: float
) -> tuple[Any, Any, Any, Any]:
    rows, branches, keeps = rows_of(x), rows_of(branch), _keeps(keep, x)
    total, out = empty(rows.shape, x.dtype), empty(rows.shape, x.dtype)
    mean, rstd = np.empty(len(rows), x.dtype), np.empty(len(rows), x.dtype)
    weight, bias = plain(weight), plain(bias)

    def piece(_: int, a: int, b: int) -> None:
        _residual_forward(rows, branches, keeps, weight, bias, eps, total, out, mean, rstd, a, b)

    run_pieces(piece, pieces(len(rows), 4 * rows.shape[1] * x.itemsize))
    return total.reshape(x.shape), out.reshape(x.shape), mean, rstd


def residual_layer_norm_bwd(
    g_sum: Any, g: Any, total: Any, keep: Any | None, weight: Any, mean: Any, rstd: Any
) -> tuple[Any, Any, Any, Any]:
    gx, gweight, gbias = layer_norm_bwd(g, total, weight, mean, rstd, g_sum)
    if keep is None or not total.size:
        return gx, gx, gweight, gbias
    rows, keeps = rows_of(gx), _keeps(keep, total)
    branch = empty(rows.shape, gx.dtype)
    per_sample = math.prod(total.shape[1:-1])
    assert len(rows) == per_sample * keeps.size
    run_pieces(lambda _, a, b: _scale(rows, keeps, branch, a, b), pieces(len(rows), 2 * rows.shape[1] * gx.itemsize))
    return gx, branch.reshape(total.shape), gweight, gbias
