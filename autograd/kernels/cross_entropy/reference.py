"""Cross-entropy of logits against hard or soft labels, with label smoothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.kernels.registry import Cost, kernel

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["cross_entropy_bwd", "cross_entropy_fwd", "smoothed_targets"]


def smoothed_targets(target: Array, classes: int, smoothing: float, dtype: object) -> Array:
    """Labels as probabilities (B, K): (1 - smoothing) * target + smoothing / K.

    The row of a label that is no class has a NaN, and so have its loss and its gradients.

    Source: Szegedy et al. 2016, section 7.
    """
    xp = array_module(target)
    if target.ndim == 1:
        soft = xp.zeros((target.shape[0], classes), dtype)
        labels = target.astype(np.int64, copy=False)
        known = (labels >= 0) & (labels < classes)
        soft[xp.arange(labels.size), xp.where(known, labels, 0)] = xp.where(known, 1.0, np.nan).astype(dtype)
    else:
        soft = target.astype(dtype)
    if smoothing:
        soft *= 1 - smoothing
        soft += smoothing / classes
    return soft


def _fwd_cost(logits: Any, target: Any, smoothing: float) -> Cost:
    return Cost(6 * logits.size, logits.nbytes + logits.size * accumulator(logits.dtype).itemsize + target.nbytes)


@kernel(_fwd_cost)
def cross_entropy_fwd(logits: Array, target: Array, smoothing: float) -> tuple[Array, Array]:
    """Per-sample loss, and log-probabilities.

    Args:
        logits: (B, K).
        target: (B,) integer labels, or (B, K) probabilities.
        smoothing: in [0, 1].

    Returns:
        loss (B,) and log_softmax(logits) (B, K), in the accumulation dtype.
    """
    xp = array_module(logits)
    acc = accumulator(logits.dtype)
    z = logits.astype(acc)
    z -= z.max(axis=1, keepdims=True)
    z -= xp.log(xp.exp(z).sum(axis=1, keepdims=True))
    soft = smoothed_targets(target, logits.shape[1], smoothing, acc)
    # a class without any probability in the target adds nothing, also where its log-probability is -inf
    return -(soft * xp.where(soft == 0, 0, z)).sum(axis=1), z


def _bwd_cost(g: Any, log_probs: Any, target: Any, smoothing: float) -> Cost:
    return Cost(4 * log_probs.size, 2 * log_probs.nbytes + target.nbytes)


@kernel(_bwd_cost)
def cross_entropy_bwd(g: Array, log_probs: Array, target: Array, smoothing: float) -> Array:
    """g (softmax * sum(target) - target), (B, K); for targets that sum to 1 the familiar softmax - target.

    Args:
        g: (B,), the gradient of the per-sample loss.
        log_probs: (B, K), from forward.
        target: as in forward.
        smoothing: as in forward.
    """
    xp = array_module(log_probs)
    soft = smoothed_targets(target, log_probs.shape[1], smoothing, log_probs.dtype)
    grad = xp.exp(log_probs)
    grad *= soft.sum(axis=1, keepdims=True)
    grad -= soft
    grad *= g[:, None]
    return grad
