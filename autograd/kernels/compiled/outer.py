"""Weight gradients, A^T B of two tall matrices, block of rows by block of rows while these lie in the cache.

Compiled code that goes through the rows of a layer anyway adds what each block gives, so that what the gradient is made
of (the hidden rows of an MLP and their gradients) never goes through main memory.

Both blocks are arranged in panels of the columns that a tile reads: HEIGHT of A, COLUMNS of B. The sums lie in panels
of COLUMNS columns, too: tiles go through them from the first number to the last. Each piece of the rows has sums of its
own, which are added up in order: the same bits with any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import even_pieces, run_pieces
from autograd.kernels.compiled.tiles import COLUMNS, HEIGHT, LANES, copy_vectors, make_tile, padded_columns
from autograd.kernels.compiled.toolkit import jit, read, write

__all__ = ["add_outer", "add_rows", "gradient", "piece_count", "room", "sums_of"]

_VECTORS = -(-HEIGHT // LANES)  # that hold a row of a panel of A
_SHARE = 1 << 17  # numbers from which all threads add up the pieces' sums
_ROWS = 1024  # of a piece, if there are enough of them: to clear and add up its sums costs as much as 30 rows

_tile = make_tile(HEIGHT, start="apart")


# ---- compiled


@jit
def _padded(left: int) -> int:
    return -(-left // HEIGHT) * HEIGHT


@jit
def room(rows: int, columns: int) -> int:
    """Numbers of scratch that :func:`add_outer` needs for a block of one matrix."""
    return rows * (columns + HEIGHT + COLUMNS) + _VECTORS * LANES


@jit
def _pack_left(a: Any, first: int, rows: int, panels: Any) -> None:
    """Rows [first, first + rows) of A (rows, left) in panels of HEIGHT columns, the last one filled up with zeros.

    A row of a panel is copied as whole vectors; what that writes too much is written over by the next row.
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
    """Rows [first, first + rows) of B (rows, right) in panels of COLUMNS columns, the last one filled up with zeros."""
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
def add_outer(a: Any, a_first: int, b: Any, b_first: int, rows: int, a_panels: Any, b_panels: Any, sums: Any) -> None:
    """sums += A^T B of ``rows`` rows, of A from a_first on and of B from b_first on.

    Args:
        a: (rows, left), C-ordered.
        a_first: its first row.
        b: (rows, right), C-ordered.
        b_first: its first row.
        rows: how many.
        a_panels: scratch, see :func:`room`.
        b_panels: the same for B.
        sums: a row of :func:`sums_of`.
    """
    left, right = a.shape[1], b.shape[1]
    high = _padded(left)
    _pack_left(a, a_first, rows, a_panels)
    _pack_right(b, b_first, rows, b_panels)
    for j in range(0, right, COLUMNS):
        for i in range(0, left, HEIGHT):
            at = j * high + i * COLUMNS
            _tile(a_panels, i * rows, 1, HEIGHT, b_panels, j * rows, COLUMNS, sums, at, COLUMNS, rows)


@jit
def add_rows(maps: Any, at: int, padded: int, rows: int, total: Any) -> None:
    """The sum of rows to ``total``, as wide as they with padding; by themselves first, which rounds less."""
    part = np.zeros(padded, total.dtype)
    for i in range(rows):
        for c in range(padded):
            write(part, c, read(part, c) + read(maps, at + i * padded + c))
    for c in range(padded):
        write(total, c, read(total, c) + read(part, c))


@jit
def _add_up(sums: Any, left: int, right: int, flipped: bool, out: Any, _: int, start: int, stop: int) -> None:
    """Panels [start, stop) of the gradient, (left, right), or ``flipped`` (right, left)."""
    high = _padded(left)
    total = np.empty(COLUMNS, sums.dtype)
    for panel in range(start, stop):
        first = panel * COLUMNS
        width = min(COLUMNS, right - first)
        for i in range(left):
            at = first * high + i * COLUMNS
            total[:] = sums[0, at : at + COLUMNS]
            for piece in range(1, sums.shape[0]):
                for c in range(COLUMNS):
                    total[c] += sums[piece, at + c]
            if flipped:
                for c in range(width):
                    out[first + c, i] = total[c]
            else:
                out[i, first : first + width] = total[:width]


# ---- on the Python side


def piece_count(rows: int) -> int:
    """Into how many pieces at most to cut rows that give a weight's gradient: 4 to 16."""
    return min(16, max(4, rows // _ROWS))


def sums_of(pieces: int, left: int, right: int, dtype: Any) -> Any:
    """(pieces, numbers): memory for what each piece gives to A^T B of A (rows, left) and B (rows, right)."""
    return empty((pieces, padded_columns(right) * _padded(left)), dtype)


def gradient(sums: Any, left: int, right: int, flipped: bool) -> Any:
    """The sums of all pieces added up: (left, right), or ``flipped`` (right, left)."""
    out = np.empty((right, left) if flipped else (left, right), sums.dtype)
    panels = -(-right // COLUMNS)
    run_pieces(
        _add_up, even_pieces(panels, min(panels, 8) if out.size >= _SHARE else 1), sums, left, right, flipped, out
    )
    return out
