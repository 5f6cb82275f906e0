"""Images in files, decoded when a batch asks for them; stands where other datasets have one array."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd import random as agr
from swinpy.data.folder.decode import BadImage, fit, open_image, resize, to_bytes
from swinpy.data.streams import CROP, as_integers, stream_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from swinpy.data.folder.decode import Box
    from swinpy.preparation import Preparation

__all__ = ["FolderImages", "bad_files", "draw_crop"]

_ATTEMPTS = 10
_DRAWS = 2 * _ATTEMPTS + 2
_COUNTERS = 1 << 8  # of one sample
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_NAMED = 10


def bad_files(problems: list[BadImage], what: str) -> BadImage:
    """One message for several files."""
    if len(problems) == 1:
        return problems[0]
    lines = [str(problem).partition(" in ")[2].partition(". Replace")[0] for problem in problems[:_NAMED]]
    rest = len(problems) - len(lines)
    return BadImage(
        f"image: expected whole images in {what}; got {len(problems)} files that are not:\n  "
        + "\n  ".join([*lines, *([f"and {rest} more"] if rest else [])])
        + "\nReplace these files, or take them out of the folder."
    )


def draw_crop(uniforms: NDArray[np.float32], width: int, height: int) -> Box:
    """(left, top, right, bottom) of random area (8% to 100%) and aspect (3/4 to 4/3), as torchvision draws it.

    Args:
        uniforms: (22,): a share of the area and an aspect for each of ten attempts, then the corner.
        width: of the image.
        height: of the image.

    Returns:
        The first attempt that lies within the image; else the largest centred box with an allowed aspect.
        Source: torchvision's RandomResizedCrop, after Szegedy et al. 2015, "Going deeper with convolutions".
    """
    u = uniforms.astype(np.float64)
    areas = width * height * (_AREA[0] + u[0:-2:2] * (_AREA[1] - _AREA[0]))
    low, high = math.log(_ASPECT[0]), math.log(_ASPECT[1])
    aspects = np.exp(low + u[1:-2:2] * (high - low))
    for area, aspect in zip(areas, aspects, strict=True):
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int(as_integers(uniforms[i], n)) for i, n in ((-2, height - h + 1), (-1, width - w + 1)))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < _ASPECT[0]:
        h = round(width / _ASPECT[0])
    elif width / height > _ASPECT[1]:
        w = round(height * _ASPECT[1])
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@dataclass(frozen=True)
class FolderImages:
    """uint8 (N, 3, H, W) that is made from files as it is indexed.

    Attributes:
        paths: of the files.
        preparation: how every image is brought to one size.
        random_crop: draw a box of random area and aspect (see :func:`draw_crop`) in :meth:`at_epoch`.
        seed: of that draw.
    """

    paths: tuple[Path, ...]
    preparation: Preparation
    random_crop: bool = False
    seed: int = 0

    ndim = 4
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, H, W)."""
        return len(self.paths), 3, *self.preparation.size

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: NDArray[np.int64]) -> FolderImages:
        """These images alone, in this order."""
        return replace(self, paths=tuple(self.paths[i] for i in indices.tolist()))

    def __getitem__(self, key: int | NDArray[np.int64]) -> NDArray[np.uint8]:
        """As of an array: images by number, resized and cropped at the centre.

        Raises:
            BadImage: naming every file among them that cannot be read.
        """
        if isinstance(key, (int, np.integer)):
            image: NDArray[np.uint8] = self._read([int(key)], [None])[0]
            return image
        return self._read(list(key), [None] * len(key))

    def at_epoch(self, indices: NDArray[np.int64], epoch: int) -> NDArray[np.uint8]:
        """The images (B, 3, H, W) of an epoch: with ``random_crop`` cropped by a draw from (seed, epoch, index).

        Raises:
            BadImage: naming every file among them that cannot be read.
        """
        if not self.random_crop:
            return self[indices]
        offsets = indices.astype(np.uint64) * np.uint64(_COUNTERS)
        return self._read(
            list(indices), list(agr.uniform_rows(self.seed, offsets, _DRAWS, stream=stream_of(CROP, epoch)))
        )

    def _read(self, indices: list[int], draws: list[NDArray[np.float32] | None]) -> NDArray[np.uint8]:
        out = np.empty((len(indices), 3, *self.preparation.size), np.uint8)
        problems = []
        for row, (index, draw) in enumerate(zip(indices, draws, strict=True)):
            try:
                out[row] = self._fitted(open_image(self.paths[index]), draw)
            except BadImage as problem:
                problems.append(problem)
        if problems:
            raise bad_files(problems, "a batch")
        return out

    def _fitted(self, image: Any, draw: NDArray[np.float32] | None) -> NDArray[np.uint8]:
        by = self.preparation
        if draw is None:
            return fit(image, by)
        return to_bytes(resize(image, by.size, by.interpolation, draw_crop(draw, *image.size)))
