"""The steps of compiled window attention within one head of one window, and the arrays that they work on.

Elements are read and written at their place in an array's memory (``read``, ``write``). A view of a row would change
the array's reference count, which the threads share.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from autograd.kernels.compiled.tiles import LANES, scaled_row, scaled_row_and_sum
from autograd.kernels.compiled.toolkit import exp, jit, larger, read, write

__all__ = [
    "BLOCK",
    "AttentionInputs",
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

BLOCK = 64  # queries; a multiple of the tiles' ROWS
_COSINE_EPS = 1e-12


class AttentionInputs(NamedTuple):
    """The inputs of forward and backward, in the layouts that compiled code reads.

    Attributes:
        qkv: (B * H * W, 3C).
        table: (kinds, heads, rows, columns), bias + mask for each kind of window; N x N padded to whole tiles.
        qkv_bias: (3C,), zeros if there is none.
        scales: (heads,), of the scores.
        cosine: whether q and k are divided by their length.
        tokens: (nW, N), the pixel of each token, -1 for padding.
        kinds: (nW,), the kind of each window.
        pixels: of a map.
        width: channels of a head, padded to whole tiles.
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
    """Scratch memory of a thread: flat padded matrices of one head of one window.

    ``go`` to ``gv`` are for backward and empty in forward; ``none`` is a row of zeros.
    """

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
def make_scratch(inputs: Any, d: int, n: int, backward: bool) -> Any:
    """Scratch memory for windows of ``n`` tokens and heads of ``d`` channels."""
    dtype, rows, columns = inputs.qkv.dtype, inputs.table.shape[2], inputs.table.shape[3]
    size, scores = rows * inputs.width, min(rows, BLOCK) * columns
    again = 1 if backward else 0
    return Scratch(
        np.zeros(size, dtype),
        np.zeros(size, dtype),
        np.zeros(size, dtype),
        np.zeros(d * columns, dtype),
        np.empty(scores, dtype),
        np.empty(min(rows, BLOCK) * inputs.width, dtype),
        np.empty(min(rows, BLOCK), dtype),
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
    """(maps[pixel] + bias) * scale for the n tokens of a window, as rows of ``to``. A token of padding is bias * scale.

    Args:
        maps: rows of ``stride`` elements, one for each pixel.
        at: offset of the head's channels in the map's first row.
        stride: of rows in ``maps``.
        pixels: of all tokens of all windows, -1 for padding.
        p: offset of the window in ``pixels``.
        n: tokens of the window.
        d: channels of the head.
        bias: added to rows.
        b: offset in ``bias``.
        scale: a number.
        to: rows of ``width`` elements.
        width: stride of rows in ``to``.
    """
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
    """(n, d) with rows at a stride of ``width`` to (d, n) with rows at a stride of ``columns``."""
    for i in range(n):
        for c in range(d):
            write(out, c * columns + i, read(rows, i * width + c))


@jit
def _normalise(rows: Any, width: int, n: int, d: int, scale: Any, inverse: Any) -> None:
    """Divide rows by max(length, eps) and multiply them by ``scale``; ``inverse`` gets 1 / max(length, eps)."""
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
    """exp(score + table - largest) of each row, in place; ``inverse`` gets 1 / their sum. Columns of padding become
    0."""
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
def load(inputs: Any, s: Any, place: int, first: int, head: int) -> None:
    """Gather q (scaled), k and v of one head of one window; with cosine, q and k are divided by their length first."""
    n, c, scale = inputs.tokens.shape[1], inputs.qkv.shape[1] // 3, inputs.scales[head]
    d, one, at, p = c // inputs.scales.size, inputs.qkv.dtype.type(1), first * 3 * c, place * n
    column = head * d
    factor = one if inputs.cosine else scale
    # No loop: a choice among arrays would change their reference counts.
    gather(inputs.qkv, at + column, 3 * c, inputs.tokens, p, n, d, inputs.qkv_bias, column, factor, s.q, inputs.width)
    column += c
    gather(inputs.qkv, at + column, 3 * c, inputs.tokens, p, n, d, inputs.qkv_bias, column, one, s.k, inputs.width)
    column += c
    gather(inputs.qkv, at + column, 3 * c, inputs.tokens, p, n, d, inputs.qkv_bias, column, one, s.v, inputs.width)
    if inputs.cosine:
        _normalise(s.q, inputs.width, n, d, scale, s.q_short)
        _normalise(s.k, inputs.width, n, d, one, s.k_short)


@jit
def scores_backward(p: Any, dp: Any, columns: int, rows: int, inverse: Any, gbias: Any, first: int) -> None:
    """p becomes the probabilities P, and dp the gradient of the scores, P (dP - sum(P dP)). That is added to
    ``gbias``."""
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
    """From the gradient of q^ = q / |q| to that of q, in place: (dq^ - q^ (q^ . dq^)) / |q|, and 0 where |q| <= eps.

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
    """Rows times ``scale`` to their pixels, as :func:`gather` reads them. All rows, also those of padding, are added to
    ``total`` at offset ``t``."""
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
    """Rows, each times its own scale, to their pixels; those of padding are dropped. ``none`` is d zeros."""
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
def cosine_backward(inputs: Any, s: Any, n: int, d: int, head: int) -> Any:
    """From the gradients of tau q^ and k^ to those of q and k, in place. Returns that of tau, sum(q^ . d(tau q^))."""
    one, scale, width = s.q.dtype.type(1), inputs.scales[head], inputs.width
    along = s.q.dtype.type(0)
    for i in range(n):
        for c in range(i * width, i * width + d):
            along += read(s.gq, c) * read(s.q, c)
            write(s.gq, c, read(s.gq, c) * scale)
    _cosine_backward_rows(s.gq, width, n, d, s.q, one / scale, s.q_short)
    _cosine_backward_rows(s.gk, width, n, d, s.k, one, s.k_short)
    return along / scale
