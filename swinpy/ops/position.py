"""The position bias of window attention, as an op on a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from autograd.extend import Ctx, Primitive
from swinpy.geometry import PositionIndex
from swinpy.kernels.position_bias import position_bias_bwd, position_bias_fwd

if TYPE_CHECKING:
    from autograd.extend import Array, TensorLike

__all__ = ["position_bias"]


def _forward(ctx: Ctx, table: Array, *, index: PositionIndex, dtype: np.dtype[Any] | None) -> Array:
    ctx.index, ctx.rows, ctx.dtype = index, table.shape[0], table.dtype
    return position_bias_fwd(table, index, dtype)


def _vjp(ctx: Ctx, g: Array) -> Array:
    return position_bias_bwd(g, ctx.index, ctx.rows, ctx.dtype)


_position_bias = Primitive("position_bias", _forward, _vjp, fresh=True)


def position_bias(table: TensorLike, index: PositionIndex, dtype: Any = None) -> ag.Tensor:
    """Biases of all pairs of tokens from a table of biases: ``table[index]`` with the heads in front.

    Saves nothing. The index was checked when it was made, on the host: on a GPU nothing waits. Backward adds up each
    row's gradients in a fixed order, so that it is bitwise repeatable there too.

    Args:
        table: (T, heads).
        index: (N, M), from :func:`swinpy.geometry.position_index`; rows from 0 to T - 1.
        dtype: of the biases where the table is float32, by default float32: autocast's, as attention that reads them
            would round them to. Their gradients are added up in float32 either way.

    Returns:
        (heads, N, M), as :func:`swinpy.ops.window_attention` takes it.

    Raises:
        TypeError: for an index that is a plain array.
        ValueError: for another shape of the table.
        IndexError: if the table has fewer rows than the index reads.

    Source: Liu et al. 2021, equation 4.
    """
    if not isinstance(index, PositionIndex):
        raise TypeError(
            f"position_bias: expected a PositionIndex; got {type(index).__name__}. Pass PositionIndex(array)."
        )
    table = table if isinstance(table, ag.Tensor) else ag.Tensor(table)
    if table.ndim != 2:
        raise ValueError(f"position_bias: expected a table (T, heads); got {table.shape}.")
    if table.shape[0] < index.rows:
        raise IndexError(
            f"position_bias: expected a table of at least {index.rows} rows; got {table.shape[0]}. "
            "Was it made for a smaller window?"
        )
    return _position_bias(table, index=index, dtype=dtype if table.dtype == np.float32 else None)
