"""Window attention and its regions written as the paper and the official code read: pad, roll, slice, loop."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from swinpy.geometry import Geometry
    from swinpy.ops import AttentionSpec

__all__ = ["attend", "region_map", "tiles", "window_attention"]

Array = np.ndarray[Any, Any]


def region_map(cut: Geometry) -> Array:
    """Region of each token of the padded and rolled map: the official code's nine slices, counted."""
    (h, w), (wh, ww), (sh, sw) = cut.padded, cut.window, cut.shift
    image, count = np.zeros((h, w), int), 0
    rows = (slice(0, -wh), slice(-wh, -sh), slice(-sh, None)) if sh else (slice(None),)
    columns = (slice(0, -ww), slice(-ww, -sw), slice(-sw, None)) if sw else (slice(None),)
    for r in rows:
        for c in columns:
            image[r, c] = count
            count += 1
    return image


def tiles(cut: Geometry) -> list[tuple[slice, slice]]:
    """The windows of a padded map, row by row."""
    (wh, ww), (down, across) = cut.window, cut.windows
    return [(slice(i * wh, (i + 1) * wh), slice(j * ww, (j + 1) * ww)) for i in range(down) for j in range(across)]


def _unit(x: Array) -> Array:
    return x / np.maximum(np.sqrt((x * x).sum(axis=-1, keepdims=True)), np.finfo(np.float32).tiny)


def attend(q: Array, k: Array, v: Array, added: Array | None, spec: AttentionSpec, logit_scale: Any = None) -> Array:
    """One head of one window: (N, d) each; ``added`` (N, N) to the scores."""
    if spec.cosine:
        tau = np.exp(np.minimum(logit_scale, logit_scale.dtype.type(math.log(100))))
        scores = _unit(q) @ _unit(k).T * tau
    else:
        scores = (q * spec.scale) @ k.T
    if added is not None:
        scores = scores + added
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)) @ v


def window_attention(
    qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None = None, *, spec: AttentionSpec
) -> Array:
    """Pad with zeros, add the qkv bias everywhere, roll, one window and head at a time, roll back, crop."""
    cut, heads = spec.geometry, spec.heads
    (h, w), (padded_h, padded_w), (sh, sw) = cut.size, cut.padded, cut.shift
    x = np.pad(qkv, ((0, 0), (0, padded_h - h), (0, padded_w - w), (0, 0)))
    x = np.roll(x if qkv_bias is None else x + qkv_bias, (-sh, -sw), axis=(1, 2))
    batch, channels = len(x), x.shape[3] // 3
    out, regions = np.zeros((*x.shape[:3], channels), x.dtype), region_map(cut)
    for rows, columns in tiles(cut):
        region = regions[rows, columns].reshape(-1)
        mask = np.where(region[:, None] == region[None, :], 0.0, spec.mask_value).astype(x.dtype)
        for b, head in np.ndindex(batch, heads):
            q, k, v = x[b, rows, columns].reshape(cut.tokens, 3, heads, channels // heads)[:, :, head].swapaxes(0, 1)
            added = mask if bias is None else bias[head] + mask
            tau = None if logit_scale is None else logit_scale.reshape(-1)[head]
            place = slice(head * channels // heads, (head + 1) * channels // heads)
            out[b, rows, columns, place] = attend(q, k, v, added, spec, tau).reshape(*cut.window, -1)
    return np.roll(out, (sh, sw), axis=(1, 2))[:, :h, :w]
