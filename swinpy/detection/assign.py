"""Which object each anchor or proposal is to learn, and which map a box is pooled from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from autograd.extend import array_module, run_blocks
from swinpy.detection.boxes import box_area, box_iou

if TYPE_CHECKING:
    from autograd.extend import Array

__all__ = ["IGNORED", "NEGATIVE", "Assigned", "LevelRule", "MatchRule", "assign", "roi_levels"]

NEGATIVE, IGNORED = -1, -2


class Assigned(NamedTuple):
    """What :func:`assign` found.

    Attributes:
        truth: (N,) int64: the object that each box is to learn, NEGATIVE for background, IGNORED for neither.
        iou: (N,) the best overlap of each box.
    """

    truth: Array
    iou: Array


@dataclass(frozen=True)
class MatchRule:
    """Thresholds of :func:`assign`.

    Attributes:
        positive: a box with this overlap or more is matched; 0.7 for an RPN, 0.5 for a box head and RetinaNet.
        negative: a box with less is background; 0.3, 0.5 and 0.4. Those between are ignored.
        low_quality: what becomes of the boxes that overlap most with an object, all ties of them, below ``positive``:
            "none" (box heads of torchvision and detectron2); "nearest": they are matched with the object that they
            overlap most themselves, which may be another (RPN of torchvision and detectron2); "object": they are
            matched with that very object, the last one if there are several (mmdetection).
        floor: with "object", the least such overlap; 0.3 for mmdetection's RPN, 0.5 for its box head of Mask R-CNN,
            0 for its RetinaNet.
        least_area: of the union (mmdetection: 1e-6).
    """

    positive: float
    negative: float
    low_quality: Literal["none", "nearest", "object"] = "none"
    floor: float = 0.0
    least_area: float = 0.0


def assign(truth: Array, boxes: Array, rule: MatchRule) -> Assigned:
    """Match boxes with objects.

    No pair's overlap is kept. They are computed in blocks of boxes, and for low-quality matches a second time, by the
    same expression, so that an object's best overlap is found again bit for bit. Of equal overlaps a box takes the
    first object. Nothing is read on the host.

    Args:
        truth: (G, 4); G may be 0: then all boxes are background.
        boxes: (N, 4), in the dtype of truth.
        rule: thresholds.

    Source: Ren et al. 2015, "Faster R-CNN", section 3.1.2.
    """
    xp = array_module(boxes)
    count = len(boxes)
    nearest, best = xp.zeros(count, np.int64), xp.zeros(count, boxes.dtype)
    if not len(truth) or not count:
        return Assigned(xp.full(count, NEGATIVE, np.int64), best)

    def overlaps(block: slice) -> Array:
        return box_iou(truth, boxes[block], least_area=rule.least_area)

    def first(block: slice) -> Array:
        found = overlaps(block)
        best[block] = found[0]
        for g in range(1, len(truth)):  # NumPy takes long for an argmax along the first axis
            nearest[block] = xp.where(found[g] > best[block], g, nearest[block])
            xp.maximum(best[block], found[g], out=best[block])
        return found.max(axis=1)

    row_bytes = 6 * len(truth) * boxes.itemsize  # about six matrices at a time
    of_truth = xp.stack(run_blocks(first, count, row_bytes, xp)).max(axis=0)
    matched = xp.where(best >= rule.positive, nearest, xp.where(best < rule.negative, NEGATIVE, IGNORED))

    def second(block: slice) -> None:
        equal = overlaps(block) == of_truth[:, None]
        if rule.low_quality == "nearest":
            matched[block] = xp.where(equal.any(axis=0), nearest[block], matched[block])
        else:
            equal &= (of_truth >= rule.floor)[:, None]
            for g in range(len(truth)):
                matched[block] = xp.where(equal[g], g, matched[block])

    if rule.low_quality != "none":
        run_blocks(second, count, row_bytes, xp)
    return Assigned(matched, best)


@dataclass(frozen=True)
class LevelRule:
    """Which map of a pyramid a box is pooled from: level ``canonical_level + log2(sqrt(area) / canonical_size)``,
    rounded down and held to the maps there are.

    Attributes:
        library: where 1e-6 or 1e-8 is added so that a box of exactly the canonical size does not fall below its level:
            "mmdetection" (1e-6 to the ratio), "torchvision" (1e-6 to the level) or "detectron2" (1e-8 to the ratio).
        canonical_size: in pixels.
        canonical_level: counted as in a backbone: level k has stride 2^k.
        first_level: that of the first map.

    Source: Lin et al. 2017, "Feature Pyramid Networks", equation 1.
    """

    library: Literal["mmdetection", "torchvision", "detectron2"] = "mmdetection"
    canonical_size: float = 224.0
    canonical_level: int = 4
    first_level: int = 2


def roi_levels(boxes: Array, levels: int, rule: LevelRule) -> Array:
    """The map, 0 to ``levels`` - 1, of each of the boxes (R, 4); int64."""
    xp = array_module(boxes)
    side = xp.sqrt(xp.maximum(box_area(boxes), 0))
    if rule.library == "mmdetection":
        finest = rule.canonical_size / 2 ** (rule.canonical_level - rule.first_level)
        level = xp.floor(xp.log2(side / boxes.dtype.type(finest) + boxes.dtype.type(1e-6)))
    else:
        ratio = side / boxes.dtype.type(rule.canonical_size)
        ratio = ratio + boxes.dtype.type(1e-8) if rule.library == "detectron2" else ratio
        log = xp.log2(xp.maximum(ratio, np.finfo(boxes.dtype).tiny)) + rule.canonical_level
        log = log + boxes.dtype.type(1e-6) if rule.library == "torchvision" else log
        level = xp.floor(log) - rule.first_level
    return level.clip(0, levels - 1).astype(np.int64)
