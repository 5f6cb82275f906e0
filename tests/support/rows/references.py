"""References that NumPy and SciPy do not have: written as the definition reads, loops and all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = [
    "avg_pool2d",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "drop_scales",
    "gelu",
    "layer_norm",
    "normalize",
    "soft_labels",
    "windows",
]

Array = np.ndarray[Any, Any]


def conv2d(x: Array, weight: Array, bias: Array | None = None, *, stride: Any = 1, padding: Any = 0) -> Array:
    (sy, sx), (py, px) = np.broadcast_to(stride, 2), np.broadcast_to(padding, 2)
    x = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
    batch, _, height, width = x.shape
    out_channels, _, kh, kw = weight.shape
    out = np.zeros((batch, out_channels, (height - kh) // sy + 1, (width - kw) // sx + 1), x.dtype)
    for b, o, i, j in np.ndindex(*out.shape):
        patch = x[b, :, i * sy : i * sy + kh, j * sx : j * sx + kw]
        out[b, o, i, j] = (patch * weight[o]).sum() + (0 if bias is None else bias[o])
    return out


def conv_transpose2d(x: Array, weight: Array, bias: Array | None = None, *, stride: Any = 1, padding: Any = 0) -> Array:
    (sy, sx), (py, px) = np.broadcast_to(stride, 2), np.broadcast_to(padding, 2)
    batch, channels, height, width = x.shape
    _, outputs, kh, kw = weight.shape
    out = np.zeros((batch, outputs, (height - 1) * sy + kh, (width - 1) * sx + kw), x.dtype)
    for b, c, i, j in np.ndindex(batch, channels, height, width):
        out[b, :, i * sy : i * sy + kh, j * sx : j * sx + kw] += x[b, c, i, j] * weight[c]
    out = out[:, :, py : out.shape[2] - py, px : out.shape[3] - px]
    return out if bias is None else out + bias[:, None, None]


def avg_pool2d(x: Array, *, kernel_size: Any, stride: Any = None, padding: Any = 0, include_pad: bool = True) -> Array:
    kh, kw = np.broadcast_to(kernel_size, 2)
    (sy, sx), (py, px) = np.broadcast_to(kernel_size if stride is None else stride, 2), np.broadcast_to(padding, 2)
    border = ((0, 0), (0, 0), (py, py), (px, px))
    real = np.pad(np.ones_like(x), border)
    x = np.pad(x, border)
    out = np.zeros((*x.shape[:2], (x.shape[2] - kh) // sy + 1, (x.shape[3] - kw) // sx + 1), x.dtype)
    for b, c, i, j in np.ndindex(*out.shape):
        place = (b, c, slice(i * sy, i * sy + kh), slice(j * sx, j * sx + kw))
        out[b, c, i, j] = x[place].sum() / (kh * kw if include_pad else real[place].sum())
    return out


def gelu(x: Array) -> Array:
    from scipy.special import erf

    return (0.5 * x * (1 + erf(x * math.sqrt(0.5)))).astype(x.dtype)


def layer_norm(x: Array, weight: Array, bias: Array, *, eps: float = 1e-5) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * weight + bias


def normalize(x: Array, *, axis: int = -1, eps: float | None = None) -> Array:
    norm = np.sqrt((x * x).sum(axis=axis, keepdims=True))
    return x / np.maximum(norm, 1e-12 if eps is None else eps)


def soft_labels(
    target: Array, shape: tuple[int, ...], smoothing: float, ignore_index: int | None
) -> tuple[Array, Array]:
    """Labels or probabilities as smoothed probabilities like the logits, and which labels count."""
    classes = shape[1]
    kept = np.ones((shape[0], *shape[2:]), bool)
    if target.ndim < len(shape):
        kept = kept if ignore_index is None else target != ignore_index
        target = np.moveaxis(np.eye(classes)[np.where(kept, target, 0)], -1, 1)
    return (1 - smoothing) * target + smoothing / classes, kept


def cross_entropy(
    logits: Array,
    *,
    target: Array,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    ignore_index: int | None = None,
    divisor: float | None = None,
) -> Array:
    from scipy.special import log_softmax

    soft, kept = soft_labels(target, logits.shape, label_smoothing, ignore_index)
    losses = -(soft.astype(logits.dtype) * log_softmax(logits, axis=1)).sum(axis=1) * kept
    if reduction == "mean":
        return losses.sum() / (divisor or kept.sum())
    return losses if reduction == "none" else losses.sum()


def windows(x: Array, *, window_shape: tuple[int, ...], axis: tuple[int, ...], step: tuple[int, ...]) -> Array:
    view = np.lib.stride_tricks.sliding_window_view(x, window_shape, axis)
    hops: list[slice] = [slice(None)] * x.ndim
    for a, hop in zip(axis, step, strict=True):
        hops[a] = slice(None, None, hop)
    return view[tuple(hops)]


def _philox(counter: int, seed: int) -> list[int]:
    """Philox4x32-10 on Python integers, as the paper's section 4.3 states it."""
    low = 0xFFFFFFFF
    c = [counter & low, counter >> 32, 0, 0]
    k = [seed & low, seed >> 32]
    for _ in range(10):
        p, q = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(q >> 32) ^ c[1] ^ k[0], q & low, (p >> 32) ^ c[3] ^ k[1], p & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c


def drop_scales(seed: int, offset: int, shape: tuple[int, ...], p: float) -> Array:
    """0 or 1 / (1 - p): element i is kept if the upper 24 bits of word i % 4 of counter offset + i // 4 reach p."""
    words = [_philox(offset + i // 4, seed)[i % 4] >> 8 for i in range(math.prod(shape))]
    return np.array([(w >= p * 2**24) / (1 - p) for w in words]).reshape(shape)
