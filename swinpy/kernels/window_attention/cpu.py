"""Window attention, compiled: one head of one window at a time, all of it in the cache.

Each twin has the contract of its namesake in reference.py; what is said here is how.

Shift, padding, partition and reverse are one table of pixels. q, k and v of a window are gathered into small padded
matrices (q scaled, k transposed, the qkv bias added) and multiplied by :mod:`autograd.kernels.compiled.tiles`. The
result is written back to the same pixels. Queries go in blocks, so that the scores of windows of any size stay in the
cache.

Bias and mask are one table. A shifted map has at most four kinds of windows (in the last row or not, in the last column
or not), and the table holds their sum for each kind.

A piece is a range of windows for a group of heads: all heads, unless their tables would be too large for the cache. The
gradients that windows share (bias, qkv bias, logit scale) are a partial sum per piece, added up in order.
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
    BLOCK,
    AttentionInputs,
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

_NEVER = -np.inf  # score of the columns that pad a row to whole tiles: never its largest, also where all are -inf
_PIECES = 24  # about
_TABLES = 1 << 15  # scores of one window, over the heads of a piece: two tables of this size stay in the cache

assert BLOCK % ROWS == 0


# ---- compiled


@jit
def _forward(inputs: Any, out: Any, division: Any, number: int, start: int, stop: int) -> None:
    """Windows [start, stop), counted through the batch, of the heads of piece ``number``."""
    (windows, n), channels, first_head = inputs.tokens.shape, out.shape[1], number // division.ranges * division.heads
    s = make_scratch(inputs, channels // inputs.scales.size, n, False)
    for w in range(start, stop):
        for head in range(first_head, first_head + division.heads):  # innermost: a token's heads are contiguous
            _window_forward(inputs, s, n, w % windows, w // windows * inputs.pixels, head, out)


@jit
def _window_forward(inputs: Any, s: Any, n: int, place: int, first: int, head: int, out: Any) -> None:
    """One head of the window number ``place`` of the map whose pixels begin at row ``first``."""
    _, heads, rows, columns = inputs.table.shape
    channels, width = out.shape[1], inputs.width
    d = channels // heads
    load(inputs, s, place, first, head)
    transpose(s.k, width, n, d, s.k_t, columns)
    added = (inputs.kinds[place] * heads + head) * rows * columns
    for block in range(0, n, BLOCK):
        count = min(BLOCK, n - block)
        multiply(s.q, block * width, width, 1, s.k_t, columns, s.p, columns, count, columns, d)
        softmax(s.p, columns, count, inputs.table, added + block * columns, s.inverse)
        multiply(s.p, 0, columns, 1, s.v, width, s.result, width, count, width, n)
        p, at = place * n + block, first * channels + head * d
        scatter_scaled(s.result, width, s.inverse, s.none, inputs.tokens, p, count, d, out, at, channels)


@jit
def _products_backward(inputs: Any, s: Any, n: int, d: int, added: int, gbias: Any, to: int) -> None:
    """Gradients of the scaled q, of k and of v of the loaded window, from s.go. The gradient of the scores is added to
    ``gbias`` at offset ``to``."""
    width, columns = inputs.width, inputs.table.shape[3]
    s.gk[:] = 0
    s.gv[:] = 0
    for block in range(0, n, BLOCK):
        count, at = min(BLOCK, n - block), block * width
        multiply(s.q, at, width, 1, s.k_t, columns, s.p, columns, count, columns, d)
        softmax(s.p, columns, count, inputs.table, added + block * columns, s.inverse)
        multiply(s.go, at, width, 1, s.v_t, columns, s.dp, columns, count, columns, d)
        scores_backward(s.p, s.dp, columns, count, s.inverse, gbias, to + block * columns)
        multiply_to(s.dp, 0, columns, 1, s.k, width, s.gq, at, width, count, width, n)
        add_product(s.p, 0, 1, columns, s.go, at, width, s.gv, width, n, width, count)
        add_product(s.dp, 0, 1, columns, s.q, at, width, s.gk, width, n, width, count)


@jit
def _window_backward(
    g: Any, inputs: Any, s: Any, n: int, place: int, first: int, head: int, gqkv: Any, partials: Any, row: int
) -> None:
    """Backward of :func:`_window_forward`. Gradients that windows share are added to row ``row`` of ``partials``."""
    _, heads, rows, columns = inputs.table.shape
    channels, width, p = g.shape[1], inputs.width, place * n
    d, one, scale = channels // heads, g.dtype.type(1), inputs.scales[head]
    column, total = head * d, row * 3 * d
    load(inputs, s, place, first, head)
    transpose(s.k, width, n, d, s.k_t, columns)
    transpose(s.v, width, n, d, s.v_t, columns)
    gather(g, first * channels + column, channels, inputs.tokens, p, n, d, s.none, 0, one, s.go, width)
    added = (inputs.kinds[place] * heads + head) * rows * columns
    _products_backward(inputs, s, n, d, added, partials.scores, row * rows * columns)
    if inputs.cosine:
        partials.tau[row] += cosine_backward(inputs, s, n, d, head)
        scale = one
    at, c3 = first * 3 * channels + column, 3 * channels
    scatter(s.gq, width, scale, inputs.tokens, p, n, d, gqkv, at, c3, partials.qkv_bias, total)
    scatter(s.gk, width, one, inputs.tokens, p, n, d, gqkv, at + channels, c3, partials.qkv_bias, total + d)
    scatter(s.gv, width, one, inputs.tokens, p, n, d, gqkv, at + 2 * channels, c3, partials.qkv_bias, total + 2 * d)


@jit
def _backward(g: Any, inputs: Any, gqkv: Any, partials: Any, division: Any, number: int, start: int, stop: int) -> None:
    """Backward of :func:`_forward`. Gradients that windows share are added to the piece's ``partials``."""
    (windows, n), channels, first_head = inputs.tokens.shape, g.shape[1], number // division.ranges * division.heads
    s = make_scratch(inputs, channels // inputs.scales.size, n, True)
    for w in range(start, stop):
        for i in range(division.heads):
            first = w // windows * inputs.pixels
            _window_backward(
                g, inputs, s, n, w % windows, first, first_head + i, gqkv, partials, number * division.heads + i
            )


# ---- on the Python side


class _Partials(NamedTuple):
    """Each piece's partial sums of the gradients that windows share, for its heads.

    Attributes:
        scores: (pieces * heads, rows, columns), of bias + mask.
        qkv_bias: (pieces * heads, 3, d).
        tau: (pieces * heads,), of the scale of cosines.
    """

    scores: Any
    qkv_bias: Any
    tau: Any


class _Division(NamedTuple):
    """How windows and heads are divided into pieces; pieces of the same heads are neighbours.

    Attributes:
        ranges: the number of ranges of windows.
        heads: of each piece.
    """

    ranges: int
    heads: int


class _Tables(NamedTuple):
    """Tables of a geometry.

    Attributes:
        tokens: (nW, N), the pixel of each token, -1 for padding.
        kinds: (nW,), the kind of each window.
        examples: (kinds,), one window of each kind.
    """

    tokens: Any
    kinds: Any
    examples: Any


@lru_cache(maxsize=64)
def _tables(geometry: Geometry) -> _Tables:
    down, across = geometry.windows
    last_row = np.arange(down) == down - 1
    last_column = np.arange(across) == across - 1
    kinds = (2 * last_row[:, None] + last_column[None, :]).reshape(-1)
    if geometry.shift == (0, 0):
        kinds[:] = 0
    _, examples, found = np.unique(kinds, return_index=True, return_inverse=True)
    return _Tables(window_tokens(geometry).copy(), found.reshape(-1).astype(np.int64), examples)


def _prepare(
    qkv: Any, bias: Any | None, qkv_bias: Any | None, logit_scale: Any | None, spec: AttentionSpec
) -> AttentionInputs:
    tables, dtype, n = _tables(spec.geometry), qkv.dtype, spec.geometry.tokens
    table = np.full((len(tables.examples), spec.heads, padded_rows(n), padded_columns(n)), _NEVER, dtype)
    table[..., :n, :n] = 0 if bias is None else bias
    mask = attention_mask(spec.geometry, spec.mask_value)
    if mask is not None:
        table[..., :n, :n] += mask[tables.examples][:, None]
    scales = np.full(spec.heads, spec.scale, dtype)
    if spec.cosine:
        assert logit_scale is not None
        scales = np.exp(np.minimum(logit_scale.reshape(-1), dtype.type(MAX_LOGIT_SCALE)))
        scales = np.maximum(scales, np.finfo(dtype).tiny)  # backward divides by it
    full_bias = np.zeros(qkv.shape[3], dtype) if qkv_bias is None else plain(qkv_bias)
    rows = plain(qkv).reshape(-1, qkv.shape[3])
    pixels, width = qkv.shape[1] * qkv.shape[2], padded_columns(qkv.shape[3] // 3 // spec.heads)
    return AttentionInputs(rows, table, full_bias, scales, spec.cosine, tables.tokens, tables.kinds, pixels, width)


def _heads_together(heads: int, scores: int) -> int:
    """Heads of a piece: the largest divisor of ``heads`` with tables, of ``scores`` scores per head, that fit the
    cache."""
    return next(h for h in range(heads, 0, -1) if heads % h == 0 and (h == 1 or h * scores <= _TABLES))


@lru_cache(maxsize=64)
def _pieces(windows: int, heads: int, scores: int) -> tuple[Any, _Division]:
    """The start and stop window of every piece, (pieces, 2), by sizes alone."""
    together = _heads_together(heads, scores)
    ranges = max(1, min(-(-_PIECES * together // heads), windows))
    return np.tile(even_pieces(windows, ranges), (heads // together, 1)), _Division(ranges, together)


def _pieces_of(inputs: AttentionInputs, batch: int) -> tuple[Any, _Division]:
    _, heads, rows, columns = inputs.table.shape
    return _pieces(batch * len(inputs.kinds), heads, rows * columns)


def window_attention_fwd(
    qkv: Any, bias: Any | None, qkv_bias: Any | None, logit_scale: Any | None, spec: AttentionSpec
) -> Any:
    """One pass over the windows; only the scores of one block of queries exist at a time, in the cache."""
    inputs = _prepare(qkv, bias, qkv_bias, logit_scale, spec)
    out = empty((len(inputs.qkv), qkv.shape[3] // 3), qkv.dtype)
    pieces, division = _pieces_of(inputs, qkv.shape[0])
    run_pieces(_forward, pieces, inputs, out, division)
    return out.reshape(*qkv.shape[:3], -1) if out.size else out.reshape(*qkv.shape[:3], qkv.shape[3] // 3)


def window_attention_bwd(
    g: Any, qkv: Any, bias: Any | None, qkv_bias: Any | None, logit_scale: Any | None, spec: AttentionSpec
) -> tuple[Any, Any | None, Any | None, Any | None]:
    """As :func:`window_attention_fwd`; probabilities are computed again from q and k."""
    inputs = _prepare(qkv, bias, qkv_bias, logit_scale, spec)
    n, channels, heads, dtype = spec.geometry.tokens, g.shape[3], spec.heads, qkv.dtype
    rows = plain(g).reshape(-1, channels)
    gqkv = empty(inputs.qkv.shape, dtype)
    pieces, division = _pieces_of(inputs, qkv.shape[0])
    count = len(pieces) * division.heads
    partials = _Partials(
        np.zeros((count, *inputs.table.shape[2:]), dtype),
        np.zeros((count, 3, channels // heads), dtype),
        np.zeros(count, dtype),
    )
    run_pieces(_backward, pieces, rows, inputs, gqkv, partials, division)

    def total(sums: Any) -> Any:
        """Partial sums (pieces * heads of a piece, ...) to (heads, ...)."""
        added: Any = sums.reshape(-1, division.ranges, division.heads, *sums.shape[1:]).sum(axis=1)
        return added.reshape(heads, *sums.shape[1:])

    gbias = None if bias is None else np.ascontiguousarray(total(partials.scores)[:, :n, :n])
    gqkv_bias = None if qkv_bias is None else total(partials.qkv_bias).swapaxes(0, 1).reshape(-1)
    glogit = None
    if spec.cosine:
        assert logit_scale is not None
        clamped = logit_scale.reshape(-1) > MAX_LOGIT_SCALE
        glogit = np.where(clamped, dtype.type(0), total(partials.tau) * inputs.scales).reshape(logit_scale.shape)
    return gqkv.reshape(qkv.shape), gbias, gqkv_bias, glogit
