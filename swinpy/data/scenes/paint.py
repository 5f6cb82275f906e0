"""What scenes are painted with: backgrounds, shapes at any place, size and turn, colours.

Only operations whose every bit IEEE 754 fixes, as in `shapes`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from swinpy.data.scenes.shapes import SHAPES

__all__ = ["COLOURS", "background", "between", "coverage", "paint", "pixel_line", "rotation"]

# One colour a class, for the variants in which colour is a cue.
COLOURS = np.array(
    [
        [0.95, 0.15, 0.10],
        [0.10, 0.45, 0.95],
        [0.10, 0.80, 0.20],
        [1.00, 0.85, 0.10],
        [0.90, 0.90, 0.95],
        [0.95, 0.45, 0.05],
        [0.55, 0.20, 0.85],
        [0.95, 0.90, 0.60],
        [0.10, 0.75, 0.80],
        [0.95, 0.30, 0.60],
    ],
    dtype=np.float32,
)

Field = NDArray[np.float32]


def pixel_line(side: int) -> Field:
    """The pixel centres of a side, from -1 to 1."""
    return ((np.arange(side, dtype=np.float32) + 0.5) / (side / 2) - 1).astype(np.float32)


def rotation(tangent: Field) -> tuple[Field, Field]:
    """Cosine and sine of ``2 * atan(tangent)``: exact operations only, see shapes.py."""
    one, square = np.float32(1), tangent * tangent
    scale = one / (one + square)
    return (one - square) * scale, (tangent + tangent) * scale


def between(uniforms: Field, limits: tuple[float, float]) -> Field:
    """Uniforms in [0, 1) stretched to ``limits``."""
    value: Field = uniforms * (limits[1] - limits[0]) + limits[0]
    return value


def background(first: Field, second: Field, tilt: Field, light: float, side: int) -> Field:
    """A gradient between two colours in a random direction, float32 ``(N, 3, side, side)``; channels in 0.1..light.

    Args:
        first: uniforms of one colour, ``(N, 3)``.
        second: likewise.
        tilt: of the direction, ``(N,)``.
        light: how bright it may get.
        side: pixels.
    """
    x, y = pixel_line(side)[None, None, :], pixel_line(side)[None, :, None]
    first, second = between(first, (0.1, light)), between(second, (0.1, light))
    cosine, sine = rotation(tilt * 2 - 1)
    ramp = (x * cosine[:, None, None] + y * sine[:, None, None]) * 0.5 + 0.5
    image: Field = np.add(first[:, :, None, None], (second - first)[:, :, None, None] * ramp[:, None])
    return image


def coverage(shapes: NDArray[np.int64], x: Field, y: Field, size: Field, tangent: Field, pixels: Field) -> Field:
    """How much of each pixel a shape covers, float32 ``(N, h, w)`` in [0, 1].

    Args:
        shapes: the class of each, ``(N,)``.
        x: of the pixel centres from the shape's centre, broadcastable to ``(N, h, w)``.
        y: likewise.
        size: half the shape's extent in the unit of ``x`` and ``y``, ``(N,)``.
        tangent: of half the angle it is turned by, ``(N,)``.
        pixels: half the shape's extent in pixels, ``(N,)``.
    """
    cosine, sine = (value / size for value in rotation(tangent))
    turned_x = x * cosine[:, None, None] + y * sine[:, None, None]
    turned_y = y * cosine[:, None, None] - x * sine[:, None, None]
    distance = np.empty_like(turned_x)
    for number, shape in enumerate(SHAPES.values()):
        chosen = np.flatnonzero(shapes == number)
        if len(chosen):
            distance[chosen] = shape(turned_x[chosen], turned_y[chosen])
    cover: Field = np.clip(0.5 - distance * pixels[:, None, None], 0, 1)
    return cover


def paint(image: Field, cover: Field, colour: Field) -> None:
    """Lay ``colour`` ``(N, 3)`` over ``image`` where ``cover`` says, in place."""
    image += (colour[:, :, None, None] - image) * cover[:, None]
