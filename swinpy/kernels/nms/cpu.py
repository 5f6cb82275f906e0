"""Greedy non-maximum suppression, compiled.

The twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.compiled.pieces import pieces_between, run_pieces
from autograd.kernels.compiled.toolkit import difference, jit, plain, product, quotient

__all__ = ["suppress"]

_PAIR = 1 << 12  # boxes that a thread takes at a time, at least


@jit
def _run(boxes: Any, starts: Any, threshold: Any, areas: Any, keep: Any, _: int, start: int, stop: int) -> None:
    zero = threshold - threshold
    for n in range(starts[start], starts[stop]):
        width, height = difference(boxes[n, 2], boxes[n, 0]), difference(boxes[n, 3], boxes[n, 1])
        areas[n] = product(width, height)
        keep[n] = True
    for group in range(start, stop):
        for i in range(starts[group], starts[group + 1]):
            if not keep[i]:
                continue
            x0, y0, x1, y1, area = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], areas[i]
            for j in range(i + 1, starts[group + 1]):
                width = difference(min(x1, boxes[j, 2]), max(x0, boxes[j, 0]))
                height = difference(min(y1, boxes[j, 3]), max(y0, boxes[j, 1]))
                if not keep[j] or width <= zero or height <= zero:
                    continue
                inner = product(width, height)
                if quotient(inner, difference(area + areas[j], inner)) > threshold:
                    keep[j] = False


def suppress(boxes: Any, starts: Any, threshold: float) -> Any:
    """Pieces are runs of whole groups."""
    boxes, kind = plain(boxes), boxes.dtype.type
    areas, keep = np.empty(len(boxes), boxes.dtype), np.empty(len(boxes), bool)
    bounds = [0]
    for group in range(1, len(starts)):
        if starts[group] - starts[bounds[-1]] >= _PAIR or group == len(starts) - 1:
            bounds.append(group)
    run_pieces(_run, pieces_between(bounds), boxes, plain(starts), kind(threshold), areas, keep)
    return keep
