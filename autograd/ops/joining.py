"""Joining tensors and splitting them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.ops.shaping import expand_dims, reshape
from autograd.primitive import Ctx, Primitive
from autograd.shapes import as_int, as_ints, normalize_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.backend import Array
    from autograd.tensor import Tensor, TensorLike

__all__ = ["concatenate", "split", "stack"]


def _concatenate_forward(ctx: Ctx, *arrays: Array, axis: int) -> Array:
    ctx.axis, ctx.sizes = axis, [a.shape[axis] for a in arrays]
    return array_module(arrays[0]).concatenate(arrays, axis=axis)


def _concatenate_vjp(ctx: Ctx, g: Array) -> tuple[Any, ...]:
    lead = (slice(None),) * ctx.axis
    ends = np.cumsum(ctx.sizes).tolist()
    starts = [0, *ends[:-1]]
    pieces = (g[(*lead, slice(a, b))] for a, b in zip(starts, ends, strict=True))
    return tuple(p if need else None for p, need in zip(pieces, ctx.needs, strict=True))


_concatenate = Primitive("concatenate", _concatenate_forward, _concatenate_vjp, autocast="widest")


def concatenate(tensors: Sequence[TensorLike], axis: int | None = 0) -> Tensor:
    """Join along an existing axis; None joins the flat arrays. Saves nothing.

    Raises:
        ValueError: for an empty sequence, or shapes that differ off ``axis``.
    """
    tensors = list(tensors)
    if not tensors:
        raise ValueError("concatenate: expected at least one tensor; got none.")
    if axis is None:
        return concatenate([reshape(t, -1) for t in tensors])
    axis = normalize_axis("concatenate", axis, np.ndim(tensors[0]))
    shapes = [np.shape(t) for t in tensors]
    if len({(len(s), s[:axis], s[axis + 1 :]) for s in shapes}) > 1:
        raise ValueError(f"concatenate: expected shapes that agree off axis {axis}; got {shapes}.")
    return _concatenate(*tensors, axis=axis)


def stack(tensors: Sequence[TensorLike], axis: int = 0) -> Tensor:
    """Join along a new axis.

    Raises:
        ValueError: for an empty sequence, or shapes that differ.
    """
    tensors = list(tensors)
    if not tensors:
        raise ValueError("stack: expected at least one tensor; got none.")
    shapes = [np.shape(t) for t in tensors]
    if len(set(shapes)) > 1:
        raise ValueError(f"stack: expected tensors of one shape; got {shapes}.")
    axis = normalize_axis("stack", axis, len(shapes[0]) + 1)
    return concatenate([expand_dims(t, axis) for t in tensors], axis)


def _split_forward(ctx: Ctx, x: Array, *, indices: tuple[int, ...], axis: int) -> tuple[Array, ...]:
    ctx.axis = axis
    lead = (slice(None),) * axis
    bounds = (0, *indices, x.shape[axis])
    return tuple(x[(*lead, slice(a, b))] for a, b in pairwise(bounds))


_split = Primitive(
    "split",
    _split_forward,
    lambda ctx, *grads: array_module(grads[0]).concatenate(grads, axis=ctx.axis),
    fresh=True,
)


def split(x: TensorLike, indices_or_sections: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Split along an axis into views. Saves nothing.

    Args:
        x: any shape.
        indices_or_sections: a number of equal parts, or the ascending indices to split at.
        axis: to split along.

    Raises:
        ValueError: if the parts are not equal, or the indices do not ascend within the axis.
    """
    axis = normalize_axis("split", axis, np.ndim(x))
    size = np.shape(x)[axis]
    if np.ndim(indices_or_sections) == 0:
        parts = as_int("split", "indices_or_sections", indices_or_sections)
        if parts < 1 or size % parts:
            raise ValueError(f"split: expected a divisor of {size}; got {parts} sections.")
        indices = tuple(size // parts * i for i in range(1, parts))
    else:
        indices = as_ints("split", "indices_or_sections", indices_or_sections)
        if list(indices) != sorted(indices) or any(not 0 <= i <= size for i in indices):
            raise ValueError(f"split: expected ascending indices in [0, {size}]; got {indices}.")
    return _split(x, indices=indices, axis=axis)
