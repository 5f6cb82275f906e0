"""Samples made into batches: the recipe of training and evaluation, and the loader.

What happens to a sample is drawn from Philox at ``(seed, epoch, sample index)``, so that a batch is the same whichever
thread makes it and whenever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd import random as agr
from swinpy.data.detection.resize import resized_size
from swinpy.data.detection.transforms import crop, drop_small, mirror, resize
from swinpy.data.loader import BatchLoader
from swinpy.data.pixels import normalise
from swinpy.data.streams import DETECTION, as_integers, stream_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from swinpy.data.detection.dataset import DetectionDataset, Sample
    from swinpy.data.detection.resize import ResizeRule

__all__ = ["DetectionBatch", "DetectionLoader", "DetectionRecipe", "collate"]

# Uniforms of one sample, in order.
_FLIP, _CUT, _SHORT, _SHORT_BEFORE, _HEIGHT, _WIDTH, _TOP, _LEFT = range(8)
_DRAWS = 8
_COUNTERS = agr.counters_for(_DRAWS)

COCO_SHORTS = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)


@dataclass(frozen=True, eq=False)
class DetectionBatch:
    """One step's worth. What is of one image stands in tuples of B.

    Attributes:
        images: float32 ``(B, 3, H, W)``, normalised, with zeros at the right and the bottom.
        sizes: (H, W) of each image within its padding.
        originals: (H, W) of each file.
        boxes: float32 ``(M, 4)``, x0, y0, x1, y1 in pixels of ``images``.
        labels: int64 ``(M,)``.
        masks: bool ``(M, H, W)``, as large as ``images``; None in a set without masks.
        crowd_boxes: float32 ``(C, 4)``.
        indices: int64 ``(B,)``, which samples of the dataset these are.
        ids: what the files call them.
        step: of the epoch, counted from 0.
    """

    images: NDArray[np.float32]
    sizes: tuple[tuple[int, int], ...]
    originals: tuple[tuple[int, int], ...]
    boxes: tuple[NDArray[np.float32], ...]
    labels: tuple[NDArray[np.int64], ...]
    masks: tuple[NDArray[np.bool_], ...] | None
    crowd_boxes: tuple[NDArray[np.float32], ...]
    indices: NDArray[np.int64]
    ids: tuple[int | str, ...]
    step: int


def collate(
    samples: Sequence[Sample], mean: tuple[float, ...], std: tuple[float, ...], multiple: int = 32, step: int = 0
) -> DetectionBatch:
    """Normalise images of any sizes and put them into one array.

    Args:
        samples: at least one.
        mean: per channel, of pixels scaled to [0, 1].
        std: likewise.
        multiple: the sides become a multiple of this.
        step: of the epoch.
    """
    height, width = (-(-max(sample.size[axis] for sample in samples) // multiple) * multiple for axis in (0, 1))
    images = np.zeros((len(samples), 3, height, width), np.float32)
    masks: list[NDArray[np.bool_]] = []
    for place, sample in enumerate(samples):
        h, w = sample.size
        images[place, :, :h, :w] = normalise(sample.image[None], mean, std)[0]
        if sample.masks is not None:
            padded = np.zeros((len(sample.masks), height, width), np.bool_)
            padded[:, :h, :w] = sample.masks
            masks.append(padded)
    return DetectionBatch(
        images,
        tuple(sample.size for sample in samples),
        tuple(sample.original for sample in samples),
        tuple(sample.boxes for sample in samples),
        tuple(sample.labels for sample in samples),
        tuple(masks) if len(masks) == len(samples) else None,
        tuple(sample.crowd_boxes for sample in samples),
        np.array([sample.index for sample in samples], np.int64),
        tuple(sample.id for sample in samples),
        step,
    )


def _require(good: bool, name: str, expected: str, got: object) -> None:
    if not good:
        raise ValueError(f"DetectionRecipe: expected {name} {expected}; got {got}. Change {name}.")


@dataclass(frozen=True)
class DetectionRecipe:
    """Mirror, then resize to one of several sizes; half of the images are cropped between two resizes.

    The defaults are those of Swin's detectors (the official ``*_adamw_3x_coco.py``), after DETR. ``shorts=()`` leaves
    images at their size.

    Attributes:
        mean: per channel, of pixels scaled to [0, 1].
        std: likewise.
        seed: of all draws.
        shorts: pixels of the shorter side, of which one is drawn.
        longest: most pixels of the longer side.
        rule: whose resize, see :mod:`swinpy.data.detection.resize`.
        flip: probability of mirroring.
        crop_prob: probability of a crop.
        crop_shorts: pixels of the shorter side before a crop; () to crop the image as it is.
        crop_longest: most pixels of the longer side then.
        crop_sides: least and greatest side of a crop, each axis drawn by itself; the image's where that is smaller.
        multiple: the sides of a batch are padded to a multiple of this.

    Raises:
        ValueError: for values that no image could be prepared by.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int = 0
    shorts: tuple[int, ...] = COCO_SHORTS
    longest: int = 1333
    rule: ResizeRule = "mmdet"
    flip: float = 0.5
    crop_prob: float = 0.5
    crop_shorts: tuple[int, ...] = (400, 500, 600)
    crop_longest: int = 4200
    crop_sides: tuple[int, int] = (384, 600)
    multiple: int = 32

    def __post_init__(self) -> None:
        for name in ("flip", "crop_prob"):
            _require(0 <= getattr(self, name) <= 1, name, "to be a probability in [0, 1]", getattr(self, name))
        for name in ("shorts", "crop_shorts", "crop_sides"):
            _require(all(v >= 1 for v in getattr(self, name)), name, "to be of 1 pixel or more", getattr(self, name))
        for name in ("longest", "crop_longest", "multiple"):
            _require(getattr(self, name) >= 1, name, "to be 1 pixel or more", getattr(self, name))
        _require(self.crop_sides[0] <= self.crop_sides[1], "crop_sides", "least and greatest", self.crop_sides)
        _require(len(self.mean) == len(self.std) == 3, "mean and std", "of three channels", (self.mean, self.std))
        _require(min(self.std) > 0, "std", "of positive values", self.std)

    def for_evaluation(self) -> DetectionRecipe:
        """The same without draws: resized to the largest of the sizes."""
        return replace(self, shorts=self.shorts and (max(self.shorts),), flip=0.0, crop_prob=0.0)

    def __call__(self, samples: Sequence[Sample], epoch: int, step: int) -> DetectionBatch:
        """One batch.

        Args:
            samples: as the dataset gives them.
            epoch: counted from 0.
            step: of the epoch, counted from 0.
        """
        offsets = np.array([sample.index for sample in samples], np.uint64) * np.uint64(_COUNTERS)
        draws = agr.uniform_rows(self.seed, offsets, _DRAWS, stream=stream_of(DETECTION, epoch))
        made = [self.prepare(sample, row) for sample, row in zip(samples, draws, strict=True)]
        return collate(made, self.mean, self.std, self.multiple, step)

    def prepare(self, sample: Sample, draws: NDArray[np.float32]) -> Sample:
        """One sample by its eight uniforms."""
        if draws[_FLIP] < self.flip:
            sample = mirror(sample)
        if draws[_CUT] < self.crop_prob:
            sample = self._resized(sample, self.crop_shorts, self.crop_longest, draws[_SHORT_BEFORE])
            sample = self._cropped(sample, draws)
        return drop_small(self._resized(sample, self.shorts, self.longest, draws[_SHORT]))

    def _resized(self, sample: Sample, shorts: tuple[int, ...], longest: int, draw: np.float32) -> Sample:
        if not shorts:
            return sample
        short = shorts[_whole(draw, len(shorts))]
        return resize(sample, resized_size(sample.size, short, longest, self.rule), self.rule)

    def _cropped(self, sample: Sample, draws: NDArray[np.float32]) -> Sample:
        """mmdet's RandomCrop with ``crop_type="absolute_range"``."""
        low, high = self.crop_sides
        (height, top), (width, left) = (
            _part(side, min(side, low), min(side, high), draws[length], draws[start])
            for side, length, start in zip(sample.size, (_HEIGHT, _WIDTH), (_TOP, _LEFT), strict=True)
        )
        return crop(sample, top, left, height, width)


def _whole(draw: np.float32, n: int) -> int:
    return int(as_integers(np.asarray(draw), n))


def _part(side: int, low: int, high: int, length: np.float32, start: np.float32) -> tuple[int, int]:
    """How long a part is and where it begins."""
    chosen = low + _whole(length, high - low + 1)
    return chosen, _whole(start, side - chosen + 1)


class DetectionLoader(BatchLoader[DetectionBatch]):
    """Batches of images with objects; see :class:`swinpy.data.BatchLoader` for the order and the threads.

    Args:
        dataset: what to draw from.
        batch_size: images a batch.
        recipe: of training or evaluation.
        settings: ``shuffle``, ``seed``, ``workers``, ``drop_last`` and ``timeout`` of :class:`swinpy.data.BatchLoader`.

    Raises:
        ValueError: settings that would give no batch.
    """

    def __init__(self, dataset: DetectionDataset, batch_size: int, recipe: DetectionRecipe, **settings: Any) -> None:
        super().__init__(dataset, batch_size, **settings)
        self.dataset = dataset
        self.recipe = recipe

    def make(self, indices: NDArray[np.int64], epoch: int, step: int) -> DetectionBatch:
        """The samples of these numbers, prepared by the recipe."""
        return self.recipe([self.dataset[index] for index in indices.tolist()], epoch, step)
