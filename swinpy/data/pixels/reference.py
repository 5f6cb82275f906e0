"""Crop, flip and normalise 8-bit images: each step by itself, and all of them as one kernel with a compiled twin."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autograd.extend import Cost, kernel

__all__ = ["crop_flip_normalise", "crop_padded", "flip", "normalise"]

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


def flip(images: Bytes, chosen: NDArray[np.bool_]) -> Bytes:
    """Mirror the ``chosen`` ``(B,)`` of ``(B, C, H, W)`` left to right."""
    out = images.copy()
    out[chosen] = images[chosen][..., ::-1]
    return out


def crop_padded(images: Bytes, top: Ints, left: Ints, padding: int, mode: Literal["zero", "reflect"] = "zero") -> Bytes:
    """Pad ``(B, C, H, W)`` on all sides and crop to the old size at ``(top, left)``, each in 0..2 * padding.

    ``top = left = padding`` is the identity; "reflect" needs an image larger than the padding.
    Source: torchvision's RandomCrop(H, padding=padding).
    """
    if not padding:
        return images
    batch, _, height, width = images.shape
    if mode == "reflect" and padding >= min(height, width):
        raise ValueError(
            f"crop_padded: expected padding < {min(height, width)} to reflect an image of {height}x{width}; "
            f"got {padding}. Lower crop_padding, or pad with zeros."
        )
    sides = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    padded = np.pad(images, sides) if mode == "zero" else np.pad(images, sides, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    cropped: Bytes = windows[np.arange(batch), :, top, left]
    return cropped


def normalise(images: Bytes, mean: Any, std: Any, dtype: Any = np.float32) -> NDArray[Any]:
    """uint8 ``(B, C, H, W)`` to ``(x / 255 - mean) / std`` in ``dtype``, a mean and a std for each channel."""
    shape = (1, len(mean), 1, 1)
    out: NDArray[Any] = images.astype(dtype)
    out /= out.dtype.type(255)
    out -= np.asarray(mean, dtype=dtype).reshape(shape)
    out /= np.asarray(std, dtype=dtype).reshape(shape)
    return out


def _cost(images: Bytes, *rest: Any) -> Cost:
    return Cost(3 * images.size, images.size * (1 + rest[5].itemsize))


@kernel(_cost)
def crop_flip_normalise(
    images: Bytes,
    top: Ints,
    left: Ints,
    mirrored: NDArray[np.bool_],
    padding: int,
    reflect: bool,
    mean: NDArray[Any],
    std: NDArray[Any],
) -> NDArray[Any]:
    """:func:`crop_padded`, then :func:`flip`, then :func:`normalise` in the dtype of ``mean``.

    Args:
        images: uint8 (B, C, H, W).
        top: (B,), of the crop within the padded image, in 0..2 * padding.
        left: (B,), likewise.
        mirrored: (B,), which to flip.
        padding: pixels on each side; 0 for no cropping.
        reflect: what is there: the image mirrored, or black.
        mean: (C,), of pixels scaled to [0, 1].
        std: (C,).

    Returns:
        (B, C, H, W).
    """
    cropped = crop_padded(images, top, left, padding, "reflect" if reflect else "zero")
    return normalise(flip(cropped, mirrored), mean, std, mean.dtype)
