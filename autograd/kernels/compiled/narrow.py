"""Backward of linear layers, and MLPs, of few channels: rows go through all of it while they are in the first cache.

BLAS is made for large matrices. Where a layer has some tens of channels, it spends more time on arranging its operands
than on multiplying, and every step between two products (bias, GELU, sums for the bias's gradient) goes through main
memory. Here a block of rows is copied into small padded matrices, :mod:`autograd.kernels.compiled.tiles` multiplies
them, and forward or backward of the whole layer is one pass that wakes the threads once.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.outer import add_rows
from autograd.kernels.compiled.pieces import add_up, cut_at, pieces, run_pieces
from autograd.kernels.compiled.tiles import COLUMNS, HEIGHT, ROWS, add_product, make_tile_on_bias, padded_columns
from autograd.kernels.compiled.toolkit import cdf, exp, jit, plain, read, write

__all__ = ["is_narrow", "linear_backward", "mlp_backward", "mlp_forward", "output_bias_gradient"]

_BLOCK = 48  # rows at a time: whole tiles of this height, and of ROWS, too
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
# Numbers of a weight up to which this is faster than products of their own, and rows from which it pays to make the
# weight ready.
_WEIGHTS, _ROWS = 4096, 256

_tile = make_tile_on_bias(HEIGHT)

assert _BLOCK % HEIGHT == _BLOCK % ROWS == 0


class _Layer(NamedTuple):
    """A linear layer made ready, padded with zeros to whole tiles.

    Attributes:
        forward: (in, out).
        backward: (out, in).
        bias: (out,).
        inputs: without padding.
        outputs: without padding.
    """

    forward: Any
    backward: Any
    bias: Any
    inputs: int
    outputs: int


class _Sums(NamedTuple):
    """What the rows of each piece give to the gradients of a weight and a bias, (pieces, out, in) and (pieces, out), in
    whole tiles."""

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
# Maps are flat. Rows whose width is whole tiles are used where they lie; others, and the last few that are no whole
# block, go through memory of a block.


@jit
def _lie_ready(rows: int, width: int, padded: int) -> bool:
    return width == padded and rows == _BLOCK


@jit
def _take(maps: Any, first: int, rows: int, width: int, block: Any, padded: int) -> Any:
    """(array, place) of ``rows`` rows of ``width`` numbers from row ``first`` on, ``padded`` apart."""
    if _lie_ready(rows, width, padded):
        return maps, first * width
    for i in range(rows):
        source, to = (first + i) * width, i * padded
        for c in range(width):
            write(block, to + c, read(maps, source + c))
    return block, 0


@jit
def _target(maps: Any, first: int, rows: int, width: int, block: Any, padded: int) -> Any:
    """(array, place) of where to write such rows; :func:`_give` ends it."""
    if _lie_ready(rows, width, padded):
        return maps, first * width
    return block, 0


@jit
def _give(maps: Any, first: int, rows: int, width: int, block: Any, padded: int) -> None:
    if not _lie_ready(rows, width, padded):
        for i in range(rows):
            source, to = i * padded, (first + i) * width
            for c in range(width):
                write(maps, to + c, read(block, source + c))


@jit
def _multiply(a: Any, a_at: int, b: Any, bias: Any, c: Any, c_at: int, rows: int, columns: int, depth: int) -> None:
    """C = A B + bias: A of ``depth`` numbers a row from a_at on, C of ``columns`` from c_at on, rows of whole tiles."""
    for i in range(0, rows, HEIGHT):
        for j in range(0, columns, COLUMNS):
            at = c_at + i * columns + j
            _tile(a, a_at + i * depth, depth, 1, b, j, columns, c, at, columns, depth, bias, j)


@jit
def _apply(maps: Any, at: int, weight: Any, bias: Any, out: Any, first: int, rows: int, width: int, block: Any) -> Any:
    """Rows at a place in ``maps`` times weight, plus bias, to rows of ``out`` from ``first`` on; (array, place) where
    they lie with padding."""
    depth, columns = weight.shape
    to, to_at = _target(out, first, rows, width, block, columns)
    _multiply(maps, at, weight, bias, to, to_at, rows, columns, depth)
    _give(out, first, rows, width, block, columns)
    return to, to_at


@jit
def _linear_backward(g: Any, x: Any, layer: Any, gx: Any, sums: Any, number: int, start: int, stop: int) -> None:
    """``gx`` of no size is not wanted; ``sums`` get what the rows give to weight and bias."""
    high, wide = layer.backward.shape
    block, gradients = np.zeros(_BLOCK * wide, x.dtype), np.zeros(_BLOCK * high, x.dtype)
    result, none = np.empty(_BLOCK * wide, x.dtype), np.zeros(wide, x.dtype)
    gweight, gbias = sums.weight[number], sums.bias[number]
    gweight[:] = 0
    gbias[:] = 0
    for first in range(start, stop, _BLOCK):
        rows = min(_BLOCK, stop - first)
        a, at = _take(g, first, rows, layer.outputs, gradients, high)
        b, b_at = _take(x, first, rows, layer.inputs, block, wide)
        if gx.size:
            _apply(a, at, layer.backward, none, gx, first, rows, layer.inputs, result)
        add_product(a, at, 1, high, b, b_at, wide, gweight, wide, high, wide, rows)
        add_rows(a, at, high, rows, gbias)


@jit
def _repeated(row: Any) -> Any:
    """A bias for each row of a block: one long loop vectorises better than many short ones."""
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
    """``hidden`` of no size is not kept."""
    (wide, middle), high = one.forward.shape, two.forward.shape[1]
    block, inner = np.zeros(_BLOCK * wide, x.dtype), np.empty(_BLOCK * middle, x.dtype)
    activated, result = np.empty(_BLOCK * middle, x.dtype), np.empty(_BLOCK * high, x.dtype)
    biases, none = _repeated(one.bias), np.zeros(middle, x.dtype)
    for first in range(start, stop, _BLOCK):
        rows = min(_BLOCK, stop - first)
        a, at = _take(x, first, rows, one.inputs, block, wide)
        if hidden.size:
            u, u_at = _apply(a, at, one.forward, none, hidden, first, rows, one.outputs, inner)
        else:
            _multiply(a, at, one.forward, none, inner, 0, rows, middle, wide)
            u, u_at = inner, 0
        _activate(u, u_at, biases, rows * middle, activated)
        _apply(activated, 0, two.forward, two.bias, out, first, rows, two.outputs, result)


@jit
def _mlp_backward(
    g: Any, x: Any, hidden: Any, one: Any, two: Any, gx: Any, sums1: Any, sums2: Any, number: int, start: int, stop: int
) -> None:
    (middle, wide), high = one.backward.shape, two.backward.shape[0]
    block, gradients = np.zeros(_BLOCK * wide, x.dtype), np.zeros(_BLOCK * high, x.dtype)
    inner, activated = np.zeros(_BLOCK * middle, x.dtype), np.empty(_BLOCK * middle, x.dtype)
    ginner, result = np.empty(_BLOCK * middle, x.dtype), np.empty(_BLOCK * wide, x.dtype)
    biases, none = _repeated(one.bias), np.zeros(max(wide, middle), x.dtype)
    gw1, gb1, gw2, gb2 = sums1.weight[number], sums1.bias[number], sums2.weight[number], sums2.bias[number]
    for sums in (gw1, gw2):
        sums[:] = 0
    for totals in (gb1, gb2):
        totals[:] = 0
    for first in range(start, stop, _BLOCK):
        rows = min(_BLOCK, stop - first)
        a, at = _take(g, first, rows, two.outputs, gradients, high)
        b, b_at = _take(x, first, rows, one.inputs, block, wide)
        h, h_at = _take(hidden, first, rows, one.outputs, inner, middle)
        _multiply(a, at, two.backward, none, ginner, 0, rows, middle, high)
        _differentiate(h, h_at, biases, rows * middle, activated, ginner)
        _apply(ginner, 0, one.backward, none, gx, first, rows, one.inputs, result)
        add_product(ginner, 0, 1, middle, b, b_at, wide, gw1, wide, middle, wide, rows)
        add_product(a, at, 1, high, activated, 0, middle, gw2, middle, high, middle, rows)
        add_rows(ginner, 0, middle, rows, gb1)
        add_rows(a, at, high, rows, gb2)


@jit
def _sum_rows(g: Any, width: int, high: int, totals: Any, number: int, start: int, stop: int) -> None:
    """What :func:`_mlp_backward` gives to the second bias, by itself: the same sums in the same order."""
    gradients, total = np.zeros(_BLOCK * high, g.dtype), totals[number]
    total[:] = 0
    for first in range(start, stop, _BLOCK):
        rows = min(_BLOCK, stop - first)
        a, at = _take(g, first, rows, width, gradients, high)
        add_rows(a, at, high, rows, total)


# ---- on the Python side


def is_narrow(rows: int, weight: Any) -> bool:
    """Whether a layer on so many rows is one for this module."""
    return bool(weight.size <= _WEIGHTS and rows >= _ROWS)


def _rows(x: Any) -> tuple[Any, int]:
    """A map flat, and how many rows it has."""
    return plain(x).reshape(-1), len(x)


@lru_cache(maxsize=512)
def _cut(rows: int, row_bytes: int) -> Any:
    """Pieces of whole blocks, but for the last."""
    blocks = -(-rows // _BLOCK)
    return cut_at([0, *(min(end * _BLOCK, rows) for end in pieces(blocks, _BLOCK * row_bytes)[:, 1].tolist())])


def _sums_of(cut: Any, layer: _Layer) -> _Sums:
    """Memory for the sums of each piece."""
    dtype = layer.bias.dtype
    return _Sums(np.empty((len(cut), *layer.backward.shape), dtype), np.empty((len(cut), len(layer.bias)), dtype))


def _total(sums: _Sums, layer: _Layer) -> tuple[Any, Any]:
    """Gradients of weight and bias."""
    weight = add_up(sums.weight)[: layer.outputs, : layer.inputs]
    return np.ascontiguousarray(weight), add_up(sums.bias)[: layer.outputs].copy()


def linear_backward(g: Any, x: Any, weight: Any, wants_x: bool) -> tuple[Any | None, Any, Any]:
    """Gradients of x weight^T + bias, weight (out, in), for x (rows, in) where wanted, weight and bias."""
    (g_flat, _), (flat, rows), layer = _rows(g), _rows(x), _layer(weight, None)
    gx = empty((rows if wants_x else 0, layer.inputs), x.dtype)
    to, cut = gx.reshape(-1), _cut(rows, (2 * layer.inputs + layer.outputs) * x.itemsize)
    sums = _sums_of(cut, layer)
    run_pieces(_linear_backward, cut, g_flat, flat, layer, to, sums)
    return gx if wants_x else None, *_total(sums, layer)


def mlp_forward(x: Any, w1: Any, b1: Any, w2: Any, b2: Any, keep_hidden: bool) -> tuple[Any, Any | None]:
    """gelu(x w1^T + b1) w2^T + b2 of rows, and x w1^T if it is to be kept."""
    (flat, rows), one, two = _rows(x), _layer(w1, b1), _layer(w2, b2)
    hidden, out = empty((rows if keep_hidden else 0, one.outputs), x.dtype), empty((rows, two.outputs), x.dtype)
    u, to, cut = hidden.reshape(-1), out.reshape(-1), _cut(rows, (one.inputs + one.outputs + two.outputs) * x.itemsize)
    run_pieces(_mlp_forward, cut, flat, one, two, u, to)
    return out, hidden if keep_hidden else None


def _mlp_cut(rows: int, w1: Any, w2: Any) -> Any:
    return _cut(rows, (2 * w1.shape[1] + len(w1) + len(w2)) * w1.itemsize)


def mlp_backward(g: Any, x: Any, hidden: Any, w1: Any, b1: Any, w2: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Gradients of :func:`mlp_forward` for x, w1, b1, w2 and b2."""
    (g_flat, _), (flat, rows), (u, _) = _rows(g), _rows(x), _rows(hidden)
    one, two, gx = _layer(w1, b1), _layer(w2, None), empty(x.shape, x.dtype)
    to, cut = gx.reshape(-1), _mlp_cut(rows, w1, w2)
    sums1, sums2 = _sums_of(cut, one), _sums_of(cut, two)
    run_pieces(_mlp_backward, cut, g_flat, flat, u, one, two, to, sums1, sums2)
    (gw1, gb1), (gw2, gb2) = _total(sums1, one), _total(sums2, two)
    return gx, gw1, gb1, gw2, gb2


def output_bias_gradient(g: Any, w1: Any, w2: Any) -> Any:
    """The last gradient of :func:`mlp_backward` alone, to the same bits."""
    flat, rows = _rows(g)
    cut, high = _mlp_cut(rows, w1, w2), padded_columns(len(w2))
    sums = np.empty((len(cut), high), g.dtype)
    run_pieces(_sum_rows, cut, flat, len(w2), high, sums)
    return add_up(sums)[: len(w2)].copy()
