"""Images at the edges of what detection is defined for: sizes, and boxes of objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ODD", "Odd"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Odd:
    """An image of ``size`` (height, width) with objects in boxes (G, 4)."""

    size: tuple[int, int]
    boxes: Array

    @property
    def padded(self) -> tuple[int, int]:
        """To a multiple of 32, as the peers pad."""
        height, width = (-(-side // 32) * 32 for side in self.size)
        return height, width

    def map_sizes(self, strides: tuple[int, ...]) -> list[tuple[int, int]]:
        """Of a pyramid whose last level halves the one before and rounds up, as a pooling of stride 2 does."""
        return [(-(-self.padded[0] // s), -(-self.padded[1] // s)) for s in strides]

    def masks(self) -> Array:
        """An ellipse in each box, as booleans (G, height, width); at least one pixel."""
        y, x = (np.arange(side) + 0.5 for side in self.size)
        x0, y0, x1, y1 = (self.boxes[:, i, None] for i in range(4))
        along_y, along_x = ((y - y0) / (y1 - y0) * 2 - 1) ** 2, ((x - x0) / (x1 - x0) * 2 - 1) ** 2
        masks: Array = along_y[:, :, None] + along_x[:, None, :] <= 1
        for mask, box in zip(masks, self.boxes, strict=True):
            mask[min(int(box[1]), self.size[0] - 1), min(int(box[0]), self.size[1] - 1)] = True
        return masks

    def proposals(self, seed: int = 0) -> Array:
        """Boxes near the objects and elsewhere, clipped to the image, all with an area."""
        rng, (height, width) = np.random.default_rng(seed), self.size
        near = np.repeat(self.boxes, 3, axis=0) + rng.normal(0, 2, (3 * len(self.boxes), 4))
        low = rng.uniform(0, 1, (12, 2)) * [width - 1, height - 1]
        far = np.concatenate([low, low + rng.uniform(0.5, 1, (12, 2)) * np.sqrt([width, height]) * 3], axis=1)
        boxes = np.concatenate([near, far]).clip(0, [width, height, width, height])
        kept: Array = boxes[(boxes[:, 2:] - boxes[:, :2] > 0.1).all(axis=1)]
        return kept


def _odd(size: tuple[int, int], *boxes: tuple[float, ...]) -> Odd:
    return Odd(size, np.array(boxes, float).reshape(-1, 4))


def _many() -> Odd:
    rng = np.random.default_rng(5)
    low, sides = rng.uniform(0, 150, (60, 2)), np.exp(rng.uniform(0, 4.5, (60, 2)))
    return Odd((210, 240), np.concatenate([low, np.minimum(low + sides, [240, 210])], axis=1))


ODD = {
    "nothing": _odd((64, 96)),
    "one": _odd((128, 160), (20.3, 31.7, 77.1, 90.9)),
    "one_pixel": _odd((128, 160), (50, 60, 51, 61)),
    "one_pixel_at_the_corner": _odd((100, 131), (130, 99, 131, 100)),
    "less_than_a_pixel": _odd((96, 96), (40.25, 40.5, 40.75, 40.75)),
    "whole_image": _odd((96, 200), (0, 0, 200, 96)),
    "on_all_borders": _odd((90, 120), (0, 20, 30, 50), (90, 20, 120, 50), (40, 0, 70, 30), (40, 60, 70, 90)),
    "flat_image": _odd((33, 517), (3, 4, 60, 30), (400, 0, 517, 33), (250.5, 10.5, 251.5, 11.5)),
    "tall_image": _odd((517, 33), (4, 3, 30, 60), (0, 400, 33, 517)),
    "tiny_image": _odd((9, 7), (1, 2, 5, 8)),
    "one_pixel_image": _odd((1, 1), (0, 0, 1, 1)),
    "twins": _odd((128, 128), (30, 30, 80, 80), (30, 30, 80, 80)),
    "nested": _odd((128, 128), (10, 10, 120, 120), (40, 40, 90, 90), (60, 60, 70, 70)),
    "line": _odd((64, 320), (5, 31.5, 315, 32.5)),
    "post": _odd((320, 64), (31.5, 5, 32.5, 315)),
    "as_an_anchor": _odd((128, 128), (-16 + 64, -16 + 64, 16 + 64, 16 + 64)),
    "between_anchors": _odd((128, 128), (50, 50, 82, 82)),  # at the same distance from several
    "side_by_side": _odd((128, 128), (32, 32, 64, 64), (64, 32, 96, 64)),
    "many": _many(),
    "all_in_a_corner": _odd((160, 160), *[(150 - i, 150 - i, 160, 160) for i in range(8)]),
}
assert len(ODD) >= 20
