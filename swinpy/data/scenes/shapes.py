"""Signed distances of ten shapes, negative inside, on the square [-1, 1] x [-1, 1] with y pointing down.

Only +, -, *, abs, min, max and the square root are used: IEEE 754 fixes every bit of these, so that a scene is the
same on every machine, which sines and arc tangents would not promise.

Source: the constructions follow https://iquilezles.org/articles/distfunctions2d/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SHAPES"]

Field = NDArray[np.float32]

# Directions of the five tips of a star, the first one up: (sin 72k, -cos 72k) degrees.
_TIPS = (
    (0.0, -1.0),
    (0.95105654, -0.30901700),
    (0.58778524, 0.80901700),
    (-0.58778524, 0.80901700),
    (-0.95105654, -0.30901700),
)


def _length(x: Field, y: Field) -> Field:
    length: Field = np.sqrt(x * x + y * y)
    return length


def _highest(*fields: NDArray[np.floating[Any]]) -> Field:
    highest: Field = np.maximum.reduce(fields)
    return highest


def circle(x: Field, y: Field) -> Field:
    """A disc."""
    return _length(x, y) - 0.9


def square(x: Field, y: Field) -> Field:
    """A square with its sides along the axes."""
    return _highest(abs(x), abs(y)) - 0.75


def triangle(x: Field, y: Field) -> Field:
    """An equilateral triangle."""
    return _highest(y, 0.8660254 * abs(x) - 0.5 * y) - 0.5


def star(x: Field, y: Field) -> Field:
    """A pentagram: the points that lie within at least four of its five lines, so the second largest counts."""
    first = second = np.full_like(x, -np.inf)
    for tip_x, tip_y in _TIPS:
        side = tip_x * x + tip_y * y
        second = np.maximum(second, np.minimum(first, side))
        first = np.maximum(first, side)
    return second - 0.309017


def cross(x: Field, y: Field) -> Field:
    """Two equal bars at right angles."""
    bar = _highest(abs(x) - 0.9, abs(y) - 0.28)
    return np.minimum(bar, _highest(abs(y) - 0.9, abs(x) - 0.28))


def ring(x: Field, y: Field) -> Field:
    """A disc with a round hole."""
    return abs(_length(x, y) - 0.68) - 0.22


def hexagon(x: Field, y: Field) -> Field:
    """A regular hexagon."""
    return _highest(0.8660254 * abs(x) + 0.5 * abs(y), abs(y)) - 0.8


def crescent(x: Field, y: Field) -> Field:
    """A disc without what a second disc covers."""
    return _highest(_length(x, y) - 0.9, 0.72 - _length(x - 0.45, y))


def arrow(x: Field, y: Field) -> Field:
    """A bar with a triangular head, pointing to the right."""
    shaft = _highest(abs(y) - 0.22, abs(x + 0.4) - 0.5)
    head = _highest(-x, 0.7893522 * abs(y) + 0.6139406 * x - 0.5525466)
    return np.minimum(shaft, head)


def heart(x: Field, y: Field) -> Field:
    """A square on its corner, with half a disc on each of the two upper sides."""
    x = abs(x)
    diamond = (x + abs(y) - 0.7) * 0.7071068
    shape: Field = np.minimum(diamond, _length(x - 0.35, y + 0.35) - 0.4949747)
    return shape


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    shape.__name__: shape for shape in (circle, square, triangle, star, cross, ring, hexagon, crescent, arrow, heart)
}
