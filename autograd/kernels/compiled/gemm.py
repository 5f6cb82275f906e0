"""Products of a tall matrix and a weight, A B + bias, with register blocking and without BLAS.

BLAS packs both operands anew for every call. At the inner sizes of a Swin (96 to 768) that takes up to a fifth of the
product's time. Here the weight alone is packed, once for all rows: in panels of COLUMNS columns, each row-major, so
that a tile reads contiguous memory. The product of a range of rows is one compiled function. Other compiled code calls
it and goes on with these rows while they are in the cache.

Each element of the result is one sum in the order of the inner index, so it does not depend on the pieces.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import even_pieces, pieces_between, run_pieces
from autograd.kernels.compiled.tiles import COLUMNS, HEIGHT, make_tile_on_bias, padded_columns
from autograd.kernels.compiled.toolkit import jit

__all__ = ["Packed", "even_block", "is_tall", "multiply_rows", "pack", "product_rows", "tile_pieces"]

_BLOCK = 96  # rows, about: they stay in the cache while all panels are read
_LEAST_ROWS, _MOST_DEPTH = 768, 1536  # otherwise it costs too much to pack the weight, or panels leave the cache
_PIECE_WORK = 1 << 21  # multiply-adds of a piece, at least
_MANY_WEIGHTS = 1 << 17  # from this size on a weight is packed by all threads

_tile = make_tile_on_bias(HEIGHT)


def is_tall(rows: int, weight: Any) -> bool:
    """Whether the product of a matrix of ``rows`` rows and ``weight`` is faster here than by BLAS."""
    return weight.dtype == np.float32 and rows >= _LEAST_ROWS and max(weight.shape) <= _MOST_DEPTH


class Packed:
    """A weight in panels, and its bias padded to whole panels.

    Attributes:
        panels: (panels * depth * COLUMNS,).
        bias: (panels * COLUMNS,).
        depth: inner size of the product.
        columns: of the result.
    """

    __slots__ = ("bias", "columns", "depth", "panels")

    def __init__(self, depth: int, columns: int, bias: Any | None, dtype: Any) -> None:
        self.depth, self.columns = depth, columns
        self.panels = np.empty(padded_columns(columns) * depth, dtype)
        self.bias = np.zeros(padded_columns(columns), dtype)
        if bias is not None:
            self.bias[:columns] = bias


@jit
def _pack_rows(weight: Any, panels: Any, _: int, start: int, stop: int) -> None:
    """Panels [start, stop) of B = weight (depth, columns)."""
    depth, columns = weight.shape
    for panel in range(start, stop):
        first = panel * COLUMNS
        width = min(COLUMNS, columns - first)
        out = panels[first * depth : (first + COLUMNS) * depth]
        for k in range(depth):
            for c in range(COLUMNS):
                out[k * COLUMNS + c] = weight[k, first + c] if c < width else 0


@jit
def _pack_columns(weight: Any, panels: Any, _: int, start: int, stop: int) -> None:
    """Panels [start, stop) of B = weight^T, weight (columns, depth)."""
    columns, depth = weight.shape
    for panel in range(start, stop):
        first = panel * COLUMNS
        width = min(COLUMNS, columns - first)
        out = panels[first * depth : (first + COLUMNS) * depth]
        if width < COLUMNS:
            out[:] = 0
        for c in range(width):
            for k in range(depth):
                out[k * COLUMNS + c] = weight[first + c, k]


def pack(weight: Any, transposed: bool, bias: Any | None = None) -> Packed:
    """Pack a weight for :func:`product_rows`.

    Args:
        weight: B (depth, columns), C-ordered; its transpose if ``transposed``.
        transposed: whether ``weight`` is B^T (columns, depth).
        bias: (columns,), or None for 0.
    """
    depth, columns = weight.shape[::-1] if transposed else weight.shape
    packed = Packed(depth, columns, bias, weight.dtype)
    kernel = _pack_columns if transposed else _pack_rows
    panels = -(-columns // COLUMNS)
    count = 4 if weight.size >= _MANY_WEIGHTS and panels >= 4 else 1
    run_pieces(kernel, even_pieces(panels, count), weight, packed.panels)
    return packed


@jit
def even_block(rows: int) -> int:
    """The rows of a block, if ``rows`` are divided into equal blocks of whole tiles: at most 1.5 times _BLOCK. They are
    equal because a last block of a few rows would still cost a whole pass over the weight."""
    blocks = max(1, (rows + _BLOCK // 2) // _BLOCK)
    return max(1, -(-rows // (blocks * HEIGHT))) * HEIGHT


@jit
def _edge(a: Any, row: int, panels: Any, at: int, bias: Any, first: int, out: Any, rows: int, width: int) -> None:
    """A tile that reaches beyond the result: computed as a whole one in scratch memory, and copied in part."""
    depth = a.shape[1]
    left, whole = np.zeros((HEIGHT, depth), a.dtype), np.empty((HEIGHT, COLUMNS), a.dtype)
    left[:rows] = a[row : row + rows]
    _tile(left, 0, depth, 1, panels, at, COLUMNS, whole, 0, COLUMNS, depth, bias, first)
    out[row : row + rows, first : first + width] = whole[:rows, :width]


@jit
def multiply_rows(a: Any, panels: Any, bias: Any, out: Any, start: int, stop: int) -> None:
    """out[start:stop] = a[start:stop] B + bias.

    Args:
        a: (rows, depth), C-ordered.
        panels: B, see :class:`Packed`.
        bias: see :class:`Packed`.
        out: (rows, columns), C-ordered.
        start: the first row.
        stop: the row after the last.
    """
    depth, columns = a.shape[1], out.shape[1]
    whole_columns, block = columns // COLUMNS * COLUMNS, even_block(stop - start)
    for top in range(start, stop, block):
        bottom = min(top + block, stop)
        whole_rows = top + (bottom - top) // HEIGHT * HEIGHT
        for first in range(0, whole_columns, COLUMNS):
            at = first * depth
            for row in range(top, whole_rows, HEIGHT):
                c = row * columns + first
                _tile(a, row * depth, depth, 1, panels, at, COLUMNS, out, c, columns, depth, bias, first)
        for first in range(0, columns, COLUMNS):
            width = min(COLUMNS, columns - first)
            for row in range(top if width < COLUMNS else whole_rows, bottom, HEIGHT):
                _edge(a, row, panels, first * depth, bias, first, out, min(HEIGHT, bottom - row), width)


@jit
def _multiply(a: Any, panels: Any, bias: Any, out: Any, _: int, start: int, stop: int) -> None:
    multiply_rows(a, panels, bias, out, start, stop)


def product_rows(a: Any, packed: Packed) -> Any:
    """a B + bias of all rows, by all threads.

    Args:
        a: (rows, depth), C-ordered.
        packed: B (depth, columns) and the bias.

    Returns:
        (rows, columns), a new array.
    """
    out = empty((len(a), packed.columns), a.dtype)
    pieces = tile_pieces(len(a), a.shape[1] * packed.columns)
    run_pieces(_multiply, pieces, a, packed.panels, packed.bias, out)
    return out


@lru_cache(maxsize=512)
def tile_pieces(rows: int, work: int, most: int = 16) -> Any:
    """Pieces of whole tiles and nearly equal sizes, each with enough work to wake a thread for.

    Args:
        rows: in all.
        work: multiply-adds per row.
        most: the largest number of pieces.

    Returns:
        (pieces, 2), the start and stop of each.
    """
    count = max(1, min(most, rows // _BLOCK, rows * work // _PIECE_WORK))
    return pieces_between([rows * i // count // HEIGHT * HEIGHT for i in range(count)] + [rows])
