"""Losses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module, device_of, is_array, to_device
from autograd.kernels.cross_entropy import cross_entropy_bwd, cross_entropy_fwd
from autograd.primitive import Ctx, Primitive
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import TensorLike

__all__ = ["cross_entropy"]


def _loss_target(logits: Tensor, target: TensorLike) -> Array:
    given: Array = target.data if isinstance(target, Tensor) else target
    given = given if is_array(given) else np.asarray(given)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"cross_entropy: expected logits (B, K) with K > 0; got {logits.shape}.")
    batch, classes = logits.shape
    hard = given.dtype.kind in "iu"
    if hard and given.shape != (batch,):
        raise ValueError(
            f"cross_entropy: expected integer labels ({batch},); got {given.shape}. Soft or one-hot labels are floats."
        )
    if not hard and given.shape != logits.shape:
        raise ValueError(f"cross_entropy: expected soft labels {logits.shape}; got {given.shape}.")
    moved = to_device(given, logits.device)
    if hard and given.size and "cpu" in (device_of(given), logits.device):  # else looking would wait for the GPU
        seen = given if device_of(given) == "cpu" else moved
        least, most = int(seen.min()), int(seen.max())
        if least < 0 or most >= classes:
            raise ValueError(
                f"cross_entropy: expected labels in [0, {classes - 1}]; got {least} to {most}. "
                "Does the model's num_classes fit the data?"
            )
    return moved


def _cross_entropy_forward(ctx: Ctx, logits: Array, *, target: Array, smoothing: float, reduction: str) -> Array:
    losses, log_probs = cross_entropy_fwd(logits, target, smoothing)
    ctx.save(log_probs, target)
    ctx.options = (smoothing, reduction, logits.dtype)
    out = {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()
    return out.astype(logits.dtype, copy=False)


def _cross_entropy_vjp(ctx: Ctx, g: Array) -> Array:
    log_probs, target = ctx.saved
    smoothing, reduction, dtype = ctx.options
    xp = array_module(log_probs)
    g = g.astype(log_probs.dtype, copy=False)
    if reduction == "mean":
        g = g / log_probs.shape[0]
    g = xp.broadcast_to(g, log_probs.shape[:1])
    return cross_entropy_bwd(g, log_probs, target, smoothing).astype(dtype, copy=False)


_cross_entropy = Primitive(
    "cross_entropy", _cross_entropy_forward, _cross_entropy_vjp, autocast="f32", floats=True, fresh=True
)


def cross_entropy(
    logits: TensorLike, target: TensorLike, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy against hard or soft labels, as ``torch.nn.functional.cross_entropy``.

    Saves the log-probabilities (B, K) and the target.

    Labels on the host are checked. Labels on the GPU are not, since reading them would wait for the GPU: one that is no
    class makes the loss and the gradient of its sample NaN. So does a row of logits that are all -inf, as in torch.

    Args:
        logits: (B, K).
        target: (B,) integers in [0, K), or (B, K) probabilities; no gradient.
        label_smoothing: in [0, 1]; the target becomes (1 - s) target + s / K.
        reduction: "mean" over the batch, "sum" or "none".

    Raises:
        ValueError: for shapes, labels (not those on a GPU) or options that do not fit; "mean" of an empty batch.
    """
    logits = logits if isinstance(logits, Tensor) else Tensor(logits)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"cross_entropy: expected reduction mean, sum or none; got {reduction!r}.")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: expected label_smoothing in [0, 1]; got {label_smoothing}.")
    labels = _loss_target(logits, target)
    if reduction == "mean" and math.prod(logits.shape) == 0:
        raise ValueError("cross_entropy: expected a non-empty batch for reduction='mean'; got 0 samples.")
    return _cross_entropy(logits, target=labels, smoothing=label_smoothing, reduction=reduction)
