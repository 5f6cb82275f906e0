"""Where RoIAlign samples a map. Twins share this: a count of samples is a step function of a box's side, and may not
depend on how a division was compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from autograd.extend import array_module

if TYPE_CHECKING:
    from autograd.extend import Array

__all__ = ["LARGEST", "Axis", "axes", "of_level"]

LARGEST = 1 << 20  # pixels: a box of this side or more, or one that is not finite, counts as empty


class Axis(NamedTuple):
    """The samples of all boxes along one axis: sample i of bin p lies at ``start + p * bin + (i + 0.5) * step``.

    Attributes:
        start: (R,) where the box begins, in pixels of the map.
        bin: (R,) length of a bin.
        step: (R,) distance of two samples of a bin.
        count: (R,) samples of a bin, int64; 0 for an empty box.
    """

    start: Array
    bin: Array
    step: Array
    count: Array


def axes(boxes: Array, size: tuple[int, int], scale: float, ratio: int, aligned: bool) -> tuple[Axis, Axis]:
    """The samples along y and along x.

    Args:
        boxes: (R, 4), float.
        size: bins along y and x.
        scale: from the boxes' pixels to the map's.
        ratio: samples of a bin along each axis; 0 for one for each pixel that a bin is long, rounded up.
        aligned: pixel i of the map covers [i, i + 1), so that its value stands at i + 0.5. If not, it stands at i, and
            a box is at least one pixel long.
    """
    scaled = boxes * boxes.dtype.type(scale) - boxes.dtype.type(0.5 if aligned else 0)
    y, x = (_axis(scaled[:, i], scaled[:, i + 2], bins, ratio, aligned) for i, bins in ((1, size[0]), (0, size[1])))
    empty = (y.count == 0) | (x.count == 0)
    xp = array_module(boxes)
    return y._replace(count=xp.where(empty, 0, y.count)), x._replace(count=xp.where(empty, 0, x.count))


def _axis(low: Array, high: Array, bins: int, ratio: int, aligned: bool) -> Axis:
    xp = array_module(low)
    side = high - low if aligned else xp.maximum(high - low, 1)
    length = side / low.dtype.type(bins)
    usable = (side > 0) & (side < LARGEST)  # NaN is not
    count = xp.where(usable, ratio if ratio > 0 else xp.ceil(length), 0)
    low, length, count = (xp.where(usable, a, 0).astype(low.dtype) for a in (low, length, count))
    return Axis(low, length, length / xp.maximum(count, 1), count.astype(xp.int64))


def of_level(levels: Array, level: int) -> Array:
    """The boxes of a level, in order: int64 indices. On a GPU it is read how many they are."""
    return array_module(levels).nonzero(levels == level)[0]
