"""Fused window attention, forward and backward, in plain NumPy/CuPy.

Shift, padding, partition and reverse are one table of pixel indices. A token that padding added has no pixel; its q, k
and v are the qkv bias. A block is a few images, so that their scores stay in the cache. Backward computes the
probabilities again instead of keeping them.

Source: Liu et al. 2021 (Swin), equation 4; Liu et al. 2022 (Swin V2), section 3.3 for cosine attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.extend import Cost, accumulator, array_module, kernel, run_blocks, total_of
from swinpy.geometry import Geometry, attention_mask, on_device, window_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from autograd.extend import Array

__all__ = ["MAX_LOGIT_SCALE", "AttentionSpec", "window_attention_bwd", "window_attention_fwd"]

MAX_LOGIT_SCALE = math.log(100.0)
_COSINE_EPS = 1e-12


@dataclass(frozen=True)
class AttentionSpec:
    """The settings of an attention, which do not change from batch to batch.

    Attributes:
        geometry: the division of the map into windows.
        heads: number of heads.
        scale: of the scores (V1); 1 with cosine.
        mask_value: added across region borders.
        cosine: normalise q and k, and scale by exp(min(logit_scale, ln 100)) (V2).
    """

    geometry: Geometry
    heads: int
    scale: float
    mask_value: float = -100.0
    cosine: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"AttentionSpec: expected heads of 1 or more; got {self.heads}.")


class _Windows:
    """The windows of a map: gathers and scatters them a block, that is a few images, at a time."""

    def __init__(self, qkv: Array, bias: Array | None, qkv_bias: Array | None, spec: AttentionSpec) -> None:
        self.xp, self.spec, self.qkv = array_module(qkv), spec, qkv
        self.acc = accumulator(qkv.dtype)
        self.batch, self.channels = qkv.shape[0], qkv.shape[3] // 3
        table = window_tokens(spec.geometry)
        self.count, self.tokens = table.shape
        self.table = on_device(table.reshape(-1), qkv)
        padding = np.flatnonzero(table.reshape(-1) < 0)
        self.padding = on_device(padding, qkv) if padding.size else None
        self.inside = on_device(np.flatnonzero(table.reshape(-1) >= 0), qkv) if padding.size else slice(None)
        self.qkv_bias = None if qkv_bias is None else qkv_bias.astype(self.acc, copy=False)
        self.bias = None if bias is None else bias.astype(self.acc, copy=False)
        self.ones = self.xp.ones(self.tokens, self.acc)
        self._load_mask()

    def _load_mask(self) -> None:
        """Load the mask of the windows that have one. On a shifted map these are the last row and column only."""
        mask = attention_mask(self.spec.geometry, self.spec.mask_value)
        self.masked: Any = None
        if mask is not None:
            masked = np.flatnonzero(mask.any(axis=(1, 2)))
            self.masked = on_device(masked, self.qkv)
            self.mask = self.xp.asarray(mask[masked][:, None]).astype(self.acc, copy=False)

    def run(self, compute: Callable[[slice], Any]) -> list[Any]:
        """Call ``compute`` with slices of as many images as keep scores and rows within a block of about 1 MiB."""
        window = self.spec.heads * self.tokens**2 + 4 * self.tokens * self.channels
        return run_blocks(compute, self.batch, self.count * window * self.acc.itemsize, self.xp)

    def gather(self, maps: Array) -> Array:
        """(b, H, W, K) to rows (b, nW * N, K) in window order, zeros for padding."""
        flat = maps.reshape(maps.shape[0], -1, maps.shape[3])
        rows = flat.take(self.table, axis=1).astype(self.acc, copy=False)
        if self.padding is not None:
            rows[:, self.padding] = 0
        return rows

    def scatter(self, rows: Array, out: Array) -> None:
        """Write rows (b, nW * N, K) back to the pixels of ``out`` (b, H, W, K); padding is dropped."""
        flat = out.reshape(out.shape[0], -1, out.shape[3])
        flat[:, self.table[self.inside]] = rows[:, self.inside]

    def split(self, rows: Array, n: int) -> list[Array]:
        """rows (b, nW * N, n * C) as ``n`` views (b, nW, heads, N, d)."""
        shape = (rows.shape[0], self.count, self.tokens, n, self.spec.heads, self.channels // self.spec.heads)
        return list(rows.reshape(shape).transpose(3, 0, 1, 4, 2, 5))

    def load(self, images: slice) -> list[Array]:
        """q, k and v of some images, with the qkv bias added: each (b, nW, heads, N, d)."""
        rows = self.gather(self.qkv[images])
        if self.qkv_bias is not None:
            rows += self.qkv_bias
        return self.split(rows, 3)

    def probabilities(self, q: Array, k: Array) -> Array:
        """softmax(q k^T + bias + mask), (b, nW, heads, N, N); q carries the scale."""
        scores = self.xp.matmul(q, k.swapaxes(-1, -2))
        if self.bias is not None:
            scores += self.bias
        if self.masked is not None:
            scores[:, self.masked] += self.mask
        scores -= scores.max(axis=-1, keepdims=True)
        self.xp.exp(scores, out=scores)
        scores /= self.xp.matmul(scores, self.ones)[..., None]  # a product sums short rows faster than .sum does
        return scores


def _inverse_norm(x: Array, xp: Any) -> tuple[Array, Array]:
    """1 / max(|x|, eps) of each row, and whether the norm is above eps."""
    norm = xp.sqrt((x * x).sum(axis=-1, keepdims=True))
    return 1 / xp.maximum(norm, _COSINE_EPS), norm > _COSINE_EPS


def _tau(logit_scale: Array | None, acc: Any, xp: Any) -> Array:
    """exp(min(logit_scale, ln 100)) as (heads, 1, 1)."""
    assert logit_scale is not None
    return xp.exp(xp.minimum(logit_scale.astype(acc), MAX_LOGIT_SCALE)).reshape(-1, 1, 1)


def _cost(products: int) -> Any:
    """A cost function: ``products`` N x N x d products per window and head; each map is read or written once."""

    def cost(*args: Any) -> Cost:
        spec: AttentionSpec = args[-1]
        windows = args[0].shape[0] * spec.geometry.windows[0] * spec.geometry.windows[1]
        channels = args[-5].shape[3] // 3
        flops = 2 * products * windows * spec.geometry.tokens**2 * channels
        maps = 4 if products == 2 else 7
        return Cost(flops, maps * channels * math.prod(args[0].shape[:3]) * args[0].itemsize)

    return cost


@kernel(_cost(2))
def window_attention_fwd(
    qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> Array:
    """Attention within (shifted) windows, from map to map.

    Args:
        qkv: (B, H, W, 3C), the projection without its bias; channels are (3, heads, d).
        bias: (heads, N, N) added to the scores, or None.
        qkv_bias: (3C,) or None.
        logit_scale: heads numbers, with ``spec.cosine``; else None.
        spec: geometry, heads and scale.

    Returns:
        (B, H, W, C).
    """
    windows = _Windows(qkv, bias, qkv_bias, spec)
    xp = windows.xp
    out = xp.empty((*qkv.shape[:3], windows.channels), qkv.dtype)

    def compute(images: slice) -> None:
        q, k, v = windows.load(images)
        if spec.cosine:
            q, k = q * _inverse_norm(q, xp)[0], k * _inverse_norm(k, xp)[0]
            q = q * _tau(logit_scale, windows.acc, xp)
        else:
            q = q * spec.scale
        rows = xp.empty((q.shape[0], windows.count * windows.tokens, windows.channels), windows.acc)
        xp.matmul(windows.probabilities(q, k), v, out=windows.split(rows, 1)[0])
        windows.scatter(rows, out[images])

    windows.run(compute)
    return out


@kernel(_cost(5))
def window_attention_bwd(
    g: Array, qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """Gradients of :func:`window_attention_fwd` for qkv, bias, qkv_bias and logit_scale.

    The gradient of the qkv bias includes what tokens added by padding receive.

    Args:
        g: (B, H, W, C), the gradient of the output.
        qkv: as in forward.
        bias: as in forward.
        qkv_bias: as in forward.
        logit_scale: as in forward.
        spec: as in forward.
    """
    windows = _Windows(qkv, bias, qkv_bias, spec)
    xp, acc = windows.xp, windows.acc
    gqkv = xp.empty(qkv.shape, qkv.dtype)

    def compute(images: slice) -> tuple[Array, Array, Array | None]:
        q, k, v = windows.load(images)
        (go,) = windows.split(windows.gather(g[images]), 1)
        rows = xp.empty((q.shape[0], windows.count * windows.tokens, 3 * windows.channels), acc)
        gq, gk, gv = windows.split(rows, 3)
        gtau = None
        if spec.cosine:
            ds, gtau = _cosine_bwd(windows, (q, k, v), go, (gq, gk, gv), _tau(logit_scale, acc, xp))
        else:
            ds = _scores_bwd(windows, q * spec.scale, k, v, go, (gq, gk, gv))
            gq *= spec.scale
        windows.scatter(rows, gqkv[images])
        return ds.sum(axis=(0, 1)), rows.sum(axis=(0, 1)), gtau

    partials = windows.run(compute)
    gbias = None if bias is None else total_of([p[0] for p in partials], bias)
    gqkv_bias = None if qkv_bias is None else total_of([p[1] for p in partials], qkv_bias)
    if not spec.cosine:
        return gqkv, gbias, gqkv_bias, None
    gtau = total_of([p[2] for p in partials], xp.zeros(spec.heads, acc))
    return gqkv, gbias, gqkv_bias, _logit_scale_bwd(gtau, logit_scale, acc, xp)


def _scores_bwd(windows: _Windows, q: Array, k: Array, v: Array, go: Array, grads: tuple[Array, ...]) -> Array:
    """Write the gradients of the scaled q, of k and of v into ``grads``; returns the gradient of the scores."""
    xp = windows.xp
    gq, gk, gv = grads
    p = windows.probabilities(q, k)
    xp.matmul(p.swapaxes(-1, -2), go, out=gv)
    ds = xp.matmul(go, v.swapaxes(-1, -2))
    ds -= xp.einsum("...nm,...nm->...n", ds, p)[..., None]
    ds *= p
    xp.matmul(ds, k, out=gq)
    xp.matmul(ds.swapaxes(-1, -2), q, out=gk)
    return ds


def _cosine_bwd(
    windows: _Windows, qkv: tuple[Array, Array, Array], go: Array, grads: tuple[Array, ...], tau: Array
) -> tuple[Array, Array]:
    """As :func:`_scores_bwd`, for q and k that are not normalised; returns the gradients of the scores and of tau.

    With q^ = q / |q|: dq = (dq^ - q^ (q^ . dq^)) / |q|. It is 0 for a row shorter than eps, which has no direction: the
    keys of tokens that padding added are zeros in V2.
    """
    q, k, v = qkv
    xp = windows.xp
    inverse_q, free_q = _inverse_norm(q, xp)
    inverse_k, free_k = _inverse_norm(k, xp)
    unit_q, unit_k = q * inverse_q, k * inverse_k
    ds = _scores_bwd(windows, unit_q * tau, unit_k, v, go, grads)
    gq, gk, _ = grads
    gtau = (gq * unit_q).sum(axis=(0, 1, 3, 4))  # gq is still that of tau q^: sum_j dS_ij k^_j
    gq *= tau
    for grad, unit, inverse, free in ((gq, unit_q, inverse_q, free_q), (gk, unit_k, inverse_k, free_k)):
        grad -= unit * ((grad * unit).sum(axis=-1, keepdims=True) * free)
        grad *= inverse * free
    return ds, gtau


def _logit_scale_bwd(gtau: Array, logit_scale: Array | None, acc: Any, xp: Any) -> Array:
    """d logit_scale = tau dtau; 0 where logit_scale is clamped to ln 100, whatever dtau is."""
    assert logit_scale is not None
    tau = _tau(logit_scale, acc, xp).reshape(-1)
    grad = xp.where(logit_scale.reshape(-1) > MAX_LOGIT_SCALE, 0, gtau * tau)
    return grad.astype(logit_scale.dtype, copy=False).reshape(logit_scale.shape)
