"""Bilinear samples of small masks, one window of samples for each mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autograd.extend import Cost, accumulator, array_module, kernel, map_pieces

if TYPE_CHECKING:
    from autograd.extend import Array

__all__ = ["sample_windows"]


def _taps(at: Array, size: int) -> list[tuple[Array, Array]]:
    """The pixel below and above each position, and their weights; pixels that are not there weigh 0."""
    xp = array_module(at)
    at = at.clip(-1, size)
    low = xp.floor(at)
    share = at - low
    taps = []
    for pixel, weight in ((low, 1 - share), (low + 1, share)):
        there = (pixel >= 0) & (pixel < size)
        taps.append((xp.where(there, pixel, 0).astype(np.int64), xp.where(there, weight, 0)))
    return taps


def _cost(masks: Array, ys: Array, xs: Array, heights: Array, widths: Array) -> Cost:
    values = int((heights * widths).sum())
    read = masks.nbytes + ys.nbytes + xs.nbytes + heights.nbytes + widths.nbytes
    return Cost(max(8 * values, 1), read + values * masks.itemsize)


@kernel(_cost)
def sample_windows(masks: Array, ys: Array, xs: Array, heights: Array, widths: Array) -> Array:
    """Bilinear samples of each mask at the grid of its positions; 0 around the mask.

    Args:
        masks: (N, P, Q).
        ys: positions along y of all windows one after another, in pixels of the mask: 0 is the first pixel's centre.
            Beyond the mask, and at NaN, a sample is 0.
        xs: the same along x.
        heights: (N,) positions of each window along y, int64, on the host.
        widths: (N,) along x.

    Returns:
        The windows one after another, flat, each in C order.
    """
    xp, acc = array_module(masks), accumulator(masks.dtype)
    tops, lefts = (np.concatenate([[0], np.cumsum(n)]) for n in (heights, widths))
    ends = np.concatenate([[0], np.cumsum(heights * widths)])
    out = xp.empty(int(ends[-1]), masks.dtype)

    def compute(n: int) -> None:
        mask = masks[n].astype(acc, copy=False)
        (y0, wy0), (y1, wy1) = _taps(ys[tops[n] : tops[n + 1]].astype(acc, copy=False), mask.shape[0])
        (x0, wx0), (x1, wx1) = _taps(xs[lefts[n] : lefts[n + 1]].astype(acc, copy=False), mask.shape[1])
        rows = mask[y0] * wy0[:, None] + mask[y1] * wy1[:, None]
        out[ends[n] : ends[n + 1]] = (rows[:, x0] * wx0 + rows[:, x1] * wx1).reshape(-1)

    map_pieces(compute, list(range(len(masks))))
    return out
