"""Mixup and CutMix of a batch with itself reversed, and soft targets.

Source: Zhang et al., "mixup", 2018; Yun et al., "CutMix", 2019; as put together in timm's ``Mixup`` (mode "batch").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autograd import random as agr
from swinpy.data.streams import MIX, stream_of

__all__ = ["MixSettings", "cutmix", "cutmix_box", "mix_batch", "mixup", "smooth_one_hot"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class MixSettings:
    """See the attributes of the same meaning in :class:`swinpy.data.Augment`."""

    mixup: float
    cutmix: float
    prob: float
    switch_prob: float


def smooth_one_hot(labels: NDArray[np.int64], num_classes: int, smoothing: float) -> Floats:
    """Targets ``(B, K)``: ``off = smoothing / K`` everywhere, ``1 - smoothing + off`` at the label."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"smooth_one_hot: expected labels in [0, {num_classes}); got {labels.min()}..{labels.max()}. "
            "Set num_classes to the dataset's."
        )
    off = smoothing / num_classes
    targets = np.full((len(labels), num_classes), off, dtype=np.float32)
    targets[np.arange(len(labels)), labels] = 1 - smoothing + off
    return targets


def mixup(images: Floats, targets: Floats, lam: float) -> tuple[Floats, Floats]:
    """``lam`` of each sample and ``1 - lam`` of the one at its place in the reversed batch."""
    keep, give = np.float32(lam), np.float32(1 - lam)
    return images * keep + images[::-1] * give, targets * keep + targets[::-1] * give


def cutmix_box(height: int, width: int, lam: float, row: int, column: int) -> tuple[int, int, int, int]:
    """The box of area about ``1 - lam`` around (row, column), clipped: top, bottom, left, right.

    A box of odd size has (row, column) in its middle, one of even size half a pixel above and left of it.
    Source: ``rand_bbox`` of timm 1.0.31.
    """
    share = math.sqrt(1 - lam)
    box_height, box_width = int(height * share), int(width * share)
    return (
        max(row - box_height // 2, 0),
        min(row + (box_height + 1) // 2, height),
        max(column - box_width // 2, 0),
        min(column + (box_width + 1) // 2, width),
    )


def cutmix(images: Floats, targets: Floats, box: tuple[int, int, int, int]) -> tuple[Floats, Floats]:
    """Put the ``box`` of the reversed batch into the batch; targets are mixed by the area that the box really has."""
    top, bottom, left, right = box
    mixed = images.copy()
    mixed[:, :, top:bottom, left:right] = images[::-1, :, top:bottom, left:right]
    lam = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    keep, give = np.float32(lam), np.float32(1 - lam)
    return mixed, targets * keep + targets[::-1] * give


def mix_batch(
    images: Floats, targets: Floats, settings: MixSettings, seed: int, epoch: int, step: int
) -> tuple[Floats, Floats]:
    """Mix a batch ``(B, C, H, W)`` and its targets ``(B, K)``, or leave it, as ``(seed, epoch, step)`` decides."""
    if not (settings.mixup or settings.cutmix):
        return images, targets
    generator = agr.host_generator(seed, step, stream_of(MIX, epoch))
    applied, switch = generator.random(2)
    if applied >= settings.prob:
        return images, targets
    use_cutmix = settings.cutmix > 0 and (settings.mixup == 0 or switch < settings.switch_prob)
    alpha = settings.cutmix if use_cutmix else settings.mixup
    lam = float(generator.beta(alpha, alpha))
    if not use_cutmix:
        return mixup(images, targets, lam)
    height, width = images.shape[2:]
    row, column = int(generator.integers(height)), int(generator.integers(width))
    return cutmix(images, targets, cutmix_box(height, width, lam, row, column))
