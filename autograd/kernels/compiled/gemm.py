"""Products of a tall matrix and a weight: A B + bias, by tiles that stay in registers, without BLAS.

BLAS arranges both operands anew for every call, which at the inner sizes of a Swin (96 to 768) costs as much as a fifth
of the product. Here the weight alone is arranged, once for all rows: in panels of COLUMNS columns, row after row, so
that a tile reads it as it lies. Everything is one compiled call on a range of rows, which other compiled code can go on
with while the rows are in the cache.

Each number of the result is one sum in the order of the inner index, so it does not depend on how rows are cut.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import cut_at, even_pieces, run_pieces
from autograd.kernels.compiled.tiles import COLUMNS, HEIGHT, make_tile_on_bias, padded_columns
from autograd.kernels.compiled.toolkit import jit

__all__ = ["Packed", "even_block", "is_tall", "multiply_rows", "pack", "product_rows", "row_pieces"]

_BLOCK = 96  # about so many rows stay in the cache while all panels pass
_LEAST_ROWS, _MOST_DEPTH = 768, 1536  # otherwise arranging the weight costs too much, or panels leave the cache
_WORTH = 1 << 21  # multiply-adds, of a piece
_SHARE = 1 << 17  # numbers from which a weight is packed by all threads

_tile = make_tile_on_bias(HEIGHT)


def is_tall(rows: int, weight: Any) -> bool:
    """Whether a product of so many rows with ``weight`` is faster here than by BLAS."""
    return weight.dtype == np.float32 and rows >= _LEAST_ROWS and max(weight.shape) <= _MOST_DEPTH


class Packed:
    """A weight in panels, and the bias padded to whole panels.

    Attributes:
        panels: (panels * depth * COLUMNS,).
        bias: (padded columns,).
        depth: inner size.
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
    """B = weight (depth, columns), or weight^T of a weight (columns, depth), for :func:`product_rows`."""
    depth, columns = weight.shape[::-1] if transposed else weight.shape
    packed = Packed(depth, columns, bias, weight.dtype)
    arrange = _pack_columns if transposed else _pack_rows
    count = -(-columns // COLUMNS)
    shares = 4 if weight.size >= _SHARE and count >= 4 else 1
    run_pieces(arrange, even_pieces(count, shares), weight, packed.panels)
    return packed


@jit
def even_block(rows: int) -> int:
    """The size of blocks of rows: equal ones, of whole tiles, at most half as large again as _BLOCK. A last block of a
    few rows would cost a whole pass over the weight."""
    blocks = max(1, (rows + _BLOCK // 2) // _BLOCK)
    return max(1, -(-rows // (blocks * HEIGHT))) * HEIGHT


@jit
def _edge(a: Any, row: int, panels: Any, at: int, bias: Any, first: int, out: Any, rows: int, width: int) -> None:
    """A tile that reaches beyond the result, by way of a whole one."""
    depth = a.shape[1]
    left, whole = np.zeros((HEIGHT, depth), a.dtype), np.empty((HEIGHT, COLUMNS), a.dtype)
    left[:rows] = a[row : row + rows]
    _tile(left, 0, depth, 1, panels, at, COLUMNS, whole, 0, COLUMNS, depth, bias, first)
    out[row : row + rows, first : first + width] = whole[:rows, :width]


@jit
def multiply_rows(a: Any, panels: Any, bias: Any, out: Any, start: int, stop: int) -> None:
    """out[start:stop] = a[start:stop] B + bias.

    Args:
        a: (rows, depth).
        panels: of a :class:`Packed`; likewise bias.
        bias: see panels.
        out: (rows, columns).
        start: first row.
        stop: behind the last row.
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
def _piece(a: Any, panels: Any, bias: Any, out: Any, _: int, start: int, stop: int) -> None:
    multiply_rows(a, panels, bias, out, start, stop)


def product_rows(a: Any, packed: Packed) -> Any:
    """a B + bias by all threads, as a new array."""
    out = empty((len(a), packed.columns), a.dtype)
    cut = row_pieces(len(a), a.shape[1] * packed.columns)
    run_pieces(_piece, cut, a, packed.panels, packed.bias, out)
    return out


@lru_cache(maxsize=512)
def row_pieces(rows: int, work: int, most: int = 16) -> Any:
    """(start, stop) of up to ``most`` pieces of about equal size, of whole tiles, each worth waking a thread for.

    Args:
        rows: in all.
        work: multiply-adds a row.
        most: pieces.
    """
    count = max(1, min(most, rows // _BLOCK, rows * work // _WORTH))
    return cut_at([rows * i // count // HEIGHT * HEIGHT for i in range(count)] + [rows])
