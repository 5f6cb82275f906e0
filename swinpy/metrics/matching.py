"""Which detections count as found objects: COCO's greedy matching, for many images and classes at a time.

A group is the detections and the objects of one class in one image. The best detection chooses first, at every
threshold and every range of areas by itself; it takes the object that it overlaps most with (the later of equals) among
those that are free. An object outside the range, or a crowd, is taken only where no other is left, and what takes it
does not count.

Source: ``COCOeval.evaluateImg`` of pycocotools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Groups", "match"]


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups that have detections and objects, with their overlaps.

    Attributes:
        first: int64 ``(n,)``, row of each group's best detection; the others follow it, best first.
        found: int64 ``(n,)``, how many detections.
        objects: int64 ``(n, G)``, rows of the objects in their order, -1 behind the last.
        overlap: float64 ``(n, D, G)``.
    """

    first: NDArray[np.int64]
    found: NDArray[np.int64]
    objects: NDArray[np.int64]
    overlap: NDArray[np.float64]


def match(
    groups: Groups,
    crowd: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    thresholds: NDArray[np.float64],
    matched: NDArray[np.bool_],
    uncounted: NDArray[np.bool_],
) -> None:
    """Match each group's detections, and note the result in ``matched`` and ``uncounted``.

    Args:
        groups: padded to one size.
        crowd: ``(objects,)``.
        ignored: ``(A, objects)``, crowds and what lies outside a range of areas.
        thresholds: ``(T,)``, of the overlap.
        matched: ``(A, T, detections)``, set where a detection takes an object.
        uncounted: ``(A, T, detections)``, set where that object is ignored.
    """
    order = np.argsort(-groups.found, kind="stable")  # so that the groups that still have a detection stand in front
    first, found = groups.first[order], groups.found[order]
    objects = groups.objects[order, ::-1]  # from the last to the first, since the later of equals is taken
    overlap = groups.overlap[order][..., ::-1]
    limits = np.minimum(thresholds, 1 - 1e-10)[:, None]
    there, many = objects >= 0, crowd[objects]
    out = np.moveaxis(ignored[:, objects], 0, 1)[:, :, None]  # (n, A, 1, G)
    free = np.broadcast_to(there[:, None, None], (len(order), len(ignored), len(thresholds), there.shape[1])).copy()
    for place in range(int(found[0])):
        n = int(np.searchsorted(-found, -place, side="left"))  # groups of more than `place` detections
        value = overlap[:n, place][:, None, None]
        candidates = free[:n] & (value >= limits)
        counted = candidates & ~out[:n]
        pool = np.where(counted.any(axis=-1, keepdims=True), counted, candidates)
        best = np.where(pool, value, -1.0).argmax(axis=-1)
        hit = np.take_along_axis(pool, best[..., None], axis=-1)[..., 0]
        group, area, threshold = np.nonzero(hit)
        taken = best[group, area, threshold]
        free[group, area, threshold, taken] = many[group, taken]
        row = first[group] + place
        matched[area, threshold, row] = True
        uncounted[area, threshold, row] = out[group, area, 0, taken]
