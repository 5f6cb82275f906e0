"""Resampling of maps and tables as two matrix products, so that it has a gradient on every device.

Bicubic: Keys 1981, "Cubic convolution interpolation", with a = -0.75 and half-pixel centres: the values of
torch.nn.functional.interpolate(mode="bicubic", align_corners=False), which the official Swin code uses.

Geometric: the rows of a bias table are placed at distances that grow as a geometric progression and reach the edge of
the new table. A cubic spline through them is read at whole distances, so that near offsets keep their values. Source:
the published code of SimMIM, which takes it from BEiT.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

import autograd as ag
from autograd.extend import array_module
from swinpy.geometry import on_device

if TYPE_CHECKING:
    from autograd.extend import Array
    from swinpy.geometry import Pair

__all__ = [
    "ResizeMethod",
    "bicubic_matrix",
    "geometric_matrix",
    "resize_absolute_position",
    "resize_bias_table",
    "resize_map",
]

ResizeMethod: TypeAlias = Literal["bicubic", "geometric"]

_A = -0.75


def _kernel(t: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    t = np.abs(t)
    near = ((_A + 2) * t - (_A + 3)) * t * t + 1
    far = _A * (((t - 5) * t + 8) * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


@lru_cache(maxsize=64)
def bicubic_matrix(source: int, target: int) -> np.ndarray[Any, Any]:
    """(target, source) weights that resample a line; each row sums to 1, edges repeat the border."""
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.floor(centre).astype(int) - 1
    matrix = np.zeros((target, source))
    for neighbour in range(4):
        position = first + neighbour
        weight = _kernel(centre - position)
        np.add.at(matrix, (np.arange(target), np.clip(position, 0, source - 1)), weight)
    matrix.flags.writeable = False
    return matrix


def _spline_basis(x: np.ndarray[Any, Any], knots: np.ndarray[Any, Any], degree: int) -> np.ndarray[Any, Any]:
    """(len(x), len(knots) - degree - 1) values of the B-splines at x, by the recurrence of Cox and de Boor."""
    last = np.searchsorted(knots, knots[-1]) - 1  # the right end belongs to the last span that is not empty
    span = np.minimum(np.searchsorted(knots, x, side="right") - 1, last)
    basis: np.ndarray[Any, Any] = (np.arange(len(knots) - 1) == span[:, None]).astype(float)
    for k in range(1, degree + 1):
        rise, fall = knots[k:-1] - knots[: -k - 1], knots[k + 1 :] - knots[1:-k]
        up = (x[:, None] - knots[: -k - 1]) / np.where(rise > 0, rise, 1)
        down = (knots[k + 1 :] - x[:, None]) / np.where(fall > 0, fall, 1)
        basis = up * basis[:, :-1] + down * basis[:, 1:]
    return basis


def _progression(source: int, target: int) -> np.ndarray[Any, Any]:
    """Positions of ``source`` (odd) points: 0 in the middle, then 1, 1 + q, 1 + q + q^2, ... to both sides.

    q in [1.01, 1.5] is found by bisection to 1e-6, so that the last point stands at target // 2.
    """
    count = source // 2
    left, right = 1.01, 1.5
    q = (left + right) / 2
    while right - left > 1e-6:
        q = (left + right) / 2
        if (1 - q**count) / (1 - q) > target // 2:
            right = q
        else:
            left = q
    side = np.cumsum(q ** np.arange(count))
    return np.concatenate([-side[::-1], [0.0], side])


@lru_cache(maxsize=64)
def geometric_matrix(source: int, target: int) -> np.ndarray[Any, Any]:
    """(target, source) weights, both odd, of the spline through a geometric progression; see the head of this file.

    The spline is the interpolating one of degree 3 (less for fewer than four points) without a knot at the points next
    to the ends; beyond the ends it keeps their values.
    """
    points, degree = _progression(source, target), min(3, source - 1)
    inner = points[2:-2] if degree == 3 else points[:0]
    knots = np.concatenate([[points[0]] * (degree + 1), inner, [points[-1]] * (degree + 1)])
    wanted = np.clip(np.arange(target) - target // 2, points[0], points[-1]).astype(float)
    if degree == 0:
        matrix = np.ones((target, 1))
    else:
        at_points, at_wanted = (_spline_basis(x, knots, degree) for x in (points, wanted))
        matrix = np.linalg.solve(at_points.T, at_wanted.T).T
    matrix.flags.writeable = False
    return matrix


def _resample(grid: Array, size: Pair, matrix: Any) -> Array:
    """(H, W, K) to (*size, K) in float64, by matrices of each axis."""
    xp = array_module(grid)
    rows, columns = (xp.asarray(matrix(a, b)) for a, b in zip(grid.shape[:2], size, strict=True))
    return xp.einsum("ih,jw,hwk->ijk", rows, columns, grid.astype(np.float64))


def resize_bias_table(table: Array, window: Pair, target: Pair, method: ResizeMethod = "bicubic") -> Array:
    """A table of relative position biases for another window.

    Args:
        table: ((2 Wh - 1) (2 Ww - 1), heads).
        window: (Wh, Ww) of the table.
        target: window of the result.
        method: "bicubic" (the official code) or "geometric" (SimMIM's).

    Returns:
        ((2 Th - 1) (2 Tw - 1), heads), in the table's dtype; the table itself for the same window.

    Raises:
        ValueError: for a table of another window, or an unknown method.
    """
    if method not in get_args(ResizeMethod):
        raise ValueError(f"resize_bias_table: expected method bicubic or geometric; got {method!r}.")
    old, new = ((2 * w[0] - 1, 2 * w[1] - 1) for w in (window, target))
    if table.ndim != 2 or table.shape[0] != old[0] * old[1]:
        raise ValueError(
            f"resize_bias_table: expected a table ({old[0] * old[1]}, heads) of a window {window}; got {table.shape}."
        )
    if window == target:
        return table
    grid = table.reshape(*old, -1)
    resized = _resample(grid, new, bicubic_matrix if method == "bicubic" else geometric_matrix)
    return resized.reshape(new[0] * new[1], -1).astype(table.dtype)


def resize_absolute_position(table: Array, size: Pair, target: Pair) -> Array:
    """An absolute position embedding for another map, bicubically.

    Args:
        table: (1, H * W, C).
        size: (H, W) of the table.
        target: (H, W) of the result.

    Raises:
        ValueError: for a table of another size.
    """
    if table.ndim != 3 or table.shape[:2] != (1, size[0] * size[1]):
        raise ValueError(
            f"resize_absolute_position: expected (1, {size[0] * size[1]}, C) of a map {size}; got {table.shape}."
        )
    if size == target:
        return table
    resized = _resample(table.reshape(*size, -1), target, bicubic_matrix)
    return resized.reshape(1, target[0] * target[1], -1).astype(table.dtype)


def resize_map(x: ag.Tensor, size: tuple[int, int]) -> ag.Tensor:
    """(H, W, C) to (*size, C); the input itself if the size is the same."""
    h, w, channels = x.shape
    if (h, w) == size:
        return x
    matrices = (bicubic_matrix(a, b).astype(x.dtype) for a, b in ((h, size[0]), (w, size[1])))
    rows, columns = (on_device(matrix, x.data) for matrix in matrices)
    x = (ag.Tensor(rows) @ x.reshape(h, w * channels)).reshape(size[0], w, channels)
    return ag.Tensor(columns) @ x
