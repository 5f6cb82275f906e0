"""Window attention step by step with every result rounded: what a computation in low precision is held against.

The composite's steps, each computed in float64 and rounded to the given dtype, as a GPU rounds what a matrix product
has summed in float32. Unlike the composite it runs in bfloat16 on NumPy. Without rounding it is the reference.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.geometry import attention_mask, window_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from swinpy.ops import AttentionSpec

__all__ = ["naive_attention"]

Array = np.ndarray[Any, Any]


def _gather(maps: Array, table: Array) -> Array:
    """(B, H, W, K) to (B, nW, N, K), zeros for padding."""
    rows = maps.reshape(len(maps), -1, maps.shape[3])[:, table]
    return np.where((table < 0)[None, :, :, None], 0.0, rows)


def _scatter(rows: Array, table: Array, shape: tuple[int, ...]) -> Array:
    out = np.zeros((shape[0], shape[1] * shape[2], rows.shape[-1]))
    out[:, table[table >= 0]] = rows[:, table >= 0]
    return out.reshape(*shape[:3], -1)


def _unit(x: Array) -> tuple[Array, Array]:
    norm = np.sqrt((x * x).sum(-1, keepdims=True))
    inverse = np.where(norm > 1e-12, 1 / np.maximum(norm, 1e-12), 0.0)
    return x * inverse, inverse


def naive_attention(
    args: tuple[Any, ...], spec: AttentionSpec, g: Array, dtype: Any = np.float64
) -> list[Array | None]:
    """The output, then the gradients of qkv, bias, qkv_bias and logit_scale, in float64."""
    to: Callable[[Any], Array] = lambda x: np.asarray(x).astype(dtype).astype(np.float64)  # noqa: E731
    qkv, bias, qkv_bias, logit_scale = (None if a is None else np.asarray(a, np.float64) for a in args)
    assert qkv is not None
    table, heads, mask = window_tokens(spec.geometry), spec.heads, attention_mask(spec.geometry, spec.mask_value)
    rows = _gather(qkv, table)
    rows = rows if qkv_bias is None else to(rows + qkv_bias)
    q, k, v = rows.reshape(*rows.shape[:3], 3, heads, -1).transpose(3, 0, 1, 4, 2, 5)
    raw_q, raw_k, tau = q, k, np.ones((1, 1, 1))
    if logit_scale is not None:
        tau = to(np.exp(np.minimum(logit_scale, math.log(100)))).reshape(heads, 1, 1)
        unit_q, k = to(_unit(q)[0]), to(_unit(k)[0])
        q = to(unit_q * tau)
    else:
        q = to(q * spec.scale)
    scores = to(q @ k.swapaxes(-1, -2))
    scores = scores if bias is None else to(scores + bias)
    scores = scores if mask is None else scores + mask[:, None]
    e = np.exp(scores - scores.max(-1, keepdims=True))
    p = to(e / e.sum(-1, keepdims=True))

    def rejoin(x: Array) -> Array:
        return x.transpose(0, 1, 3, 2, 4).reshape(*x.shape[:2], x.shape[3], -1)

    out = _scatter(rejoin(to(p @ v)), table, qkv.shape)
    (go,) = _gather(np.asarray(g, np.float64), table).reshape(*rows.shape[:3], 1, heads, -1).transpose(3, 0, 1, 4, 2, 5)
    gp, gv = to(go @ v.swapaxes(-1, -2)), to(p.swapaxes(-1, -2) @ go)
    ds = to(p * (gp - (gp * p).sum(-1, keepdims=True)))
    gq, gk = to(ds @ k), to(ds.swapaxes(-1, -2) @ q)
    glogit = None
    if logit_scale is not None:
        gtau = to((gq * unit_q).sum(axis=(0, 1, 3, 4)))
        held = logit_scale.reshape(-1) > math.log(100)
        glogit = np.where(held, 0.0, to(gtau * tau.reshape(-1))).reshape(logit_scale.shape)
        gq = to(gq * tau)
        for grad, row in ((gq, raw_q), (gk, raw_k)):
            unit, inverse = _unit(row)
            grad[...] = to((grad - unit * (grad * unit).sum(-1, keepdims=True)) * inverse)
    else:
        gq = to(gq * spec.scale)
    grads = np.stack([gq, gk, gv]).transpose(1, 2, 4, 0, 3, 5).reshape(rows.shape)
    return [
        out,
        _scatter(grads, table, qkv.shape),
        None if bias is None else to(ds.sum(axis=(0, 1))),
        None if qkv_bias is None else to(grads.sum(axis=(0, 1, 2))),
        glogit,
    ]
