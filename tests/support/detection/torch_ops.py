"""The two compiled operators that detectors of torch need, in plain torch and any float dtype.

torchvision has a Python version of RoIAlign, ``pure_roi_align``. It makes as many samples a bin as the map has pixels,
and does not mask those outside [-1, side], as the compiled operator does. So the tests compare with it on small maps,
inside, and everything else is compared with ``roi_align`` here.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torchvision.ops import roi_align as _function

__all__ = ["nms", "pure_roi_align", "roi_align"]

pure_roi_align: Any = sys.modules[_function.__module__]._roi_align
while hasattr(pure_roi_align, "__wrapped__"):  # compiles itself at the first call
    pure_roi_align = pure_roi_align.__wrapped__


def _matrix(low: Any, high: Any, bins: int, size: int, ratio: int, aligned: bool) -> Any:
    """(bins, size): the mean weight of each pixel in each bin along one axis."""
    low, high = (low - 0.5, high - 0.5) if aligned else (low, high)
    side = high - low if aligned else (high - low).clamp(min=1)
    count = ratio if ratio > 0 else max(int(torch.ceil(side / bins)), 0)
    at = low + torch.arange(bins).to(low)[:, None] * (side / bins)
    at = at + (torch.arange(count).to(low) + 0.5) * (side / bins / max(count, 1))
    inside = (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)[:, :, None]
    weights = (1 - (at - torch.arange(size).to(low)).abs()).clamp(min=0) * inside[:, :, None]
    return weights.sum(dim=1) / max(count, 1)


def roi_align(
    x: Any, rois: Any, size: tuple[int, int], scale: float = 1.0, ratio: int = -1, aligned: bool = False
) -> Any:
    """Features (R, C, P, Q) of rois (R, 5), whose first column is the image."""
    out = [x.new_zeros((0, x.shape[1], *size)) + 0 * x.sum()]
    for roi in rois.detach():
        x0, y0, x1, y1 = roi[1:] * scale
        y = _matrix(y0, y1, size[0], x.shape[2], ratio, aligned)
        across = _matrix(x0, x1, size[1], x.shape[3], ratio, aligned)
        out.append((y @ x[int(roi[0])] @ across.T)[None])
    return torch.cat(out)


def nms(boxes: Any, scores: Any, threshold: float) -> Any:
    """Indices of the boxes that stay, by falling score."""
    order = torch.argsort(scores, descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for i in order.tolist():
        if alive[i]:
            kept.append(i)
            low, high = torch.maximum(boxes[i, :2], boxes[:, :2]), torch.minimum(boxes[i, 2:], boxes[:, 2:])
            inner = (high - low).clamp(min=0).prod(dim=1)
            alive &= ~(inner / (area[i] + area - inner) > threshold)
    return torch.tensor(kept, dtype=torch.int64)
