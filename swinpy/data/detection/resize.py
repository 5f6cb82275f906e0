"""Images brought to a size as the libraries of detectors do it, which differ in the size and in the pixels.

| rule | size | pixels |
|---|---|---|
| "mmdet" | int(side * scale + 0.5) | bilinear on bytes, OpenCV's fixed-point arithmetic |
| "torchvision" | floor(side * scale) | bilinear in float32, the result not rounded |
| "detectron2" | shorter side exact, the other int(side * scale + 0.5) | Pillow's bilinear filter, antialiased |

Scale brings the shorter side to ``short``, or the longer one to ``longest`` where it would be longer. All take pixels
for squares whose centre is sampled (half-pixel). Masks take the nearest pixel by the same rule, whichever library.

Source: ``mmcv.imrescale`` 2.2 and ``cv2.resize`` of OpenCV 5.0, to the bit; ``GeneralizedRCNNTransform`` of
torchvision 0.29.1; ``ResizeShortestEdge`` of detectron2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from swinpy.data.folder.decode import pillow

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ResizeRule", "resize_masks", "resize_pixels", "resized_size"]

ResizeRule: TypeAlias = Literal["mmdet", "torchvision", "detectron2"]
_LARGEST = 1 << 26  # pixels
_BITS = 11  # of OpenCV's weights


def resized_size(size: tuple[int, int], short: int, longest: int, rule: ResizeRule) -> tuple[int, int]:
    """(H, W) that an image of ``size`` gets; see the module.

    Args:
        size: (H, W).
        short: pixels that the shorter side gets, if the longer one allows it.
        longest: most pixels of the longer side.
        rule: whose.

    Raises:
        ValueError: for another rule, or a size of no pixels or of more than 2^26.
    """
    least, most = min(size), max(size)
    if rule == "mmdet":
        scale = min(longest / most, short / least)
        new = int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
    elif rule == "torchvision":
        scale = min(short / least, longest / most)
        new = int(size[0] * scale), int(size[1] * scale)
    elif rule == "detectron2":
        scale = short / least
        height, width = (short, scale * size[1]) if size[0] < size[1] else (scale * size[0], short)
        if max(height, width) > longest:
            scale = longest * 1.0 / max(height, width)
            height, width = height * scale, width * scale
        new = int(height + 0.5), int(width + 0.5)
    else:
        raise ValueError(f"resize: expected a rule of {', '.join(get_args(ResizeRule))}; got {rule!r}. Choose one.")
    if min(new) < 1 or new[0] * new[1] > _LARGEST:
        raise ValueError(
            f"resize: expected an image of 1 to 2^26 pixels; got {new[1]}x{new[0]} from {size[1]}x{size[0]}. "
            "It is too long and narrow; leave it out."
        )
    return new


def resize_pixels(image: NDArray[Any], size: tuple[int, int], rule: ResizeRule) -> NDArray[Any]:
    """Resample an image ``(3, H, W)`` to ``size`` (H, W).

    Returns:
        uint8 under "mmdet" and "detectron2", which take uint8; float32 in 0..255 under "torchvision".

    Raises:
        ImportError: for "detectron2", without Pillow.
    """
    if rule == "torchvision":
        return _resize_floats(image.astype(np.float32, copy=False), size)
    if image.dtype != np.uint8:
        raise ValueError(f"resize: expected uint8 under {rule!r}; got {image.dtype}. Resize before normalising.")
    if image.shape[1:] == size:
        return image
    if rule == "mmdet":
        return _resize_fixed(image, size)
    image_module = pillow()
    resized = image_module.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).resize(
        (size[1], size[0]), image_module.Resampling.BILINEAR
    )
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def resize_masks(masks: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks ``(M, H, W)`` at ``size``: the pixel that holds each new pixel's centre."""
    rows, columns = (
        ((2 * np.arange(new, dtype=np.int64) + 1) * old) // (2 * new)
        for old, new in zip(masks.shape[1:], size, strict=True)
    )
    return masks[:, rows[:, None], columns]


def _resize_floats(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    height, width = image.shape[1:]
    x0, x1, along = _float_taps(width, size[1])
    y0, y1, down = _float_taps(height, size[0])
    columns = image.transpose(2, 0, 1)  # whole columns are gathered, which lie together
    mixed = columns[x0] * (1 - along)[:, None, None] + columns[x1] * along[:, None, None]
    rows = np.ascontiguousarray(mixed.transpose(2, 1, 0))
    out = rows[y0] * (1 - down)[:, None, None] + rows[y1] * down[:, None, None]
    return np.ascontiguousarray(out.transpose(1, 0, 2))


def _float_taps(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The two pixels that each new one lies between, and the second one's weight, in float32 as torch has them."""
    scale = np.float32(old) / np.float32(new)
    place = np.maximum(scale * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    first = np.minimum(place.astype(np.int64), old - 1)
    return first, np.minimum(first + 1, old - 1), (place - first.astype(np.float32)).clip(0, 1)


def _resize_fixed(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """OpenCV's INTER_LINEAR on bytes: weights of 11 bits, 4 bits of the rows' sums dropped before the columns'."""
    height, width = image.shape[1:]
    x0, x1, left, right = _fixed_taps(width, size[1], at_border=True)
    y0, y1, upper, lower = _fixed_taps(height, size[0], at_border=False)
    columns = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.int32)
    mixed = (columns[x0] * left[:, None, None] + columns[x1] * right[:, None, None]) >> 4
    rows = np.ascontiguousarray(mixed.transpose(2, 1, 0))
    total = (rows[y0] * upper[:, None, None] >> 16) + (rows[y1] * lower[:, None, None] >> 16)
    return np.ascontiguousarray(((total + 2) >> 2).transpose(1, 0, 2)).astype(np.uint8)


def _fixed_taps(old: int, new: int, at_border: bool) -> tuple[NDArray[Any], ...]:
    """The two pixels and their weights; ``at_border``: beyond the border's pixel it alone counts, in one product."""
    scale = 1 / (new / old)
    place = ((np.arange(new) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    part = place - first.astype(np.float32)
    if at_border:
        part[(first < 0) | (first >= old - 1)] = 0
    one = np.float32(1 << _BITS)
    weights = (np.rint(w * one).astype(np.int32) for w in (np.float32(1) - part, part))
    return np.clip(first, 0, old - 1), np.clip(first + 1, 0, old - 1), *weights
