"""Non-maximum suppression, and the best of many scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autograd.extend import array_module
from swinpy.kernels.nms import suppress

if TYPE_CHECKING:
    from autograd.extend import Array

__all__ = ["grouped_nms", "nms", "top_k"]


def top_k(scores: Array, k: int) -> Array:
    """The indices of the ``k`` largest of scores (N,), by falling score, ties by index; all if there are fewer.

    Args:
        scores: floats without NaN.
        k: 0 or more.
    """
    xp = array_module(scores)
    if k >= len(scores) or xp is not np:  # a partition would have to be read on the host
        return xp.argsort(-scores, kind="stable")[:k]
    if k == 0:
        return np.zeros(0, np.int64)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > least)
    chosen = np.sort(np.concatenate([above, np.flatnonzero(scores == least)[: k - len(above)]]))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def grouped_nms(boxes: Array, scores: Array, groups: Array, threshold: float) -> Array:
    """Greedy non-maximum suppression within each group (a class, a level).

    By falling score, ties by index, a box goes if its IoU with one that stays is above the threshold; exactly at it the
    box stays. Groups never meet: boxes are not shifted apart by their group's number, which costs bits and, in float16,
    lets groups suppress each other. On a GPU the sizes of groups are read, and without a kernel for it the overlaps.

    Args:
        boxes: (N, 4), float32 or float64.
        scores: (N,) without NaN.
        groups: (N,) integers.
        threshold: 0 to 1.

    Returns:
        Indices of those that stay, int64, by falling score, ties by index.

    Raises:
        ValueError: for arrays of other shapes or a threshold out of range.
    """
    if boxes.shape != (len(boxes), 4) or scores.shape != (len(boxes),) or groups.shape != (len(boxes),):
        raise ValueError(
            f"nms: expected boxes (N, 4) with N scores and groups; got {boxes.shape}, {scores.shape}, {groups.shape}."
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"nms: expected a threshold from 0 to 1; got {threshold}.")
    xp = array_module(boxes)
    ranked = xp.argsort(-scores, kind="stable")
    of_rank = groups[ranked]
    by_group = xp.argsort(of_rank, kind="stable")
    sorted_groups = of_rank[by_group]
    changes = xp.nonzero(sorted_groups[1:] != sorted_groups[:-1])[0] + 1
    changes = changes if xp is np else changes.get()
    starts = np.concatenate([[0], changes, [len(boxes)]]).astype(np.int64)
    keep = xp.empty(len(boxes), bool)
    keep[by_group] = suppress(boxes[ranked][by_group], starts, float(threshold))
    return ranked[keep]


def nms(boxes: Array, scores: Array, threshold: float) -> Array:
    """:func:`grouped_nms` of one group."""
    return grouped_nms(boxes, scores, array_module(boxes).zeros(len(boxes), np.int64), threshold)
