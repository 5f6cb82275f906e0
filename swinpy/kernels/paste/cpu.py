"""Bilinear samples of small masks, compiled.

The twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.extend import empty
from autograd.kernels.compiled.pieces import even_pieces, run_pieces
from autograd.kernels.compiled.toolkit import jit, plain

__all__ = ["sample_windows"]


@jit
def _run(
    masks: Any, ys: Any, xs: Any, tops: Any, lefts: Any, ends: Any, out: Any, _: int, start: int, stop: int
) -> None:
    height, width = masks.shape[1:]
    kind = masks.dtype.type
    zero, one = kind(0), kind(1)
    row = np.empty(width, masks.dtype)
    for n in range(start, stop):
        columns = lefts[n + 1] - lefts[n]
        low, high = np.empty(columns, np.int64), np.empty(columns, np.int64)
        below, above = np.empty(columns, masks.dtype), np.empty(columns, masks.dtype)
        for x in range(columns):
            low[x], high[x], below[x], above[x] = _taps(xs[lefts[n] + x], width, zero, one)
        to = ends[n]
        for y in range(tops[n], tops[n + 1]):
            first, second, w0, w1 = _taps(ys[y], height, zero, one)
            for x in range(width):
                row[x] = masks[n, first, x] * w0 + masks[n, second, x] * w1
            for x in range(columns):
                out[to + x] = row[low[x]] * below[x] + row[high[x]] * above[x]
            to += columns


@jit
def _taps(at: Any, size: int, zero: Any, one: Any) -> Any:
    """The pixel below and above a position, and their weights; pixels that are not there weigh 0."""
    if at != at:
        return 0, 0, zero, zero
    at = min(max(at, -one), one * size)
    pixel = np.floor(at)
    low, share = int(pixel), at - pixel
    first, second, below, above = low, low + 1, one - share, zero + share
    if first < 0 or first >= size:
        first, below = 0, zero
    if second < 0 or second >= size:
        second, above = 0, zero
    return first, second, below, above


def sample_windows(masks: Any, ys: Any, xs: Any, heights: Any, widths: Any) -> Any:
    """Pieces are masks: a window's columns are found once, and each of its rows is blended before its pixels are."""
    tops, lefts = (np.concatenate([[0], np.cumsum(n)]) for n in (heights, widths))
    ends = np.concatenate([[0], np.cumsum(heights * widths)])
    out = empty((int(ends[-1]),), masks.dtype)
    pieces = even_pieces(len(masks), len(masks)) if len(masks) else even_pieces(0, 1)
    run_pieces(_run, pieces, plain(masks), plain(ys), plain(xs), tops, lefts, ends, out)
    return out
