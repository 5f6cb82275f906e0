"""Indexing: slices, gathers and table look-ups. Indices are static: integers without a gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module, device_scope, is_array, to_device
from autograd.dtypes import accumulator
from autograd.primitive import Ctx, Primitive
from autograd.shapes import axis_or_all, normalize_axis
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from autograd.backend import Array
    from autograd.tensor import TensorLike

    Indices: TypeAlias = TensorLike | Sequence[int]

__all__ = ["gather", "getitem", "table_gather", "take"]


def _raw_index(index: Any, device: str) -> Any:
    """``index`` with Tensors replaced by their arrays and lists by integer arrays, those on ``device``."""
    if isinstance(index, tuple):
        return tuple(_raw_index(i, device) for i in index)
    if isinstance(index, Tensor):
        return to_device(index.data, device)
    if isinstance(index, list):
        return to_device(np.asarray(index, dtype=None if np.size(index) else np.int64), device)  # NumPy: floats
    return to_device(index, device) if is_array(index) else index


def _is_basic(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or isinstance(p, (int, slice, np.integer)) for p in parts)


def _getitem_forward(ctx: Ctx, x: Array, *, index: Any) -> Array:
    ctx.shape, ctx.index = x.shape, index
    try:
        return x[index]
    except IndexError as error:
        raise IndexError(f"getitem: expected an index into shape {x.shape}; got {index!r} ({error}).") from None


def _getitem_vjp(ctx: Ctx, g: Array) -> Array:
    xp = array_module(g)
    index = ctx.index
    if _is_basic(index):
        out = xp.zeros(ctx.shape, g.dtype)
        out[index] = g
        return out
    out = xp.zeros(ctx.shape, accumulator(g.dtype))
    xp.add.at(out, index, g)
    return out.astype(g.dtype, copy=False)


_getitem = Primitive("getitem", _getitem_forward, _getitem_vjp, fresh=True)


def getitem(x: TensorLike, index: Any) -> Tensor:
    """``x[index]``: slices (a view), integer arrays and boolean masks (a copy; repeated places add up in backward).

    Saves nothing but the index.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    return _getitem(x, index=_raw_index(index, x.device))


def _indices(op: str, indices: Indices, like: Tensor) -> Array:
    array: Array = indices.data if isinstance(indices, Tensor) else indices
    array = array if is_array(array) else np.asarray(array, dtype=np.int64 if np.size(array) == 0 else None)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{op}: expected integer indices; got dtype {array.dtype}.")
    return to_device(array, like.device)


def _check_range(op: str, indices: Array, size: int) -> None:
    if not indices.size:
        return
    with device_scope(indices):
        least, most = int(indices.min()), int(indices.max())
    if least < -size or most >= size:
        raise IndexError(f"{op}: expected indices in [{-size}, {size - 1}]; got {least} to {most}.")


def _take_forward(ctx: Ctx, x: Array, *, indices: Array, axis: int) -> Array:
    ctx.shape, ctx.indices, ctx.axis = x.shape, indices, axis
    return x.take(indices, axis=axis)


def _take_vjp(ctx: Ctx, g: Array) -> Array:
    xp = array_module(g)
    out = xp.zeros(ctx.shape, accumulator(g.dtype))
    xp.add.at(out, (slice(None),) * ctx.axis + (ctx.indices,), g)
    return out.astype(g.dtype, copy=False)


_take = Primitive("take", _take_forward, _take_vjp, fresh=True)


def take(x: TensorLike, indices: Indices, axis: int | None = None) -> Tensor:
    """Elements of ``x`` along ``axis`` (default: of the flat array), as ``numpy.take``. Saves the indices.

    Raises:
        IndexError: for an index out of range.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    axis = axis_or_all("take", axis, x.ndim)
    if axis is None:
        x, axis = x.reshape(-1), 0
    places = _indices("take", indices, x)
    _check_range("take", places, x.shape[axis])
    return _take(x, indices=places, axis=axis)


def _gather_forward(ctx: Ctx, x: Array, *, indices: Array, axis: int) -> Array:
    ctx.shape, ctx.indices, ctx.axis = x.shape, indices, axis
    return array_module(x).take_along_axis(x, indices, axis=axis)


def _gather_vjp(ctx: Ctx, g: Array) -> Array:
    xp = array_module(g)
    indices, axis = ctx.indices, ctx.axis
    grid = [xp.arange(n).reshape([-1 if i == d else 1 for i in range(g.ndim)]) for d, n in enumerate(g.shape)]
    grid[axis] = indices
    out = xp.zeros(ctx.shape, accumulator(g.dtype))
    xp.add.at(out, tuple(grid), g)
    return out.astype(g.dtype, copy=False)


_gather = Primitive("gather", _gather_forward, _gather_vjp, fresh=True)


def gather(x: TensorLike, axis: int, indices: Indices) -> Tensor:
    """``out[i][j] = x[i][indices[i][j]]`` along ``axis``, as ``torch.gather`` / ``numpy.take_along_axis``.

    Args:
        x: any shape.
        axis: to pick along.
        indices: integers; the shape of ``x`` but for ``axis``. Saved.

    Raises:
        ValueError: if the shapes differ off ``axis``.
        IndexError: for an index out of range.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    axis = normalize_axis("gather", axis, x.ndim)
    places = _indices("gather", indices, x)
    if places.ndim != x.ndim or any(
        n != m for i, (n, m) in enumerate(zip(places.shape, x.shape, strict=True)) if i != axis
    ):
        raise ValueError(f"gather: expected indices of shape {x.shape} but for axis {axis}; got {places.shape}.")
    _check_range("gather", places, x.shape[axis])
    return _gather(x, indices=places, axis=axis)


def _table_forward(ctx: Ctx, table: Array, *, index: Array) -> Array:
    ctx.shape, ctx.index = table.shape, index
    return table[index]


def _table_vjp(ctx: Ctx, g: Array) -> Array:
    """Sum the gradients that went to each row, in index order: deterministic on every device, no atomics.

    The places of each row are listed side by side, filled up with one place that holds zero.
    """
    xp = array_module(g)
    rows = ctx.shape[0]
    acc = accumulator(g.dtype)
    index = ctx.index.reshape(-1).astype(np.int64, copy=False) % rows  # uint8 cannot hold a number of rows
    flat = g.reshape(index.size, math.prod(ctx.shape[1:])).astype(acc, copy=False)
    order = xp.argsort(index, kind="stable")
    counts = xp.bincount(index, minlength=rows)
    first = xp.cumsum(counts) - counts
    slots = int(counts.max()) if index.size else 0
    column = xp.arange(slots)
    place = xp.minimum(first[:, None] + column, max(index.size - 1, 0))
    used = column < counts[:, None]
    picked = flat[order[place]] if index.size else xp.zeros((rows, slots, flat.shape[1]), acc)
    picked *= used[:, :, None]
    return picked.sum(axis=1).reshape(ctx.shape).astype(g.dtype, copy=False)


_table_gather = Primitive("table_gather", _table_forward, _table_vjp, fresh=True)


def table_gather(table: TensorLike, index: Indices) -> Tensor:
    """Rows of a table: ``out[...] = table[index[...]]`` (relative position bias, embeddings).

    Backward adds up each row's gradients in a fixed order, so that it is bitwise repeatable on a GPU too.

    Args:
        table: (T, ...).
        index: integers of any shape. Saved.

    Returns:
        index.shape + table.shape[1:].

    Raises:
        IndexError: for an index out of range.
    """
    table = table if isinstance(table, Tensor) else Tensor(table)
    if table.ndim == 0:
        raise ValueError("table_gather: expected a table of at least one dimension; got a 0-d tensor.")
    rows = _indices("table_gather", index, table)
    _check_range("table_gather", rows, table.shape[0])
    return _table_gather(table, index=rows)
