"""Boxes: areas, overlaps, and the code in which a network predicts them.

A box is (x0, y0, x1, y1) in pixels; its width is x1 - x0. All functions take NumPy or CuPy arrays and keep their dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autograd.extend import array_module

if TYPE_CHECKING:
    from autograd.extend import Array

__all__ = ["BoxCoder", "box_area", "box_giou", "box_iou", "clip_boxes", "large_enough"]

_LARGEST_LOG_SCALE = math.log(1000 / 16)


def box_area(boxes: Array) -> Array:
    """Areas (...,) of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection(one: Array, other: Array) -> Array:
    """Of boxes that broadcast together."""
    xp = array_module(one)
    width, height = (xp.minimum(one[..., i + 2], other[..., i + 2]) for i in (0, 1))
    width -= xp.maximum(one[..., 0], other[..., 0])
    height -= xp.maximum(one[..., 1], other[..., 1])
    xp.maximum(width, 0, out=width)
    width *= xp.maximum(height, 0, out=height)
    return width


def _ratio(part: Array, whole: Array, least: float) -> Array:
    """``part / max(whole, least)``; 0 where both are 0."""
    xp = array_module(part)
    return part / (xp.maximum(whole, least) if least else xp.where(whole == 0, 1, whole))


def box_iou(truth: Array, boxes: Array, *, crowd: Array | None = None, least_area: float = 0.0) -> Array:
    """Intersection over union of each pair.

    Args:
        truth: (G, 4).
        boxes: (N, 4).
        crowd: (G,) booleans; for a crowd, a region of many objects, the intersection is divided by the area of the
            other box alone, as in COCO's evaluation. None for no crowds.
        least_area: the denominator is at least this (mmdetection: 1e-6).

    Returns:
        (G, N); 0 for two boxes without area.
    """
    xp = array_module(boxes)
    inner = _intersection(truth[:, None], boxes)
    area = box_area(boxes)
    union = box_area(truth)[:, None] + area - inner
    if crowd is not None:
        union = xp.where(crowd[:, None], area, union)
    return _ratio(inner, union, least_area)


def box_giou(truth: Array, boxes: Array, *, least_area: float = 0.0) -> Array:
    """Generalised IoU of each pair: IoU - (hull - union) / hull, from -1 to 1.

    Args:
        truth: (G, 4).
        boxes: (N, 4).
        least_area: the denominators are at least this (mmdetection: 1e-6).

    Returns:
        (G, N).

    Source: Rezatofighi et al. 2019, "Generalized Intersection over Union".
    """
    xp = array_module(boxes)
    one = truth[:, None]
    inner = _intersection(one, boxes)
    union = box_area(one) + box_area(boxes) - inner
    width = xp.maximum(one[..., 2], boxes[..., 2]) - xp.minimum(one[..., 0], boxes[..., 0])
    height = xp.maximum(one[..., 3], boxes[..., 3]) - xp.minimum(one[..., 1], boxes[..., 1])
    hull = xp.maximum(width, 0) * xp.maximum(height, 0)
    union = xp.maximum(union, least_area) if least_area else union
    hull = xp.maximum(hull, least_area) if least_area else hull
    return _ratio(inner, union, 0.0) - _ratio(hull - union, hull, 0.0)


def clip_boxes(boxes: Array, size: tuple[int, int]) -> Array:
    """Boxes (..., 4) cut to an image of ``size`` (height, width)."""
    xp = array_module(boxes)
    height, width = size
    return xp.maximum(xp.minimum(boxes, xp.asarray([width, height, width, height], boxes.dtype)), 0)


def large_enough(boxes: Array, least: float, *, strict: bool) -> Array:
    """Whether both sides of each box (..., 4) are at least ``least`` or, if ``strict``, longer.

    torchvision keeps sides >= 1e-3 (proposals) and >= 0.01 (detections), mmdetection 3 and detectron2 sides > 0.
    """
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return (width > least) & (height > least) if strict else (width >= least) & (height >= least)


@dataclass(frozen=True)
class BoxCoder:
    """Boxes as offsets from reference boxes (anchors or proposals): ((gx - px) / pw, (gy - py) / ph, log(gw / pw),
    log(gh / ph)) of centres and sides, divided by ``std``.

    Attributes:
        std: divisors of the four numbers; 1 for an RPN, (0.1, 0.1, 0.2, 0.2) for a box head. ``from_weights`` takes
            torchvision's and detectron2's factors instead, their inverses.
        clamp_below: decoding holds the logarithms of the scales to at least -log(1000 / 16), too (mmdetection). All
            libraries hold them to at most log(1000 / 16).

    Source: Girshick et al. 2014, "Rich feature hierarchies", appendix C.
    """

    std: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    clamp_below: bool = False

    @classmethod
    def from_weights(cls, weights: tuple[float, float, float, float], clamp_below: bool = False) -> BoxCoder:
        """The coder that multiplies by ``weights``: (10, 10, 5, 5) of a box head are std (0.1, 0.1, 0.2, 0.2)."""
        x, y, w, h = (1 / weight for weight in weights)
        return cls((x, y, w, h), clamp_below)

    def encode(self, boxes: Array, reference: Array) -> Array:
        """Offsets of ``boxes`` (..., 4) from ``reference`` boxes that broadcast with them; both have sides > 0."""
        xp = array_module(boxes)
        (x, y, w, h), (px, py, pw, ph) = _centred(boxes), _centred(reference)
        parts = (x - px) / pw, (y - py) / ph, xp.log(w / pw), xp.log(h / ph)
        offsets = xp.stack(parts, axis=-1)
        return offsets / xp.asarray(self.std, offsets.dtype)

    def decode(self, offsets: Array, reference: Array, size: tuple[int, int] | None = None) -> Array:
        """The boxes that ``offsets`` (..., 4) say.

        Args:
            offsets: for K classes (N, K, 4).
            reference: boxes that broadcast with the offsets, then (N, 1, 4).
            size: (height, width) of the image to clip to, or None.
        """
        xp = array_module(offsets)
        dx, dy, *logs = (offsets[..., i] * offsets.dtype.type(std) for i, std in enumerate(self.std))
        px, py, pw, ph = _centred(reference)
        logs = [xp.minimum(log, _LARGEST_LOG_SCALE) for log in logs]
        if self.clamp_below:
            logs = [xp.maximum(log, -_LARGEST_LOG_SCALE) for log in logs]
        x, y, w, h = dx * pw + px, dy * ph + py, xp.exp(logs[0]) * pw, xp.exp(logs[1]) * ph
        boxes = xp.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=-1)
        return boxes if size is None else clip_boxes(boxes, size)


def _centred(boxes: Array) -> tuple[Any, Any, Any, Any]:
    """Centres and sides."""
    x0, y0, x1, y1 = (boxes[..., i] for i in range(4))
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
