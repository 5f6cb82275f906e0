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
from autograd.kernels.cpu.tiles import ROWS, add_product, multiply, multiply_to, padded_columns, padded_rows
from autograd.kernels.cpu.toolkit import jit, plain, read, write
from swinpy.geometry import attention_mask, window_tokens
from swinpy.kernels.window_attention import MAX_LOGIT_SCALE
from swinpy.kernels.window_parts_cpu import (
    CHUNK,
    Call,
    cosine_backward,
    gather,
    load,
    make_scratch,
    scatter,
    scores_backward,
    softmax,
    transpose,
)

if TYPE_CHECKING:
    from swinpy.geometry import Geometry
    from swinpy.kernels.window_attention import AttentionSpec

__all__ = ["window_attention_bwd", "window_attention_fwd"]

_NEVER = -1e30  # score of the columns that pad a row of scores to whole tiles: finite, and exp gives 0
_PIECES = 24  # of the work, about

assert CHUNK % ROWS == 0


# ---- compiled


@jit
def _forward(call: Any, out: Any, head: int, start: int, stop: int) -> None:
    """Windows [start, stop), counted over the batch, of one head."""
    (windows, n), channels, width = call.tokens.shape, out.shape[1], call.width
    _, heads, rows, columns = call.table.shape
    d = channels // heads
    s = make_scratch(call, d, n, False)
    for w in range(start, stop):
        place, first = w % windows, w // windows * call.pixels
        load(call, s, place, first, head)
        transpose(s.k, width, n, d, s.k_t, columns)
        added = (call.kinds[place] * heads + head) * rows * columns
        for chunk in range(0, n, CHUNK):
            count = min(CHUNK, n - chunk)
            multiply(s.q, chunk * width, width, 1, s.k_t, columns, s.p, columns, count, columns, d)
            softmax(s.p, columns, count, call.table, added + chunk * columns, s.inverse)
            multiply(s.p, 0, columns, 1, s.v, width, s.result, width, count, width, n)
            for i in range(count):
                pixel, z = read(call.tokens, place * n + chunk + i), read(s.inverse, i)
                if pixel >= 0:
                    to = (first + pixel) * channels + head * d
                    for c in range(d):
                        write(out, to + c, read(s.result, i * width + c) * z)


@jit
def _window_backward(call: Any, s: Any, n: int, d: int, added: int, gbias: Any) -> None:
    """Gradients of the scaled q, of k and of v of the loaded window, from s.go; the scores' are added to ``gbias``."""
    width, columns = call.width, call.table.shape[3]
    s.gk[:] = 0
    s.gv[:] = 0
    for chunk in range(0, n, CHUNK):
        count, at = min(CHUNK, n - chunk), chunk * width
        multiply(s.q, at, width, 1, s.k_t, columns, s.p, columns, count, columns, d)
        softmax(s.p, columns, count, call.table, added + chunk * columns, s.inverse)
        multiply(s.go, at, width, 1, s.v_t, columns, s.dp, columns, count, columns, d)
        scores_backward(s.p, s.dp, columns, count, s.inverse, gbias, chunk * columns)
        multiply_to(s.dp, 0, columns, 1, s.k, width, s.gq, at, width, count, width, n)
        add_product(s.p, 0, 1, columns, s.go, at, width, s.gv, width, n, width, count)
        add_product(s.dp, 0, 1, columns, s.q, at, width, s.gk, width, n, width, count)


@jit
def _backward(g: Any, call: Any, gqkv: Any, gbias: Any, gqkv_bias: Any, head: int, start: int, stop: int) -> Any:
    """As :func:`_forward`; sums what windows share into gbias (rows, columns) and gqkv_bias (3, d), returns dtau."""
    (windows, n), channels, width = call.tokens.shape, g.shape[1], call.width
    _, heads, rows, columns = call.table.shape
    d, one, gtau = channels // heads, g.dtype.type(1), g.dtype.type(0)
    s = make_scratch(call, d, n, True)
    for w in range(start, stop):
        place, first = w % windows, w // windows * call.pixels
        p, column = place * n, head * d
        load(call, s, place, first, head)
        transpose(s.k, width, n, d, s.k_t, columns)
        transpose(s.v, width, n, d, s.v_t, columns)
        gather(g, first * channels + column, channels, call.tokens, p, n, d, s.none, 0, one, s.go, width)
        _window_backward(call, s, n, d, (call.kinds[place] * heads + head) * rows * columns, gbias)
        scale = call.scales[head]
        if call.cosine:
            gtau += cosine_backward(call, s, n, d, head)
            scale = one
        at, c3 = first * 3 * channels + column, 3 * channels
        scatter(s.gq, width, scale, call.tokens, p, n, d, gqkv, at, c3, gqkv_bias, 0)
        scatter(s.gk, width, one, call.tokens, p, n, d, gqkv, at + channels, c3, gqkv_bias, d)
        scatter(s.gv, width, one, call.tokens, p, n, d, gqkv, at + 2 * channels, c3, gqkv_bias, 2 * d)
    return gtau


# ---- on the Python side


class _Cut(NamedTuple):
    """Tables of a geometry: pixel of each token, kind of each window, one window of each kind."""

    tokens: Any
    kinds: Any
    examples: Any


@lru_cache(maxsize=64)
def _cut_tables(cut: Geometry) -> _Cut:
    down, across = cut.windows
    last_row = np.arange(down) == down - 1
    last_column = np.arange(across) == across - 1
    kinds = (2 * last_row[:, None] + last_column[None, :]).reshape(-1)
    if cut.shift == (0, 0):
        kinds[:] = 0
    _, examples, found = np.unique(kinds, return_index=True, return_inverse=True)
    return _Cut(window_tokens(cut).copy(), found.reshape(-1).astype(np.int64), examples)


def _prepare(qkv: Any, bias: Any | None, qkv_bias: Any | None, logit_scale: Any | None, spec: AttentionSpec) -> Call:
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
    return Call(rows, table, ready_bias, scales, spec.cosine, cut.tokens, cut.kinds, pixels, width)


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
    map_pieces(lambda piece: _forward(call, out, *piece[1:]), _pieces(qkv.shape[0], spec))
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
        return _backward(rows, call, gqkv, scores[p[0]], biases[p[0]], *p[1:])

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
