"""Augmentation of whole batches: pure functions, and the recipe that puts them together.

What happens to a sample is drawn from Philox at ``(seed, epoch, sample index)``, what happens to a batch (mixup and
CutMix) at ``(seed, epoch, step)``. A batch is therefore the same whichever thread makes it and whenever.

Source: the recipe of Swin Transformer (Liu et al., 2021, section 4.1), with the definitions of timm's ``Mixup``
and ``RandomErasing`` and torchvision's ``RandomCrop``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autograd import random as agr
from swinpy.data.mix import MixSettings, mix_batch, smooth_one_hot
from swinpy.data.pixels import crop_flip_normalise, normalise
from swinpy.data.streams import AUGMENT, as_integers, stream_of

__all__ = ["Augment", "Evaluate", "draw_boxes", "erase", "normal_rows"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

# Uniforms of one sample, in order: flip, crop (2), erase or not, its corner (2), then area and aspect of each attempt.
_FLIP, _CROP_Y, _CROP_X, _ERASE, _TOP, _LEFT, _ATTEMPTS_AT = 0, 1, 2, 3, 4, 5, 6
_ATTEMPTS = 10
_DRAWS = _ATTEMPTS_AT + 2 * _ATTEMPTS
_NOISE_AT = agr.counters_for(_DRAWS)
_COUNTERS = 1 << 20  # set aside for one sample: enough for noise of 3 x 1024 x 1024


@lru_cache(maxsize=1)
def _normal_table() -> Floats:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / 4096) for i in range(4096)], dtype=np.float32)


def normal_rows(seed: int, offsets: NDArray[np.uint64], n: int, *, stream: int) -> Floats:
    """One row of ``n`` standard normals an offset, float32: the quantile at the middle of one of 4,096 equal parts.

    A table, because rows must not depend on the batch around them, which vector mathematics does not promise.
    """
    return _normal_table()[as_integers(agr.uniform_rows(seed, offsets, n, stream=stream), 4096)]


def draw_boxes(
    uniforms: Floats,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[Ints, Ints, Ints, Ints]:
    """Boxes of random area and log-uniform aspect, as timm's RandomErasing draws them.

    Args:
        uniforms: ``(B, 2 + 2 * attempts)``: two for the corner, then area and aspect of each attempt.
        height: of the image.
        width: of the image.
        area: least and greatest share of the image.
        aspect: least and greatest height / width.

    Returns:
        top, left, height, width, each ``(B,)``: of the first attempt that is smaller than the image in both directions;
        height and width are 0 where none is.
    """
    u = uniforms.astype(np.float64)
    target = (area[0] + u[:, 2::2] * (area[1] - area[0])) * (height * width)
    ratio = np.exp(math.log(aspect[0]) + u[:, 3::2] * (math.log(aspect[1]) - math.log(aspect[0])))
    heights = np.rint(np.sqrt(target * ratio)).astype(np.int64)
    widths = np.rint(np.sqrt(target / ratio)).astype(np.int64)
    fits = (heights < height) & (widths < width)
    first = fits.argmax(axis=1)[:, None]
    found = fits.any(axis=1)
    box_height = np.where(found, np.take_along_axis(heights, first, axis=1)[:, 0], 0)
    box_width = np.where(found, np.take_along_axis(widths, first, axis=1)[:, 0], 0)
    top = as_integers(uniforms[:, 0], height - box_height + 1)
    left = as_integers(uniforms[:, 1], width - box_width + 1)
    return top, left, box_height, box_width


def erase(images: Floats, boxes: tuple[Ints, Ints, Ints, Ints], filling: Floats) -> Floats:
    """Put ``filling`` (broadcast to ``(B, C, H, W)``) into the box (top, left, height, width) of each image."""
    top, left, box_height, box_width = (value[:, None] for value in boxes)
    rows, columns = np.arange(images.shape[2])[None], np.arange(images.shape[3])[None]
    in_rows = (rows >= top) & (rows < top + box_height)
    in_columns = (columns >= left) & (columns < left + box_width)
    inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return np.where(inside, filling, images)


def _require(good: bool, name: str, expected: str, got: object) -> None:
    if not good:
        raise ValueError(f"Augment: expected {name} {expected}; got {got}. Change {name}.")


@dataclass(frozen=True)
class Augment:
    """The training recipe: crop and flip bytes, normalise, erase, mix, smooth the targets.

    Attributes:
        num_classes: K of the targets.
        mean: per channel, of pixels scaled to [0, 1].
        std: per channel, of pixels scaled to [0, 1].
        seed: of all draws.
        hflip: probability of mirroring.
        crop_padding: pixels around the image that a crop may reach into; 0 for no cropping.
        crop_mode: what is there, "zero" (black) or "reflect".
        erase_prob: probability of erasing a box.
        erase_mode: "pixel" (normal noise in each) or "const" (the mean colour, 0 after normalisation).
        erase_area: least and greatest share of the image that is erased.
        erase_aspect: least and greatest height / width of the box.
        mixup: alpha of Beta(alpha, alpha) for mixup; 0 for none.
        cutmix: alpha for CutMix; 0 for none.
        mix_prob: probability that a batch is mixed at all.
        switch_prob: probability of CutMix rather than mixup where both are on.
        mix_off_epoch: the epoch from which batches are no longer mixed; 0 for never.
        smoothing: share of the target spread over all classes.
    """

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int = 0
    hflip: float = 0.5
    crop_padding: int = 4
    crop_mode: Literal["zero", "reflect"] = "zero"
    erase_prob: float = 0.25
    erase_mode: Literal["pixel", "const"] = "pixel"
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_prob: float = 1.0
    switch_prob: float = 0.5
    mix_off_epoch: int = 0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        _require(self.num_classes >= 1, "num_classes", "to be at least 1", self.num_classes)
        _require(len(self.mean) == 3, "mean", "of three channels", self.mean)
        _require(len(self.std) == 3 and all(s > 0 for s in self.std), "std", "of three positive values", self.std)
        for name in ("hflip", "erase_prob", "mix_prob", "switch_prob"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name, "to be a probability in [0, 1]", value)
        _require(0 <= self.smoothing < 1, "smoothing", "in [0, 1)", self.smoothing)
        _require(self.crop_padding >= 0, "crop_padding", "to be 0 or more pixels", self.crop_padding)
        _require(self.crop_mode in ("zero", "reflect"), "crop_mode", "'zero' or 'reflect'", repr(self.crop_mode))
        _require(self.erase_mode in ("pixel", "const"), "erase_mode", "'pixel' or 'const'", repr(self.erase_mode))
        _require(
            0 < self.erase_area[0] <= self.erase_area[1] <= 1, "erase_area", "0 < low <= high <= 1", self.erase_area
        )
        _require(0 < self.erase_aspect[0] <= self.erase_aspect[1], "erase_aspect", "0 < low <= high", self.erase_aspect)
        for name in ("mixup", "cutmix", "mix_off_epoch"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, name, "to be 0 (off) or positive", value)

    def __call__(self, images: Bytes, labels: Ints, indices: Ints, epoch: int, step: int) -> tuple[Floats, Floats]:
        """Augment one batch.

        Args:
            images: uint8 ``(B, 3, H, W)``.
            labels: int64 ``(B,)``.
            indices: which samples of the dataset these are, ``(B,)``.
            epoch: counted from 0.
            step: of the epoch, counted from 0.

        Returns:
            float32 images ``(B, 3, H, W)`` and float32 targets ``(B, K)`` that sum to 1.
        """
        stream = stream_of(AUGMENT, epoch)
        offsets = indices.astype(np.uint64) * np.uint64(_COUNTERS)
        u = agr.uniform_rows(self.seed, offsets, _DRAWS, stream=stream)
        reach = 2 * self.crop_padding + 1
        top, left = as_integers(u[:, _CROP_Y], reach), as_integers(u[:, _CROP_X], reach)
        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        floats: Floats = crop_flip_normalise(
            images,
            top,
            left,
            u[:, _FLIP] < self.hflip,
            self.crop_padding,
            self.crop_mode == "reflect",
            mean,
            std,
        )
        self._erase(floats, u, offsets, stream)
        mixing = not self.mix_off_epoch or epoch < self.mix_off_epoch
        settings = MixSettings(self.mixup, self.cutmix, self.mix_prob if mixing else 0.0, self.switch_prob)
        targets = smooth_one_hot(labels, self.num_classes, self.smoothing)
        return mix_batch(floats, targets, settings, self.seed, epoch, step)

    def _erase(self, images: Floats, u: Floats, offsets: NDArray[np.uint64], stream: int) -> None:
        """Erase in place; noise is drawn only for the samples that need it."""
        chosen = np.flatnonzero(u[:, _ERASE] < self.erase_prob)
        if not len(chosen):
            return
        _, channels, height, width = images.shape
        boxes = draw_boxes(u[chosen, _TOP:], height, width, self.erase_area, self.erase_aspect)
        filling = np.zeros((1, 1, 1, 1), dtype=np.float32)
        if self.erase_mode == "pixel":
            rows = normal_rows(
                self.seed, offsets[chosen] + np.uint64(_NOISE_AT), channels * height * width, stream=stream
            )
            filling = rows.reshape(len(chosen), channels, height, width)
        images[chosen] = erase(images[chosen], boxes, filling)


@dataclass(frozen=True)
class Evaluate:
    """The recipe for evaluation: normalise, and say the class with certainty. Called like :class:`Augment`."""

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Bytes, labels: Ints, indices: Ints, epoch: int, step: int) -> tuple[Floats, Floats]:
        """See :meth:`Augment.__call__`; nothing is drawn."""
        return normalise(images, self.mean, self.std), smooth_one_hot(labels, self.num_classes, 0.0)
