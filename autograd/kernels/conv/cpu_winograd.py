"""3x3 convolutions with 2.8 times fewer multiplications: Winograd's minimal filtering F(3 x 3, 3 x 3).

A tile of 3 x 3 outputs depends on 5 x 5 inputs. Both are polynomials, and a product of polynomials is a product of
their values at enough points: here 5 along each axis. So tiles are evaluated at 25 points (B^T d B), multiplied by the
weight's values there, channel by channel, which is one matrix product for each point, and brought back (A^T m A).

Source: Lavin and Gray 2016; the matrices are Cook's and Toom's. The usual points (0, +-1, 1/2) round several times as
much as (+-1/2, +-5/4, infinity), whose pairs share their even and odd parts and are exact in binary. The error is that
of a direct float32 sum over all taps, but not pixelwise: it is relative to the largest input of a tile, and an infinity
reaches every output of its tiles.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numba.core import cgutils, types

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import even_pieces, run_pieces
from autograd.kernels.compiled.tiles import COLUMNS, HEIGHT, LANES, Matrix, fused_multiply_add, make_tile
from autograd.kernels.compiled.toolkit import instruction, jit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["convolve", "suits", "weight_gradient"]

_Matrix: TypeAlias = "list[list[Fraction]]"

_OUT = 3  # outputs of a tile along an axis
_IN = _OUT + 2
_POINTS = _IN * _IN
_FINITE = [Fraction(n, 4) for n in (2, -2, 5, -5)]
_BLOCK = 96  # tiles that are computed together: they stay in the cache while the weight passes
_CHUNK = 256  # channels at a time: a panel of them stays in the first-level cache
_APART = 5 * LANES  # between points, so that their streams do not meet in one set of the cache
_LEAST_PIXELS = 256  # of a map: below, to bring the weight to the points takes longer than is saved
_GRADIENT_BYTES = 1 << 24  # of the values at points that a weight's gradient is summed from at a time
_TALL = 8 if LANES == 16 else 4  # rows of a gradient's tile, which divide a panel; 32 registers hold 16 sums


# ---- the matrices


def _with_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root)."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [root * c for c in coefficients] + [Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _cook_toom() -> tuple[_Matrix, _Matrix, _Matrix]:
    """A^T (outputs, points), G (points, 3), B^T (points, inputs), exact; the last point is infinity.

    Powers of two move between rows of G and of B^T, so that those of G are near 1.
    """
    back = [[p**i for p in _FINITE] + [Fraction(int(i == _OUT - 1))] for i in range(_OUT)]
    weights, inputs = [], []
    for p in _FINITE:
        others = [q for q in _FINITE if q != p]
        norm = math.prod((p - q for q in others), start=Fraction(1))
        row = [p**k / norm for k in range(3)]
        power = Fraction(2) ** round(math.log2(max(map(abs, row))))
        weights.append([value / power for value in row])
        inputs.append([value * power for value in _with_roots(others)] + [Fraction(0)])
    weights.append([Fraction(0), Fraction(0), Fraction(1)])
    inputs.append(_with_roots(_FINITE))
    return back, weights, inputs


_BACK, _WEIGHTS, _INPUTS = _cook_toom()
# (points, taps), of both axes
_KERNEL = np.kron(*[np.array([[float(v) for v in row] for row in _WEIGHTS])] * 2).astype(np.float32)


# ---- transforms of vectors of channels, in LLVM's language


def _combined(builder: Any, matrix: _Matrix, values: list[Any]) -> list[Any]:
    """``matrix`` times vectors. Neighbouring rows that belong to points +-p share their even and their odd part."""
    fma, kind = fused_multiply_add(builder, values[0].type), values[0].type

    def total(row: list[Fraction], columns: list[int]) -> Any:
        sum_ = None
        for j in sorted((j for j in columns if row[j]), key=lambda j: abs(row[j]) != 1):
            factor = kind([float(row[j])] * LANES)
            if sum_ is None:
                sum_ = values[j] if row[j] == 1 else builder.fmul(values[j], factor)
            elif abs(row[j]) == 1:
                sum_ = (builder.fadd if row[j] == 1 else builder.fsub)(sum_, values[j])
            else:
                sum_ = builder.call(fma, [values[j], factor, sum_])
        return sum_

    results: list[Any] = []
    while len(results) < len(matrix):
        row = matrix[len(results)]
        after = matrix[len(results) + 1] if len(results) + 1 < len(matrix) else []
        even = [j for j, v in enumerate(row) if v and after and v == after[j]]
        odd = [j for j, v in enumerate(row) if v and after and v == -after[j]]
        if even and odd and len(even) + len(odd) == sum(v != 0 for v in row) == sum(v != 0 for v in after):
            e, o = total(row, even), total(row, odd)
            results += [builder.fadd(e, o), builder.fsub(e, o)]
        else:
            results.append(total(row, list(range(len(row)))))
    return results


def _both_axes(builder: Any, matrix: _Matrix, grid: list[list[Any]]) -> list[list[Any]]:
    """matrix grid matrix^T."""
    columns = [_combined(builder, matrix, list(column)) for column in zip(*grid, strict=True)]
    return [_combined(builder, matrix, list(row)) for row in zip(*columns, strict=True)]


def _generate_to_points(context: Any, builder: Any, signature: Any, args: Any, matrix: _Matrix) -> Any:
    x, at, row, column, vectors, to, to_at, apart, pair = args
    source, target = (
        Matrix(context, builder, signature.args[0], x, at),
        Matrix(context, builder, signature.args[5], to, to_at),
    )
    size = range(len(matrix[0]))
    with cgutils.for_range(builder, vectors) as loop:
        here, half = loop.index, loop.index.type(1)
        channel = builder.mul(here, here.type(LANES))

        def place(i: int, j: int) -> Any:
            return builder.add(channel, builder.add(builder.mul(row, row.type(i)), builder.mul(column, column.type(j))))

        values = _both_axes(builder, matrix, [[source.load(place(i, j), 0) for j in size] for i in size])
        in_pair = builder.mul(builder.and_(here, half), here.type(LANES))
        start = builder.add(builder.mul(builder.lshr(here, half), pair), in_pair)
        for n, value in enumerate(v for values_of_row in values for v in values_of_row):
            target.store(value, builder.add(start, builder.mul(apart, apart.type(n))), 0)
    return context.get_dummy_value()


def _to_points(matrix: _Matrix) -> Callable[..., None]:
    """A compiled function: the values at the points of a square of pixels, for vectors of channels.

    Its arguments are the map, the offset of the square, the distances of its rows and columns, and the number of
    vectors; the memory of the values, an offset in it, the distance of the points, and that of pairs of vectors.
    """

    @instruction
    def transform(
        context: Any, x: Any, at: Any, row: Any, column: Any, vectors: Any, to: Any, to_at: Any, apart: Any, pair: Any
    ) -> Any:
        n = types.intp
        return types.void(x, n, n, n, n, to, n, n, n), partial(_generate_to_points, matrix=matrix)

    return transform


@instruction
def _from_points(
    context: Any, values: Any, at: Any, apart: Any, vectors: Any, bias: Any, to: Any, to_at: Any, row: Any, column: Any
) -> Any:
    """The outputs of a tile, plus the bias: the memory of the values, an offset in it, the distance of the points, the
    number of vectors; the bias; the map, the offset of the tile in it, and the distances of its rows and columns."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, at, apart, vectors, bias, to, to_at, row, column = args
        source = Matrix(context, builder, signature.args[0], values, at)
        added = Matrix(context, builder, signature.args[4], bias, at.type(0))
        target = Matrix(context, builder, signature.args[5], to, to_at)
        with cgutils.for_range(builder, vectors) as loop:
            channel = builder.mul(loop.index, loop.index.type(LANES))
            places = [builder.add(channel, builder.mul(apart, apart.type(n))) for n in range(_POINTS)]
            grid = [[source.load(place, 0) for place in places[i : i + _IN]] for i in range(0, _POINTS, _IN)]
            more = added.load(channel, 0)
            for i, values_of_row in enumerate(_both_axes(builder, _BACK, grid)):
                for j, value in enumerate(values_of_row):
                    shift = builder.add(builder.mul(row, row.type(i)), builder.mul(column, column.type(j)))
                    target.store(builder.fadd(value, more), builder.add(channel, shift), 0)
        return context.get_dummy_value()

    n = types.intp
    return types.void(values, n, n, n, bias, to, n, n, n), generate


_inputs_at_points = _to_points(_INPUTS)
_gradients_at_points = _to_points([list(column) for column in zip(*_BACK, strict=True)])
_tile = make_tile(HEIGHT)
_tile_apart = make_tile(HEIGHT, start="apart")
_tall_tile = make_tile(_TALL, start="apart")


# ---- tiles of a map


@jit
def _place(tile: int, height: int, width: int) -> Any:
    """Image, row and column of a tile's first output."""
    across, down = -(-width // _OUT), -(-height // _OUT)
    return tile // (across * down), tile // across % down * _OUT, tile % across * _OUT


@jit
def _square(x: Any, image: int, top: int, left: int, size: int, first: int, depth: int, edge: Any) -> Any:
    """Whether a square of pixels lies inside the map; if not, ``edge`` holds it, with zeros outside the map."""
    _, height, width, channels = x.shape
    if top >= 0 and left >= 0 and top + size <= height and left + size <= width:
        return True
    edge[: size * size * depth] = 0
    flat = x.ravel()
    for y in range(max(top, 0), min(top + size, height)):
        for z in range(max(left, 0), min(left + size, width)):
            at, to = ((image * height + y) * width + z) * channels + first, ((y - top) * size + z - left) * depth
            for c in range(depth):
                edge[to + c] = flat[at + c]
    return False


@jit
def _forward(x: Any, u: Any, apart: int, bias: Any, out: Any, _: int, start: int, stop: int) -> None:
    """Tiles [start, stop): values at the points, a product for each point, and back, block by block."""
    _, height, width, channels = x.shape
    outputs, wide = out.shape[3], len(bias)
    rows = -(-min(_BLOCK, stop - start) // HEIGHT) * HEIGHT
    v_apart, m_apart = rows * min(_CHUNK, channels) + _APART, rows * wide + _APART
    v, m = np.empty(_POINTS * v_apart, x.dtype), np.empty(_POINTS * m_apart, x.dtype)
    edge = np.empty(_POINTS * max(min(_CHUNK, channels), outputs), x.dtype)
    for block in range(start, stop, _BLOCK):
        count = min(_BLOCK, stop - block)
        for first in range(0, channels, _CHUNK):
            depth = min(_CHUNK, channels - first)
            for t in range(count):
                image, top, left = _place(block + t, height, width)
                if _square(x, image, top - 1, left - 1, _IN, first, depth, edge):
                    at = ((image * height + top - 1) * width + left - 1) * channels + first
                    _inputs_at_points(x, at, width * channels, channels, depth // LANES, v, t * depth, v_apart, COLUMNS)
                else:
                    _inputs_at_points(edge, 0, _IN * depth, depth, depth // LANES, v, t * depth, v_apart, COLUMNS)
            for p in range(_POINTS):
                for j in range(0, wide, COLUMNS):
                    b = p * apart + j * channels + first * COLUMNS
                    for r in range(0, count, HEIGHT):
                        a, c = p * v_apart + r * depth, p * m_apart + r * wide + j
                        if first == 0:
                            _tile(v, a, depth, 1, u, b, COLUMNS, m, c, wide, depth)
                        else:
                            _tile_apart(v, a, depth, 1, u, b, COLUMNS, m, c, wide, depth)
        for t in range(count):
            _put(m, t * wide, m_apart, bias, out, block + t, edge)


@jit
def _put(m: Any, at: int, apart: int, bias: Any, out: Any, tile: int, edge: Any) -> None:
    """The outputs of a tile, as far as they lie in the map."""
    _, height, width, outputs = out.shape
    image, top, left = _place(tile, height, width)
    to = ((image * height + top) * width + left) * outputs
    if top + _OUT <= height and left + _OUT <= width:
        _from_points(m, at, apart, outputs // LANES, bias, out, to, width * outputs, outputs)
        return
    _from_points(m, at, apart, outputs // LANES, bias, edge, 0, _OUT * outputs, outputs)
    flat = out.ravel()
    for y in range(min(_OUT, height - top)):
        for z in range(min(_OUT, width - left)):
            for c in range(outputs):
                flat[to + (y * width + z) * outputs + c] = edge[(y * _OUT + z) * outputs + c]


@jit
def _pack(weight: Any, turned: bool, taps: Any, _: int, start: int, stop: int) -> None:
    """Panels [start, stop) of each tap's matrix: (taps, panels, depth, COLUMNS)."""
    depth = taps.shape[2]
    columns = weight.shape[1] if turned else weight.shape[0]
    for panel in range(start, stop):
        for k in range(depth):
            for j in range(COLUMNS):
                column = panel * COLUMNS + j
                for t in range(9):
                    if column >= columns:
                        taps[t, panel, k, j] = 0
                    elif turned:
                        taps[t, panel, k, j] = weight[k, column, 2 - t // 3, 2 - t % 3]
                    else:
                        taps[t, panel, k, j] = weight[column, k, t // 3, t % 3]


# ---- on the Python side


def suits(x: Any, weight: Any, stride: Any, padding: Any) -> bool:
    """Whether these maps are convolved here: it depends on one image and the weight, never on the batch."""
    return (
        x.dtype == np.float32
        and (*weight.shape[2:], *stride, *padding) == (3, 3, 1, 1, 1, 1)
        and not (weight.shape[0] % LANES or weight.shape[1] % LANES)
        and x.shape[2] * x.shape[3] >= _LEAST_PIXELS
    )


def _weight_at_points(weight: Any, turned: bool) -> tuple[Any, int]:
    """The weight's values, (points, panels, depth, COLUMNS) flat, and the distance of the points."""
    depth, columns = weight.shape[:2] if turned else weight.shape[1::-1]
    panels = -(-columns // COLUMNS)
    taps = empty((9, panels, depth, COLUMNS), weight.dtype)
    run_pieces(_pack, even_pieces(panels, min(panels, 8)), weight, turned, taps)
    size = panels * depth * COLUMNS
    u = empty((_POINTS, size + _APART), weight.dtype)
    np.matmul(_KERNEL, taps.reshape(9, size), out=u[:, :size])
    return u.reshape(-1), size + _APART


def convolve(x: Any, weight: Any, bias: Any | None, turned: bool = False) -> Any:
    """The convolution with padding 1, or by the ``turned`` kernel from outputs to inputs.

    Args:
        x: (B, H, W, C), C-ordered.
        weight: (O, C, 3, 3), C-ordered; (C, O, 3, 3) if turned.
        bias: (O,) or None.

    Returns:
        (B, H, W, O).
    """
    batch, height, width, _ = x.shape
    outputs = weight.shape[1] if turned else weight.shape[0]
    u, apart = _weight_at_points(weight, turned)
    more = np.zeros(-(-outputs // COLUMNS) * COLUMNS, x.dtype)
    if bias is not None:
        more[:outputs] = bias
    out = empty((batch, height, width, outputs), x.dtype)
    tiles = batch * -(-height // _OUT) * -(-width // _OUT)
    run_pieces(_forward, even_pieces(tiles, max(1, min(16, tiles // _BLOCK))), x, u, apart, more, out)
    return out


@jit
def _spread(x: Any, g: Any, v: Any, w: Any, first: int, rows: int, _: int, start: int, stop: int) -> None:
    """Values at the points of tiles first + [start, stop), of inputs in ``v`` and of gradients in ``w``, in panels."""
    _, height, width, channels = x.shape
    outputs = g.shape[3]
    v_apart, w_apart = len(v) // _POINTS, len(w) // _POINTS
    edge = np.empty(_POINTS * max(channels, outputs), x.dtype)
    for t in range(start, stop):
        image, top, left = _place(first + t, height, width)
        vectors, at = channels // LANES, ((image * height + top - 1) * width + left - 1) * channels
        if _square(x, image, top - 1, left - 1, _IN, 0, channels, edge):
            _inputs_at_points(x, at, width * channels, channels, vectors, v, t * COLUMNS, v_apart, rows * COLUMNS)
        else:
            _inputs_at_points(edge, 0, _IN * channels, channels, vectors, v, t * COLUMNS, v_apart, rows * COLUMNS)
        vectors, at = outputs // LANES, ((image * height + top) * width + left) * outputs
        if _square(g, image, top, left, _OUT, 0, outputs, edge):
            _gradients_at_points(g, at, width * outputs, outputs, vectors, w, t * COLUMNS, w_apart, rows * COLUMNS)
        else:
            _gradients_at_points(edge, 0, _OUT * outputs, outputs, vectors, w, t * COLUMNS, w_apart, rows * COLUMNS)


@jit
def _multiply(v: Any, w: Any, u: Any, rows: int, count: int, outputs: int, _: int, start: int, stop: int) -> None:
    """u += v^T w at points [start, stop)."""
    panels, channels = u.shape[1], u.shape[2]
    v_apart, w_apart = len(v) // _POINTS, len(w) // _POINTS
    for p in range(start, stop):
        for j in range(panels):
            for i in range(0, channels, _TALL):
                a = p * v_apart + i // COLUMNS * rows * COLUMNS + i % COLUMNS
                c = ((p * panels + j) * channels + i) * COLUMNS
                _tall_tile(v, a, 1, COLUMNS, w, p * w_apart + j * rows * COLUMNS, COLUMNS, u, c, COLUMNS, count)


def weight_gradient(g: Any, x: Any) -> Any:
    """The weight's gradient of :func:`convolve`, not turned: the adjoint, V^T (A g A^T) at each point.

    Threads take points, so that each sum has one order.

    Args:
        g: (B, H, W, O), C-ordered.
        x: (B, H, W, C), C-ordered.

    Returns:
        (O, C, 3, 3).
    """
    batch, height, width, channels = x.shape
    outputs = g.shape[3]
    of_inputs, panels = -(-channels // COLUMNS), -(-outputs // COLUMNS)
    tiles = batch * -(-height // _OUT) * -(-width // _OUT)
    most = _GRADIENT_BYTES // (_POINTS * (channels + outputs) * x.itemsize)
    rows = min(max(_BLOCK, most), tiles)
    v, w = (empty((_POINTS * (n * rows * COLUMNS + _APART),), x.dtype) for n in (of_inputs, panels))
    if outputs % COLUMNS:
        w[...] = 0  # half of the last panel is never written to
    u = empty((_POINTS, panels, channels, COLUMNS), x.dtype)
    u[...] = 0
    for first in range(0, tiles, rows):
        count = min(rows, tiles - first)
        run_pieces(_spread, even_pieces(count, max(1, min(8, count // 12))), x, g, v, w, first, rows)
        run_pieces(_multiply, even_pieces(_POINTS, _POINTS), v, w, u, rows, count, outputs)
    taps = _KERNEL.T @ u.reshape(_POINTS, -1)
    by_column = taps.reshape(3, 3, panels, channels, COLUMNS).transpose(2, 4, 3, 0, 1)
    return np.ascontiguousarray(by_column.reshape(panels * COLUMNS, channels, 3, 3)[:outputs])
