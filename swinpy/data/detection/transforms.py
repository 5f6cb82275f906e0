"""Resize, crop and mirror of images with their boxes and masks: pure functions from one sample to another.

Boxes are in pixels, with x0 = 0 at the left edge of the first pixel; each function keeps them within the image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from swinpy.data.detection.resize import resize_masks, resize_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from swinpy.data.detection.dataset import Sample
    from swinpy.data.detection.resize import ResizeRule

__all__ = ["crop", "drop_small", "mirror", "resize"]


def mirror(sample: Sample) -> Sample:
    """Left to right."""
    width = sample.size[1]

    def turned(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        out = boxes.copy()
        out[:, 0], out[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
        return out

    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[..., ::-1]),
        boxes=turned(sample.boxes),
        crowd_boxes=turned(sample.crowd_boxes),
        masks=None if sample.masks is None else np.ascontiguousarray(sample.masks[..., ::-1]),
    )


def resize(sample: Sample, size: tuple[int, int], rule: ResizeRule) -> Sample:
    """To ``size`` (H, W); each axis of the boxes by the ratio of the true sizes, in float32.

    Boxes keep their place even where they become smaller than a pixel; see :func:`drop_small`.
    """
    (height, width), (new_height, new_width) = sample.size, size
    ratio = np.array([new_width, new_height] * 2, np.float32) / np.array([width, height] * 2, np.float32)
    limit = np.array([new_width, new_height] * 2, np.float32)
    return replace(
        sample,
        image=resize_pixels(sample.image, size, rule),
        boxes=np.minimum(sample.boxes * ratio, limit),
        crowd_boxes=np.minimum(sample.crowd_boxes * ratio, limit),
        masks=None if sample.masks is None else resize_masks(sample.masks, size),
    )


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """The part of ``height`` x ``width`` pixels from (top, left) on.

    What is left of an object that is cut gets the box of the rest of its mask, or of its box where there are no masks.
    Objects of which nothing is left, or less than a pixel, are gone; a part without objects is background.

    Raises:
        ValueError: for a part that is not within the image.
    """
    if not (0 <= top <= top + height <= sample.size[0] and 0 <= left <= left + width <= sample.size[1]) or (
        min(height, width) < 1
    ):
        raise ValueError(
            f"crop: expected a part of the image's {sample.size}; got {height}x{width} pixels at {top}, {left}."
        )
    shift, limit = np.array([left, top] * 2, np.float32), np.array([width, height] * 2, np.float32)
    moved, crowd = sample.boxes - shift, np.clip(sample.crowd_boxes - shift, 0, limit)
    boxes = np.clip(moved, 0, limit)
    masks = None
    if sample.masks is not None:
        masks = sample.masks[:, top : top + height, left : left + width]
        for row in np.flatnonzero((boxes != moved).any(axis=1)):
            boxes[row] = _around(masks[row])
    cut = replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, top : top + height, left : left + width]),
        boxes=boxes,
        masks=masks,
        crowd_boxes=crowd[_large(crowd)],
    )
    return drop_small(cut)


def drop_small(sample: Sample) -> Sample:
    """Without objects that are less than a pixel wide or high, or whose mask has no pixel."""
    kept = _large(sample.boxes)
    if sample.masks is not None:
        kept &= sample.masks.any(axis=(1, 2))
    return sample if kept.all() else sample.keep(kept)


def _large(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.logical_and(boxes[:, 2] - boxes[:, 0] >= 1, boxes[:, 3] - boxes[:, 1] >= 1)


def _around(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
