"""Procedural scenes of several objects, with boxes, visible masks and a semantic map: data for detectors.

Image ``i`` is a pure function of ``(seed, i, variant)`` and of the arguments that say what is drawn. One in ten is
empty, one in ten has a row of tiny equal shapes, a crowd. Objects lie in the cells of a grid, away from their middle,
and are painted in order: a pixel belongs to the last one that covers half of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autograd import random as agr
from swinpy.data.scenes.paint import COLOURS, background, between, coverage
from swinpy.data.scenes.shapes import SHAPES
from swinpy.data.streams import MANY_SCENES, as_integers, stream_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swinpy.data.detection.dataset import DetectionDataset

__all__ = ["MANY_VARIANTS", "VOID", "ManyScenes", "ManyVariant", "generate_many", "load_many_scenes"]

VOID = 255  # of the semantic map: a crowd, or what is left of an object that is nearly covered
TEST_FROM = 10**9  # the test set's first index, so that no size of training set reaches it
_LEAST = 20  # visible pixels of an object; of fewer nobody could say what it is
_CHUNK = 32  # images drawn at a time: their float32 planes stay in the L2 cache

# Counters of one image: scalars, then one word a pixel for the noise.
_OBJECTS_AT, _OBJECT_STEP, _MOST = 20, 12, 9
_SCALARS = _OBJECTS_AT + _OBJECT_STEP * (_MOST + 1)
_NOISE_AT = agr.counters_for(_SCALARS)
_COUNTERS = 1 << 14
_SIDES = (32, 240)  # noise of 240 x 240 pixels is what the counters are enough for

# Where each scalar lies in an image's row of uniforms, and in that of an object.
_KIND, _COUNT, _COLOUR_0, _COLOUR_1, _TILT, _CELLS = 0, 1, slice(2, 5), slice(5, 8), 8, slice(9, 18)
_LABEL, _SIZE, _RIGHT, _DOWN, _ANGLE, _CUE, _PALETTE, _JITTER = 0, 1, 2, 3, slice(4, 7), 7, 8, slice(9, 12)
_EMPTY, _CROWDED = 0.1, 0.2  # shares of the images: empty below the first, with a crowd below the second
_REACH = 1.1  # of a turned shape from its centre, of its half extent
_ROW, _TINY = 6, 0.04  # shapes of a crowd, and half the extent of each, of the side
_CROWD = _MOST + 1  # who owns a pixel of a crowd; 0 is the background, 1 to 9 are objects

Field = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ManyVariant:
    """How hard the scenes are.

    Attributes:
        number: part of the random stream; never reused.
        grid: cells along a side.
        size: least and greatest half extent of an object, of the side.
        spread: how far an object may lie from the middle of its cell, of the cell.
        turn: how far it is turned, the standard deviation being about 60 degrees times this.
        cue: probability that an object has the colour of its class; otherwise that of a random class.
        jitter: how far a colour may be from the one it should be.
        noise: standard deviation of the pixel noise (which is uniform), of full scale.
        light: how bright the background may get.
    """

    number: int
    grid: int
    size: tuple[float, float]
    spread: float
    turn: float
    cue: float
    jitter: float
    noise: float
    light: float


MANY_VARIANTS = {
    "easy": ManyVariant(0, 2, (0.13, 0.22), 0.05, 0.0, 0.9, 0.14, 0.03, 0.6),
    "plain": ManyVariant(1, 2, (0.11, 0.23), 0.2, 0.6, 0.0, 0.3, 0.05, 0.6),
    "hard": ManyVariant(2, 3, (0.07, 0.2), 0.3, 1.0, 0.0, 0.4, 0.1, 0.8),
}


@dataclass(frozen=True, eq=False)
class ManyScenes:
    """A batch of scenes. Each list has an entry an image, in which objects come in the order of painting.

    Attributes:
        images: uint8 ``(N, 3, S, S)``.
        boxes: int64 ``(M, 4)`` each: x0, y0, x1, y1 around the visible mask, x1 and y1 exclusive.
        labels: int64 ``(M,)`` each.
        masks: bool ``(M, S, S)`` each, the pixels that are seen of the object.
        crowds: bool ``(M,)`` each: a row of tiny shapes, or what is seen of an object, if less than 20 pixels.
        semantic: uint8 ``(N, S, S)``: 0 for the background, the label + 1, and ``VOID`` (255) for crowds.
    """

    images: NDArray[np.uint8]
    boxes: list[Ints]
    labels: list[Ints]
    masks: list[NDArray[np.bool_]]
    crowds: list[NDArray[np.bool_]]
    semantic: NDArray[np.uint8]


def generate_many(
    seed: int,
    indices: Sequence[int] | Ints,
    *,
    side: int = 96,
    classes: int = 10,
    most: int = 4,
    variant: str = "plain",
) -> ManyScenes:
    """Draw the scenes ``indices``.

    Args:
        seed: of the whole set.
        indices: which images, each >= 0.
        side: of the images in pixels, 32 to 240.
        classes: how many of the ten shapes occur.
        most: objects an image, besides a crowd; at most 4, or 9 in "hard", whose grid has as many cells.
        variant: "easy" (upright, alone, colour tells the class), "plain" (turned, any colour, may touch) or "hard"
            (smaller, overlapping, noisy).

    Returns:
        The scenes, in the order of ``indices``.

    Raises:
        ValueError: for an argument out of these ranges.
    """
    by = _variant(variant, side, classes, most)
    numbers = np.asarray(indices, dtype=np.int64)
    if numbers.ndim != 1 or (len(numbers) and not 0 <= numbers.min() <= numbers.max() < 2**50):
        raise ValueError(
            f"generate_many: expected a list of indices in [0, 2**50); got shape {numbers.shape}. Give a range."
        )
    size = len(numbers), side, side
    made = ManyScenes(np.empty((len(numbers), 3, side, side), np.uint8), [], [], [], [], np.zeros(size, np.uint8))
    for start in range(0, len(numbers), _CHUNK):
        part = slice(start, start + _CHUNK)
        canvas = _Canvas(seed, numbers[part], side, by)
        labels, owner = canvas.paint_all(classes, most)
        made.images[part] = canvas.finished()
        made.semantic[part] = _collect(made, labels, owner)
    return made


def _variant(variant: str, side: int, classes: int, most: int) -> ManyVariant:
    if variant not in MANY_VARIANTS:
        names = ", ".join(MANY_VARIANTS)
        raise ValueError(f"generate_many: expected a variant of {names}; got {variant!r}. Choose one of these.")
    by = MANY_VARIANTS[variant]
    for name, value, low, high in (
        ("side", side, *_SIDES),
        ("classes", classes, 1, len(SHAPES)),
        ("most", most, 1, by.grid**2),
    ):
        if not low <= value <= high:
            raise ValueError(f"generate_many: expected {name} in [{low}, {high}]; got {value}. Choose one of these.")
    return by


class _Canvas:
    """Some images as they are painted."""

    def __init__(self, seed: int, numbers: Ints, side: int, by: ManyVariant) -> None:
        self.seed, self.side, self.by = seed, side, by
        self.stream = stream_of(MANY_SCENES, by.number)
        self.offsets = numbers.astype(np.uint64) * np.uint64(_COUNTERS)
        self.u = agr.uniform_rows(seed, self.offsets, _SCALARS, stream=self.stream)
        self.pixels = background(self.u[:, _COLOUR_0], self.u[:, _COLOUR_1], self.u[:, _TILT], by.light, side).reshape(
            len(numbers), 3, -1
        )
        self.owner = np.zeros((len(numbers), side * side), np.uint8)

    def object_row(self, place: int) -> Field:
        """The uniforms of an object; the last place is the crowd's."""
        start = _OBJECTS_AT + _OBJECT_STEP * place
        row: Field = self.u[:, start : start + _OBJECT_STEP]
        return row

    def paint_all(self, classes: int, most: int) -> tuple[Ints, NDArray[np.uint8]]:
        """Labels by owner ``(n, 11)`` and who owns each pixel ``(n, S, S)``."""
        by, side, kind = self.by, self.side, self.u[:, _KIND]
        labels = np.zeros((len(kind), _CROWD + 1), np.int64)
        rows = [self.object_row(place) for place in range(_MOST + 1)]
        for place, row in enumerate(rows):
            labels[:, place + 1] = as_integers(row[:, _LABEL], classes)
        self._paint_crowd(np.flatnonzero((kind >= _EMPTY) & (kind < _CROWDED)), labels[:, _CROWD], rows[-1])
        counts = np.where(kind < _EMPTY, 0, as_integers(self.u[:, _COUNT], most) + 1)
        cells = np.argsort(self.u[:, _CELLS][:, : by.grid**2], axis=1, kind="stable")
        for place in range(most):
            chosen = np.flatnonzero(counts > place)
            row, cell = rows[place][chosen], cells[chosen, place]
            at = (cell % by.grid, row[:, _RIGHT]), (cell // by.grid, row[:, _DOWN])
            across, down = (((c + 0.5).astype(np.float32) + (2 * u - 1) * by.spread) * (side / by.grid) for c, u in at)
            size = between(row[:, _SIZE], by.size)
            self._paint(chosen, place + 1, labels[chosen, place + 1], row, across, down, size)
        return labels, self.owner.reshape(-1, side, side)

    def _paint_crowd(self, chosen: Ints, labels: Ints, rows: Field) -> None:
        row = rows[chosen]
        down = (0.1 + 0.8 * row[:, _DOWN]) * np.float32(self.side)
        for i in range(_ROW):
            across = np.full(len(chosen), (i + 0.5) * self.side / _ROW, np.float32)
            self._paint(chosen, _CROWD, labels[chosen], row, across, down, np.full(len(chosen), _TINY, np.float32))

    def _paint(
        self, chosen: Ints, owner: int, labels: Ints, row: Field, across: Field, down: Field, size: Field
    ) -> None:
        """Lay one shape over each of the chosen images, within a window that is large enough for any."""
        if not len(chosen):
            return
        by, side = self.by, self.side
        half = size * np.float32(side)
        largest = _TINY if owner == _CROWD else by.size[1]
        window = min(2 * math.ceil(_REACH * largest * side + 1), side)
        left, top = (np.clip(np.floor(c).astype(np.int64) - window // 2, 0, side - window) for c in (across, down))
        line = np.arange(window, dtype=np.int64)
        columns, lines = left[:, None] + line, top[:, None] + line
        x = ((columns + 0.5).astype(np.float32) - across[:, None])[:, None, :]
        y = ((lines + 0.5).astype(np.float32) - down[:, None])[:, :, None]
        tangent = (row[:, _ANGLE].sum(axis=1, dtype=np.float32) - 1.5) * np.float32(by.turn)
        cover = coverage(labels, x, y, half, tangent, half).reshape(len(chosen), -1)
        cued = row[:, _CUE] < np.float32(by.cue)
        colour = COLOURS[np.where(cued, labels, as_integers(row[:, _PALETTE], len(COLOURS)))]
        colour = np.clip(colour + (row[:, _JITTER] * 2 - 1) * np.float32(by.jitter), 0, 1).astype(np.float32)
        at = (lines[:, :, None] * side + columns[:, None, :]).reshape(len(chosen), -1)
        for channel in range(3):
            plane = self.pixels[:, channel]
            before = plane[chosen[:, None], at]
            plane[chosen[:, None], at] = before + (colour[:, channel, None] - before) * cover
        mine = np.nonzero(cover >= 0.5)
        self.owner[chosen[mine[0]], at[mine]] = owner

    def finished(self) -> NDArray[np.uint8]:
        """The images with noise, uint8: of each 24-bit word a byte a channel."""
        n, side = len(self.offsets), self.side
        noise = agr.uniform_rows(self.seed, self.offsets + np.uint64(_NOISE_AT), side * side, stream=self.stream)
        words = (noise * np.float32(2**24)).astype(np.int32)
        scale = np.float32(255 * self.by.noise / ((256**2 - 1) / 12) ** 0.5)
        out = np.empty((n, 3, side * side), np.uint8)
        for channel in range(3):
            grain = ((words >> (8 * channel)) & 255).astype(np.float32) - np.float32(127.5)
            out[:, channel] = np.clip(
                self.pixels[:, channel] * np.float32(255) + grain * scale + np.float32(0.5), 0, 255
            )
        return out.reshape(n, 3, side, side)


def _collect(made: ManyScenes, labels: Ints, owner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put the objects of some images into the lists; returns their semantic maps."""
    n, side, _ = owner.shape
    seen = np.stack([owner == place for place in range(1, _CROWD + 1)])  # (10, n, S, S)
    columns, rows = np.asarray(seen.any(axis=2)), np.asarray(seen.any(axis=3))
    edges = [columns.argmax(axis=-1), rows.argmax(axis=-1)]
    edges += [side - flags[..., ::-1].argmax(axis=-1) for flags in (columns, rows)]
    boxes = np.stack(edges, axis=-1).astype(np.int64)
    pixels: Ints = seen.sum(axis=(2, 3), dtype=np.int64)
    crowd: NDArray[np.bool_] = np.asarray(pixels < _LEAST)
    crowd[-1] = True
    values = np.zeros((n, _CROWD + 1), np.uint8)
    values[:, 1:] = np.where(crowd.T, VOID, labels[:, 1:] + 1)
    for i in range(n):
        there = np.flatnonzero(pixels[:, i])
        made.boxes.append(boxes[there, i])
        made.labels.append(labels[i, there + 1])
        made.masks.append(seen[there, i])
        made.crowds.append(crowd[there, i])
    return values[np.arange(n)[:, None, None], owner]


def load_many_scenes(
    seed: int = 0,
    train: int = 2000,
    test: int = 200,
    *,
    side: int = 96,
    classes: int = 5,
    most: int = 4,
    variant: str = "plain",
) -> tuple[DetectionDataset, DetectionDataset]:
    """Scenes as (train, test) sets in memory, ``synthetic=True``; mean and std are those of the training images.

    See :func:`generate_many` for the arguments.
    """
    from swinpy.data.dataset import channel_stats
    from swinpy.data.detection.dataset import dataset_of

    drawn = [
        generate_many(seed, start + np.arange(count), side=side, classes=classes, most=most, variant=variant)
        for start, count in ((0, train), (TEST_FROM, test))
    ]
    mean, std = channel_stats(drawn[0].images)
    sets = [
        dataset_of(
            list(scenes.images),
            [
                {"boxes": boxes, "labels": labels, "masks": masks, "crowds": crowds}
                for boxes, labels, masks, crowds in zip(
                    scenes.boxes, scenes.labels, scenes.masks, scenes.crowds, strict=True
                )
            ],
            tuple(SHAPES)[:classes],
            mean=mean,
            std=std,
            name="scenes",
            synthetic=True,
            source=f"drawn from seed {seed}, variant {variant}",
        )
        for scenes in drawn
    ]
    return sets[0], sets[1]
