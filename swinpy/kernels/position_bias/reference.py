"""The position bias: rows of a table to a map of scores for each head, and back.

Source: Liu et al. 2021, "Swin Transformer", equation 4.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.extend import Cost, accumulator, array_module, kernel

if TYPE_CHECKING:
    from autograd.extend import Array
    from swinpy.geometry import PositionIndex

__all__ = ["position_bias_bwd", "position_bias_fwd", "tables"]


def tables(index: PositionIndex, like: Array) -> tuple[Array, Array]:
    """``index.index`` and ``index.places`` on the device of ``like``; on a GPU they are int32, and copied there
    once."""
    if array_module(like) is np:
        return index.index, index.places
    return _on_gpu(index, array_module(like), like.device.id)


@lru_cache(maxsize=64)
def _on_gpu(index: PositionIndex, xp: Any, device: int) -> tuple[Array, Array]:
    with xp.cuda.Device(device):
        return xp.asarray(index.index.astype(np.int32)), xp.asarray(index.places.astype(np.int32))


def _forward_cost(table: Array, index: PositionIndex, dtype: np.dtype[Any] | None = None) -> Cost:
    bias = index.index.size * math.prod(table.shape[1:])
    return Cost(bias, table.nbytes + 4 * index.index.size + bias * (dtype or table.dtype).itemsize)


@kernel(_forward_cost)
def position_bias_fwd(table: Array, index: PositionIndex, dtype: np.dtype[Any] | None = None) -> Array:
    """bias[h, n, m] = table[index[n, m], h].

    Args:
        table: (T, heads).
        index: (N, M) of rows of the table.
        dtype: of the result; None for the table's.

    Returns:
        (heads, N, M), C-ordered.
    """
    return table.T.take(tables(index, table)[0], axis=1).astype(dtype or table.dtype, copy=False)


def _backward_cost(g: Array, index: PositionIndex, rows: int, dtype: np.dtype[Any] | None = None) -> Cost:
    return Cost(g.size, g.nbytes + 4 * index.index.size + rows * g.shape[0] * (dtype or g.dtype).itemsize)


@kernel(_backward_cost)
def position_bias_bwd(g: Array, index: PositionIndex, rows: int, dtype: np.dtype[Any] | None = None) -> Array:
    """The gradient of the table: the sum of each row's gradients, in a fixed order.

    Args:
        g: (heads, N, M).
        index: as in forward.
        rows: T. Rows that no pair of tokens reads get 0.
        dtype: of the result; None for that of g.

    Returns:
        (T, heads).
    """
    xp = array_module(g)
    flat = g.reshape(g.shape[0], index.index.size).astype(accumulator(g.dtype), copy=False)
    out = xp.zeros((rows, g.shape[0]), dtype or g.dtype)
    places = tables(index, g)[1]
    if xp is np:
        for head, gradients in enumerate(flat):
            out[:, head] = np.bincount(index.index.reshape(-1), weights=gradients, minlength=rows)
    elif places.size:  # CuPy's bincount adds in no fixed order
        out[: index.rows] = xp.where(places >= 0, flat.take(places, axis=1), 0).sum(axis=2).T
    return out
