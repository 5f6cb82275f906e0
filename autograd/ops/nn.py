"""Ops of neural networks: softmax, norms, activations.

Names are torch.nn.functional's. The ones with a row in the kernel registry run whichever implementation the kernel
mode chooses; 16-bit floats are computed in float32, integers and booleans in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module, is_array, to_device
from autograd.deferred import DeferredBias
from autograd.dtypes import FLOAT32, accumulator
from autograd.kernels.gelu import bias_gelu_bwd, bias_gelu_fwd, gelu_bwd, gelu_fwd
from autograd.kernels.layer_norm import (
    layer_norm_bwd,
    layer_norm_fwd,
    residual_layer_norm_bwd,
    residual_layer_norm_fwd,
)
from autograd.kernels.softmax import softmax_bwd, softmax_fwd
from autograd.kernels.softplus import softplus_bwd, softplus_fwd
from autograd.ops.declare import op
from autograd.primitive import Ctx, Primitive
from autograd.shapes import normalize_axis
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import TensorLike

__all__ = [
    "bias_gelu",
    "gelu",
    "l2_normalize",
    "layer_norm",
    "log_softmax",
    "masked_softmax",
    "residual_layer_norm",
    "softmax",
    "softplus",
]


def _last(x: Array, axis: int) -> Array:
    return x.swapaxes(axis, -1)


def _non_empty(op: str, shape: tuple[int, ...], axis: int) -> None:
    if shape[axis] == 0:
        raise ValueError(f"{op}: expected a non-empty axis; got shape {shape}, axis {axis}.")


# ---- softmax


def _softmax_forward(ctx: Ctx, x: Array, *, axis: int, mask: Array | None) -> Array:
    y = softmax_fwd(_last(x, axis), None if mask is None else _last(mask, axis))
    ctx.axis = axis
    ctx.save(y)
    return _last(y, axis)


def _softmax_vjp(ctx: Ctx, g: Array) -> Array:
    (y,) = ctx.saved
    axis = ctx.axis
    return _last(softmax_bwd(_last(g, axis), y), axis)


def _masked_forward(ctx: Ctx, x: Array, *, axis: int, mask: Array) -> Array:
    xp, acc = array_module(mask), accumulator(x.dtype)
    if mask.dtype == bool:
        mask = xp.where(mask, acc.type(0), acc.type(-np.inf))
    return _softmax_forward(ctx, x, axis=axis, mask=mask.astype(acc, copy=False))


_softmax = Primitive("softmax", _softmax_forward, _softmax_vjp, autocast="f32", floats=True, fresh=True)
_masked_softmax = Primitive("masked_softmax", _masked_forward, _softmax_vjp, autocast="f32", floats=True, fresh=True)


def softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along ``axis``. Saves the result.

    A slice of -inf has nothing to choose from: it gives zeros, without a gradient (torch: NaN).

    Raises:
        IndexError: for a 0-d array, which has no axis.
        ValueError: over an empty axis.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    axis = normalize_axis("softmax", axis, x.ndim)
    _non_empty("softmax", x.shape, axis)
    return _softmax(x, axis=axis, mask=None)


def masked_softmax(x: TensorLike, mask: TensorLike, axis: int = -1) -> Tensor:
    """softmax(x + mask) along ``axis``. Saves the result.

    Args:
        x: any shape.
        mask: broadcasts to ``x``, no gradient. Floats are added (-100 as in Swin's published models, or -inf);
            booleans say what to keep (False adds -inf). A slice with nothing left to keep gives zeros, without a
            gradient (torch: NaN).
        axis: to normalise over.

    Raises:
        ValueError: over an empty axis, or for a mask that does not broadcast to ``x``.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    axis = normalize_axis("masked_softmax", axis, x.ndim)
    _non_empty("masked_softmax", x.shape, axis)
    added: Array = mask.data if isinstance(mask, Tensor) else mask
    added = added if is_array(added) else np.asarray(added)
    try:
        fits = np.broadcast_shapes(added.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"masked_softmax: expected a mask that broadcasts to {x.shape}; got {added.shape}.")
    added = to_device(added, x.device).reshape((1,) * (x.ndim - added.ndim) + added.shape)
    return _masked_softmax(x, axis=axis, mask=added)


def _log_softmax_forward(ctx: Ctx, x: Array, *, axis: int) -> Array:
    xp = array_module(x)
    wide = x.astype(accumulator(x.dtype))
    wide -= wide.max(axis=axis, keepdims=True)
    wide -= xp.log(xp.exp(wide).sum(axis=axis, keepdims=True))
    ctx.axis = axis
    ctx.save(wide)
    return wide.astype(x.dtype, copy=False)


def _log_softmax_vjp(ctx: Ctx, g: Array) -> Array:
    (y,) = ctx.saved
    probs = array_module(y).exp(y)
    probs *= -g.sum(axis=ctx.axis, keepdims=True, dtype=y.dtype)
    probs += g
    return probs.astype(g.dtype, copy=False)


_log_softmax = Primitive("log_softmax", _log_softmax_forward, _log_softmax_vjp, autocast="f32", floats=True, fresh=True)


def log_softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """log(softmax(x)) along ``axis`` without underflow. Saves the result.

    A slice of -inf gives NaN, as in torch.

    Raises:
        IndexError: for a 0-d array, which has no axis.
        ValueError: over an empty axis.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    axis = normalize_axis("log_softmax", axis, x.ndim)
    _non_empty("log_softmax", x.shape, axis)
    return _log_softmax(x, axis=axis)


# ---- norms


def _check_norm(op: str, x: Array, weight: Array, bias: Array) -> None:
    channels = x.shape[-1:]
    if not channels or channels[0] == 0 or weight.shape != channels or bias.shape != channels:
        raise ValueError(
            f"{op}: expected x (..., C) with C > 0 and weight and bias (C,); "
            f"got {x.shape}, {weight.shape} and {bias.shape}."
        )


def _layer_norm_forward(ctx: Ctx, x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    _check_norm("layer_norm", x, weight, bias)
    y, mean, rstd = layer_norm_fwd(x, weight, bias, eps)
    ctx.save(x, weight, mean, rstd)
    return y


_layer_norm = Primitive(
    "layer_norm",
    _layer_norm_forward,
    lambda ctx, g: layer_norm_bwd(g, *ctx.saved),
    autocast="f32",
    floats=True,
    fresh=True,
)


def layer_norm(x: TensorLike, weight: TensorLike, bias: TensorLike, eps: float = 1e-5) -> Tensor:
    """Layer norm over the last axis. Saves ``x`` and ``weight`` by reference, and two numbers a row.

    Args:
        x: (..., C).
        weight: (C,).
        bias: (C,).
        eps: added to the variance.

    Source: Ba et al. 2016, equation 3.
    """
    return _layer_norm(x, weight, bias, eps=eps)


def _residual_forward(
    ctx: Ctx,
    x: Array,
    branch: Array,
    weight: Array,
    bias: Array,
    branch_bias: Array | None,
    *,
    keep: Array | None,
    eps: float,
    y_dtype: np.dtype[Any] | None,
) -> tuple[Array, Array]:
    if x.shape != branch.shape:
        raise ValueError(f"residual_layer_norm: expected branch {x.shape} like x; got {branch.shape}.")
    _check_norm("residual_layer_norm", x, weight, bias)
    if branch_bias is not None and branch_bias.shape != x.shape[-1:]:
        raise ValueError(
            f"residual_layer_norm: expected branch_bias {x.shape[-1:]} for branch {x.shape}; got {branch_bias.shape}."
        )
    keep = None if keep is None else keep.astype(x.dtype, copy=False)
    y_dtype = y_dtype if x.dtype == FLOAT32 else None  # autocast leaves float64 alone
    total, y, mean, rstd = residual_layer_norm_fwd(x, branch, keep, weight, bias, eps, branch_bias, y_dtype)
    ctx.save(total, keep, weight, mean, rstd)
    ctx.branch_dtype = branch.dtype
    return total, y


def _residual_vjp(ctx: Ctx, g_total: Array, g: Array) -> tuple[Array | None, ...]:
    total, keep, weight, mean, rstd = ctx.saved
    return residual_layer_norm_bwd(g_total, g, total, keep, weight, mean, rstd, ctx.needs[4], ctx.branch_dtype)


_residual_layer_norm = Primitive(
    "residual_layer_norm",
    _residual_forward,
    _residual_vjp,
    autocast=("f32", "f32_or_low", "f32", "f32", "f32"),
    floats=True,
    fresh=(False, False, True, True, True),  # without DropPath the gradients of x and branch are one array
)


def residual_layer_norm(
    x: TensorLike,
    branch: TensorLike,
    keep: TensorLike | None,
    weight: TensorLike,
    bias: TensorLike,
    eps: float = 1e-5,
    branch_bias: TensorLike | None = None,
    y_dtype: np.dtype[Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """``s = x + keep * (branch + branch_bias)`` and ``layer_norm(s)``: a residual with DropPath and the norm after it.

    Saves ``s`` (which is an output), ``weight`` and two numbers a row.

    Args:
        x: (B, ..., C).
        branch: like ``x``; under autocast it may be in autocast's dtype, and is taken as it is. The bias that a
            :class:`autograd.deferred.DeferredBias` has left is the ``branch_bias`` unless one is given.
        keep: (B,) scales from :func:`drop_path_keep`, or None for 1.
        weight: (C,).
        bias: (C,).
        eps: added to the variance.
        branch_bias: (C,) or None: of the linear layer that made the branch, where that layer left it out.
        y_dtype: round the norm of a float32 s to this dtype at once, as the linear layer that reads it would under
            autocast; by default that of s, which always has that of ``x``.

    Returns:
        (s, layer_norm(s)).

    Raises:
        ValueError: for shapes that do not fit.
        TypeError: for operands of different dtypes outside of autocast.

    Source: Liu et al. 2021, equation 3; Huang et al. 2016 for keep; Ba et al. 2016, equation 3.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    if isinstance(branch, DeferredBias) and branch_bias is None:
        branch, branch_bias = branch.parts()
    scales: Array | None = keep.data if isinstance(keep, Tensor) else keep
    if scales is not None:
        scales = to_device(scales if is_array(scales) else np.asarray(scales, dtype=np.float64), x.device)
        if x.ndim < 2 or scales.shape != x.shape[:1]:
            raise ValueError(
                f"residual_layer_norm: expected keep of shape {x.shape[:1]} for x (B, ..., C); got {scales.shape} for "
                f"x {x.shape}."
            )
    return _residual_layer_norm(x, branch, weight, bias, branch_bias, keep=scales, eps=eps, y_dtype=y_dtype)


_NO_LENGTH = 1e-12


def _l2_forward(ctx: Ctx, x: Array, *, axis: int, eps: float | None) -> Array:
    xp = array_module(x)
    wide = x.astype(accumulator(x.dtype), copy=False)
    norm = xp.sqrt((wide * wide).sum(axis=axis, keepdims=True))
    least = _NO_LENGTH if eps is None else eps
    scale, free = 1 / xp.maximum(norm, least), norm > least
    ctx.axis = axis
    ctx.save(x, scale, free, scale * free if eps is None else scale)
    return (wide * scale).astype(x.dtype, copy=False)


def _l2_vjp(ctx: Ctx, g: Array) -> Array:
    x, scale, free, slope = ctx.saved
    unit = x * scale
    along = (g * unit).sum(axis=ctx.axis, keepdims=True)
    return ((g - unit * (along * free)) * slope).astype(g.dtype, copy=False)


_l2_normalize = Primitive("l2_normalize", _l2_forward, _l2_vjp, autocast="f32", floats=True, fresh=True)


def l2_normalize(x: TensorLike, axis: int = -1, eps: float | None = None) -> Tensor:
    """``x / max(|x|, eps)`` along ``axis``, as ``torch.nn.functional.normalize``. Saves ``x`` and two numbers a row.

    Args:
        x: any shape.
        axis: to take the 2-norm over.
        eps: of the formula. By default 1e-12, in float32 or wider, since 16-bit floats would round it to 0. A row no
            longer than that then has no direction: it gives zeros or nearly so, not NaN, and has no gradient. (The
            formula's would be 1e12 times the incoming one, too large for 16-bit floats.)
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    axis = normalize_axis("l2_normalize", axis, x.ndim)
    return _l2_normalize(x, axis=axis, eps=eps)


# ---- activations


@op(lambda ctx, g: gelu_bwd(g, *ctx.saved), floats=True, fresh=True)
def gelu(ctx: Ctx, x: TensorLike) -> Array:
    """x Phi(x) with the exact erf. Saves ``x``; Phi is computed again in backward.

    Source: Hendrycks & Gimpel 2016.
    """
    ctx.save(x)
    return gelu_fwd(x)


def _bias_gelu_forward(ctx: Ctx, x: Array, bias: Array) -> Array:
    if x.ndim == 0 or bias.shape != x.shape[-1:]:
        raise ValueError(f"bias_gelu: expected x (..., C) and bias (C,); got {x.shape} and {bias.shape}.")
    ctx.save(x, bias)
    return bias_gelu_fwd(x, bias)


_bias_gelu = Primitive(
    "bias_gelu",
    _bias_gelu_forward,
    lambda ctx, g: bias_gelu_bwd(g, *ctx.saved),
    autocast="low",
    floats=True,
    fresh=True,
)


def bias_gelu(x: TensorLike, bias: TensorLike) -> Tensor:
    """gelu(x + bias) with ``x`` (..., C) and ``bias`` (C,). Saves both by reference."""
    return _bias_gelu(x, bias)


def _softplus_forward(ctx: Ctx, x: Array, *, beta: float, threshold: float) -> Array:
    ctx.options = (beta, threshold)
    ctx.save(x)
    return softplus_fwd(x, beta, threshold)


_softplus = Primitive(
    "softplus",
    _softplus_forward,
    lambda ctx, g: softplus_bwd(g, *ctx.saved, *ctx.options),
    autocast="f32",
    floats=True,
    fresh=True,
)


def softplus(x: TensorLike, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta, the smooth ReLU, as ``torch.nn.functional.softplus``. Saves ``x``.

    Args:
        x: any shape.
        beta: sharpness; positive.
        threshold: where beta x is above it, the result is x itself. With torch's 20 that leaves out up to 2e-9;
            ``math.inf`` leaves out nothing.

    Raises:
        ValueError: for beta of 0 or less.

    Source: Dugas et al. 2001, section 3.
    """
    if not beta > 0:
        raise ValueError(f"softplus: expected beta above 0; got {beta}.")
    return _softplus(x, beta=float(beta), threshold=float(threshold))
