"""Window attention compiled for the CPU, forward and backward: a (window, head) at a time, all of it in the cache.

Shift, padding, partition and reverse are one table of pixels; q, k and v of a window are gathered into small padded
matrices (q scaled, k transposed, the qkv bias added), multiplied by :mod:`autograd.kernels.compiled.tiles`, and the
result is written back to the same pixels. Queries go in chunks, so that windows of any size keep their scores in the
cache.
Bias and mask come as one table: a shifted map has at most four kinds of windows (last row or not, last column or not).

Work is cut by groups of windows, and by heads where their tables are large, whatever the number of threads; gradients
of what windows share (bias, qkv bias, logit scale) are one partial sum a piece, added up in order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autograd.extend import empty
from autograd.kernels.compiled.pieces import even_pieces, run_pieces
from autograd.kernels.compiled.tiles import ROWS, add_product, multiply, multiply_to, padded_columns, padded_rows
from autograd.kernels.compiled.toolkit import jit, plain
from swinpy.geometry import attention_mask, window_tokens
from swinpy.kernels.window_attention.cpu_parts import (
    CHUNK,
    Call,
    cosine_backward,
    gather,
    load,
    make_scratch,
    scatter,
    scatter_scaled,
    scores_backward,
    softmax,
    transpose,
)
from swinpy.kernels.window_attention.reference import MAX_LOGIT_SCALE

if TYPE_CHECKING:
    from swinpy.geometry import Geometry
    from swinpy.kernels.window_attention.reference import AttentionSpec

__all__ = ["window_attention_bwd", "window_attention_fwd"]

_NEVER = -1e30  # score of the columns that pad a row of scores to whole tiles: finite, and exp gives 0
_PIECES = 24  # of the work, about
_TABLES = 1 << 15  # scores of all heads of a piece: their biases, and sums of their gradients, stay in the cache

assert CHUNK % ROWS == 0


# ---- compiled


@jit
def _forward(call: Any, out: Any, share: Any, number: int, start: int, stop: int) -> None:
    """Windows [start, stop), counted over the batch, of the heads of the piece of this number."""
    (windows, n), channels, first_head = call.tokens.shape, out.shape[1], number // share.groups * share.heads
    s = make_scratch(call, channels // call.scales.size, n, False)
    for w in range(start, stop):
        for head in range(first_head, first_head + share.heads):  # inside: a token's heads lie side by side in memory
            _window_forward(call, s, n, w % windows, w // windows * call.pixels, head, out)


@jit
def _window_forward(call: Any, s: Any, n: int, place: int, first: int, head: int, out: Any) -> None:
    """One head of the window at ``place`` of the map whose pixels begin at ``first``."""
    _, heads, rows, columns = call.table.shape
    channels, width = out.shape[1], call.width
    d = channels // heads
    load(call, s, place, first, head)
    transpose(s.k, width, n, d, s.k_t, columns)
    added = (call.kinds[place] * heads + head) * rows * columns
    for chunk in range(0, n, CHUNK):
        count = min(CHUNK, n - chunk)
        multiply(s.q, chunk * width, width, 1, s.k_t, columns, s.p, columns, count, columns, d)
        softmax(s.p, columns, count, call.table, added + chunk * columns, s.inverse)
        multiply(s.p, 0, columns, 1, s.v, width, s.result, width, count, width, n)
        p, at = place * n + chunk, first * channels + head * d
        scatter_scaled(s.result, width, s.inverse, s.none, call.tokens, p, count, d, out, at, channels)


@jit
def _products_backward(call: Any, s: Any, n: int, d: int, added: int, gbias: Any, to: int) -> None:
    """Gradients of the scaled q, of k and of v of the loaded window, from s.go; the scores' are added to ``gbias``
    from ``to`` on."""
    width, columns = call.width, call.table.shape[3]
    s.gk[:] = 0
    s.gv[:] = 0
    for chunk in range(0, n, CHUNK):
        count, at = min(CHUNK, n - chunk), chunk * width
        multiply(s.q, at, width, 1, s.k_t, columns, s.p, columns, count, columns, d)
        softmax(s.p, columns, count, call.table, added + chunk * columns, s.inverse)
        multiply(s.go, at, width, 1, s.v_t, columns, s.dp, columns, count, columns, d)
        scores_backward(s.p, s.dp, columns, count, s.inverse, gbias, to + chunk * columns)
        multiply_to(s.dp, 0, columns, 1, s.k, width, s.gq, at, width, count, width, n)
        add_product(s.p, 0, 1, columns, s.go, at, width, s.gv, width, n, width, count)
        add_product(s.dp, 0, 1, columns, s.q, at, width, s.gk, width, n, width, count)


@jit
def _window_backward(
    g: Any, call: Any, s: Any, n: int, place: int, first: int, head: int, gqkv: Any, sums: Any, row: int
) -> None:
    """As :func:`_window_forward`; what windows share is added to the ``row``-th head of ``sums``."""
    _, heads, rows, columns = call.table.shape
    channels, width, p = g.shape[1], call.width, place * n
    d, one, scale = channels // heads, g.dtype.type(1), call.scales[head]
    column, total = head * d, row * 3 * d
    load(call, s, place, first, head)
    transpose(s.k, width, n, d, s.k_t, columns)
    transpose(s.v, width, n, d, s.v_t, columns)
    gather(g, first * channels + column, channels, call.tokens, p, n, d, s.none, 0, one, s.go, width)
    added = (call.kinds[place] * heads + head) * rows * columns
    _products_backward(call, s, n, d, added, sums.scores, row * rows * columns)
    if call.cosine:
        sums.tau[row] += cosine_backward(call, s, n, d, head)
        scale = one
    at, c3 = first * 3 * channels + column, 3 * channels
    scatter(s.gq, width, scale, call.tokens, p, n, d, gqkv, at, c3, sums.qkv_bias, total)
    scatter(s.gk, width, one, call.tokens, p, n, d, gqkv, at + channels, c3, sums.qkv_bias, total + d)
    scatter(s.gv, width, one, call.tokens, p, n, d, gqkv, at + 2 * channels, c3, sums.qkv_bias, total + 2 * d)


@jit
def _backward(g: Any, call: Any, gqkv: Any, sums: Any, share: Any, number: int, start: int, stop: int) -> None:
    """As :func:`_forward`, with the gradients that windows share summed into ``sums``."""
    (windows, n), channels, first_head = call.tokens.shape, g.shape[1], number // share.groups * share.heads
    s = make_scratch(call, channels // call.scales.size, n, True)
    for w in range(start, stop):
        for i in range(share.heads):
            first = w // windows * call.pixels
            _window_backward(g, call, s, n, w % windows, first, first_head + i, gqkv, sums, number * share.heads + i)


# ---- on the Python side


class _Sums(NamedTuple):
    """Gradients of what windows share, of the heads of each piece: one partial sum a piece.

    Attributes:
        scores: (pieces * heads, rows, columns), of bias + mask.
        qkv_bias: (pieces * heads, 3, d).
        tau: (pieces * heads,), of the scale of cosines.
    """

    scores: Any
    qkv_bias: Any
    tau: Any


class _Share(NamedTuple):
    """What a piece is: one of so many groups of windows, of so many heads; pieces of the same heads are neighbours."""

    groups: int
    heads: int


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


def _heads_together(heads: int, scores: int) -> int:
    """Heads of a piece: as many as divide ``heads`` and keep their tables of so many scores in the cache."""
    return next(h for h in range(heads, 0, -1) if heads % h == 0 and (h == 1 or h * scores <= _TABLES))


@lru_cache(maxsize=64)
def _pieces(windows: int, heads: int, scores: int) -> tuple[Any, _Share]:
    """(start, stop) windows of every piece, by sizes alone."""
    together = _heads_together(heads, scores)
    groups = max(1, min(-(-_PIECES * together // heads), windows))
    return np.tile(even_pieces(windows, groups), (heads // together, 1)), _Share(groups, together)


def _shared(call: Call, batch: int) -> tuple[Any, _Share]:
    _, heads, rows, columns = call.table.shape
    return _pieces(batch * len(call.kinds), heads, rows * columns)


def window_attention_fwd(
    qkv: Any, bias: Any | None, qkv_bias: Any | None, logit_scale: Any | None, spec: AttentionSpec
) -> Any:
    call = _prepare(qkv, bias, qkv_bias, logit_scale, spec)
    out = empty((len(call.qkv), qkv.shape[3] // 3), qkv.dtype)
    cut, share = _shared(call, qkv.shape[0])
    run_pieces(_forward, cut, call, out, share)
    return out.reshape(*qkv.shape[:3], -1) if out.size else out.reshape(*qkv.shape[:3], qkv.shape[3] // 3)


def window_attention_bwd(
    g: Any, qkv: Any, bias: Any | None, qkv_bias: Any | None, logit_scale: Any | None, spec: AttentionSpec
) -> tuple[Any, Any | None, Any | None, Any | None]:
    call = _prepare(qkv, bias, qkv_bias, logit_scale, spec)
    n, channels, heads, dtype = spec.cut.tokens, g.shape[3], spec.heads, qkv.dtype
    rows = plain(g).reshape(-1, channels)
    gqkv = empty(call.qkv.shape, dtype)
    cut, share = _shared(call, qkv.shape[0])
    rows_of_sums = len(cut) * share.heads
    partial = _Sums(
        np.zeros((rows_of_sums, *call.table.shape[2:]), dtype),
        np.zeros((rows_of_sums, 3, channels // heads), dtype),
        np.zeros(rows_of_sums, dtype),
    )
    run_pieces(_backward, cut, rows, call, gqkv, partial, share)

    def total(parts: Any) -> Any:
        """Partial sums (pieces * heads of a piece, ...) to (heads, ...)."""
        added: Any = parts.reshape(-1, share.groups, share.heads, *parts.shape[1:]).sum(axis=1)
        return added.reshape(heads, *parts.shape[1:])

    gbias = None if bias is None else np.ascontiguousarray(total(partial.scores)[:, :n, :n])
    gqkv_bias = None if qkv_bias is None else total(partial.qkv_bias).swapaxes(0, 1).reshape(-1)
    glogit = None
    if spec.cosine:
        assert logit_scale is not None
        free = logit_scale.reshape(-1) <= MAX_LOGIT_SCALE
        glogit = (total(partial.tau) * call.scales * free).astype(dtype, copy=False).reshape(logit_scale.shape)
    return gqkv.reshape(qkv.shape), gbias, gqkv_bias, glogit
