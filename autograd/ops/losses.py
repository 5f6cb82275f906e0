"""Losses: cross-entropy, those of single logits, those of a difference, GIoU of boxes.

Names are torch's and torchvision's. Each takes ``reduction`` "mean", "sum" or "none", and with "mean" a ``divisor`` in
place of the number of terms: a detector divides by the samples of a whole batch. 16-bit floats are computed in float32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autograd.backend import array_module, device_of, is_array, to_device
from autograd.dtypes import accumulator
from autograd.kernels.cross_entropy import cross_entropy_bwd, cross_entropy_fwd
from autograd.ops.elementwise import divide
from autograd.ops.reduce import mean
from autograd.ops.reduce import sum as total_of
from autograd.primitive import Ctx, Primitive
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import TensorLike

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "giou_loss",
    "l1_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
]


def _check_reduction(op: str, reduction: str, divisor: float | None) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{op}: expected reduction mean, sum or none; got {reduction!r}.")
    if divisor is not None and (reduction != "mean" or not divisor > 0):
        raise ValueError(f"{op}: expected a divisor above 0, and reduction mean with it; got {divisor}, {reduction}.")


def _reduced(op: str, losses: Tensor, reduction: str, divisor: float | None) -> Tensor:
    """The mean, the sum or all of an op's losses."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return total_of(losses)
    if divisor is not None:
        return divide(total_of(losses), float(divisor))
    if losses.size == 0:
        raise ValueError(
            f"{op}: expected at least one term for reduction='mean'; got shape {losses.shape}. Give a divisor."
        )
    return mean(losses)


def _target(x: TensorLike) -> Array:
    given: Array = x.data if isinstance(x, Tensor) else x
    return given if is_array(given) else np.asarray(given)


# ---- cross-entropy


def _check_target(logits: Tensor, target: Array, ignore_index: int | None) -> None:
    if logits.ndim < 2 or logits.shape[1] == 0:
        raise ValueError(f"cross_entropy: expected logits (B, K) or (B, K, ...) with K > 0; got {logits.shape}.")
    labels = (logits.shape[0], *logits.shape[2:])
    hard = target.dtype.kind in "iu"
    if hard and target.shape != labels:
        raise ValueError(
            f"cross_entropy: expected integer labels {labels}; got {target.shape}. Soft or one-hot labels are floats."
        )
    if not hard and target.shape != logits.shape:
        raise ValueError(f"cross_entropy: expected soft labels {logits.shape}; got {target.shape}.")
    if not hard and ignore_index is not None:
        raise ValueError(f"cross_entropy: expected integer labels with an ignore_index; got {target.dtype}.")


def _check_labels(labels: Array, classes: int, ignore_index: int | None, some: bool) -> None:
    """Of labels on the host: those that count are classes, and there are ``some``."""
    seen = labels if ignore_index is None else labels[labels != ignore_index]
    least, most = (int(seen.min()), int(seen.max())) if seen.size else (0, 0)
    if least < 0 or most >= classes:
        raise ValueError(
            f"cross_entropy: expected labels in [0, {classes - 1}]; got {least} to {most}. "
            "Does the model's num_classes fit the data?"
        )
    if some and labels.size and not seen.size:
        raise ValueError(
            f"cross_entropy: expected a label that counts for reduction='mean'; got {labels.size} of ignore_index="
            f"{ignore_index}. Give a divisor."
        )


def _loss_target(logits: Tensor, target: TensorLike, ignore_index: int | None, some: bool) -> Array:
    """Checked, on the device of the logits."""
    given = _target(target)
    _check_target(logits, given, ignore_index)
    moved = to_device(given, logits.device)
    if given.dtype.kind in "iu" and "cpu" in (device_of(given), logits.device):  # else looking would wait for the GPU
        seen = given if device_of(given) == "cpu" else moved
        _check_labels(seen, logits.shape[1], ignore_index, some)
    return moved


def _as_rows(x: Array) -> Array:
    """(B, K, ...) as (N, K), without a copy where the classes lie last in memory, as after a convolution."""
    if x.ndim == 2:
        return x
    moved = array_module(x).moveaxis(x, 1, -1)
    return moved.reshape(math.prod(moved.shape[:-1]), x.shape[1])


def _cross_entropy_forward(
    ctx: Ctx,
    logits: Array,
    *,
    target: Array,
    smoothing: float,
    reduction: str,
    ignore_index: int | None,
    divisor: float | None,
) -> Array:
    xp, shape = array_module(logits), logits.shape
    target, kept = target.reshape(-1) if target.ndim < logits.ndim else _as_rows(target), None
    if ignore_index is not None:
        target = target.astype(np.int64, copy=False)
        kept = target != ignore_index
        target = xp.where(kept, target, 0)
    losses, log_probs = cross_entropy_fwd(_as_rows(logits), target, smoothing)
    if kept is not None:
        losses = xp.where(kept, losses, 0)
    count = divisor if divisor is not None else len(losses) if kept is None else kept.sum()
    ctx.save(log_probs, target, kept)
    ctx.options = (smoothing, reduction, count, logits.dtype, shape)
    if reduction == "none":
        losses = losses.reshape(shape[0], *shape[2:])
    elif reduction == "sum":
        losses = losses.sum()
    elif kept is None and divisor is None:
        losses = losses.mean()
    else:
        losses = losses.sum() / count
    return losses.astype(logits.dtype, copy=False)


def _cross_entropy_vjp(ctx: Ctx, g: Array) -> Array:
    log_probs, target, kept = ctx.saved
    smoothing, reduction, count, dtype, shape = ctx.options
    xp = array_module(log_probs)
    g = g.astype(log_probs.dtype, copy=False)
    if reduction == "mean":
        g = (g / count).astype(log_probs.dtype, copy=False)
    g = g.reshape(-1) if reduction == "none" else xp.broadcast_to(g, log_probs.shape[:1])
    if kept is not None:
        g = xp.where(kept, g, 0)
    grad = cross_entropy_bwd(g, log_probs, target, smoothing).astype(dtype, copy=False)
    return grad if len(shape) == 2 else xp.moveaxis(grad.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


_cross_entropy = Primitive(
    "cross_entropy", _cross_entropy_forward, _cross_entropy_vjp, autocast="f32", floats=True, fresh=True
)


def cross_entropy(
    logits: TensorLike,
    target: TensorLike,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    ignore_index: int | None = None,
    divisor: float | None = None,
) -> Tensor:
    """Cross-entropy against hard or soft labels, as ``torch.nn.functional.cross_entropy``.

    Saves the log-probabilities and the target, and of ignored labels a mask.

    Labels on the host are checked. Labels on the GPU are not, since reading them would wait for the GPU: one that is no
    class makes the loss and the gradient of its sample NaN. A mean of ignored labels alone is NaN there, and so is the
    loss of a row of logits that are all -inf, as in torch.

    Args:
        logits: (B, K), or (B, K, ...) for a class at each place of a map.
        target: (B,) or (B, ...) integers in [0, K), or probabilities of the shape of ``logits``; no gradient.
        label_smoothing: in [0, 1]; the target becomes (1 - s) target + s / K.
        reduction: "mean" over the labels that count, "sum" or "none".
        ignore_index: the label that does not count: it gives no loss and no gradient. By default every label counts,
            and -100, torch's default, is out of range like any other.
        divisor: what the sum is divided by for "mean" (default: the number of labels that count).

    Raises:
        ValueError: for shapes, labels (not those on a GPU) or options that do not fit; "mean" where no label counts.
    """
    logits = logits if isinstance(logits, Tensor) else Tensor(logits)
    _check_reduction("cross_entropy", reduction, divisor)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: expected label_smoothing in [0, 1]; got {label_smoothing}.")
    mean_of_counted = reduction == "mean" and divisor is None
    labels = _loss_target(logits, target, ignore_index, mean_of_counted)
    if mean_of_counted and math.prod(logits.shape) == 0:
        raise ValueError("cross_entropy: expected a non-empty batch for reduction='mean'; got 0 samples.")
    options = {"smoothing": label_smoothing, "reduction": reduction, "ignore_index": ignore_index, "divisor": divisor}
    return _cross_entropy(logits, target=labels, **options)


# ---- losses of each element: forward saves their slope


def _sloped(ctx: Ctx, losses: Array, slope: Array, dtype: np.dtype[Any]) -> Array:
    ctx.save(slope)
    return losses.astype(dtype, copy=False)


def _slope_vjp(ctx: Ctx, g: Array) -> Array:
    (slope,) = ctx.saved
    return (g * slope).astype(g.dtype, copy=False)


def _binary_terms(z: Array, target: Array) -> tuple[Array, Array, Array, Array]:
    """-log of the likelihood of ``target`` in [0, 1]; p = sigmoid(z) and 1 - p, each to its last digit; the target."""
    xp = array_module(z)
    t = target.astype(z.dtype, copy=False)
    e = xp.exp(-abs(z))
    larger = 1 / (1 + e)
    smaller = e * larger
    p, q = xp.where(z >= 0, larger, smaller), xp.where(z >= 0, smaller, larger)
    losses = (1 - t) * z
    losses += xp.maximum(-z, 0)  # nothing is left of z where z < 0 and t = 0
    losses += xp.log1p(e)
    return losses, p, q, t


def _bce_forward(ctx: Ctx, z: Array, *, target: Array) -> Array:
    losses, p, _, t = _binary_terms(z.astype(accumulator(z.dtype), copy=False), target)
    return _sloped(ctx, losses, p - t, z.dtype)


def _focal_forward(ctx: Ctx, z: Array, *, target: Array, alpha: float | None, gamma: float) -> Array:
    xp = array_module(z)
    losses, p, q, t = _binary_terms(z.astype(accumulator(z.dtype), copy=False), target)
    wrong = p * (1 - t) + q * t
    weight = wrong**gamma
    if alpha is not None:
        weight = weight * (alpha * t + (1 - alpha) * (1 - t))
    # where `wrong` is 0 so is what it divides
    turn = gamma * losses * (2 * t - 1) * (p * q / xp.maximum(wrong, np.finfo(wrong.dtype).tiny))
    return _sloped(ctx, weight * losses, weight * (p - t - turn), z.dtype)


_bce = Primitive("binary_cross_entropy_with_logits", _bce_forward, _slope_vjp, autocast="f32", floats=True, fresh=True)
_focal = Primitive("sigmoid_focal_loss", _focal_forward, _slope_vjp, autocast="f32", floats=True, fresh=True)


def _logits_and_target(op: str, logits: TensorLike, target: TensorLike) -> tuple[Tensor, Array]:
    logits = logits if isinstance(logits, Tensor) else Tensor(logits)
    given = _target(target)
    if given.shape != logits.shape:
        raise ValueError(f"{op}: expected a target of the logits' shape {logits.shape}; got {given.shape}.")
    return logits, to_device(given, logits.device)


def binary_cross_entropy_with_logits(
    logits: TensorLike, target: TensorLike, reduction: str = "mean", divisor: float | None = None
) -> Tensor:
    """-(t log p + (1 - t) log(1 - p)) with p = sigmoid(logits), as torch.nn.functional's. Saves one array.

    Args:
        logits: any shape.
        target: of that shape, in [0, 1]; integers and booleans are taken as numbers. No gradient.
        reduction: "mean", "sum" or "none".
        divisor: what the sum is divided by for "mean" (default: the number of elements).

    Raises:
        ValueError: for another shape or reduction; "mean" of nothing without a divisor.
    """
    name = "binary_cross_entropy_with_logits"
    _check_reduction(name, reduction, divisor)
    logits, labels = _logits_and_target(name, logits, target)
    return _reduced(name, _bce(logits, target=labels), reduction, divisor)


def sigmoid_focal_loss(
    logits: TensorLike,
    target: TensorLike,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    divisor: float | None = None,
) -> Tensor:
    """alpha_t (1 - p_t)^gamma times the binary cross-entropy, as ``torchvision.ops.sigmoid_focal_loss``.

    p_t is the probability given to the target, alpha_t is alpha for 1 and 1 - alpha for 0. Saves one array.

    Args:
        logits: any shape.
        target: of that shape, in [0, 1]; integers and booleans are taken as numbers. No gradient.
        alpha: in [0, 1], the weight of positives; None for no weights (torchvision: -1).
        gamma: 0 or more.
        reduction: "mean", "sum" or "none".
        divisor: what the sum is divided by for "mean" (default: the number of elements); RetinaNet's is the number of
            positive anchors.

    Raises:
        ValueError: for another shape, alpha, gamma or reduction; "mean" of nothing without a divisor.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5.
    """
    name = "sigmoid_focal_loss"
    _check_reduction(name, reduction, divisor)
    if not (alpha is None or 0 <= alpha <= 1) or not gamma >= 0:
        raise ValueError(f"{name}: expected alpha in [0, 1] or None, and gamma >= 0; got {alpha} and {gamma}.")
    logits, labels = _logits_and_target(name, logits, target)
    return _reduced(name, _focal(logits, target=labels, alpha=alpha, gamma=float(gamma)), reduction, divisor)


# ---- of differences


def _smooth_l1_forward(ctx: Ctx, x: Array, target: Array, *, beta: float) -> Array:
    """s (d - s beta / 2) with s = d / beta within [-1, 1]: d^2 / (2 beta) inside, |d| - beta / 2 outside."""
    xp, acc = array_module(x), accumulator(x.dtype)
    d = x.astype(acc, copy=False) - target.astype(acc, copy=False)
    slope = xp.clip(d / beta, -1, 1) if beta else xp.sign(d)
    losses = slope * (-0.5 * beta)
    losses += d
    losses *= slope
    return _sloped(ctx, losses, slope, x.dtype)


def _smooth_l1_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None]:
    gx = _slope_vjp(ctx, g)
    return (gx if ctx.needs[0] else None), (-gx if ctx.needs[1] else None)


_smooth_l1 = Primitive("smooth_l1_loss", _smooth_l1_forward, _smooth_l1_vjp, autocast="f32", floats=True, fresh=True)


def _pair(op: str, x: TensorLike, target: TensorLike) -> tuple[Tensor, Tensor]:
    x = x if isinstance(x, Tensor) else Tensor(x)
    target = target if isinstance(target, Tensor) else Tensor(target)
    if x.shape != target.shape:
        raise ValueError(f"{op}: expected a target of the shape of x, {x.shape}; got {target.shape}.")
    return x, target


def smooth_l1_loss(
    x: TensorLike, target: TensorLike, beta: float = 1.0, reduction: str = "mean", divisor: float | None = None
) -> Tensor:
    """d^2 / (2 beta) where d = |x - target| is below beta, else d - beta / 2, as torch.nn.functional's.

    Saves one array. The slope at d = 0 is 0, with beta 0 too.

    Args:
        x: any shape.
        target: of that shape and dtype.
        beta: 0 or more; 0 is :func:`l1_loss`.
        reduction: "mean", "sum" or "none".
        divisor: what the sum is divided by for "mean" (default: the number of elements).

    Raises:
        ValueError: for another shape, beta or reduction; "mean" of nothing without a divisor.

    Source: Girshick 2015, "Fast R-CNN", equation 3.
    """
    _check_reduction("smooth_l1_loss", reduction, divisor)
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: expected beta of 0 or more; got {beta}.")
    x, target = _pair("smooth_l1_loss", x, target)
    return _reduced("smooth_l1_loss", _smooth_l1(x, target, beta=float(beta)), reduction, divisor)


def l1_loss(x: TensorLike, target: TensorLike, reduction: str = "mean", divisor: float | None = None) -> Tensor:
    """|x - target|, as torch.nn.functional's: :func:`smooth_l1_loss` with beta 0, which has its arguments."""
    _check_reduction("l1_loss", reduction, divisor)
    x, target = _pair("l1_loss", x, target)
    return _reduced("l1_loss", _smooth_l1(x, target, beta=0.0), reduction, divisor)


# ---- of boxes


def _less(x: Array, y: Array | float, dtype: np.dtype[Any]) -> Array:
    """The share of x in the gradient of the smaller of two: half of a tie."""
    return array_module(x).where(x == y, 0.5, x < y).astype(dtype)


def _giou_forward(ctx: Ctx, x: Array, target: Array, *, eps: float, floor: bool) -> Array:
    """1 - (inter / union - (hull - union) / hull), which is 2 - inter / union - union / hull."""
    xp, acc = array_module(x), accumulator(x.dtype)
    boxes = [x.astype(acc, copy=False), target.astype(acc, copy=False)]
    (low, high), (low2, high2) = ((box[..., :2], box[..., 2:]) for box in boxes)
    inner = xp.minimum(high, high2) - xp.maximum(low, low2)
    outer = xp.maximum(high, high2) - xp.minimum(low, low2)
    overlap = xp.maximum(inner, 0)
    inter, hull = overlap.prod(axis=-1), outer.prod(axis=-1)
    union = (high - low).prod(axis=-1) + (high2 - low2).prod(axis=-1) - inter
    u, h = (xp.maximum(union, eps), xp.maximum(hull, eps)) if floor else (union + eps, hull + eps)
    to_union, to_hull = inter / u**2 - 1 / h, u / h**2
    if floor:
        to_union, to_hull = to_union * (1 - _less(union, eps, acc)), to_hull * (1 - _less(hull, eps, acc))
    touching = inner >= 0 if floor else inner > 0  # torch's clamp and torchvision's mask differ in boxes that touch
    to_inner = (-1 / u - to_union)[..., None] * overlap[..., ::-1] * touching
    to_outer = to_hull[..., None] * outer[..., ::-1]

    def slope(low: Array, high: Array, low2: Array, high2: Array) -> Array:
        own = to_union[..., None] * (high - low)[..., ::-1]
        down = own + to_inner * _less(low2, low, acc) + to_outer * _less(low, low2, acc)
        up = own + to_inner * _less(high, high2, acc) + to_outer * _less(high2, high, acc)
        return xp.concatenate([-down, up], axis=-1)

    needs = zip(ctx.needs, ((low, high, low2, high2), (low2, high2, low, high)), strict=True)
    ctx.save(*(slope(*corners) if need else None for need, corners in needs))
    return (2 - inter / u - u / h).astype(x.dtype, copy=False)


def _giou_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, ...]:
    return tuple(None if s is None else (g[..., None] * s).astype(g.dtype, copy=False) for s in ctx.saved)


_giou = Primitive("giou_loss", _giou_forward, _giou_vjp, autocast="f32", floats=True, fresh=True)


def giou_loss(
    x: TensorLike,
    target: TensorLike,
    eps: float = 1e-7,
    eps_mode: Literal["add", "floor"] = "add",
    reduction: str = "none",
    divisor: float | None = None,
) -> Tensor:
    """1 - IoU + (hull - union) / hull of boxes, pair by pair. Saves the gradient's slopes.

    Edges that coincide share the gradient, as in :func:`maximum`.

    Args:
        x: (..., 4), corners x0, y0, x1, y1 in pixels.
        target: of that shape and dtype.
        eps: of the denominators, union and hull; positive.
        eps_mode: "add" it, as ``torchvision.ops.generalized_box_iou_loss``, where boxes that only touch give no
            gradient to their intersection; or take it as the least value, as mmdetection, where they do.
        reduction: "mean", "sum" or "none".
        divisor: what the sum is divided by for "mean" (default: the number of pairs).

    Raises:
        ValueError: for another shape, eps or reduction; "mean" of nothing without a divisor.

    Source: Rezatofighi et al. 2019, "Generalized Intersection over Union", algorithm 1.
    """
    _check_reduction("giou_loss", reduction, divisor)
    if eps_mode not in ("add", "floor") or not eps > 0:
        raise ValueError(f"giou_loss: expected eps above 0 and eps_mode add or floor; got {eps} and {eps_mode!r}.")
    x, target = _pair("giou_loss", x, target)
    if x.ndim == 0 or x.shape[-1] != 4:
        raise ValueError(f"giou_loss: expected boxes (..., 4); got {x.shape}.")
    return _reduced("giou_loss", _giou(x, target, eps=eps, floor=eps_mode == "floor"), reduction, divisor)
