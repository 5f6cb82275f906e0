"""Window attention from map to map: one fused op, and the same thing composed from the ops that the paper names.

Both take the qkv map without its bias. Padding comes before the projection in the published models, so a token added
by padding has q, k, v equal to the qkv bias; nobody masks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import autograd as ag
from autograd.extend import Ctx, Primitive
from swinpy.geometry import attention_mask, on_device
from swinpy.kernels.window_attention import (
    MAX_LOGIT_SCALE,
    AttentionSpec,
    window_attention_bwd,
    window_attention_fwd,
)
from swinpy.ops.window import window_partition, window_reverse
from swinpy.probe import tap

if TYPE_CHECKING:
    from autograd.extend import Array, TensorLike
    from swinpy.geometry import Pair

__all__ = ["AttentionSpec", "window_attention", "window_attention_composite"]


def _forward(
    ctx: Ctx,
    qkv: Array,
    bias: Array | None,
    qkv_bias: Array | None,
    logit_scale: Array | None,
    *,
    spec: AttentionSpec,
) -> Array:
    ctx.spec = spec
    ctx.save(qkv, bias, qkv_bias, logit_scale)
    return window_attention_fwd(qkv, bias, qkv_bias, logit_scale, spec)


def _vjp(ctx: Ctx, g: Array) -> tuple[Array | None, ...]:
    qkv, bias, qkv_bias, logit_scale = ctx.saved
    grads = window_attention_bwd(g, qkv, bias, qkv_bias, logit_scale, ctx.spec)
    return tuple(grad if need else None for grad, need in zip(grads, ctx.needs, strict=True))


_window_attention = Primitive("window_attention", _forward, _vjp, autocast="low", fresh=True, floats=True)


_Operands: TypeAlias = "tuple[ag.Tensor, ag.Tensor | None, ag.Tensor | None, ag.Tensor | None]"


def _checked(op: str, qkv: TensorLike, options: tuple[TensorLike | None, ...], spec: AttentionSpec) -> _Operands:
    """qkv, bias, qkv_bias and logit_scale as Tensors."""
    qkv = qkv if isinstance(qkv, ag.Tensor) else ag.Tensor(qkv)
    tensors = (x if x is None or isinstance(x, ag.Tensor) else ag.Tensor(x) for x in options)
    bias, qkv_bias, logit_scale = tensors
    n = spec.geometry.tokens
    if qkv.ndim != 4 or qkv.shape[1:3] != spec.geometry.size or qkv.shape[3] % (3 * spec.heads):
        raise ValueError(
            f"{op}: expected qkv (B, {spec.geometry.size[0]}, {spec.geometry.size[1]}, 3C) with C a multiple of "
            f"{spec.heads} heads; got {qkv.shape}."
        )
    if bias is not None and bias.shape != (spec.heads, n, n):
        raise ValueError(f"{op}: expected bias {(spec.heads, n, n)}; got {bias.shape}.")
    if qkv_bias is not None and qkv_bias.shape != qkv.shape[3:]:
        raise ValueError(f"{op}: expected qkv_bias {qkv.shape[3:]}; got {qkv_bias.shape}.")
    if spec.cosine != (logit_scale is not None):
        got = "none" if logit_scale is None else str(logit_scale.shape)
        raise ValueError(
            f"{op}: expected logit_scale with cosine attention and only then; got {got} with cosine={spec.cosine}."
        )
    if logit_scale is not None and logit_scale.size != spec.heads:
        raise ValueError(f"{op}: expected a logit_scale of {spec.heads} numbers; got {logit_scale.shape}.")
    return qkv, bias, qkv_bias, logit_scale


def window_attention(
    qkv: TensorLike,
    bias: TensorLike | None,
    qkv_bias: TensorLike | None,
    logit_scale: TensorLike | None = None,
    *,
    spec: AttentionSpec,
) -> ag.Tensor:
    """Attention within (shifted) windows as one primitive: partition, shift and mask are index arithmetic.

    Saves its inputs, by reference; probabilities are computed again in backward.

    Args:
        qkv: (B, H, W, 3C), the projection without its bias; channels are (3, heads, d).
        bias: (heads, N, N), relative position bias of a window, or None.
        qkv_bias: (3C,) or None.
        logit_scale: (heads, 1, 1), V2 only: with ``spec.cosine``.
        spec: windows, heads, scale and mask value.

    Returns:
        (B, H, W, C), before the output projection.

    Source: Liu et al. 2021, equation 4; Liu et al. 2022, equation 2 for cosine attention.
    """
    operands = _checked("window_attention", qkv, (bias, qkv_bias, logit_scale), spec)
    return _window_attention(*operands, spec=spec)


def _pad(x: ag.Tensor, spec: AttentionSpec) -> ag.Tensor:
    (h, w), (padded_h, padded_w) = spec.geometry.size, spec.geometry.padded
    return ag.pad(x, ((0, 0), (0, padded_h - h), (0, padded_w - w), (0, 0))) if (h, w) != (padded_h, padded_w) else x


def _roll(x: ag.Tensor, shift: Pair) -> ag.Tensor:
    return ag.roll(x, shift, axis=(1, 2)) if any(shift) else x


def _pad_and_shift(x: ag.Tensor, spec: AttentionSpec) -> ag.Tensor:
    back = (-spec.geometry.shift[0], -spec.geometry.shift[1])
    return _pad(_roll(x, back), spec) if spec.geometry.roll_first else _roll(_pad(x, spec), back)


def _unshift_and_crop(x: ag.Tensor, spec: AttentionSpec) -> ag.Tensor:
    (h, w), shift = spec.geometry.size, spec.geometry.shift
    if spec.geometry.roll_first:
        return _roll(x[:, :h, :w], shift)
    x = _roll(x, shift)
    return x if x.shape[1:3] == (h, w) else x[:, :h, :w]


def window_attention_composite(
    qkv: TensorLike,
    bias: TensorLike | None,
    qkv_bias: TensorLike | None,
    logit_scale: TensorLike | None = None,
    *,
    spec: AttentionSpec,
    dropout: float = 0.0,
) -> ag.Tensor:
    """The same as :func:`window_attention`, step by step as in the paper.

    Each step has a name for :func:`swinpy.verify.trace`: windows, q, k, v, position_bias, scores, mask, probs, attended
    and map.

    Args:
        qkv: as in :func:`window_attention`; likewise bias, qkv_bias, logit_scale and spec.
        dropout: rate on the probabilities.
    """
    operands = _checked("window_attention_composite", qkv, (bias, qkv_bias, logit_scale), spec)
    qkv, bias, qkv_bias, logit_scale = operands
    batch, channels, heads, n = qkv.shape[0], qkv.shape[3] // 3, spec.heads, spec.geometry.tokens
    shifted = _pad_and_shift(qkv, spec)
    if qkv_bias is not None:
        shifted = shifted + qkv_bias
    windows = tap("windows", window_partition(shifted, spec.geometry.window))
    count = windows.shape[1] * windows.shape[2]
    split = windows.reshape(batch, count, n, 3, heads, channels // heads).transpose(3, 0, 1, 4, 2, 5)
    q, k, v = split[0], split[1], split[2]  # (B, nW, heads, N, d)
    if logit_scale is not None:
        tau = ag.exp(ag.clip(logit_scale, max=MAX_LOGIT_SCALE)).reshape(heads, 1, 1)
        q, k = ag.l2_normalize(q) * tau, ag.l2_normalize(k)
    else:
        q = q * spec.scale
    q, k, v = tap("q", q), tap("k", k), tap("v", v)
    scores = q @ k.swapaxes(-1, -2)
    if bias is not None:
        scores = scores + tap("position_bias", bias)
    scores = tap("scores", scores)
    mask = tap("mask", on_device(attention_mask(spec.geometry, spec.mask_value), qkv.data))
    attention: Any = tap("probs", ag.softmax(scores) if mask is None else ag.masked_softmax(scores, mask[:, None]))
    if dropout:
        attention = ag.dropout(attention, dropout)
    out = (attention @ v).transpose(0, 1, 3, 2, 4)  # (B, nW, N, heads, d)
    out = tap("attended", out.reshape(batch, *spec.geometry.windows, *spec.geometry.window, channels))
    return tap("map", _unshift_and_crop(window_reverse(out), spec))
