"""Anchors: boxes of a few sizes and ratios at each cell of each map, from which a network predicts offsets.

The anchors of cell (y, x) are centred at (x * stride, y * stride), the cell's corner. In memory they are ordered by
rows, columns, then anchors of the cell.

Source: Ren et al. 2015, "Faster R-CNN", section 3.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autograd.extend import array_module

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.extend import Array

__all__ = ["Anchors", "inside_border", "octave_sizes"]

Size = tuple[int, int]


def octave_sizes(sizes: Sequence[float], octaves: int = 3, *, whole: bool = False) -> tuple[tuple[float, ...], ...]:
    """RetinaNet's sizes of each level: ``size * 2 ** (i / octaves)``.

    Args:
        sizes: the smallest of each level; 4 * stride in RetinaNet.
        octaves: how many sizes a level has.
        whole: cut to whole pixels (torchvision).
    """
    exact = ((size * 2 ** (i / octaves) for i in range(octaves)) for size in sizes)
    return tuple(tuple(float(int(s)) if whole else float(s) for s in level) for level in exact)


@dataclass(frozen=True)
class Anchors:
    """The anchors of a model.

    Attributes:
        strides: pixels between cells of each map.
        sizes: for each map the sizes of its anchors: a square anchor's side. mmdetection: 8 * stride.
        ratios: height / width; the area is kept.
        rounding: corners of the anchors of cell (0, 0) are rounded to whole pixels, half to even (torchvision).
        stride_rule: "constant", or "map": the padded image's side // the map's (torchvision), which is 61 where a map
            of 13 cells covers 800 pixels.
        order: of a cell's anchors: "ratios" (outermost; torchvision, mmdetection) or "sizes" (detectron2).
    """

    strides: tuple[int, ...]
    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rounding: bool = False
    stride_rule: Literal["constant", "map"] = "constant"
    order: Literal["ratios", "sizes"] = "ratios"

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.strides) or len({len(sizes) for sizes in self.sizes}) != 1:
            raise ValueError(
                f"Anchors: expected as many sizes for each of {len(self.strides)} strides; got {self.sizes}. "
                "One head predicts for all maps."
            )
        if min(self.ratios, default=0) <= 0 or min(map(min, self.sizes)) <= 0 or min(self.strides) < 1:
            raise ValueError(
                f"Anchors: expected ratios, sizes and strides above 0; got {self.ratios}, {self.sizes}, {self.strides}."
            )

    @property
    def per_cell(self) -> int:
        """The anchors of a cell."""
        return len(self.ratios) * len(self.sizes[0])

    def of_cell(self, level: int) -> Array:
        """The anchors of cell (0, 0) of a map, float64 (A, 4)."""
        ratios, sizes = np.sqrt(np.array(self.ratios)), np.array(self.sizes[level], float)
        width, height = sizes / ratios[:, None], sizes * ratios[:, None]  # ratios outermost
        if self.order == "sizes":
            width, height = width.T, height.T
        half = np.stack([width.ravel(), height.ravel()], axis=1) / 2
        corners = np.concatenate([-half, half], axis=1)
        return np.rint(corners) if self.rounding else corners

    def steps(self, level: int, map_size: Size, padded: Size) -> Size:
        """Pixels between cells of a map along y and x."""
        if self.stride_rule == "map":
            return padded[0] // map_size[0], padded[1] // map_size[1]
        return self.strides[level], self.strides[level]

    def on(self, map_sizes: Sequence[Size], padded: Size, dtype: Any = np.float32, xp: Any = np) -> list[Array]:
        """The anchors of each map, (H * W * A, 4).

        Args:
            map_sizes: (H, W) of each.
            padded: (height, width) of the batch, padding included.
            dtype: of the anchors; they are rounded to it once.
            xp: numpy or cupy.
        """
        found = []
        for level, size in enumerate(map_sizes):
            y, x = (np.arange(n) * float(step) for n, step in zip(size, self.steps(level, size, padded), strict=True))
            corner = np.stack([*np.meshgrid(x, y)] * 2, axis=-1).reshape(-1, 1, 4)
            found.append(xp.asarray((corner + self.of_cell(level)).reshape(-1, 4).astype(dtype)))
        return found

    def valid(self, map_sizes: Sequence[Size], padded: Size, xp: Any = np) -> list[Array]:
        """Which anchors are of cells on an image's own padded size, booleans (H * W * A,) for each map.

        Args:
            map_sizes: (H, W) of each map of the batch.
            padded: (height, width) of this image with its own padding: mmdetection leaves out cells beyond
                ceil(padded / stride) where the images of a batch differ.
            xp: numpy or cupy.
        """
        found = []
        for (height, width), stride in zip(map_sizes, self.strides, strict=True):
            y, x = (math.ceil(side / stride) for side in padded)
            cells = (np.arange(height) < y)[:, None] & (np.arange(width) < x)
            found.append(xp.asarray(np.repeat(cells, self.per_cell)))
        return found


def inside_border(anchors: Array, size: Size, border: float) -> Array:
    """Which anchors (N, 4) do not reach over the image by ``border`` pixels or more at the right and bottom, by more
    than that at the left and top.

    Args:
        anchors: (N, 4).
        size: (height, width) of the image.
        border: 0 for anchors inside alone (official Cascade R-CNN); negative for all of them.
    """
    if border < 0:
        return array_module(anchors).ones(len(anchors), bool)
    height, width = size
    x0, y0, x1, y1 = (anchors[:, i] for i in range(4))
    return (x0 >= -border) & (y0 >= -border) & (x1 < width + border) & (y1 < height + border)
