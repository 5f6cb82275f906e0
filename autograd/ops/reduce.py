"""Reductions. Names, ``axis`` and ``keepdims`` are NumPy's; 16-bit floats are summed in float32.

A 0-d array takes the axes 0 and -1, as in torch (NumPy takes them in some of its reductions).

An empty axis is summed to 0 and refused by what has no value there (mean, var, max, min, logsumexp, argmax).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import accumulator, is_float
from autograd.primitive import Ctx, Primitive
from autograd.shapes import axis_or_all, normalize_axes

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import Axis, Tensor, TensorLike

__all__ = ["argmax", "logsumexp", "max", "mean", "min", "sum", "var"]


def _count(op: str, x: Array, axes: tuple[int, ...]) -> int:
    n: int = math.prod(x.shape[a] for a in axes)
    if n == 0:
        raise ValueError(f"{op}: expected a non-empty axis; got shape {x.shape} over axes {axes}.")
    return n


def _spread(g: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """A reduced gradient as a read-only view of the shape before the reduction."""
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return array_module(g).broadcast_to(g.reshape(kept), shape)


def _reduce(x: Array, op: str, axes: tuple[int, ...], keepdims: bool, **kwargs: Any) -> Array:
    """``x.<op>`` summed in the accumulation dtype and cast back."""
    dtype = accumulator(x.dtype) if is_float(x.dtype) else None
    out = getattr(x, op)(axis=axes, keepdims=keepdims, dtype=dtype, **kwargs)
    return out if dtype is None else out.astype(x.dtype, copy=False)


def _sum_forward(ctx: Ctx, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
    ctx.shape, ctx.axes = x.shape, axes
    return _reduce(x, "sum", axes, keepdims)


_sum = Primitive(
    "sum",
    _sum_forward,
    lambda ctx, g: _spread(g, ctx.shape, ctx.axes),
    autocast="f32",
)


def _mean_forward(ctx: Ctx, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
    ctx.shape, ctx.axes, ctx.n = x.shape, axes, _count("mean", x, axes)
    return _reduce(x, "mean", axes, keepdims)


def _mean_vjp(ctx: Ctx, g: Array) -> Array:
    share = g.astype(accumulator(g.dtype), copy=False) / ctx.n  # in float16, n above 65,504 would be inf
    return _spread(share.astype(g.dtype, copy=False), ctx.shape, ctx.axes)


_mean = Primitive("mean", _mean_forward, _mean_vjp, autocast="f32", floats=True)


def _var_forward(ctx: Ctx, x: Array, *, axes: tuple[int, ...], ddof: int, keepdims: bool) -> Array:
    ctx.axes, ctx.n = axes, _count("var", x, axes) - ddof
    if ctx.n <= 0:
        raise ValueError(f"var: expected more than ddof={ddof} elements; got shape {x.shape} over axes {axes}.")
    ctx.save(x)
    return _reduce(x, "var", axes, keepdims, ddof=ddof)


def _var_vjp(ctx: Ctx, g: Array) -> Array:
    (x,) = ctx.saved
    acc = accumulator(x.dtype)
    centred = x - x.mean(axis=ctx.axes, keepdims=True, dtype=acc)
    centred *= 2 / ctx.n
    centred *= _spread(g, x.shape, ctx.axes)
    return centred.astype(x.dtype, copy=False)


_var = Primitive("var", _var_forward, _var_vjp, autocast="f32", floats=True, fresh=True)


def _extreme(name: str) -> Primitive:
    def forward(ctx: Ctx, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
        _count(name, x, axes)
        ctx.axes = axes
        out = getattr(x, name)(axis=axes, keepdims=True)
        ctx.save(x, out)
        return out if keepdims else out.reshape([n for i, n in enumerate(x.shape) if i not in axes])

    def vjp(ctx: Ctx, g: Array) -> Array:
        x, out = ctx.saved
        xp = array_module(x)
        hits = x == out
        count = hits.sum(axis=ctx.axes, keepdims=True)
        acc = accumulator(x.dtype)  # in float16, more than 65,504 ties would be inf
        share = g.reshape(out.shape).astype(acc, copy=False) / xp.maximum(count, 1).astype(acc)
        rest = xp.where(count == 0, np.nan, 0).astype(g.dtype)  # NaN is equal to nothing
        return xp.where(hits, share.astype(g.dtype, copy=False), rest)

    return Primitive(name, forward, vjp, fresh=True)


_max, _min = _extreme("max"), _extreme("min")


def _logsumexp_forward(ctx: Ctx, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
    _count("logsumexp", x, axes)
    xp = array_module(x)
    peak = x.max(axis=axes, keepdims=True)
    peak = xp.where(xp.isfinite(peak), peak, xp.zeros_like(peak))  # all -inf: 0 - inf, not -inf + inf
    peak = peak.astype(accumulator(x.dtype), copy=False)
    total = xp.exp(x - peak).sum(axis=axes, keepdims=True)
    with np.errstate(divide="ignore"):  # log(0) = -inf is the right answer for a slice of -inf
        out = (xp.log(total) + peak).astype(x.dtype, copy=False)
    ctx.save(x, peak, total)
    return out if keepdims else out.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def _logsumexp_vjp(ctx: Ctx, g: Array) -> Array:
    """softmax(x) g, as exp(x - peak) / total: exp(x - logsumexp) would lose the digits of a large logsumexp."""
    x, peak, total = ctx.saved
    xp = array_module(x)
    probs = xp.exp(x - peak)
    probs /= xp.where(total == 0, 1, total)
    probs *= g.reshape(total.shape)
    return probs.astype(x.dtype, copy=False)


_logsumexp = Primitive("logsumexp", _logsumexp_forward, _logsumexp_vjp, autocast="f32", floats=True, fresh=True)


def _argmax_forward(ctx: Ctx, x: Array, *, axis: int | None, keepdims: bool) -> Array:
    _count("argmax", x, tuple(range(x.ndim)) if axis is None else (axis,))
    return x.argmax(axis=axis, keepdims=keepdims)


_argmax = Primitive("argmax", _argmax_forward, None)


def sum(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Sum over ``axis`` (default: all). Saves nothing."""
    return _sum(x, axes=normalize_axes("sum", axis, np.ndim(x)), keepdims=keepdims)


def mean(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Mean over ``axis`` (default: all). Saves nothing.

    Raises:
        ValueError: over an empty axis.
    """
    return _mean(x, axes=normalize_axes("mean", axis, np.ndim(x)), keepdims=keepdims)


def var(x: TensorLike, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """Variance over ``axis`` with divisor n - ddof, in two passes. Saves ``x``.

    Raises:
        ValueError: over an axis of at most ddof elements.
    """
    axes = normalize_axes("var", axis, np.ndim(x))
    return _var(x, axes=axes, ddof=ddof, keepdims=keepdims)


def max(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Largest element over ``axis``; ties share the gradient, as in ``torch.amax``. Saves ``x`` and the result.

    A slice with a NaN gives NaN, and so is the gradient of all of it.
    """
    return _max(x, axes=normalize_axes("max", axis, np.ndim(x)), keepdims=keepdims)


def min(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Smallest element over ``axis``; ties share the gradient, as in ``torch.amin``. Saves ``x`` and the result.

    A slice with a NaN gives NaN, and so is the gradient of all of it.
    """
    return _min(x, axes=normalize_axes("min", axis, np.ndim(x)), keepdims=keepdims)


def logsumexp(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) without overflow. Saves ``x`` and two numbers a slice.

    A slice of -inf gives -inf and has no gradient (torch: NaN).

    Raises:
        ValueError: over an empty axis.
    """
    axes = normalize_axes("logsumexp", axis, np.ndim(x))
    return _logsumexp(x, axes=axes, keepdims=keepdims)


def argmax(x: TensorLike, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Index of the first largest element along ``axis`` (default: of the flat array), int64, no gradient."""
    return _argmax(x, axis=axis_or_all("argmax", axis, np.ndim(x)), keepdims=keepdims)
