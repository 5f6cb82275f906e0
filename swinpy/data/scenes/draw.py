"""Procedural scenes: one shape of ten on a gradient, with smaller shapes around it, 32x32 RGB.

For trying out a whole training run without fetching anything. Image ``i`` is a pure function of ``(seed, i, variant)``.
On disk the set has the layout of CIFAR-10's binary version and is read by the same loader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autograd import random as agr
from swinpy.data.scenes.paint import COLOURS, background, between, coverage, paint, pixel_line
from swinpy.data.scenes.shapes import SHAPES
from swinpy.data.streams import SCENES, as_integers, stream_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SCENE_CLASSES", "VARIANTS", "Scenes", "Variant", "generate"]

SCENE_CLASSES = tuple(SHAPES)
_SIDE = 32
_CHUNK = 64  # images drawn at a time: their float32 planes stay in the L2 cache

# Counters of one image. The scalars come first, the noise of 3 * 32 * 32 words after them.
_SCALARS = 64
_NOISE_AT = _SCALARS // 4
_COUNTERS = 1024

# Where each scalar lies in an image's row of uniforms.
_LABEL, _COLOUR_0, _COLOUR_1, _TILT, _COUNT = 0, slice(1, 4), slice(4, 7), 7, 8
_SIZE, _CENTRE_X, _CENTRE_Y, _ANGLE, _CUE, _PALETTE, _JITTER = 9, 10, 11, slice(12, 15), 15, 16, slice(17, 20)
_DISTRACTOR_AT, _DISTRACTOR_STEP = 24, 8

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Variant:
    """How hard the scenes are.

    Attributes:
        number: part of the random stream; never reused.
        cue: probability that the shape has the colour of its class; otherwise the colour of a random class.
        noise: standard deviation of the pixel noise, of full scale.
        distractors: most small shapes behind the main one.
        size: least and greatest half extent of the main shape, of half the image.
        small: likewise of the distractors.
        spread: how far from the middle the shape may lie; 1 lets it touch the edge.
        turn: how far the shape is turned, the standard deviation being about 60 degrees times this.
        jitter: how far a colour may be from the one it should be.
        light: how bright the background may get.
    """

    number: int
    cue: float
    noise: float
    distractors: int
    size: tuple[float, float]
    small: tuple[float, float]
    spread: float
    turn: float
    jitter: float
    light: float


VARIANTS = {
    "natural": Variant(
        number=0,
        cue=0.6,
        noise=0.03,
        distractors=1,
        size=(0.45, 0.75),
        small=(0.08, 0.18),
        spread=0.5,
        turn=0.35,
        jitter=0.14,
        light=0.6,
    ),
    "hard": Variant(
        number=1,
        cue=0.0,
        noise=0.1,
        distractors=4,
        size=(0.3, 0.55),
        small=(0.1, 0.2),
        spread=1.0,
        turn=1.0,
        jitter=0.4,
        light=0.8,
    ),
}


@dataclass(frozen=True, eq=False)
class Scenes:
    """A batch of scenes.

    Attributes:
        images: uint8 ``(N, 3, 32, 32)``.
        labels: int64 ``(N,)``, the class of the main shape.
        boxes: int64 ``(N, 4)``, x0, y0, x1, y1 of the main shape in pixels, x1 and y1 exclusive; None if not asked for.
        masks: bool ``(N, 32, 32)``, the pixels that the main shape covers by half or more; None if not asked for.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    boxes: NDArray[np.int64] | None = None
    masks: NDArray[np.bool_] | None = None


def generate(
    seed: int, indices: Sequence[int] | NDArray[np.int64], variant: str = "natural", with_masks: bool = False
) -> Scenes:
    """Draw the scenes ``indices``.

    Args:
        seed: of the whole set.
        indices: which images, each >= 0.
        variant: "natural" or "hard".
        with_masks: give boxes and masks as well.

    Returns:
        The scenes, in the order of ``indices``.
    """
    if variant not in VARIANTS:
        raise ValueError(f"scenes: expected a variant of {', '.join(VARIANTS)}; got {variant!r}. Choose one of these.")
    numbers = np.asarray(indices, dtype=np.int64)
    if numbers.ndim != 1 or (len(numbers) and not 0 <= numbers.min() <= numbers.max() < 2**53):
        raise ValueError(
            f"scenes: expected a list of indices in [0, 2**53); got shape {numbers.shape}. Give a range or a 1-D array."
        )
    images = np.empty((len(numbers), 3, _SIDE, _SIDE), dtype=np.uint8)
    labels = np.empty(len(numbers), dtype=np.int64)
    masks = np.empty((len(numbers), _SIDE, _SIDE), dtype=np.bool_)
    for start in range(0, len(numbers), _CHUNK):
        part = slice(start, start + _CHUNK)
        images[part], labels[part], masks[part] = _draw(seed, numbers[part], VARIANTS[variant])
    if not with_masks:
        return Scenes(images, labels)
    return Scenes(images, labels, _boxes(masks), masks)


def _boxes(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    columns, rows = np.asarray(masks.any(axis=1)), np.asarray(masks.any(axis=2))
    edges = [
        columns.argmax(axis=1),
        rows.argmax(axis=1),
        _SIDE - columns[:, ::-1].argmax(axis=1),
        _SIDE - rows[:, ::-1].argmax(axis=1),
    ]
    return np.stack(edges, axis=1).astype(np.int64)


def _draw(
    seed: int, numbers: NDArray[np.int64], variant: Variant
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Images, labels and masks of one chunk."""
    stream = stream_of(SCENES, variant.number)
    offsets = numbers.astype(np.uint64) * np.uint64(_COUNTERS)
    u = agr.uniform_rows(seed, offsets, _SCALARS, stream=stream)
    labels = as_integers(u[:, _LABEL], len(SCENE_CLASSES))

    image = background(u[:, _COLOUR_0], u[:, _COLOUR_1], u[:, _TILT], variant.light, _SIDE)
    count = as_integers(u[:, _COUNT], variant.distractors + 1)
    for d in range(variant.distractors):
        row = u[:, _DISTRACTOR_AT + _DISTRACTOR_STEP * d :]
        size = between(row[:, 0], variant.small)
        shapes = as_integers(row[:, 3], len(SCENE_CLASSES))
        cover = _coverage(shapes, size, row[:, 1] * 1.8 - 0.9, row[:, 2] * 1.8 - 0.9, np.zeros_like(size))
        paint(image, cover * (count > d)[:, None, None].astype(np.float32), row[:, 4:7])

    size = between(u[:, _SIZE], variant.size)
    reach = variant.spread * (0.95 - size)
    tilt = (u[:, _ANGLE].sum(axis=1, dtype=np.float32) - 1.5) * variant.turn
    cover = _coverage(labels, size, (2 * u[:, _CENTRE_X] - 1) * reach, (2 * u[:, _CENTRE_Y] - 1) * reach, tilt)
    cued = u[:, _CUE] < np.float32(variant.cue)
    colour = COLOURS[np.where(cued, labels, as_integers(u[:, _PALETTE], len(COLOURS)))]
    paint(image, cover, np.clip(colour + (u[:, _JITTER] * 2 - 1) * variant.jitter, 0, 1))

    image += _noise(seed, offsets, stream) * np.float32(variant.noise)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8), labels, cover >= 0.5


def _coverage(shapes: NDArray[np.int64], size: Field, centre_x: Field, centre_y: Field, tangent: Field) -> Field:
    """How much of each pixel of an image a shape covers, float32 ``(N, 32, 32)`` in [0, 1].

    Args:
        shapes: the class of each, ``(N,)``.
        size: half its extent, of half the image.
        centre_x: in [-1, 1].
        centre_y: in [-1, 1].
        tangent: of half the angle it is turned by.
    """
    line = pixel_line(_SIDE)
    x, y = line[None, None, :] - centre_x[:, None, None], line[None, :, None] - centre_y[:, None, None]
    return coverage(shapes, x, y, size, tangent, size * (_SIDE / 2))


def _noise(seed: int, offsets: NDArray[np.uint64], stream: int) -> Field:
    """Noise of mean 0 and standard deviation 1, float32 ``(N, 3, 32, 32)``.

    The sum of the three bytes of a 24-bit uniform: near enough to a bell, integer until the last step, one word
    a value.
    """
    row = agr.uniform_rows(seed, offsets + np.uint64(_NOISE_AT), 3 * _SIDE * _SIDE, stream=stream)
    words = (row * np.float32(2**24)).astype(np.int32)
    total = (words >> 16) + (words >> 8 & 255) + (words & 255)
    spread = np.float32((3 * (256**2 - 1) / 12) ** 0.5)
    noise: Field = (total.astype(np.float32) - np.float32(382.5)) / spread
    return noise.reshape(-1, 3, _SIDE, _SIDE)
