"""Comparisons, choice, and casts to another dtype or device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd import backend, dtypes
from autograd.backend import array_module
from autograd.ops.declare import op
from autograd.primitive import Ctx, Primitive, cast
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from autograd.backend import Array
    from autograd.tensor import TensorLike

__all__ = [
    "astype",
    "equal",
    "greater",
    "greater_equal",
    "isfinite",
    "less",
    "less_equal",
    "not_equal",
    "to_device",
    "where",
]


def _where_forward(ctx: Ctx, x: Array | float, y: Array | float, *, condition: Array) -> Array:
    ctx.save(condition)
    return array_module(condition).where(condition, x, y)


def _where_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None]:
    (condition,) = ctx.saved
    xp = array_module(g)  # chosen, not multiplied by the mask: inf * 0 would be NaN
    return (xp.where(condition, g, 0) if ctx.needs[0] else None, xp.where(condition, 0, g) if ctx.needs[1] else None)


_where = Primitive("where", _where_forward, _where_vjp, broadcasts=True, autocast="widest", fresh=True)


def where(condition: TensorLike, x: TensorLike, y: TensorLike) -> Tensor:
    """``x`` where ``condition`` (boolean, no gradient) else ``y``. Saves ``condition``.

    Raises:
        TypeError: if the condition is not boolean.
    """
    mask: Array = condition.data if isinstance(condition, Tensor) else condition
    mask = mask if backend.is_array(mask) else np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"where: expected a boolean condition; got dtype {mask.dtype}. Compare first.")
    return _where(x, y, condition=mask)


def _module(x: TensorLike, y: TensorLike) -> Any:
    """numpy or cupy, of two operands of which one is an array."""
    return array_module(x if backend.is_array(x) else y)


# ---- comparisons

_comparison = op(None, broadcasts=True, autocast="widest")


@_comparison
def equal(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x == y``, boolean, no gradient."""
    return _module(x, y).equal(x, y)


@_comparison
def not_equal(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x != y``, boolean, no gradient."""
    return _module(x, y).not_equal(x, y)


@_comparison
def less(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x < y``, boolean, no gradient."""
    return _module(x, y).less(x, y)


@_comparison
def less_equal(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x <= y``, boolean, no gradient."""
    return _module(x, y).less_equal(x, y)


@_comparison
def greater(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x > y``, boolean, no gradient."""
    return _module(x, y).greater(x, y)


@_comparison
def greater_equal(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x >= y``, boolean, no gradient."""
    return _module(x, y).greater_equal(x, y)


@op(None)
def isfinite(ctx: Ctx, x: TensorLike) -> Array:
    """Where ``x`` is neither NaN nor infinite, boolean, no gradient."""
    return array_module(x).isfinite(x)


# ---- dtype and device


def astype(x: TensorLike, dtype: DTypeLike) -> Tensor:
    """``x`` as another dtype; the gradient is cast back. A cast to integers or booleans has no gradient."""
    target = dtypes.as_dtype(dtype)
    if not dtypes.is_float(target):
        x = x.detach() if isinstance(x, Tensor) else x
    return cast(x, dtype=target)


def _to_device_forward(ctx: Ctx, x: Array, *, device: str) -> Array:
    ctx.device = backend.device_of(x)
    return backend.to_device(x, device)


_to_device = Primitive("to_device", _to_device_forward, lambda ctx, g: backend.to_device(g, ctx.device))


def to_device(x: TensorLike, device: str) -> Tensor:
    """``x`` on "cpu", "gpu", "cuda" or "cuda:N"; the gradient goes back to where ``x`` was."""
    return _to_device(x, device=device)
