"""Linear layers (backward) and MLPs of few channels: one pass in which a block of rows stays in the first-level cache.

BLAS is made for large matrices. For a layer of some tens of channels it spends more time on packing its operands than
on multiplying, and every step between two products (bias, GELU, sums for the bias's gradient) goes through main memory.
Here a block of rows is copied into small padded matrices, and :mod:`autograd.kernels.compiled.tiles` multiplies them.
Forward or backward of the whole layer is one pass over the rows, which wakes the threads once.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.outer import add_rows
from autograd.kernels.compiled.pieces import add_up, pieces_between, row_pieces, run_pieces
from autograd.kernels.compiled.tiles import COLUMNS, HEIGHT, ROWS, add_product, make_tile_on_bias, padded_columns
from autograd.kernels.compiled.toolkit import cdf, exp, jit, plain, read, write

__all__ = ["is_narrow", "linear_backward", "mlp_backward", "mlp_forward", "output_bias_gradient"]

_BLOCK = 48  # rows: whole tiles of HEIGHT rows, and of ROWS
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
# Up to this size of a weight, this is faster than separate products; from this many rows on, it pays to pad the weight.
_WEIGHTS, _ROWS = 4096, 256

_tile = make_tile_on_bias(HEIGHT)

assert _BLOCK % HEIGHT == _BLOCK % ROWS == 0


class _Layer(NamedTuple):
    """A linear layer's parameters, padded with zeros to whole tiles.

    Attributes:
        forward: (in, out), the weight as forward reads it.
        backward: (out, in), as backward reads it.
        bias: (out,).
        inputs: the size of ``in`` without padding.
        outputs: the size of ``out`` without padding.
    """

    forward: Any
    backward: Any
    bias: Any
    inputs: int
    outputs: int


class _Partials(NamedTuple):
    """Each piece's partial sums of a layer's gradients, padded to whole tiles.

    Attributes:
        weight: (pieces, out, in).
        bias: (pieces, out).
    """

    weight: Any
    bias: Any


def _layer(weight: Any, bias: Any | None) -> _Layer:
    outputs, inputs = weight.shape
    high, wide = padded_columns(outputs), padded_columns(inputs)
    forward, backward, ready = (np.zeros(shape, weight.dtype) for shape in ((wide, high), (high, wide), high))
    forward[:inputs, :outputs] = weight.T
    backward[:outputs, :inputs] = weight
    if bias is not None:
        ready[:outputs] = bias
    return _Layer(forward, backward, ready, inputs, outputs)


# ---- compiled
#
# Maps are flat arrays. Whole blocks of rows whose width is whole tiles are used in place. Other rows go through scratch
# memory for one block, in which they are padded.


@jit
def _fits_in_place(rows: int, width: int, padded: int) -> bool:
    return width == padded and rows == _BLOCK


@jit
def _load(maps: Any, first: int, rows: int, width: int, block: Any, padded: int) -> Any:
    """``rows`` rows of ``width`` elements from row ``first`` on, at a distance of ``padded``: an array, and the offset
    in it. The array is ``maps`` itself, or ``block`` to which they are copied."""
    if _fits_in_place(rows, width, padded):
        return maps, first * width
    for i in range(rows):
        source, to = (first + i) * width, i * padded
        for c in range(width):
            write(block, to + c, read(maps, source + c))
    return block, 0


@jit
def _target(maps: Any, first: int, rows: int, width: int, block: Any, padded: int) -> Any:
    """Where to write such rows: an array, and the offset in it. :func:`_store` completes the write."""
    if _fits_in_place(rows, width, padded):
        return maps, first * width
    return block, 0


@jit
def _store(maps: Any, first: int, rows: int, width: int, block: Any, padded: int) -> None:
    """Copy rows that were written to ``block`` to ``maps``."""
    if not _fits_in_place(rows, width, padded):
        for i in range(rows):
            source, to = i * padded, (first + i) * width
            for c in range(width):
                write(maps, to + c, read(block, source + c))


@jit
def _multiply(a: Any, a_at: int, b: Any, bias: Any, c: Any, c_at: int, rows: int, columns: int, depth: int) -> None:
    """C = A B + bias: A has rows of ``depth`` elements from a_at on, C rows of ``columns`` from c_at on."""
    for i in range(0, rows, HEIGHT):
        for j in range(0, columns, COLUMNS):
            at = c_at + i * columns + j
            _tile(a, a_at + i * depth, depth, 1, b, j, columns, c, at, columns, depth, bias, j)


@jit
def _apply(maps: Any, at: int, weight: Any, bias: Any, out: Any, first: int, rows: int, width: int, block: Any) -> Any:
    """Rows of ``maps`` from an offset on, times weight, plus bias, to the rows of ``out`` from ``first`` on. Returns
    the array and the offset where the result lies with padding."""
    depth, columns = weight.shape
    to, to_at = _target(out, first, rows, width, block, columns)
    _multiply(maps, at, weight, bias, to, to_at, rows, columns, depth)
    _store(out, first, rows, width, block, columns)
    return to, to_at


@jit
def _linear_backward(g: Any, x: Any, layer: Any, gx: Any, partials: Any, number: int, start: int, stop: int) -> None:
    """Gradients of rows [start, stop): gx, unless it is empty, and the partial sums of weight and bias."""
    high, wide = layer.backward.shape
    block, gradients = np.zeros(_BLOCK * wide, x.dtype), np.zeros(_BLOCK * high, x.dtype)
    result, none = np.empty(_BLOCK * wide, x.dtype), np.zeros(wide, x.dtype)
    gweight, gbias = partials.weight[number], partials.bias[number]
    gweight[:] = 0
    gbias[:] = 0
    for first in range(start, stop, _BLOCK):
        rows = min(_BLOCK, stop - first)
        a, at = _load(g, first, rows, layer.outputs, gradients, high)
        b, b_at = _load(x, first, rows, layer.inputs, block, wide)
        if gx.size:
            _apply(a, at, layer.backward, none, gx, first, rows, layer.inputs, result)
        add_product(a, at, 1, high, b, b_at, wide, gweight, wide, high, wide, rows)
        add_rows(a, at, high, rows, gbias)


@jit
def _repeated(row: Any) -> Any:
    """A bias repeated for each row of a block, so that one long loop over the block vectorises instead of many short
    ones."""
    out = np.empty(_BLOCK * row.size, row.dtype)
    for i in range(_BLOCK):
        for c in range(row.size):
            out[i * row.size + c] = row[c]
    return out


@jit
def _activate(hidden: Any, at: int, biases: Any, size: int, activated: Any) -> None:
    """activated = gelu(hidden + bias); zeros stay zeros."""
    for j in range(size):
        v = read(hidden, at + j) + read(biases, j)
        write(activated, j, v * cdf(v))


@jit
def _differentiate(hidden: Any, at: int, biases: Any, size: int, activated: Any, gradients: Any) -> None:
    """activated = gelu(hidden + bias); gradients, of the activated, become those of hidden."""
    half, factor = hidden.dtype.type(0.5), hidden.dtype.type(_INV_SQRT_2PI)
    for j in range(size):
        v = read(hidden, at + j) + read(biases, j)
        below = cdf(v)
        write(activated, j, v * below)
        write(gradients, j, read(gradients, j) * (below + v * factor * exp(-half * v * v)))


@jit
def _mlp_forward(x: Any, one: Any, two: Any, hidden: Any, out: Any, _: int, start: int, stop: int) -> None:
    """Rows [start, stop) of ``out``, and of ``hidden`` unless it is empty."""
    (wide, middle), high = one.forward.shape, two.forward.shape[1]
    block, inner = np.zeros(_BLOCK * wide, x.dtype), np.empty(_BLOCK * middle, x.dtype)
    activated, result = np.empty(_BLOCK * middle, x.dtype), np.empty(_BLOCK * high, x.dtype)
    biases, none = _repeated(one.bias), np.zeros(middle, x.dtype)
    for first in range(start, stop, _BLOCK):
        rows = min(_BLOCK, stop - first)
        a, at = _load(x, first, rows, one.inputs, block, wide)
        if hidden.size:
            u, u_at = _apply(a, at, one.forward, none, hidden, first, rows, one.outputs, inner)
        else:
            _multiply(a, at, one.forward, none, inner, 0, rows, middle, wide)
            u, u_at = inner, 0
        _activate(u, u_at, biases, rows * middle, activated)
        _apply(activated, 0, two.forward, two.bias, out, first, rows, two.outputs, result)


@jit
def _mlp_backward(
    g: Any,
    x: Any,
    hidden: Any,
    one: Any,
    two: Any,
    gx: Any,
    partials1: Any,
    partials2: Any,
    number: int,
    start: int,
    stop: int,
) -> None:
    """Gradients of rows [start, stop): gx, and the partial sums of both layers."""
    (middle, wide), high = one.backward.shape, two.backward.shape[0]
    block, gradients = np.zeros(_BLOCK * wide, x.dtype), np.zeros(_BLOCK * high, x.dtype)
    inner, activated = np.zeros(_BLOCK * middle, x.dtype), np.empty(_BLOCK * middle, x.dtype)
    ginner, result = np.empty(_BLOCK * middle, x.dtype), np.empty(_BLOCK * wide, x.dtype)
    biases, none = _repeated(one.bias), np.zeros(max(wide, middle), x.dtype)
    gw1, gb1, gw2, gb2 = (
        partials1.weight[number],
        partials1.bias[number],
        partials2.weight[number],
        partials2.bias[number],
    )
    for weight_sum in (gw1, gw2):
        weight_sum[:] = 0
    for bias_sum in (gb1, gb2):
        bias_sum[:] = 0
    for first in range(start, stop, _BLOCK):
        rows = min(_BLOCK, stop - first)
        a, at = _load(g, first, rows, two.outputs, gradients, high)
        b, b_at = _load(x, first, rows, one.inputs, block, wide)
        h, h_at = _load(hidden, first, rows, one.outputs, inner, middle)
        _multiply(a, at, two.backward, none, ginner, 0, rows, middle, high)
        _differentiate(h, h_at, biases, rows * middle, activated, ginner)
        _apply(ginner, 0, one.backward, none, gx, first, rows, one.inputs, result)
        add_product(ginner, 0, 1, middle, b, b_at, wide, gw1, wide, middle, wide, rows)
        add_product(a, at, 1, high, activated, 0, middle, gw2, middle, high, middle, rows)
        add_rows(ginner, 0, middle, rows, gb1)
        add_rows(a, at, high, rows, gb2)


@jit
def _sum_rows(g: Any, width: int, high: int, partials: Any, number: int, start: int, stop: int) -> None:
    """The partial sums of :func:`_mlp_backward` for the second bias alone: the same terms in the same order."""
    gradients, total = np.zeros(_BLOCK * high, g.dtype), partials[number]
    total[:] = 0
    for first in range(start, stop, _BLOCK):
        rows = min(_BLOCK, stop - first)
        a, at = _load(g, first, rows, width, gradients, high)
        add_rows(a, at, high, rows, total)


# ---- on the Python side


def is_narrow(rows: int, weight: Any) -> bool:
    """Whether a layer on ``rows`` rows is faster here than by other products."""
    return bool(weight.size <= _WEIGHTS and rows >= _ROWS)


def _rows(x: Any) -> tuple[Any, int]:
    """A map as a flat array, and its number of rows."""
    return plain(x).reshape(-1), len(x)


@lru_cache(maxsize=512)
def _block_pieces(rows: int, row_bytes: int) -> Any:
    """Pieces of whole blocks; the last one may end with a smaller block."""
    blocks = -(-rows // _BLOCK)
    stops = row_pieces(blocks, _BLOCK * row_bytes)[:, 1].tolist()
    return pieces_between([0, *(min(stop * _BLOCK, rows) for stop in stops)])


def _make_partials(pieces: Any, layer: _Layer) -> _Partials:
    """Memory for the partial sums of each piece."""
    n, dtype = len(pieces), layer.bias.dtype
    return _Partials(np.empty((n, *layer.backward.shape), dtype), np.empty((n, len(layer.bias)), dtype))


def _total(partials: _Partials, layer: _Layer) -> tuple[Any, Any]:
    """Gradients of weight and bias."""
    weight = add_up(partials.weight)[: layer.outputs, : layer.inputs]
    return np.ascontiguousarray(weight), add_up(partials.bias)[: layer.outputs].copy()


def linear_backward(g: Any, x: Any, weight: Any, wants_x: bool) -> tuple[Any | None, Any, Any]:
    """Gradients of x weight^T + bias for x, weight and bias.

    Args:
        g: (rows, out), the gradient of the output.
        x: (rows, in).
        weight: (out, in).
        wants_x: whether the gradient of x is wanted; it is None otherwise.

    Returns:
        (rows, in) or None, (out, in) and (out,).
    """
    (g_flat, _), (flat, rows), layer = _rows(g), _rows(x), _layer(weight, None)
    gx = empty((rows if wants_x else 0, layer.inputs), x.dtype)
    pieces = _block_pieces(rows, (2 * layer.inputs + layer.outputs) * x.itemsize)
    partials = _make_partials(pieces, layer)
    run_pieces(_linear_backward, pieces, g_flat, flat, layer, gx.reshape(-1), partials)
    return gx if wants_x else None, *_total(partials, layer)


def mlp_forward(x: Any, w1: Any, b1: Any, w2: Any, b2: Any, keep_hidden: bool) -> tuple[Any, Any | None]:
    """gelu(x w1^T + b1) w2^T + b2.

    Args:
        x: (rows, C).
        w1: (H, C).
        b1: (H,).
        w2: (D, H).
        b2: (D,), or None for 0.
        keep_hidden: whether x w1^T is returned, too.

    Returns:
        (rows, D), and (rows, H) or None.
    """
    (flat, rows), one, two = _rows(x), _layer(w1, b1), _layer(w2, b2)
    hidden, out = empty((rows if keep_hidden else 0, one.outputs), x.dtype), empty((rows, two.outputs), x.dtype)
    pieces = _block_pieces(rows, (one.inputs + one.outputs + two.outputs) * x.itemsize)
    run_pieces(_mlp_forward, pieces, flat, one, two, hidden.reshape(-1), out.reshape(-1))
    return out, hidden if keep_hidden else None


def _mlp_pieces(rows: int, w1: Any, w2: Any) -> Any:
    return _block_pieces(rows, (2 * w1.shape[1] + len(w1) + len(w2)) * w1.itemsize)


def mlp_backward(g: Any, x: Any, hidden: Any, w1: Any, b1: Any, w2: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Gradients of :func:`mlp_forward` for x, w1, b1, w2 and b2.

    Args:
        g: (rows, D), the gradient of the output.
        x: (rows, C).
        hidden: (rows, H), from forward.
        w1: (H, C).
        b1: (H,).
        w2: (D, H).
    """
    (g_flat, _), (flat, rows), (u, _) = _rows(g), _rows(x), _rows(hidden)
    one, two, gx = _layer(w1, b1), _layer(w2, None), empty(x.shape, x.dtype)
    pieces = _mlp_pieces(rows, w1, w2)
    partials1, partials2 = _make_partials(pieces, one), _make_partials(pieces, two)
    run_pieces(_mlp_backward, pieces, g_flat, flat, u, one, two, gx.reshape(-1), partials1, partials2)
    (gw1, gb1), (gw2, gb2) = _total(partials1, one), _total(partials2, two)
    return gx, gw1, gb1, gw2, gb2


def output_bias_gradient(g: Any, w1: Any, w2: Any) -> Any:
    """The last gradient of :func:`mlp_backward` alone, with the same bits."""
    flat, rows = _rows(g)
    pieces, high = _mlp_pieces(rows, w1, w2), padded_columns(len(w2))
    partials = np.empty((len(pieces), high), g.dtype)
    run_pieces(_sum_rows, pieces, flat, len(w2), high, partials)
    return add_up(partials)[: len(w2)].copy()
