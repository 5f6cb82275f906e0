"""Parts of compiled window attention: what a call and a thread hold, and the steps within one (window, head).

Numbers are read and written at their place in an array's memory (``read``, ``write``): taking rows out of an array
first would count references to it, on a counter that the threads share.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from autograd.kernels.compiled.tiles import LANES, scaled_row, scaled_row_and_sum
from autograd.kernels.compiled.toolkit import exp, jit, larger, read, write

__all__ = [
    "CHUNK",
    "Call",
    "Scratch",
    "cosine_backward",
    "gather",
    "load",
    "make_scratch",
    "scatter",
    "scatter_scaled",
    "scores_backward",
    "softmax",
    "transpose",
]

CHUNK = 64  # queries at a time; a multiple of the tiles' ROWS
_COSINE_EPS = 1e-12


class Call(NamedTuple):
    """The arguments of both kernels, made ready.

    Attributes:
        qkv: (B * H * W, 3C).
        table: (kinds, heads, rows, columns), bias + mask, N padded to whole tiles.
        qkv_bias: (3C,).
        scales: (heads,), of the scores.
        cosine: whether q and k are of length 1.
        tokens: (nW, N), pixel of each token, -1 for padding.
        kinds: (nW,), which table.
        pixels: of a map.
        width: channels of a head in whole tiles.
    """

    qkv: Any
    table: Any
    qkv_bias: Any
    scales: Any
    cosine: Any
    tokens: Any
    kinds: Any
    pixels: Any
    width: Any


class Scratch(NamedTuple):
    """What a thread works in: flat padded matrices of one window and head; the last eight for backward."""

    q: Any
    k: Any
    v: Any
    k_t: Any
    p: Any
    result: Any
    inverse: Any
    q_short: Any
    k_short: Any
    go: Any
    v_t: Any
    dp: Any
    gq: Any
    gk: Any
    gv: Any
    none: Any


@jit
def make_scratch(call: Any, d: int, n: int, backward: bool) -> Any:
    dtype, rows, columns = call.qkv.dtype, call.table.shape[2], call.table.shape[3]
    size, scores = rows * call.width, min(rows, CHUNK) * columns
    again = 1 if backward else 0
    return Scratch(
        np.zeros(size, dtype),
        np.zeros(size, dtype),
        np.zeros(size, dtype),
        np.zeros(d * columns, dtype),
        np.empty(scores, dtype),
        np.empty(min(rows, CHUNK) * call.width, dtype),
        np.empty(min(rows, CHUNK), dtype),
        np.empty(n, dtype),
        np.empty(n, dtype),
        np.zeros(size * again, dtype),
        np.zeros(d * columns * again, dtype),
        np.empty(scores * again, dtype),
        np.empty(size * again, dtype),
        np.empty(size * again, dtype),
        np.empty(size * again, dtype),
        np.zeros(d, dtype),
    )


@jit
def gather(
    maps: Any,
    at: int,
    stride: int,
    pixels: Any,
    p: int,
    n: int,
    d: int,
    bias: Any,
    b: int,
    scale: Any,
    to: Any,
    width: int,
) -> None:
    """n rows of d numbers, (maps[pixel] + bias) * scale, into ``to``; a token without a pixel is the bias alone."""
    vectors = d // LANES if d % LANES == 0 else 0
    for i in range(n):
        pixel, row = read(pixels, p + i), i * width
        if pixel < 0:
            for c in range(d):
                write(to, row + c, read(bias, b + c) * scale)
        elif vectors:
            scaled_row(maps, at + pixel * stride, bias, b, scale, to, row, vectors)
        else:
            source = at + pixel * stride
            for c in range(d):
                write(to, row + c, (read(maps, source + c) + read(bias, b + c)) * scale)


@jit
def transpose(rows: Any, width: int, n: int, d: int, out: Any, columns: int) -> None:
    for i in range(n):
        for c in range(d):
            write(out, c * columns + i, read(rows, i * width + c))


@jit
def _normalise(rows: Any, width: int, n: int, d: int, scale: Any, inverse: Any) -> None:
    """Rows divided by max(their length, eps) and multiplied by ``scale``; ``inverse`` gets 1 / max(length, eps)."""
    one, least = rows.dtype.type(1), rows.dtype.type(_COSINE_EPS)
    for i in range(n):
        total = rows.dtype.type(0)
        for c in range(d):
            total += read(rows, i * width + c) * read(rows, i * width + c)
        short = one / max(np.sqrt(total), least)
        write(inverse, i, short)
        for c in range(d):
            write(rows, i * width + c, read(rows, i * width + c) * (short * scale))


@jit
def softmax(scores: Any, columns: int, rows: int, table: Any, first: int, inverse: Any) -> None:
    """exp(score + table - largest) of each row, in place, and 1 / their sum. The columns that pad a row become 0."""
    one = scores.dtype.type(1)
    for i in range(rows):
        at, added = i * columns, first + i * columns
        for j in range(columns):
            write(scores, at + j, read(scores, at + j) + read(table, added + j))
        peak = read(scores, at)
        for j in range(columns):
            peak = larger(peak, read(scores, at + j))
        total = scores.dtype.type(0)
        for j in range(columns):
            e = exp(read(scores, at + j) - peak)
            write(scores, at + j, e)
            total += e
        write(inverse, i, one / total)


@jit
def load(call: Any, s: Any, place: int, first: int, head: int) -> None:
    """q (scaled), k and v of one head of one window into the scratch; with cosine q and k are of length 1 first."""
    n, c, scale = call.tokens.shape[1], call.qkv.shape[1] // 3, call.scales[head]
    d, one, at, p = c // call.scales.size, call.qkv.dtype.type(1), first * 3 * c, place * n
    column = head * d
    factor = one if call.cosine else scale
    # each written out: a choice among arrays in a loop counts references to them
    gather(call.qkv, at + column, 3 * c, call.tokens, p, n, d, call.qkv_bias, column, factor, s.q, call.width)
    column += c
    gather(call.qkv, at + column, 3 * c, call.tokens, p, n, d, call.qkv_bias, column, one, s.k, call.width)
    column += c
    gather(call.qkv, at + column, 3 * c, call.tokens, p, n, d, call.qkv_bias, column, one, s.v, call.width)
    if call.cosine:
        _normalise(s.q, call.width, n, d, scale, s.q_short)
        _normalise(s.k, call.width, n, d, one, s.k_short)


@jit
def scores_backward(p: Any, dp: Any, columns: int, rows: int, inverse: Any, gbias: Any, first: int) -> None:
    """p becomes the probabilities, dp the gradient of the scores P (dP - sum(P dP)), which is added to ``gbias``."""
    for i in range(rows):
        at, added, z = i * columns, first + i * columns, read(inverse, i)
        total = p.dtype.type(0)
        for j in range(columns):
            e = read(p, at + j) * z
            write(p, at + j, e)
            total += e * read(dp, at + j)
        for j in range(columns):
            s = read(p, at + j) * (read(dp, at + j) - total)
            write(dp, at + j, s)
            write(gbias, added + j, read(gbias, added + j) + s)


@jit
def _cosine_backward_rows(rows: Any, width: int, n: int, d: int, unit: Any, over: Any, short: Any) -> None:
    """Gradient for q^ = q / |q| to one for q: (dq^ - q^ (q^ . dq^)) / |q|; none where |q| <= eps.

    ``unit`` times ``over`` is q^, ``short`` is 1 / max(|q|, eps).
    """
    most = rows.dtype.type(1) / rows.dtype.type(_COSINE_EPS)
    for i in range(n):
        at, inverse = i * width, read(short, i)
        along = rows.dtype.type(0)
        for c in range(d):
            along += read(rows, at + c) * (read(unit, at + c) * over)
        slope = inverse if inverse < most else rows.dtype.type(0)
        for c in range(d):
            write(rows, at + c, (read(rows, at + c) - read(unit, at + c) * over * along) * slope)


@jit
def scatter(
    rows: Any,
    width: int,
    scale: Any,
    pixels: Any,
    p: int,
    n: int,
    d: int,
    out: Any,
    at: int,
    stride: int,
    total: Any,
    t: int,
) -> None:
    """Rows times ``scale`` back to their pixels; all of them, those of padding too, are added to ``total``."""
    vectors = d // LANES if d % LANES == 0 else 0
    for i in range(n):
        pixel, row = read(pixels, p + i), i * width
        to = at + pixel * stride
        if vectors and pixel >= 0:
            scaled_row_and_sum(rows, row, total, t, scale, out, to, vectors)
        else:
            for c in range(d):
                write(total, t + c, read(total, t + c) + read(rows, row + c) * scale)
            if pixel >= 0:
                for c in range(d):
                    write(out, to + c, read(rows, row + c) * scale)


@jit
def scatter_scaled(
    rows: Any, width: int, scales: Any, none: Any, pixels: Any, p: int, n: int, d: int, out: Any, at: int, stride: int
) -> None:
    """Rows, each times its scale, to their pixels; those of padding go nowhere. ``none`` is d zeros."""
    vectors = d // LANES if d % LANES == 0 else 0
    for i in range(n):
        pixel, scale = read(pixels, p + i), read(scales, i)
        if pixel >= 0:
            to = at + pixel * stride
            if vectors:
                scaled_row(rows, i * width, none, 0, scale, out, to, vectors)
            else:
                for c in range(d):
                    write(out, to + c, read(rows, i * width + c) * scale)


@jit
def cosine_backward(call: Any, s: Any, n: int, d: int, head: int) -> Any:
    """From gradients of tau q^ and k^ to those of q and k, in place; returns that of tau, sum(q^ . d(tau q^))."""
    one, scale, width = s.q.dtype.type(1), call.scales[head], call.width
    along = s.q.dtype.type(0)
    for i in range(n):
        for c in range(i * width, i * width + d):
            along += read(s.gq, c) * read(s.q, c)
            write(s.gq, c, read(s.gq, c) * scale)
    _cosine_backward_rows(s.gq, width, n, d, s.q, one / scale, s.q_short)
    _cosine_backward_rows(s.gk, width, n, d, s.k, one, s.k_short)
    return along / scale
