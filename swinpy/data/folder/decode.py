"""Image files: read by Pillow, resized and cropped as torchvision's transforms do it, to bytes (3, H, W)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.data.errors import DatasetCorrupt
from swinpy.data.pixels import normalise

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from swinpy.preparation import Interpolation, Preparation

    Box = tuple[int, int, int, int]

__all__ = ["BadImage", "centre_crop", "fit", "open_image", "peek_image", "pillow", "prepare", "resize", "to_bytes"]


class BadImage(DatasetCorrupt):
    """A file that holds no whole image; the message names it."""


def pillow() -> Any:
    """Pillow's module of images.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            f"image: expected Pillow, which reads image files; got {error}. Run pip install 'swinpy[image]'."
        ) from None
    return Image


# A side of one pixel makes a small file grow without bounds where the shorter side is resized; this is 256 MiB.
_LARGEST = 1 << 26


def _bad(path: str | os.PathLike[str], error: BaseException) -> BadImage:
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
    return BadImage(
        f"image: expected a whole image in {Path(path)}; got {reason}. Replace the file, or take it out of the list."
    )


def _in_bytes(image: Any) -> Any:
    """An image in RGB. Greys of 16 bits are scaled to 8, which Pillow would clip to white.

    Raises:
        ValueError: for numbers whose white is not known.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image.convert("RGB")
    pixels = np.asarray(image)
    # PNG and PGM have greys of at most 16 bits, which some versions of Pillow open as 32
    if image.mode not in ("I", "F") or image.format in ("PNG", "PPM"):
        pixels = (pixels.astype(np.uint32) * 255 + 32767) // 65535
    elif not (pixels.min() >= 0 and pixels.max() <= 255):
        raise ValueError(
            f"numbers from {pixels.min():g} to {pixels.max():g}, which do not say what white is: convert it to 8 bits"
        )
    return pillow().fromarray(pixels.astype(np.uint8)).convert("RGB")


def _open(path: str | os.PathLike[str], whole: bool) -> Any:
    image_module = pillow()
    try:
        with warnings.catch_warnings():
            # Pillow warns of images that would take up gigabytes before it refuses them; here both refuse.
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # metadata that is damaged, and not used
            with image_module.open(path) as image:
                if not whole:
                    return image.size
                pixels = _in_bytes(image)
                pixels.filename = str(path)  # as Pillow's own images have it, for messages
                return pixels
    except MemoryError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise _bad(path, error) from error


def open_image(path: str | os.PathLike[str]) -> Any:
    """A file's image in RGB; the orientation in its metadata is not applied, as in the libraries' training.

    Greys of 16 bits are scaled to 8 (65535 is white); Pillow's own conversion makes all of them from 255 on white.

    Returns:
        A PIL image.

    Raises:
        BadImage: for a file that is missing, truncated or no image, or one of numbers whose white is not known.
        ImportError: without Pillow.
    """
    return _open(path, whole=True)


def peek_image(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(W, H) of a file's image from its first bytes; the pixels are not read.

    Raises:
        BadImage: for a file that is missing or does not begin as an image.
        ImportError: without Pillow.
    """
    size: tuple[int, int] = _open(path, whole=False)
    return size


def resize(
    image: Any, size: int | tuple[int, int], interpolation: Interpolation = "bicubic", box: Box | None = None
) -> Any:
    """Resample an image, antialiased.

    Args:
        image: a PIL image.
        size: of the shorter side, the proportions kept (the longer side rounded down); or (H, W).
        interpolation: the filter.
        box: (left, top, right, bottom) to crop to first.

    Raises:
        BadImage: for an image so long and narrow that the result would have more than 2^26 pixels.
    """
    path = getattr(image, "filename", "memory")
    if box is not None:
        image = image.crop(box)
    width, height = image.size
    if isinstance(size, int):
        short = min(width, height)
        size = (int(size * height / short), int(size * width / short))
    if size[0] * size[1] > _LARGEST:
        raise _bad(
            path, ValueError(f"one of {width}x{height} pixels, too long and narrow: {size[1]}x{size[0]} resized")
        )
    if (height, width) == size:
        return image
    filters = pillow().Resampling
    return image.resize((size[1], size[0]), filters.BICUBIC if interpolation == "bicubic" else filters.BILINEAR)


def centre_crop(image: Any, size: tuple[int, int]) -> Any:
    """The middle (H, W) of an image, which is surrounded by black where it is smaller."""
    width, height = image.size
    # torchvision pads before it crops, and the two round differently
    top, left = (
        round((there - want) / 2) if there >= want else -((want - there) // 2)
        for there, want in ((height, size[0]), (width, size[1]))
    )
    return image.crop((left, top, left + size[1], top + size[0]))


def to_bytes(image: Any) -> NDArray[np.uint8]:
    """uint8 (3, H, W)."""
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def fit(image: Any, preparation: Preparation) -> NDArray[np.uint8]:
    """A PIL image in RGB as bytes (3, H, W), resized and cropped.

    Raises:
        BadImage: for an image so long and narrow that it would have more than 2^26 pixels.
    """
    image = resize(image, preparation.resize, preparation.interpolation)
    return to_bytes(image if preparation.crop is None else centre_crop(image, preparation.crop))


def prepare(image: Any, preparation: Preparation) -> NDArray[np.float32]:
    """A PIL image in RGB (see :func:`open_image`) as a model's input, float32 (3, H, W).

    Datasets evaluate by the same two steps, :func:`fit` and :func:`swinpy.data.normalise`: to the bit.

    Raises:
        BadImage: as :func:`fit`.
    """
    pixels: NDArray[np.float32] = normalise(fit(image, preparation)[None], preparation.mean, preparation.std)[0]
    return pixels
