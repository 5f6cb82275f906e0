"""Ops that put pixels in another order: neighbours side by side, patches as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.dtypes import as_dtype, is_float
from autograd.kernels import patches as kernels
from autograd.primitive import Ctx, Primitive
from autograd.shapes import as_ints
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import DTypeLike

    from autograd.backend import Array
    from autograd.tensor import TensorLike

__all__ = ["patch_merge", "patch_rows"]


def _merge_forward(ctx: Ctx, x: Array) -> Array:
    ctx.size = x.shape[1:3]
    return kernels.patch_merge_fwd(x)


def _merge_vjp(ctx: Ctx, g: Array) -> Array:
    return kernels.patch_merge_bwd(g, *ctx.size)


_patch_merge = Primitive("patch_merge", _merge_forward, _merge_vjp)


def patch_merge(x: TensorLike) -> Tensor:
    """2x2 neighbours of a map side by side. Saves nothing.

    Args:
        x: (B, H, W, C); odd sizes are padded with zeros at the right and bottom.

    Returns:
        (B, ceil(H/2), ceil(W/2), 4C): the pixels (0,0), (1,0), (0,1), (1,1), as (row, column), of each 2x2.

    Raises:
        ValueError: for another number of axes.

    Source: Liu et al. 2021, section 3.1; the order is the official code's.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    if x.ndim != 4:
        raise ValueError(f"patch_merge: expected x (B, H, W, C); got {x.shape}.")
    return _patch_merge(x)


def _rows_forward(
    ctx: Ctx,
    images: Array,
    *,
    patch: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: np.dtype[Any],
) -> Array:
    return kernels.patch_rows(images, patch, mean, std, dtype)


_patch_rows = Primitive("patch_rows", _rows_forward, None)


def patch_rows(
    images: TensorLike,
    patch_size: int | Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = "float32",
) -> Tensor:
    """Patches of 8-bit images as rows of (pixel / 255 - mean) / std; no gradient.

    Args:
        images: uint8 (B, C, H, W); after normalisation padded with zeros at the right and bottom to whole patches.
        patch_size: one number or (height, width), in pixels.
        mean: of each channel, of pixels scaled to [0, 1].
        std: likewise.
        dtype: of the rows.

    Returns:
        (B * ceil(H / height) * ceil(W / width), C * height * width), a row in the order (channel, row, column).

    Raises:
        TypeError: for images that are not uint8, or rows that are no floats.
        ValueError: for another number of axes, of means or of stds, or a std that is not positive.
    """
    images = images if isinstance(images, Tensor) else Tensor(images)
    dtype = as_dtype(dtype)
    if images.dtype != "uint8" or not is_float(dtype):
        raise TypeError(f"patch_rows: expected uint8 images and a float dtype; got {images.dtype} and {dtype}.")
    if images.ndim != 4:
        raise ValueError(f"patch_rows: expected images (B, C, H, W); got {images.shape}.")
    patch = as_ints("patch_rows", "patch_size", patch_size, 2)
    if len(patch) != 2 or min(patch) < 1:
        raise ValueError(f"patch_rows: expected patch_size as one or two integers of 1 or more; got {patch_size}.")
    mean, std = tuple(map(float, mean)), tuple(map(float, std))
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels or not all(s > 0 for s in std):
        raise ValueError(f"patch_rows: expected {channels} means and positive stds; got {mean} and {std}.")
    return _patch_rows(images, patch=patch, mean=mean, std=std, dtype=dtype)
