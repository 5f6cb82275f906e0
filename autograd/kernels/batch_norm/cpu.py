"""Batch norm, compiled: a piece of rows is read into the cache once for its mean and its squares.

Each twin has the contract of its namesake in reference.py; what is said here is how. Sums are made in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import add_up, row_pieces, run_pieces
from autograd.kernels.compiled.toolkit import jit, plain, product, read, rows_of, write

__all__ = ["batch_norm_bwd", "batch_norm_eval_fwd", "batch_norm_fwd"]


@jit
def _moments(x: Any, partials: Any, number: int, start: int, stop: int) -> None:
    """The mean of a piece's rows, and the sum of squares of what they differ from it."""
    channels, parts = x.shape[1], partials[number]
    parts[:] = 0
    for i in range(start, stop):
        at = i * channels
        for j in range(channels):
            write(parts, j, read(parts, j) + read(x, at + j))
    for j in range(channels):
        write(parts, j, read(parts, j) / (stop - start))
    for i in range(start, stop):
        at = i * channels
        for j in range(channels):
            d = read(x, at + j) - read(parts, j)
            write(parts, channels + j, read(parts, channels + j) + d * d)


@jit
def _affine(x: Any, mean: Any, scale: Any, shift: Any, out: Any, _: int, start: int, stop: int) -> None:
    channels = x.shape[1]
    for i in range(start, stop):
        at = i * channels
        for j in range(channels):
            write(out, at + j, (read(x, at + j) - read(mean, j)) * read(scale, j) + read(shift, j))


@jit
def _sums(g: Any, x: Any, mean: Any, partials: Any, number: int, start: int, stop: int) -> None:
    """Sums over a piece's rows of g, and of g (x - mean)."""
    channels, parts = x.shape[1], partials[number]
    parts[:] = 0
    for i in range(start, stop):
        at = i * channels
        for j in range(channels):
            gj = read(g, at + j)
            write(parts, j, read(parts, j) + gj)
            write(parts, channels + j, read(parts, channels + j) + product(gj, read(x, at + j) - read(mean, j)))


@jit
def _gradient(
    g: Any, x: Any, mean: Any, of_g: Any, of_x: Any, constant: Any, gx: Any, _: int, start: int, stop: int
) -> None:
    channels = x.shape[1]
    for i in range(start, stop):
        at = i * channels
        for j in range(channels):
            centred = read(x, at + j) - read(mean, j)
            write(gx, at + j, read(g, at + j) * read(of_g, j) + centred * read(of_x, j) + read(constant, j))


def _pieces(rows: Any, arrays: int) -> Any:
    return row_pieces(len(rows), arrays * rows.shape[1] * rows.itemsize)


def batch_norm_fwd(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any, Any]:
    """Two passes over x. Pieces are joined by the rule of Chan, Golub & LeVeque 1983, formula 2.1b."""
    rows, n = rows_of(x), len(rows_of(x))
    pieces = _pieces(rows, 2)
    partials = np.empty((len(pieces), 2, rows.shape[1]))
    run_pieces(_moments, pieces, rows, partials)
    counts, means = (pieces[:, 1] - pieces[:, 0])[:, None], partials[:, 0]
    centre = add_up(counts * means) / n
    squares = add_up(partials[:, 1] + counts * (means - centre) ** 2).astype(x.dtype)
    mean, rstd = centre.astype(x.dtype), 1 / np.sqrt(squares / n + x.dtype.type(eps))
    out = empty(rows.shape, x.dtype)
    run_pieces(_affine, pieces, rows, mean, rstd * weight, plain(bias), out)
    return out.reshape(x.shape), mean, rstd, squares / (n - 1)


def batch_norm_bwd(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, g_mean: Any, g_var: Any) -> tuple[Any, Any, Any]:
    """Two passes over g and x."""
    rows, g_rows, mean, n = rows_of(x), rows_of(g), plain(mean), len(rows_of(x))
    pieces = _pieces(rows, 3)
    partials = np.empty((len(pieces), 2, rows.shape[1]))
    run_pieces(_sums, pieces, g_rows, rows, mean, partials)
    total, along = add_up(partials).astype(x.dtype)
    scale = rstd * weight
    of_x = 2 / (n - 1) * g_var - scale * rstd**2 * along / n
    gx = empty(rows.shape, x.dtype)
    run_pieces(_gradient, pieces, g_rows, rows, mean, scale, of_x, (g_mean - scale * total) / n, gx)
    return gx.reshape(x.shape), along * rstd, total.copy()


def batch_norm_eval_fwd(x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> Any:
    """One pass."""
    rows = rows_of(x)
    out = empty(rows.shape, x.dtype)
    scale = weight / np.sqrt(var + x.dtype.type(eps))
    run_pieces(_affine, _pieces(rows, 2), rows, plain(mean), scale, plain(bias), out)
    return out.reshape(x.shape)
