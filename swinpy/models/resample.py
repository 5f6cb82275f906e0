"""Bicubic resampling of a map as two matrix products, so that it has a gradient on every device.

Source: Keys 1981, "Cubic convolution interpolation", with a = -0.75 and half-pixel centres: the values of
torch.nn.functional.interpolate(mode="bicubic", align_corners=False), which the official Swin code uses.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

import autograd as ag
from autograd.extend import array_module

__all__ = ["bicubic_matrix", "resize_bias_table", "resize_map", "resize_position"]

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
    for tap in range(4):
        position = first + tap
        weight = _kernel(centre - position)
        np.add.at(matrix, (np.arange(target), np.clip(position, 0, source - 1)), weight)
    matrix.flags.writeable = False
    return matrix


def resize_map(x: ag.Tensor, size: tuple[int, int]) -> ag.Tensor:
    """(H, W, C) to (*size, C); the input itself if the size is the same."""
    h, w, channels = x.shape
    if (h, w) == size:
        return x
    xp = array_module(x.data)
    rows, columns = (xp.asarray(bicubic_matrix(a, b)).astype(x.dtype) for a, b in ((h, size[0]), (w, size[1])))
    x = (ag.Tensor(rows) @ x.reshape(h, w * channels)).reshape(size[0], w, channels)
    return ag.Tensor(columns) @ x


def resize_bias_table(table, came, wanted, method):
    sides = [2 * n - 1 for n in came]
    size = (2 * wanted[0] - 1, 2 * wanted[1] - 1)
    x = resize_map(ag.Tensor(table.reshape(*sides, -1).astype(np.float64)), size)
    return x.numpy().reshape(size[0] * size[1], -1)


def resize_position(table, came, wanted):
    x = resize_map(ag.Tensor(table.reshape(*came, -1).astype(np.float64)), wanted)
    return x.numpy().reshape(1, wanted[0] * wanted[1], -1)
