"""Window attention compiled for the CPU, forward and backward: a (window, head) at a time, all of it in the cache.

Shift, padding, partition and reverse are one table of pixels; q, k and v of a window are gathered into small padded
matrices (q scaled, k transposed, the qkv bias added), multiplied by :mod:`autograd.kernels.cpu.tiles`, and the result
is written back to the same pixels. Queries go in chunks, so that windows of any size keep their scores in the cache.
Bias and mask come as one table: a shifted map has at most four kinds of windows (last row or not, last column or not).

Work is cut by heads and by groups of windows, whatever the number of threads; gradients of what windows share (bias,
qkv bias, logit scale) are one partial sum a piece, added up in order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autograd.extend import empty, map_pieces
from autograd.kernels.cpu.tiles import ROWS, add_product, largest, multiply, multiply_to, padded_columns, padded_rows
from autograd.kernels.cpu.toolkit import exp, jit, plain, read, write
from swinpy.geometry import attention_mask, window_tokens
from swinpy.kernels.window_attention import MAX_LOGIT_SCALE

if TYPE_CHECKING:
    from swinpy.geometry import Geometry
    from swinpy.kernels.window_attention import AttentionSpec

__all__ = ["window_attention_bwd", "window_attention_fwd"]

_CHUNK = 64  # queries at a time; a multiple of ROWS
_NEVER = -1e30  # score of the columns that pad a row of scores to whole tiles: finite, and exp gives 0
_PIECES = 24  # of the work, about
_COSINE_EPS = 1e-12

assert _CHUNK % ROWS == 0


# ---- compiled
#
# Numbers are read and written at their place in an array's memory (``read``, ``write``): taking rows out of an array
# first would count references to it, on a counter that the threads share.


@jit
def _gather(
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
    for i in range(n):
        pixel, row = read(pixels, p + i), i * width
        if pixel < 0:
            for c in range(d):
                write(to, row + c, read(bias, b + c) * scale)
        else:
            source = at + pixel * stride
            for c in range(d):
                write(to, row + c, (read(maps, source + c) + read(bias, b + c)) * scale)


@jit
def _transpose(rows: Any, width: int, n: int, d: int, out: Any, columns: int) -> None:
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
def _softmax(scores: Any, columns: int, rows: int, table: Any, first: int, inverse: Any) -> None:
    """exp(score + table - largest) of each row, in place, and 1 / their sum. The columns that pad a row become 0."""
    one = scores.dtype.type(1)
    for i in range(rows):
        at, added = i * columns, first + i * columns
        for j in range(columns):
            write(scores, at + j, read(scores, at + j) + read(table, added + j))
        peak = largest(scores, at, columns)
        total = scores.dtype.type(0)
        for j in range(columns):
            e = exp(read(scores, at + j) - peak)
            write(scores, at + j, e)
            total += e
        write(inverse, i, one / total)


@jit
def _load(
    qkv: Any,
    tokens: Any,
    window: Any,  # (first token in ``tokens``, first pixel of the image, N)
    head: Any,  # (first channel, d, C, width)
    qkv_bias: Any,
    scale: Any,
    cosine: bool,
    q: Any,
    k: Any,
    v: Any,
    q_short: Any,
    k_short: Any,
) -> None:
    """q (scaled), k and v of one head of one window; with cosine q and k are of length 1 first."""
    (p, first, n), (column, d, c, width) = window, head
    one, at = qkv.dtype.type(1), first * 3 * c + column
    _gather(qkv, at, 3 * c, tokens, p, n, d, qkv_bias, column, one if cosine else scale, q, width)
    _gather(qkv, at + c, 3 * c, tokens, p, n, d, qkv_bias, c + column, one, k, width)
    _gather(qkv, at + 2 * c, 3 * c, tokens, p, n, d, qkv_bias, 2 * c + column, one, v, width)
    if cosine:
        _normalise(q, width, n, d, scale, q_short)
        _normalise(k, width, n, d, one, k_short)


@jit
def _forward(
    qkv: Any,
    table: Any,  # (types, heads, rows, columns): bias + mask
    qkv_bias: Any,
    scales: Any,  # of the scores, one a head
    cosine: bool,
    tokens: Any,  # (nW, N): pixel of each token
    types: Any,  # (nW,): which table
    pixels: int,  # of a map
    width: int,  # d in whole tiles
    out: Any,
    head: int,
    start: int,
    stop: int,
) -> None:
    """Windows [start, stop), counted over the batch, of one head."""
    (windows, n), channels, (_, heads, rows, columns) = tokens.shape, out.shape[1], table.shape
    d, scale, dtype, chunk_rows = channels // heads, scales[head], qkv.dtype, min(rows, _CHUNK)
    q, k, v = np.zeros(rows * width, dtype), np.zeros(rows * width, dtype), np.zeros(rows * width, dtype)
    k_t, scores = np.zeros(d * columns, dtype), np.empty(chunk_rows * columns, dtype)
    result, inverse = np.empty(chunk_rows * width, dtype), np.empty(chunk_rows, dtype)
    q_short, k_short = np.empty(n, dtype), np.empty(n, dtype)
    for w in range(start, stop):
        place, first = w % windows, w // windows * pixels
        window, part = (place * n, first, n), (head * d, d, channels, width)
        _load(qkv, tokens, window, part, qkv_bias, scale, cosine, q, k, v, q_short, k_short)
        _transpose(k, width, n, d, k_t, columns)
        added = (types[place] * heads + head) * rows * columns
        for chunk in range(0, n, _CHUNK):
            count = min(_CHUNK, n - chunk)
            multiply(q, chunk * width, width, 1, k_t, columns, scores, columns, count, columns, d)
            _softmax(scores, columns, count, table, added + chunk * columns, inverse)
            multiply(scores, 0, columns, 1, v, width, result, width, count, width, n)
            for i in range(count):
                pixel, z = read(tokens, place * n + chunk + i), read(inverse, i)
                if pixel >= 0:
                    to = (first + pixel) * channels + head * d
                    for c in range(d):
                        write(out, to + c, read(result, i * width + c) * z)


@jit
def _scores_backward(p: Any, dp: Any, columns: int, rows: int, inverse: Any, gbias: Any, first: int) -> None:
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
def _cosine_backward(rows: Any, width: int, n: int, d: int, unit: Any, over: Any, short: Any) -> None:
    """Gradient for q^ = q / |q| to one for q: (dq^ - q^ (q^ . dq^)) / |q|; where |q| <= eps, dq^ / eps.

    ``unit`` times ``over`` is q^, ``short`` is 1 / max(|q|, eps).
    """
    most = rows.dtype.type(1) / rows.dtype.type(_COSINE_EPS)
    for i in range(n):
        at, inverse = i * width, read(short, i)
        along = rows.dtype.type(0)
        if inverse < most:
            for c in range(d):
                along += read(rows, at + c) * (read(unit, at + c) * over)
        for c in range(d):
            write(rows, at + c, (read(rows, at + c) - read(unit, at + c) * over * along) * inverse)


@jit
def _scatter(
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
    for i in range(n):
        pixel, row = read(pixels, p + i), i * width
        for c in range(d):
            write(total, t + c, read(total, t + c) + read(rows, row + c) * scale)
        if pixel >= 0:
            to = at + pixel * stride
            for c in range(d):
                write(out, to + c, read(rows, row + c) * scale)


@jit
def _backward(
    g: Any,
    qkv: Any,
    table: Any,
    qkv_bias: Any,
    scales: Any,
    cosine: bool,
    tokens: Any,
    types: Any,
    pixels: int,
    width: int,
    gqkv: Any,
    gbias: Any,  # (rows, columns)
    gqkv_bias: Any,  # (3, d)
    head: int,
    start: int,
    stop: int,
) -> Any:
    """As :func:`_forward`; returns the sum of q^ . d(tau q^), the gradient of tau (cosine only)."""
    (windows, n), channels, (_, heads, rows, columns) = tokens.shape, g.shape[1], table.shape
    d, scale, dtype, chunk_rows = channels // heads, scales[head], qkv.dtype, min(rows, _CHUNK)
    one, gtau, none = dtype.type(1), dtype.type(0), np.zeros(channels, dtype)
    q, k, v = np.zeros(rows * width, dtype), np.zeros(rows * width, dtype), np.zeros(rows * width, dtype)
    gq, gk, gv = np.empty(rows * width, dtype), np.empty(rows * width, dtype), np.empty(rows * width, dtype)
    go, k_t, v_t = np.zeros(rows * width, dtype), np.zeros(d * columns, dtype), np.zeros(d * columns, dtype)
    p, dp = np.empty(chunk_rows * columns, dtype), np.empty(chunk_rows * columns, dtype)
    inverse, q_short, k_short = np.empty(chunk_rows, dtype), np.empty(n, dtype), np.empty(n, dtype)
    for w in range(start, stop):
        place, first = w % windows, w // windows * pixels
        window, part = (place * n, first, n), (head * d, d, channels, width)
        _load(qkv, tokens, window, part, qkv_bias, scale, cosine, q, k, v, q_short, k_short)
        _transpose(k, width, n, d, k_t, columns)
        _transpose(v, width, n, d, v_t, columns)
        _gather(g, first * channels + head * d, channels, tokens, place * n, n, d, none, 0, one, go, width)
        added = (types[place] * heads + head) * rows * columns
        gk[:] = 0
        gv[:] = 0
        for chunk in range(0, n, _CHUNK):
            count, at = min(_CHUNK, n - chunk), chunk * width
            multiply(q, at, width, 1, k_t, columns, p, columns, count, columns, d)
            _softmax(p, columns, count, table, added + chunk * columns, inverse)
            multiply(go, at, width, 1, v_t, columns, dp, columns, count, columns, d)
            _scores_backward(p, dp, columns, count, inverse, gbias, chunk * columns)
            multiply_to(dp, 0, columns, 1, k, width, gq, at, width, count, width, n)
            add_product(p, 0, 1, columns, go, at, width, gv, width, n, width, count)
            add_product(dp, 0, 1, columns, q, at, width, gk, width, n, width, count)
        if cosine:
            along = dtype.type(0)
            for i in range(n):
                for c in range(d):
                    along += read(gq, i * width + c) * read(q, i * width + c)
                    write(gq, i * width + c, read(gq, i * width + c) * scale)
            gtau += along / scale
            _cosine_backward(gq, width, n, d, q, one / scale, q_short)
            _cosine_backward(gk, width, n, d, k, one, k_short)
        at, c3 = first * 3 * channels + head * d, 3 * channels
        _scatter(gq, width, one if cosine else scale, tokens, place * n, n, d, gqkv, at, c3, gqkv_bias, 0)
        _scatter(gk, width, one, tokens, place * n, n, d, gqkv, at + channels, c3, gqkv_bias, d)
        _scatter(gv, width, one, tokens, place * n, n, d, gqkv, at + 2 * channels, c3, gqkv_bias, 2 * d)
    return gtau


# ---- on the Python side


class _Cut(NamedTuple):
    """Tables of a geometry: pixel of each token, kind of each window, one window of each kind."""

    tokens: Any
    types: Any
    examples: Any


@lru_cache(maxsize=64)
def _cut_tables(cut: Geometry) -> _Cut:
    down, across = cut.windows
    last_row = np.arange(down) == down - 1
    last_column = np.arange(across) == across - 1
    kinds = (2 * last_row[:, None] + last_column[None, :]).reshape(-1)
    if cut.shift == (0, 0):
        kinds[:] = 0
    _, examples, types = np.unique(kinds, return_index=True, return_inverse=True)
    return _Cut(window_tokens(cut).copy(), types.reshape(-1).astype(np.int64), examples)


class _Call(NamedTuple):
    """The arguments of both kernels, made ready."""

    qkv: Any
    table: Any
    qkv_bias: Any
    scales: Any
    cosine: bool
    tokens: Any
    types: Any
    pixels: int
    width: int


def _prepare(qkv: Any, bias: Any | None, qkv_bias: Any | None, logit_scale: Any | None, spec: AttentionSpec) -> _Call:
    cut, dtype, n = _cut_tables(spec.cut), qkv.dtype, spec.cut.tokens
    table = np.full((len(cut.examples), spec.heads, padded_rows(n), padded_columns(n)), _NEVER, dtype)
    table[..., :n, :n] = 0 if bias is None else bias
    mask = attention_mask(spec.cut, spec.mask_value)
    if mask is not None:
        table[..., :n, :n] += mask[cut.examples][:, None]
    scales = np.full(spec.heads, spec.scale, dtype)
    if spec.cosine:
        assert logit_scale is not None
        scales = np.exp(np.minimum(logit_scale.reshape(-1), dtype.type(MAX_LOGIT_SCALE)))
    ready_bias = np.zeros(qkv.shape[3], dtype) if qkv_bias is None else plain(qkv_bias)
    rows = plain(qkv).reshape(-1, qkv.shape[3])
    pixels, width = qkv.shape[1] * qkv.shape[2], padded_columns(qkv.shape[3] // 3 // spec.heads)
    return _Call(rows, table, ready_bias, scales, spec.cosine, cut.tokens, cut.types, pixels, width)


def _pieces(batch: int, spec: AttentionSpec) -> list[tuple[int, int, int, int]]:
    """(number, head, first window, end): groups of windows of one head, by sizes alone."""
    windows = batch * spec.cut.windows[0] * spec.cut.windows[1]
    groups = max(1, min(-(-_PIECES // spec.heads), windows))
    ends = [windows * i // groups for i in range(groups + 1)]
    cut = [(h, ends[i], ends[i + 1]) for h in range(spec.heads) for i in range(groups)]
    return [(number, *piece) for number, piece in enumerate(cut)]


def window_attention_fwd(
    qkv: Any, bias: Any | None, qkv_bias: Any | None, logit_scale: Any | None, spec: AttentionSpec
) -> Any:
    call = _prepare(qkv, bias, qkv_bias, logit_scale, spec)
    out = empty((len(call.qkv), qkv.shape[3] // 3), qkv.dtype)
    map_pieces(lambda piece: _forward(*call, out, *piece[1:]), _pieces(qkv.shape[0], spec))
    return out.reshape(*qkv.shape[:3], -1) if out.size else out.reshape(*qkv.shape[:3], qkv.shape[3] // 3)


def window_attention_bwd(
    g: Any, qkv: Any, bias: Any | None, qkv_bias: Any | None, logit_scale: Any | None, spec: AttentionSpec
) -> tuple[Any, Any | None, Any | None, Any | None]:
    call = _prepare(qkv, bias, qkv_bias, logit_scale, spec)
    n, channels, heads, dtype = spec.cut.tokens, g.shape[3], spec.heads, qkv.dtype
    rows = plain(g).reshape(-1, channels)
    gqkv = empty(call.qkv.shape, dtype)
    cut = _pieces(qkv.shape[0], spec)
    scores = np.zeros((len(cut), *call.table.shape[2:]), dtype)
    biases = np.zeros((len(cut), 3, channels // heads), dtype)

    def piece(p: tuple[int, int, int, int]) -> Any:
        return _backward(rows, *call, gqkv, scores[p[0]], biases[p[0]], *p[1:])

    gtau = np.array(map_pieces(piece, cut), dtype)

    def total(parts: Any) -> Any:
        """Partial sums (heads * groups, ...) to (heads, ...)."""
        return parts.reshape(heads, -1, *parts.shape[1:]).sum(axis=1)

    gbias = None if bias is None else np.ascontiguousarray(total(scores)[:, :n, :n])
    gqkv_bias = None if qkv_bias is None else total(biases).swapaxes(0, 1).reshape(-1)
    glogit = None
    if spec.cosine:
        assert logit_scale is not None
        free = logit_scale.reshape(-1) <= MAX_LOGIT_SCALE
        glogit = (total(gtau) * call.scales * free).astype(dtype, copy=False).reshape(logit_scale.shape)
    return gqkv.reshape(qkv.shape), gbias, gqkv_bias, glogit
