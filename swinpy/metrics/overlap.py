"""How much detections and objects overlap, as COCO counts it: over the union, or over the detection for a crowd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swinpy.data.detection.rle import intersections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swinpy.data.detection.rle import Rle

__all__ = ["box_overlap", "mask_overlap"]

Floats = NDArray[np.float64]


def _ratio(shared: Floats, found: Floats, there: Floats, crowd: NDArray[np.bool_]) -> Floats:
    whole = np.where(crowd, found, found + there - shared)
    out: Floats = np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)
    return out


def box_overlap(found: Floats, there: Floats, crowd: NDArray[np.bool_]) -> Floats:
    """Of boxes x, y, width, height, which broadcast together.

    Args:
        found: ``(..., 4)``, the detections.
        there: ``(..., 4)``, the objects.
        crowd: ``(...)``, whether the object is one.

    Returns:
        float64: intersection over union, over the detection's area for a crowd; 0 where nothing is shared.
    """
    end = np.minimum(found[..., 2:] + found[..., :2], there[..., 2:] + there[..., :2])
    sides = end - np.maximum(found[..., :2], there[..., :2])
    shared = np.where((sides > 0).all(axis=-1), sides[..., 0] * sides[..., 1], 0.0)
    return _ratio(shared, found[..., 2] * found[..., 3], there[..., 2] * there[..., 3], crowd)


def mask_overlap(found: Sequence[Rle], there: Sequence[Rle], crowd: NDArray[np.bool_]) -> Floats:
    """Of masks of one image, float64 ``(len(found), len(there))``; see :func:`box_overlap`."""
    shared = intersections(found, there).astype(np.float64)
    areas = [np.array([mask.area for mask in masks], np.float64) for masks in (found, there)]
    return _ratio(shared, np.broadcast_to(areas[0][:, None], shared.shape), areas[1][None], crowd[None])
