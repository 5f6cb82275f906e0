"""Rows of the ops and kernels of detection."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.ops import pool_levels, roi_align

from .kernels import KernelRow, register_kernel_rows
from .opinfo import BadCall, OpInfo, Sample, Source, register

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["axis_matrix", "roi_align_reference"]

Array = np.ndarray[Any, Any]


# ---- RoIAlign


def axis_matrix(low: float, high: float, bins: int, size: int, ratio: int, aligned: bool) -> Array:
    """(bins, size): the weight of each pixel in each bin along one axis, sample by sample as in Mask R-CNN's code."""
    low, high = (low - 0.5, high - 0.5) if aligned else (low, high)
    side = high - low if aligned else max(high - low, 1.0)
    count = (ratio or math.ceil(side / bins)) if side > 0 else 0
    matrix = np.zeros((bins, size))
    for p, i in itertools.product(range(bins), range(count)):
        at = low + p * (side / bins) + (i + 0.5) * (side / bins / count)
        if -1 <= at <= size:
            at = min(max(at, 0.0), size - 1.0)
            pixel = int(at)
            matrix[p, pixel] += (1 - (at - pixel)) / count
            matrix[p, min(pixel + 1, size - 1)] += (at - pixel) / count
    return matrix


def _matrices(
    shape: tuple[int, ...], box: Array, size: tuple[int, int], scale: float, ratio: int, aligned: bool
) -> tuple[Array, Array]:
    x0, y0, x1, y1 = (box * scale).tolist()
    y = axis_matrix(y0, y1, size[0], shape[2], ratio, aligned)
    x = axis_matrix(x0, x1, size[1], shape[3], ratio, aligned)
    return (y, x) if y.any() and x.any() else (y * 0, x * 0)


def roi_align_reference(
    *maps: Any, boxes: Any, images: Any, levels: Any, size: Any, scales: Any, ratio: int, aligned: bool
) -> Any:
    out = np.zeros((len(boxes), maps[0].shape[1], *size))
    for r, (box, image, level) in enumerate(zip(boxes, images, levels, strict=True)):
        y, x = _matrices(maps[level].shape, box, size, scales[level], ratio, aligned)
        out[r] = y @ maps[level][image] @ x.T
    return out


def _composite(
    *maps: ag.Tensor, boxes: Any, images: Any, levels: Any, size: Any, scales: Any, ratio: int, aligned: bool
) -> ag.Tensor:
    """Two products a box, from ops that the engine has."""
    if not len(boxes):
        return maps[0][:0, :, : size[0], : size[1]]
    rows = []
    for box, image, level in zip(boxes, images.tolist(), levels.tolist(), strict=True):
        y, x = _matrices(maps[level].shape, box, size, scales[level], ratio, aligned)
        y, x_t = (ag.Tensor(m.astype(maps[0].dtype)) for m in (y, x.T))
        rows.append(ag.matmul(ag.matmul(y, maps[level][image]), x_t))
    for x in maps:  # a map without a box has a gradient, too
        rows[0] = rows[0] + x.sum() * 0
    return ag.stack(rows)


def _boxes(s: Source, count: int, width: float, height: float) -> Array:
    """Inside, across the border and outside, from 0.3 pixels to the whole image."""
    low = np.stack([s.between(-0.2 * width, width, (count,)), s.between(-0.2 * height, height, (count,))], axis=1)
    sides = np.exp(s.between(-1, 1, (count, 2))) * np.array([width, height]) / 3
    return np.concatenate([low, low + sides], axis=1)


def _roi_sample(
    s: Source,
    count: int = 7,
    ratio: int = 0,
    aligned: bool = True,
    sizes: tuple[tuple[int, int], ...] = ((7, 9),),
    size: tuple[int, int] = (2, 3),
) -> Sample:
    scales = tuple(0.5**k for k in range(1, len(sizes) + 1))
    boxes = _boxes(s, count, 2.0 * sizes[0][1], 2.0 * sizes[0][0])
    where = {"images": s.integers(0, 2, (count,)), "levels": s.integers(0, len(sizes), (count,))}
    options = {"size": size, "scales": scales, "ratio": ratio, "aligned": aligned}
    return Sample(tuple(s.normal((2, 3, *hw)) for hw in sizes), {"boxes": boxes, **where, **options})


def _with_empty_box(s: Source) -> Sample:
    sample = _roi_sample(s, count=3)
    sample.kwargs["boxes"][1, 2] = sample.kwargs["boxes"][1, 0]
    return sample


def _drawn(s: Source) -> Sample:
    sizes = tuple((s.integer(1, 9), s.integer(1, 9)) for _ in range(s.integer(1, 3)))
    return _roi_sample(
        s, s.integer(1, 5), s.integer(0, 3), s.choice((True, False)), sizes, (s.integer(1, 4), s.integer(1, 4))
    )


_SAMPLES: dict[str, Callable[[Source], Sample]] = {
    "adaptive": _roi_sample,
    "two_samples": lambda s: _roi_sample(s, ratio=2, aligned=False),
    "adaptive_unaligned": lambda s: _roi_sample(s, aligned=False),
    "levels": lambda s: _roi_sample(s, 9, 2, sizes=((8, 6), (4, 3), (2, 2)), size=(3, 3)),
    "one_pixel": lambda s: _roi_sample(s, sizes=((1, 1),), size=(2, 1)),
    "empty_box": _with_empty_box,
    "drawn": _drawn,
    "empty": lambda s: _roi_sample(s, count=0),
}


def _pool(*maps: Any, **kwargs: Any) -> Any:
    return pool_levels(maps, **kwargs)


X = ag.Tensor(np.ones((2, 3, 4, 5)))
BOX, FIRST = np.array([[0.0, 0.0, 2.0, 2.0]]), np.zeros(1, int)
_NAN = np.array([[0.0, 0.0, 2.0, 2.0], [0.0, np.nan, 2.0, 2.0]])

register(
    OpInfo(
        "roi_align",
        _pool,
        _SAMPLES,
        roi_align_reference,
        composite=_composite,
        linear=True,
        joint=True,
        exempt={"scalar": "a map has four axes; the error is checked"},
        errors=(
            BadCall(lambda: roi_align(ag.Tensor(1.0), BOX, FIRST, 2), ValueError, "maps (B, C, H, W)"),
            BadCall(lambda: roi_align(ag.Tensor(np.ones((1, 1, 0, 2))), BOX, FIRST, 2), ValueError, "one pixel"),
            BadCall(lambda: roi_align(X, BOX[0], FIRST, 2), ValueError, "boxes (R, 4); got float64 (4,)"),
            BadCall(lambda: roi_align(X, BOX.astype(int), FIRST, 2), ValueError, "float boxes (R, 4); got int64"),
            BadCall(lambda: roi_align(X, BOX, np.zeros(2, int), 2), ValueError, "images as 1 integers"),
            BadCall(lambda: roi_align(X, BOX, np.zeros(1), 2), ValueError, "got float64 (1,)"),
            BadCall(lambda: roi_align(X, BOX, FIRST + 2, 2), IndexError, "images from 0 to 1; got 2 for box 0"),
            BadCall(lambda: roi_align(X, _NAN, np.zeros(2, int), 2), ValueError, "2.0] as box 1"),
            BadCall(lambda: roi_align(X, BOX * 1e7, FIRST, 2), ValueError, "within 2^20 pixels"),
            BadCall(lambda: roi_align(X, BOX, FIRST, 0), ValueError, "a size of 1 or more"),
            BadCall(lambda: roi_align(X, BOX, FIRST, 2, ratio=-1), ValueError, "a ratio of 0 or more"),
            BadCall(lambda: pool_levels([X], BOX, FIRST, FIRST + 1, 2, scales=(1,)), IndexError, "levels from 0 to 0"),
            BadCall(lambda: pool_levels([X, X], BOX, FIRST, FIRST, 2, scales=(1,)), ValueError, "2 maps; got 1"),
            BadCall(lambda: pool_levels([], BOX, FIRST, FIRST, 2, scales=()), ValueError, "got []"),
        ),
    )
)


def _roi_arguments(rng: np.random.Generator, dtype: Any) -> tuple[list[Array], tuple[Any, ...], dict[str, Any]]:
    sample = _roi_sample(Source(int(rng.integers(2**31))), 5, sizes=((6, 7), (3, 4)))
    options = dict(sample.kwargs)
    wide = np.float64 if dtype == np.float64 else np.float32
    where = (options.pop("boxes").astype(wide), options.pop("images"), options.pop("levels"))
    return [x.astype(dtype) for x in sample.args], where, options


def _roi_align_fwd(rng: np.random.Generator, dtype: Any) -> Any:
    maps, where, options = _roi_arguments(rng, dtype)
    return (maps, *where), options


def _roi_align_bwd(rng: np.random.Generator, dtype: Any) -> Any:
    maps, where, options = _roi_arguments(rng, dtype)
    g = rng.standard_normal((5, 3, *options.pop("size"))).astype(dtype)
    return (g, [x.shape for x in maps], *where), options


def _suppress(rng: np.random.Generator, dtype: Any) -> Any:
    boxes = _boxes(Source(int(rng.integers(2**31))), 12, 20.0, 20.0).astype(dtype)
    return (boxes, np.array([0, 5, 5, 6, 12]), 0.3), {}


def _sample_windows(rng: np.random.Generator, dtype: Any) -> Any:
    heights, widths = np.array([3, 0, 2]), np.array([4, 3, 5])
    ys, xs = (rng.uniform(-2, 5, n.sum()).astype(dtype) for n in (heights, widths))
    return (rng.random((3, 4, 3)).astype(dtype), ys, xs, heights, widths), {}


register_kernel_rows(
    roi_align_fwd=KernelRow(_roi_align_fwd, "roi_align"),
    roi_align_bwd=KernelRow(_roi_align_bwd, "roi_align"),
    sample_windows=KernelRow(_sample_windows, None),
    suppress=KernelRow(_suppress, None),
)
