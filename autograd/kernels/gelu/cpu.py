"""GELU and bias + GELU, compiled, and the in-place forms that the fused MLP uses on a block in the cache.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import add_up, row_pieces, run_pieces
from autograd.kernels.compiled.toolkit import cdf, exp, jit, plain, rows_of

__all__ = ["activate", "bias_gelu_bwd", "bias_gelu_fwd", "differentiate", "gelu_bwd", "gelu_fwd"]

_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
_GROUP = 64  # rows whose bias gradients are summed before they are added to the partial sum, which rounds less


@jit
def _forward(x: Any, bias: Any, out: Any, _: int, start: int, stop: int) -> None:
    for i in range(start, stop):
        xi, oi = x[i], out[i]
        for j in range(xi.size):
            v = xi[j] + bias[j]
            oi[j] = v * cdf(v)


@jit
def activate(x: Any, bias: Any) -> None:
    """x = gelu(x + bias), in place. It is a function of its own because LLVM would not vectorise ``_forward`` with one
    array as input and output."""
    for i in range(x.shape[0]):
        xi = x[i]
        for j in range(xi.size):
            v = xi[j] + bias[j]
            xi[j] = v * cdf(v)


@jit
def _backward(g: Any, x: Any, bias: Any, gx: Any, partials: Any, number: int, start: int, stop: int) -> None:
    gbias = partials[number]
    half, factor = x.dtype.type(0.5), x.dtype.type(_INV_SQRT_2PI)
    gbias[:] = 0
    group = np.zeros(x.shape[1], x.dtype)
    for i in range(start, stop):
        xi, gi, oi = x[i], g[i], gx[i]
        for j in range(xi.size):
            v = xi[j] + bias[j]
            d = gi[j] * (cdf(v) + v * factor * exp(-half * v * v))
            oi[j] = d
            group[j] += d
        if (i - start) % _GROUP == _GROUP - 1 or i == stop - 1:
            for j in range(group.size):
                gbias[j] += group[j]
                group[j] = 0


@jit
def differentiate(g: Any, x: Any, bias: Any, hidden: Any, gbias: Any) -> None:
    """Backward of a block, in place: g becomes the gradient of x, ``hidden`` gelu(x + bias), gbias the sum of g's
    rows."""
    half, factor = x.dtype.type(0.5), x.dtype.type(_INV_SQRT_2PI)
    gbias[:] = 0
    group = np.zeros(x.shape[1], x.dtype)
    rows = x.shape[0]
    for i in range(rows):
        xi, gi, hi = x[i], g[i], hidden[i]
        for j in range(xi.size):
            v = xi[j] + bias[j]
            below = cdf(v)
            hi[j] = v * below
            d = gi[j] * (below + v * factor * exp(-half * v * v))
            gi[j] = d
            group[j] += d
        if i % _GROUP == _GROUP - 1 or i == rows - 1:
            for j in range(group.size):
                gbias[j] += group[j]
                group[j] = 0


def _as_lines(x: Any) -> Any:
    """``x`` of any shape as long rows, (n, up to 1024): over (n, 1) the inner loop would have one turn."""
    flat = plain(x).reshape(-1)
    width = math.gcd(flat.size, 1024) or 1
    return flat.reshape(flat.size // width, width)


def gelu_fwd(x: Any) -> Any:
    """As :func:`bias_gelu_fwd`, with a bias of zeros on rows of up to 1024 elements."""
    lines = _as_lines(x)
    return bias_gelu_fwd(lines, np.zeros(lines.shape[1], x.dtype)).reshape(x.shape)


def gelu_bwd(g: Any, x: Any) -> Any:
    """As :func:`bias_gelu_bwd`, with a bias of zeros on rows of up to 1024 elements."""
    lines = _as_lines(x)
    return bias_gelu_bwd(_as_lines(g), lines, np.zeros(lines.shape[1], x.dtype))[0].reshape(x.shape)


def bias_gelu_fwd(x: Any, bias: Any | None) -> Any:
    """One pass over x."""
    if bias is None:
        return gelu_fwd(x)
    rows, bias = rows_of(x), plain(bias)
    out = empty(rows.shape, x.dtype)
    pieces = row_pieces(len(rows), 2 * rows.shape[1] * x.itemsize)
    run_pieces(_forward, pieces, rows, bias, out)
    return out.reshape(x.shape)


def bias_gelu_bwd(g: Any, x: Any, bias: Any | None) -> tuple[Any, Any | None]:
    """One pass over g and x, which also sums the bias's gradient: a partial sum per piece."""
    if bias is None:
        return gelu_bwd(g, x), None
    rows, g_rows, bias = rows_of(x), rows_of(g), plain(bias)
    gx = empty(rows.shape, x.dtype)
    pieces = row_pieces(len(rows), 3 * rows.shape[1] * x.itemsize)
    partials = np.empty((len(pieces), rows.shape[1]), x.dtype)
    run_pieces(_backward, pieces, g_rows, rows, bias, gx, partials)
    return gx.reshape(x.shape), add_up(partials)
