"""RoIAlign: the mean of bilinear samples in each bin of a box, on one of several maps.

The samples of a bin form a grid, and bilinear weights are products of those of the axes. So a box is two products,
``Y @ map @ X.T``, where row p of Y holds the mean weights of bin p along y. They are other than 0 for a run of pixels.

Source: He et al. 2017, "Mask R-CNN", section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.extend import Cost, accumulator, array_module, kernel, map_pieces
from swinpy.kernels.roi_align.samples import axes, of_level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.extend import Array
    from swinpy.kernels.roi_align.samples import Axis

__all__ = ["roi_align_bwd", "roi_align_fwd"]


class _Runs:
    """The pixels that each bin reads along an axis: a run of them, with a mean weight each."""

    def __init__(self, axis: Axis, bins: int, size: int, dtype: Any) -> None:
        xp, kind = array_module(axis.start), axis.start.dtype
        most = max(int(axis.count.max()), 1) if len(axis.count) else 1
        i = xp.arange(most, dtype=kind) + kind.type(0.5)
        begin = xp.arange(bins, dtype=kind) * axis.bin[:, None] + axis.start[:, None]
        at = begin[:, :, None] + (i * axis.step[:, None])[:, None, :]  # (R, bins, samples)
        used = (xp.arange(most) < axis.count[:, None])[:, None, :]
        inside = used & (at >= -1) & (at <= size)
        near = at.clip(0, size - 1)
        low = near.astype(np.int64)
        first = low.min(axis=2)
        after = xp.where(used, low + 2, 0).max(axis=2)
        count = (xp.minimum(after, size) - first) * (axis.count > 0)[:, None]
        taps = xp.arange(int(count.max()) if count.size else 0)
        weight = xp.zeros((*first.shape, len(taps)), kind)
        for k in range(most):  # bilinear interpolation weighs a pixel with 1 - its distance, where that is positive
            distance = abs(near[:, :, k, None] - (first[:, :, None] + taps))
            weight += xp.where(inside[:, :, k, None], (1 - distance).clip(0, None), 0)
        self.weight = (weight / xp.maximum(axis.count, 1).astype(kind)[:, None, None]).astype(dtype, copy=False)
        self.spans: list[list[list[int]]] = xp.stack([first, first + count], axis=2).tolist()

    def of(self, k: int) -> list[tuple[slice, Array]]:
        """For each bin of box k its pixels, and their weights; none for an empty box."""
        runs = [(slice(*span), w[: span[1] - span[0]]) for span, w in zip(self.spans[k], self.weight[k], strict=True)]
        return [run for run in runs if len(run[1])]


class _Boxes:
    """The boxes of one map. Their runs, numbers and images are read on a GPU once, for all boxes."""

    def __init__(self, shape: Sequence[int], level: int, boxes: Array, images: Array, levels: Array, *how: Any) -> None:
        rows = of_level(levels, level)
        size, scales, ratio, aligned, dtype = how
        y, x = axes(boxes[rows], size, scales[level], ratio, aligned)
        self.y, self.x = _Runs(y, size[0], shape[2], dtype), _Runs(x, size[1], shape[3], dtype)
        self.rows, self.images = rows.tolist(), images[rows].tolist()


def _cost(
    maps: Sequence[Array], boxes: Array, images: Array, levels: Array, size: tuple[int, int], *_: Any, **__: Any
) -> Cost:
    values = len(boxes) * maps[0].shape[1] * size[0] * size[1]
    read = boxes.nbytes + images.nbytes + levels.nbytes + sum(x.nbytes for x in maps)
    return Cost(max(16 * values, 1), read + values * maps[0].itemsize)


@kernel(_cost)
def roi_align_fwd(
    maps: Sequence[Array],
    boxes: Array,
    images: Array,
    levels: Array,
    size: tuple[int, int],
    scales: tuple[float, ...],
    ratio: int,
    aligned: bool,
) -> Array:
    """The features of each box.

    Samples outside [-1, side] count as 0, others are clamped to the map. An empty box gives 0.

    Args:
        maps: one or more (B, C, H, W) of the same B and C.
        boxes: (R, 4) as x0, y0, x1, y1, in the image's pixels, finite, float32 or float64: the dtype of positions.
        images: (R,) which image of the batch, integers.
        levels: (R,) which map, integers.
        size: bins along y and x, (P, Q).
        scales: of each map, its pixels for one of the image.
        ratio: samples of a bin along each axis; 0 for one for each pixel that the bin is long.
        aligned: whether pixel i of a map covers [i, i + 1).

    Returns:
        (R, C, P, Q), its channels last in memory.
    """
    xp, acc = array_module(boxes), accumulator(maps[0].dtype)
    channels = maps[0].shape[1]
    out = xp.zeros((len(boxes), *size, channels), maps[0].dtype)
    for level, x in enumerate(maps):
        there = _Boxes(x.shape, level, boxes, images, levels, size, scales, ratio, aligned, acc)
        last = xp.moveaxis(x, 1, -1)

        def compute(k: int, there: _Boxes = there, last: Array = last) -> None:
            ys, xs = there.y.of(k), there.x.of(k)
            if not ys:
                return
            window = last[there.images[k], :, xs[0][0].start : xs[-1][0].stop]
            for p, (rows, wy) in enumerate(ys):
                line = xp.tensordot(wy, window[rows].astype(acc, copy=False), 1)
                for q, (columns, wx) in enumerate(xs):
                    out[there.rows[k], p, q] = wx @ line[columns.start - xs[0][0].start :][: len(wx)]

        map_pieces(compute, list(range(len(there.rows))))
    return xp.moveaxis(out, -1, 1)


def _backward_cost(
    g: Array, shapes: Sequence[Sequence[int]], boxes: Array, images: Array, levels: Array, *_: Any, **__: Any
) -> Cost:
    written = sum(int(np.prod(shape)) for shape in shapes) * g.itemsize
    return Cost(max(16 * g.size, 1), g.nbytes + boxes.nbytes + images.nbytes + levels.nbytes + written)


@kernel(_backward_cost)
def roi_align_bwd(
    g: Array,
    shapes: Sequence[Sequence[int]],
    boxes: Array,
    images: Array,
    levels: Array,
    scales: tuple[float, ...],
    ratio: int,
    aligned: bool,
) -> list[Array]:
    """The gradients of the maps: what boxes send to a pixel is added in the order of the boxes.

    Args:
        g: (R, C, P, Q), the gradient of the features.
        shapes: of the maps.
        boxes: as in forward.
        images: as in forward.
        levels: as in forward.
        scales: as in forward.
        ratio: as in forward.
        aligned: as in forward.

    Returns:
        One array for each map, in the dtype of g, its channels last in memory.
    """
    xp, acc = array_module(g), accumulator(g.dtype)
    channels, *size = g.shape[1:]
    last = xp.moveaxis(g, 1, -1)
    grads = []
    for level, shape in enumerate(shapes):
        there = _Boxes(shape, level, boxes, images, levels, tuple(size), scales, ratio, aligned, acc)
        total = xp.zeros((shape[0], *shape[2:], channels), acc)
        for k, row in enumerate(there.rows):
            of_image, of_box = total[there.images[k]], last[row].astype(acc, copy=False)
            for p, (rows, wy) in enumerate(there.y.of(k)):
                for q, (columns, wx) in enumerate(there.x.of(k)):
                    of_image[rows, columns] += (wy[:, None] * wx)[:, :, None] * of_box[p, q]
        grads.append(xp.moveaxis(total.astype(g.dtype, copy=False), -1, 1))
    return grads
