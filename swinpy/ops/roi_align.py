"""RoIAlign, and its use on the levels of a feature pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from autograd.extend import Ctx, Primitive, accumulator, array_module
from swinpy.kernels.roi_align import LARGEST, roi_align_bwd, roi_align_fwd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.extend import Array, TensorLike

__all__ = ["pool_levels", "roi_align"]


def _forward(ctx: Ctx, *maps: Array, boxes: Array, images: Array, levels: Array, **options: Any) -> Array:
    boxes = boxes.astype(accumulator(boxes.dtype), copy=False)
    ctx.shapes, ctx.options = [x.shape for x in maps], {k: v for k, v in options.items() if k != "size"}
    ctx.where = (boxes, images, levels)
    return roi_align_fwd(list(maps), boxes, images, levels, **options)


def _vjp(ctx: Ctx, g: Array) -> tuple[Array, ...]:
    return tuple(roi_align_bwd(g, ctx.shapes, *ctx.where, **ctx.options))


_roi_align = Primitive("roi_align", _forward, _vjp, fresh=True, autocast="widest", floats=True)


def _checked(maps: Sequence[TensorLike], boxes: Array, images: Array, levels: Array) -> list[ag.Tensor]:
    """The maps as tensors, if everything has the right shape."""
    tensors = [x if isinstance(x, ag.Tensor) else ag.Tensor(x) for x in maps]
    shapes = [x.shape for x in tensors]
    if not shapes or any(len(s) != 4 for s in shapes) or len({s[:2] for s in shapes}) > 1:
        raise ValueError(f"roi_align: expected maps (B, C, H, W) of one B and C; got {shapes}.")
    if any(0 in s[2:] for s in shapes):
        raise ValueError(f"roi_align: expected maps of at least one pixel; got {shapes}.")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind != "f":
        raise ValueError(f"roi_align: expected float boxes (R, 4); got {boxes.dtype} {boxes.shape}.")
    for name, which, count in (("images", images, shapes[0][0]), ("levels", levels, len(shapes))):
        if which.shape != boxes.shape[:1] or which.dtype.kind not in "iu":
            raise ValueError(
                f"roi_align: expected {name} as {len(boxes)} integers, one for each box; "
                f"got {which.dtype} {which.shape}."
            )
        if array_module(which) is np and which.size and not 0 <= which.min() <= which.max() < count:
            bad = int(np.flatnonzero((which < 0) | (which >= count))[0])
            raise IndexError(f"roi_align: expected {name} from 0 to {count - 1}; got {int(which[bad])} for box {bad}.")
    if array_module(boxes) is np and not (good := (abs(boxes) < LARGEST).all(axis=1)).all():
        bad = int(np.flatnonzero(~good)[0])
        raise ValueError(f"roi_align: expected boxes within 2^20 pixels; got {boxes[bad].tolist()} as box {bad}.")
    return tensors


def roi_align(
    x: TensorLike,
    boxes: Array,
    images: Array,
    size: int | tuple[int, int],
    *,
    scale: float = 1.0,
    ratio: int = 0,
    aligned: bool = True,
) -> ag.Tensor:
    """The features of boxes on one map: the mean of bilinear samples in each bin.

    Saves the boxes. Backward adds what boxes send to a pixel in the order of the boxes; boxes get no gradient. On a GPU
    neither the values of boxes nor the indices are checked, and the windows of the boxes are read once.

    Args:
        x: (B, C, H, W).
        boxes: (R, 4) as x0, y0, x1, y1, in the image's pixels; R may be 0.
        images: (R,) which image of the batch each is of, integers.
        size: bins along y and x.
        scale: pixels of the map for one of the image, 1 / stride.
        ratio: samples of a bin along each axis; 0 for one for each pixel that the bin is long, rounded up.
        aligned: pixel i of the map covers [i, i + 1) (mmdetection, detectron2). If not, its value stands at i, half a
            pixel off, and boxes are at least one pixel of the map long (torchvision's detectors).

    Returns:
        (R, C, P, Q). Samples outside [-1, side] count as 0, others are clamped to the map. An empty box gives 0, with
        any ratio.

    Raises:
        ValueError: for other shapes or dtypes, and for a box with a coordinate beyond 2^20, or NaN.
        IndexError: for an image that is not there.

    Source: He et al. 2017, "Mask R-CNN", section 3.
    """
    levels = array_module(boxes).zeros(len(boxes), int)
    return pool_levels([x], boxes, images, levels, size, scales=(scale,), ratio=ratio, aligned=aligned)


def pool_levels(
    maps: Sequence[TensorLike],
    boxes: Array,
    images: Array,
    levels: Array,
    size: int | tuple[int, int],
    *,
    scales: Sequence[float],
    ratio: int = 0,
    aligned: bool = True,
) -> ag.Tensor:
    """:func:`roi_align` with each box on a map of its own, in one op; the boxes keep their order.

    Args:
        maps: (B, C, H, W) each.
        boxes: as in :func:`roi_align`.
        images: as in :func:`roi_align`.
        levels: (R,) which map each box is pooled from, integers (:func:`swinpy.detection.roi_levels`).
        size: bins along y and x.
        scales: of each map, 1 / stride.
        ratio: as in :func:`roi_align`.
        aligned: as in :func:`roi_align`.

    Returns:
        (R, C, P, Q).

    Raises:
        ValueError: as :func:`roi_align`, and for another number of scales than maps.
        IndexError: for an image or a level that is not there.
    """
    tensors = _checked(maps, boxes, images, levels)
    if len(scales) != len(tensors):
        raise ValueError(f"roi_align: expected a scale for each of {len(tensors)} maps; got {len(scales)}.")
    rows, columns = (size, size) if isinstance(size, int) else size
    if min(rows, columns) < 1 or ratio < 0:
        raise ValueError(f"roi_align: expected a size of 1 or more and a ratio of 0 or more; got {size} and {ratio}.")
    return _roi_align(
        *tensors,
        boxes=boxes,
        images=images,
        levels=levels,
        size=(rows, columns),
        scales=tuple(map(float, scales)),
        ratio=ratio,
        aligned=aligned,
    )
