"""Norms over maps: batch norm and group norm of (B, C, ...). Layer norm is in ``nn.py``.

Statistics are taken in two passes, so that a large mean costs no digits, of 16-bit floats in float32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module, is_array, to_device
from autograd.dtypes import accumulator
from autograd.kernels.batch_norm import batch_norm_bwd, batch_norm_eval_fwd, batch_norm_fwd
from autograd.primitive import Ctx, Primitive
from autograd.shapes import as_int, sum_over
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import TensorLike

__all__ = ["batch_norm", "batch_norm_eval", "group_norm"]

Grads = tuple["Array | None", "Array | None", "Array | None"]


def _check_channels(op: str, x: Any, *each: Any) -> None:
    """``each`` is (C,): weight, bias, statistics."""
    if x.ndim < 2 or any(a.shape != x.shape[1:2] for a in each):
        shapes = ", ".join(str(a.shape) for a in each)
        raise ValueError(f"{op}: expected x (B, C, ...) and, for each channel, (C,); got {x.shape} and {shapes}.")


# ---- batch norm


def _channels_last(x: Array) -> Array:
    return array_module(x).moveaxis(x, 1, -1)


def _channels_second(x: Array) -> Array:
    return array_module(x).moveaxis(x, -1, 1)


def _batch_forward(ctx: Ctx, x: Array, weight: Array, bias: Array, *, eps: float) -> tuple[Array, Array, Array]:
    _check_channels("batch_norm", x, weight, bias)
    n = x.shape[0] * math.prod(x.shape[2:])
    if n < 2:
        raise ValueError(f"batch_norm: expected more than one value a channel; got {n}, of x {x.shape}.")
    y, mean, rstd, var = batch_norm_fwd(_channels_last(x), weight, bias, eps)
    ctx.save(x, weight, mean, rstd)
    return _channels_second(y), mean, var


def _batch_vjp(ctx: Ctx, g: Array, g_mean: Array, g_var: Array) -> Grads:
    x, weight, mean, rstd = ctx.saved
    gx, gw, gb = batch_norm_bwd(_channels_last(g), _channels_last(x), weight, mean, rstd, g_mean, g_var)
    to_x, to_weight, to_bias = ctx.needs
    return _channels_second(gx) if to_x else None, gw if to_weight else None, gb if to_bias else None


_batch_norm = Primitive("batch_norm", _batch_forward, _batch_vjp, autocast="f32", floats=True, fresh=True)


def batch_norm(x: TensorLike, weight: TensorLike, bias: TensorLike, eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm in training: each channel by its mean and biased variance over the batch. Saves ``x`` and ``weight``.

    Args:
        x: (B, C, ...), with at least two values a channel.
        weight: (C,).
        bias: (C,).
        eps: added to the variance.

    Returns:
        y like ``x``; for running statistics the mean and the unbiased variance (C,), in float32 or wider.

    Raises:
        ValueError: for shapes that do not fit, or one value a channel, which has no variance.

    Source: Ioffe & Szegedy 2015, algorithm 1.
    """
    result: tuple[Tensor, Tensor, Tensor] = _batch_norm(x, weight, bias, eps=eps)
    return result


def _eval_forward(ctx: Ctx, x: Array, weight: Array, bias: Array, *, mean: Array, var: Array, eps: float) -> Array:
    _check_channels("batch_norm_eval", x, weight, bias, mean, var)
    acc = accumulator(x.dtype)
    mean, var = mean.astype(acc), var.astype(acc)  # copies: who owns them may write to them before backward
    ctx.save(x, weight, mean, 1 / array_module(x).sqrt(var + eps))
    return _channels_second(batch_norm_eval_fwd(_channels_last(x), weight, bias, mean, var, eps))


def _eval_vjp(ctx: Ctx, g: Array) -> Grads:
    x, weight, mean, rstd = ctx.saved
    gx, gw, gb = None, None, None
    last = _channels_last(g)
    lead = tuple(range(last.ndim - 1))
    if ctx.needs[0]:
        gx = _channels_second((last * (rstd * weight)).astype(g.dtype, copy=False))
    if ctx.needs[1]:
        gw = (sum_over(last * (_channels_last(x) - mean), lead).reshape(-1) * rstd).astype(g.dtype, copy=False)
    if ctx.needs[2]:
        gb = sum_over(last, lead).reshape(-1).astype(g.dtype, copy=False)
    return gx, gw, gb


_batch_norm_eval = Primitive("batch_norm_eval", _eval_forward, _eval_vjp, autocast="f32", floats=True, fresh=True)


def _statistic(a: TensorLike, device: str) -> Array:
    given: Array = a.data if isinstance(a, Tensor) else a
    return to_device(given if is_array(given) else np.asarray(given), device)


def batch_norm_eval(
    x: TensorLike, weight: TensorLike, bias: TensorLike, mean: TensorLike, var: TensorLike, eps: float = 1e-5
) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` for each channel: batch norm in evaluation.

    Saves ``x`` and ``weight`` by reference.

    Args:
        x: (B, C, ...).
        weight: (C,).
        bias: (C,).
        mean: (C,), running; no gradient.
        var: (C,), running; no gradient.
        eps: added to the variance.

    Raises:
        ValueError: for shapes that do not fit.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    statistics = {"mean": _statistic(mean, x.device), "var": _statistic(var, x.device)}
    return _batch_norm_eval(x, weight, bias, **statistics, eps=eps)


# ---- group norm


def _grouped(x: Array, groups: int) -> Array:
    """(B, C, ...) as (B, G, C / G, ...)."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _of_groups(a: Array, groups: int, ndim: int) -> Array:
    """(C,) for axes 1 and 2 of :func:`_grouped` maps."""
    return a.reshape(1, groups, -1, *(1,) * (ndim - 2))


def _group_forward(ctx: Ctx, x: Array, weight: Array, bias: Array, *, groups: int, eps: float) -> Array:
    _check_channels("group_norm", x, weight, bias)
    n = math.prod(x.shape[1:]) // groups
    if x.shape[1] % groups or n == 0:
        raise ValueError(f"group_norm: expected channels that {groups} groups divide, not empty; got x {x.shape}.")
    parts = _grouped(x, groups)
    axes = tuple(range(2, parts.ndim))
    mean = sum_over(parts, axes) / n
    centred = parts - mean
    rstd = 1 / array_module(x).sqrt(sum_over(array_module(x).square(centred), axes) / n + eps)
    ctx.n, ctx.groups = n, groups
    ctx.save(x, weight, mean, rstd)
    scale, shift = (_of_groups(a, groups, x.ndim) for a in (weight, bias))
    centred *= rstd * scale
    centred += shift
    return centred.astype(x.dtype, copy=False).reshape(x.shape)


def _group_vjp(ctx: Ctx, g: Array) -> Grads:
    x, weight, mean, rstd = ctx.saved
    n, groups, gx = ctx.n, ctx.groups, None
    parts, g_parts = _grouped(x, groups), _grouped(g, groups)
    places = tuple(range(3, parts.ndim))
    centred = parts - mean
    total, along = sum_over(g_parts, places), sum_over(g_parts * centred, places)  # of each sample and channel
    gw, gb = (a.sum(axis=0).reshape(-1).astype(g.dtype, copy=False) for a in (along * rstd, total))
    if ctx.needs[0]:
        scale = _of_groups(weight, groups, x.ndim)
        centred *= -(rstd**3) * sum_over(scale * along, (2,)) / n
        centred += g_parts * (rstd * scale)
        centred -= rstd * sum_over(scale * total, (2,)) / n
        gx = centred.astype(g.dtype, copy=False).reshape(x.shape)
    return gx, gw if ctx.needs[1] else None, gb if ctx.needs[2] else None


_group_norm = Primitive("group_norm", _group_forward, _group_vjp, autocast="f32", floats=True, fresh=True)


def group_norm(x: TensorLike, num_groups: int, weight: TensorLike, bias: TensorLike, eps: float = 1e-5) -> Tensor:
    """Each sample's groups of neighbouring channels by their mean and biased variance, as torch's ``group_norm``.

    Saves ``x`` and ``weight`` by reference, and two numbers a group.

    Args:
        x: (B, C, ...).
        num_groups: of C / num_groups channels each; it divides C.
        weight: (C,).
        bias: (C,).
        eps: added to the variance.

    Raises:
        ValueError: for shapes that do not fit, or a number of groups that does not divide C.

    Source: Wu & He 2018, equation 7.
    """
    groups = as_int("group_norm", "num_groups", num_groups)
    if groups < 1:
        raise ValueError(f"group_norm: expected num_groups of 1 or more; got {groups}.")
    return _group_norm(x, weight, bias, groups=groups, eps=eps)
