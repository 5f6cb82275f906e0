"""Masks of objects: what a mask head is to learn, and its results put into the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autograd.extend import array_module
from swinpy.detection.boxes import clip_boxes
from swinpy.kernels.paste import sample_windows
from swinpy.kernels.roi_align import roi_align_fwd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autograd.extend import Array

__all__ = ["MaskTargetRule", "Window", "mask_targets", "paste_masks"]

_CHUNK = 1 << 22  # pixels of windows at a time


@dataclass(frozen=True)
class MaskTargetRule:
    """How :func:`mask_targets` samples: mmdetection's by default.

    Attributes:
        aligned: of RoIAlign; False for torchvision.
        threshold: 1 where the mean of the mask is at least this, else 0; None for the means (torchvision).
        clip: boxes are first clipped to the mask (mmdetection, not detectron2).
    """

    aligned: bool = True
    threshold: float | None = 0.5
    clip: bool = True


def mask_targets(masks: Array, boxes: Array, truth: Array, size: int, rule: MaskTargetRule) -> Array:
    """The masks of objects as seen through boxes.

    Args:
        masks: (G, H, W) booleans or numbers from 0 to 1.
        boxes: (N, 4) floats, in pixels of the masks.
        truth: (N,) which object each box is to show, integers.
        size: of a target's side; 28.
        rule: how.

    Returns:
        (N, size, size), in the boxes' dtype.
    """
    xp = array_module(boxes)
    if not len(boxes):
        return xp.zeros((0, size, size), boxes.dtype)
    boxes = clip_boxes(boxes, masks.shape[1:]) if rule.clip else boxes
    shown, places = xp.unique(truth, return_inverse=True)  # masks that no box shows are not cast
    maps, level = masks[shown].astype(boxes.dtype)[:, None], xp.zeros(len(boxes), np.int64)
    seen = roi_align_fwd([maps], boxes, places, level, (size, size), (1.0,), 0, rule.aligned)[:, 0]
    return seen if rule.threshold is None else (seen >= rule.threshold).astype(boxes.dtype)


@dataclass(frozen=True)
class Window:
    """A part of an image.

    Attributes:
        top: row of its first pixel.
        left: column of its first pixel.
        values: (height, width): probabilities, or booleans.
    """

    top: int
    left: int
    values: Array

    def on(self, size: tuple[int, int]) -> Array:
        """The whole image (height, width) of ``size``, 0 around the window."""
        full = array_module(self.values).zeros(size, self.values.dtype)
        height, width = self.values.shape
        full[self.top : self.top + height, self.left : self.left + width] = self.values
        return full


def paste_masks(
    masks: Array,
    boxes: Array,
    size: tuple[int, int],
    *,
    rule: Literal["centres", "resized"] = "centres",
    threshold: float | None = 0.5,
) -> Iterator[Window]:
    """The masks of boxes at the pixels of their image, one window after another; no image is made.

    Args:
        masks: (N, M, M) probabilities.
        boxes: (N, 4) in pixels of the image; read on the host.
        size: (height, width) of the image.
        rule: "centres": the mask covers the box, and is sampled at the centres of pixels, up to one pixel around the
            box (mmdetection, detectron2). "resized": mask and box are widened by one mask pixel on each side, the box's
            corners are cut off to whole pixels, and the mask is resized to them (torchvision).
        threshold: windows are booleans: values >= it with "centres", > it with "resized". None for the values.

    Yields:
        A window for each mask, in order; an empty one where the box lies outside.
    """
    host = boxes if isinstance(boxes, np.ndarray) else boxes.get()
    spans = [_spans(host, axis, side, masks.shape[2 - axis], rule) for axis, side in ((1, size[0]), (0, size[1]))]
    (top, bottom, _, _), (left, right, _, _) = spans
    heights, widths = bottom - top, right - left
    for chunk in _chunks(heights * widths):
        ys, xs = (_positions(*[part[chunk] for part in span]) for span in spans)
        xp = array_module(masks)
        ys, xs = (xp.asarray(at.astype(masks.dtype)) for at in (ys, xs))
        flat = sample_windows(masks[chunk], ys, xs, heights[chunk], widths[chunk])
        ends = np.cumsum((heights * widths)[chunk]).tolist()
        for n, end in enumerate(ends):
            k = chunk.start + n
            values = flat[ends[n - 1] if n else 0 : end].reshape(int(heights[k]), int(widths[k]))
            if threshold is not None:
                values = values >= threshold if rule == "centres" else values > threshold
            yield Window(int(top[k]), int(left[k]), values)


def _chunks(areas: Any) -> Iterator[slice]:
    """Runs of masks whose windows have about ``_CHUNK`` pixels together, each of at least one mask."""
    start = total = 0
    for n, area in enumerate(areas.tolist()):
        if total and total + area > _CHUNK:
            yield slice(start, n)
            start, total = n, 0
        total += area
    if len(areas):
        yield slice(start, len(areas))


def _spans(boxes: Any, axis: int, side: int, cells: int, rule: str) -> tuple[Any, Any, Any, Any]:
    """Along one axis: first pixel of each window, the one after its last, and the position in the mask of pixel p as
    ``first + p * step``."""
    low, high = boxes[:, axis], boxes[:, axis + 2]
    if rule == "centres":
        low, high = low.astype(float), high.astype(float)
        start, stop = np.floor(low) - 1, np.ceil(high) + 1
        step = cells / np.where(high == low, np.inf, high - low)  # all pixels of an empty box show the middle
        first = np.where(high == low, (cells - 1) / 2, (0.5 - low) * step - 0.5)
    else:
        half, middle = (high - low) / 2 * ((cells + 2) / cells), (low + high) / 2  # in the boxes' dtype, as there
        start, last = (np.trunc(corner).astype(float) for corner in (middle - half, middle + half))
        stop = last + 1
        step = (cells + 2) / np.maximum(stop - start, 1)
        first = (0.5 - start) * step - 1.5
    start, stop = (a.clip(0, side).astype(np.int64) for a in (start, stop))
    return start, np.maximum(stop, start), first, step


def _positions(start: Any, stop: Any, first: Any, step: Any) -> Any:
    """The positions in its mask of each pixel of each window, one window after another."""
    counts = stop - start
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first, counts) + (within + np.repeat(start, counts)) * np.repeat(step, counts)
