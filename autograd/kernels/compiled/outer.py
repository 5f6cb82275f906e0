"""Weight gradients: A^T B of two tall matrices, block by block while the rows lie in the cache.

Compiled code that passes over the rows of a layer calls this with each block. So what the gradient is made of (the
hidden rows of an MLP, and their gradients) never goes through main memory.

Both blocks are packed in panels of the columns that a tile reads: HEIGHT of A, COLUMNS of B. The sums lie in panels of
COLUMNS columns, too, so that tiles write them in the order of memory. Each piece has a partial sum of its own. The
partial sums are added up in order, so that the bits do not depend on the threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import even_pieces, run_pieces
from autograd.kernels.compiled.tiles import COLUMNS, HEIGHT, LANES, copy_vectors, make_tile, padded_columns
from autograd.kernels.compiled.toolkit import jit, read, write

__all__ = ["add_outer", "add_rows", "gradient", "make_partials", "most_pieces", "scratch_size"]

_VECTORS = -(-HEIGHT // LANES)  # that hold a row of a panel of A
_MANY_WEIGHTS = 1 << 17  # from this size on a gradient is added up by all threads
_ROWS = 1024  # of a piece, if there are enough: to clear and add up its partial sum costs as much as 30 rows

_tile = make_tile(HEIGHT, start="apart")


# ---- compiled


@jit
def _padded_height(left: int) -> int:
    """``left`` rounded up to whole tiles."""
    return -(-left // HEIGHT) * HEIGHT


@jit
def scratch_size(rows: int, columns: int) -> int:
    """Elements of scratch memory that :func:`add_outer` needs for a block of one matrix."""
    return rows * (columns + HEIGHT + COLUMNS) + _VECTORS * LANES


@jit
def _pack_left(a: Any, first: int, rows: int, panels: Any) -> None:
    """Rows [first, first + rows) of A (rows, left) in panels of HEIGHT columns, the last one padded with zeros.

    A row of a panel is copied as whole vectors. They may reach into the next row, which is then written over them.
    """
    columns = a.shape[1]
    for start in range(0, columns, HEIGHT):
        at = start * rows
        if start + _VECTORS * LANES <= columns:
            for r in range(rows):
                copy_vectors(a, (first + r) * columns + start, panels, at + r * HEIGHT, _VECTORS)
        else:
            for r in range(rows):
                for c in range(HEIGHT):
                    panels[at + r * HEIGHT + c] = a[first + r, start + c] if start + c < columns else 0


@jit
def _pack_right(b: Any, first: int, rows: int, panels: Any) -> None:
    """Rows [first, first + rows) of B (rows, right) in panels of COLUMNS columns, the last one padded with zeros."""
    columns = b.shape[1]
    whole = columns // COLUMNS * COLUMNS
    for r in range(rows):
        for start in range(0, whole, COLUMNS):
            copy_vectors(b, (first + r) * columns + start, panels, start * rows + r * COLUMNS, COLUMNS // LANES)
    if whole < columns:
        for r in range(rows):
            for c in range(COLUMNS):
                panels[whole * rows + r * COLUMNS + c] = b[first + r, whole + c] if whole + c < columns else 0


@jit
def add_outer(
    a: Any, a_first: int, b: Any, b_first: int, rows: int, a_panels: Any, b_panels: Any, partial: Any
) -> None:
    """partial += A^T B of a block of rows.

    Args:
        a: (all rows, left), C-ordered.
        a_first: the block's first row in A.
        b: (all rows, right), C-ordered.
        b_first: the block's first row in B.
        rows: of the block.
        a_panels: scratch memory, see :func:`scratch_size`.
        b_panels: the same for B.
        partial: a row of :func:`make_partials`.
    """
    left, right = a.shape[1], b.shape[1]
    high = _padded_height(left)
    _pack_left(a, a_first, rows, a_panels)
    _pack_right(b, b_first, rows, b_panels)
    for j in range(0, right, COLUMNS):
        for i in range(0, left, HEIGHT):
            at = j * high + i * COLUMNS
            _tile(a_panels, i * rows, 1, HEIGHT, b_panels, j * rows, COLUMNS, partial, at, COLUMNS, rows)


@jit
def add_rows(maps: Any, at: int, padded: int, rows: int, total: Any) -> None:
    """total (padded,) += the sum of a block of rows. The block is summed first, which rounds less than one long sum.

    Args:
        maps: flat rows of ``padded`` elements.
        at: where the block begins.
        padded: elements of a row.
        rows: of the block.
        total: (padded,).
    """
    block_sum = np.zeros(padded, total.dtype)
    for i in range(rows):
        for c in range(padded):
            write(block_sum, c, read(block_sum, c) + read(maps, at + i * padded + c))
    for c in range(padded):
        write(total, c, read(total, c) + read(block_sum, c))


@jit
def _add_up(partials: Any, left: int, right: int, flipped: bool, out: Any, _: int, start: int, stop: int) -> None:
    """Panels [start, stop) of the gradient, (left, right), or ``flipped`` (right, left)."""
    high = _padded_height(left)
    total = np.empty(COLUMNS, partials.dtype)
    for panel in range(start, stop):
        first = panel * COLUMNS
        width = min(COLUMNS, right - first)
        for i in range(left):
            at = first * high + i * COLUMNS
            total[:] = partials[0, at : at + COLUMNS]
            for piece in range(1, partials.shape[0]):
                for c in range(COLUMNS):
                    total[c] += partials[piece, at + c]
            if flipped:
                for c in range(width):
                    out[first + c, i] = total[c]
            else:
                out[i, first : first + width] = total[:width]


# ---- on the Python side


def most_pieces(rows: int) -> int:
    """The largest number of pieces, 4 to 16, for rows that give a weight's gradient."""
    return min(16, max(4, rows // _ROWS))


def make_partials(pieces: int, left: int, right: int, dtype: Any) -> Any:
    """Memory for the partial sum of each piece, of A^T B for A (rows, left) and B (rows, right): (pieces, elements)."""
    return empty((pieces, padded_columns(right) * _padded_height(left)), dtype)


def gradient(partials: Any, left: int, right: int, flipped: bool) -> Any:
    """The total of :func:`make_partials`: (left, right), or its transpose (right, left) if ``flipped``."""
    out = np.empty((right, left) if flipped else (left, right), partials.dtype)
    panels = -(-right // COLUMNS)
    pieces = even_pieces(panels, min(panels, 8) if out.size >= _MANY_WEIGHTS else 1)
    run_pieces(_add_up, pieces, partials, left, right, flipped, out)
    return out
