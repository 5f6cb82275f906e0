"""Greedy non-maximum suppression within groups of boxes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.extend import Cost, array_module, kernel, map_pieces

if TYPE_CHECKING:
    from autograd.extend import Array

__all__ = ["suppress"]


def _cost(boxes: Array, starts: Array, threshold: float) -> Cost:
    return Cost(max(16 * len(boxes), 1), boxes.nbytes + starts.nbytes + len(boxes))


@kernel(_cost)
def suppress(boxes: Array, starts: Array, threshold: float) -> Array:
    """Which boxes stay: from the first to the last of a group, a box goes if its IoU with one that stays is above the
    threshold.

    An IoU of exactly the threshold stays, and so do boxes without area (0 / 0 is above nothing). IoUs are computed as
    intersection / (area + area - intersection) in the boxes' dtype, each operation rounded, so that every
    implementation decides alike.

    Args:
        boxes: (N, 4), the boxes of a group side by side, by falling score.
        starts: (groups + 1,) where each group begins, and N; int64, on the host.
        threshold: of the IoU, 0 or more.

    Returns:
        (N,) booleans. On a GPU the overlaps of all pairs of a group are computed there, and read.
    """
    xp = array_module(boxes)
    keep = np.ones(len(boxes), bool)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

    def group(span: tuple[int, int]) -> None:
        own = slice(*span)
        x0, y0, x1, y1 = (xp.ascontiguousarray(side) for side in boxes[own].T)
        inside, areas = keep[own], area[own]

        def above(i: Any, others: slice) -> Any:
            width = xp.minimum(x1[i], x1[others]) - xp.maximum(x0[i], x0[others])
            height = xp.minimum(y1[i], y1[others]) - xp.maximum(y0[i], y0[others])
            inner = xp.maximum(width, 0) * xp.maximum(height, 0)
            union = areas[i] + areas[others] - inner
            return inner / xp.where(union == 0, 1, union) > threshold

        pairs = None if xp is np else above((slice(None), None), slice(None)).get()
        for i in range(len(inside)):
            if inside[i]:
                inside[i + 1 :] &= ~(above(i, slice(i + 1, None)) if pairs is None else pairs[i, i + 1 :])

    map_pieces(group, [(a, b) for a, b in pairwise(starts.tolist()) if b - a > 1])
    return xp.asarray(keep)
