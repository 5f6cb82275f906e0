"""Pixels in another order: 2x2 neighbours side by side, and the patches of images as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.kernels.registry import Cost, elementwise, kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.backend import Array

__all__ = ["patch_merge_bwd", "patch_merge_fwd", "patch_rows"]


@kernel(elementwise(1, 1))
def patch_merge_fwd(x: Array) -> Array:
    """2x2 neighbours side by side in the order (0,0), (1,0), (0,1), (1,1) of (row, column).

    Args:
        x: (B, H, W, C); odd sizes are padded with zeros at the right and bottom.

    Returns:
        (B, ceil(H/2), ceil(W/2), 4C).
    """
    batch, h, w, channels = x.shape
    if h % 2 or w % 2:
        x = array_module(x).pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    h, w = (h + 1) // 2, (w + 1) // 2
    cells = x.reshape(batch, h, 2, w, 2, channels).transpose(0, 1, 3, 4, 2, 5)
    return cells.reshape(batch, h, w, 4 * channels)


@kernel(elementwise(1, 1))
def patch_merge_bwd(g: Array, height: int, width: int) -> Array:
    """Gradient of :func:`patch_merge_fwd`: every number goes back to its pixel, those of padding are dropped.

    Args:
        g: (B, ceil(H/2), ceil(W/2), 4C).
        height: H.
        width: W.

    Returns:
        (B, H, W, C), a new array.
    """
    batch, h, w, channels = g.shape
    pixels = g.reshape(batch, h, w, 2, 2, channels // 4).transpose(0, 1, 4, 2, 3, 5)
    out = pixels.reshape(batch, 2 * h, 2 * w, channels // 4)[:, :height, :width]
    return array_module(g).ascontiguousarray(out)


def _rows_cost(images: Any, patch: tuple[int, int], mean: Any = None, std: Any = None, dtype: Any = None) -> Cost:
    rows = images.size * np.dtype(dtype or images.dtype).itemsize
    return Cost((3 if mean else 1) * images.size, images.nbytes + rows)


@kernel(_rows_cost)
def patch_rows(
    images: Array,
    patch: tuple[int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: Any = None,
) -> Array:
    """Non-overlapping patches as rows, those of 8-bit images normalised.

    Args:
        images: (B, C, H, W); padded with zeros (after normalisation) at the right and bottom to whole patches.
        patch: its height and width in pixels.
        mean: of each channel, of pixels scaled to [0, 1]; None if ``images`` are floats, which are taken as they are.
        std: likewise.
        dtype: of the rows; default that of ``images``.

    Returns:
        (B * ceil(H / height) * ceil(W / width), C * height * width), a row in the order (channel, row, column).
    """
    xp, (ph, pw) = array_module(images), patch
    batch, channels, height, width = images.shape
    dtype = np.dtype(images.dtype if dtype is None else dtype)
    if mean is not None and std is not None:
        wide = accumulator(dtype)
        images = images.astype(wide) / wide.type(255)
        images -= xp.asarray(mean, wide).reshape(-1, 1, 1)
        images /= xp.asarray(std, wide).reshape(-1, 1, 1)
    if height % ph or width % pw:
        images = xp.pad(images, ((0, 0), (0, 0), (0, -height % ph), (0, -width % pw)))
    h, w = -(-height // ph), -(-width // pw)
    cells = images.reshape(batch, channels, h, ph, w, pw).transpose(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch * h * w, channels * ph * pw).astype(dtype, copy=False)
