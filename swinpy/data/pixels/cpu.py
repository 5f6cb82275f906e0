"""Crop, flip and normalise compiled for the CPU: one pass from bytes to floats, which come from a table of 256.

A batch is made by one of the loader's threads, so it is not shared out further.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.compiled.toolkit import jit, plain
from swinpy.data.pixels.reference import crop_padded, normalise

__all__ = ["crop_flip_normalise"]


@jit
def _place(i: int, n: int, reflect: bool) -> int:
    """Where pixel i of a padded row lies in the image: -1 for nowhere."""
    if 0 <= i < n:
        return i
    if not reflect:
        return -1
    return -i if i < 0 else 2 * (n - 1) - i


@jit
def _run(images: Any, top: Any, left: Any, mirrored: Any, padding: int, reflect: bool, table: Any, out: Any) -> None:
    batch, channels, height, width = images.shape
    columns = np.empty(width, np.int64)
    for b in range(batch):
        for x in range(width):
            to = width - 1 - x if mirrored[b] else x
            columns[to] = _place(x + left[b] - padding, width, reflect)
        for c in range(channels):
            for y in range(height):
                row = _place(y + top[b] - padding, height, reflect)
                for x in range(width):
                    known = row >= 0 and columns[x] >= 0
                    out[b, c, y, x] = table[c, images[b, c, row, columns[x]] if known else 0]


def crop_flip_normalise(
    images: Any, top: Any, left: Any, mirrored: Any, padding: int, reflect: bool, mean: Any, std: Any
) -> Any:
    """See :func:`swinpy.data.pixels.reference.crop_flip_normalise`."""
    if padding and reflect:
        crop_padded(images[:0], top[:0], left[:0], padding, "reflect")  # refuses a padding that is too wide
    channels = images.shape[1]
    values = np.broadcast_to(np.arange(256, dtype=np.uint8), (1, channels, 1, 256))
    table = normalise(values, mean, std, mean.dtype).reshape(channels, 256)
    out = np.empty(images.shape, mean.dtype)
    if not padding:
        top = left = np.zeros(len(images), np.int64)
    _run(plain(images), plain(top), plain(left), plain(mirrored), padding, reflect, table, out)
    return out
