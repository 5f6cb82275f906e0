"""The position bias of window attention, as an op on a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import autograd as ag
from autograd.extend import Ctx, Primitive, call_kernel
from swinpy.geometry import PositionIndex

if TYPE_CHECKING:
    from autograd.extend import Array

__all__ = ["position_bias"]


def _forward(ctx: Ctx, table: Array, *, index: PositionIndex) -> Array:
    ctx.index, ctx.rows = index, table.shape[0]
    return call_kernel("position_bias_fwd", table, index)


def _vjp(ctx: Ctx, g: Array) -> Array:
    return call_kernel("position_bias_bwd", g, ctx.index, ctx.rows)


_position_bias = Primitive("position_bias", _forward, _vjp, fresh=True)


def position_bias(table: ag.Tensor, index: PositionIndex) -> ag.Tensor:
    """Biases of all pairs of tokens from a table of biases: ``table[index]`` with the heads in front.

    Saves nothing. The index was checked when it was made, on the host: on a GPU nothing waits. Backward adds up each
    row's gradients in a fixed order, so that it is bitwise repeatable there too.

    Args:
        table: (T, heads).
        index: (N, M), from :func:`swinpy.geometry.position_index`; rows from 0 to T - 1.

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
    return _position_bias(table, index=index)  # type: ignore[no-any-return]
