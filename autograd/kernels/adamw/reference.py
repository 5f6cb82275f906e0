"""AdamW on one array, block by block, and on all of a model's arrays with the norm and clipping of gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module
from autograd.kernels.blocks import run_blocks
from autograd.kernels.registry import Cost, elementwise, kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autograd.backend import Array

__all__ = ["CLIP_EPS", "adamw", "check_adamw", "check_multi_adamw", "grad_norm", "multi_adamw"]

CLIP_EPS = 1e-6  # added to the norm before dividing by it, as torch.nn.utils.clip_grad_norm_ does


def check_adamw(step: int, *updated: Array) -> None:
    """Raise ValueError for a step below 1, or for arrays that cannot be updated in place."""
    if step < 1:
        raise ValueError(f"adamw: expected step of 1 or more; got {step}.")
    if not all(a.flags.c_contiguous for a in updated):  # of others, reshape(-1) is a copy: the update would be lost
        raise ValueError("adamw: expected C-ordered arrays to update in place; got other strides. Use a.copy().")
    if not all(getattr(a.flags, "writeable", True) for a in updated):  # CuPy's have no such flag
        raise ValueError("adamw: expected arrays to update in place; got a read-only one. Use a.copy().")


@kernel(elementwise(12, 4, 3), writes=(0, 2, 3))
def adamw(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float = 1.0,
) -> None:
    """Update ``param``, ``exp_avg`` and ``exp_avg_sq`` in place.

    Args:
        param: any shape, C-ordered.
        grad: like param; not changed.
        exp_avg: first moment.
        exp_avg_sq: second moment.
        lr: learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second.
        eps: added to the root of the corrected second moment.
        weight_decay: decoupled: param shrinks by lr * weight_decay first.
        step: 1 for the first update.
        grad_scale: multiplies grad (gradient clipping).

    Raises:
        ValueError: for step 0, or an array to update that is not C-ordered.

    Source: Loshchilov & Hutter 2019, algorithm 2; the order of operations is torch.optim.AdamW's.
    """
    check_adamw(step, param, exp_avg, exp_avg_sq)
    xp = array_module(param)
    step_size, root = lr / (1 - beta1**step), (1 - beta2**step) ** 0.5
    p, g, m, v = (a.reshape(-1) for a in (param, grad, exp_avg, exp_avg_sq))

    def compute(block: slice) -> None:
        gp, mp, vp, pp = g[block], m[block], v[block], p[block]
        gp = gp * grad_scale if grad_scale != 1.0 else gp
        mp *= beta1
        mp += (1 - beta1) * gp
        vp *= beta2
        vp += (1 - beta2) * gp * gp
        pp *= 1 - lr * weight_decay
        denominator = xp.sqrt(vp)
        denominator /= root
        denominator += eps
        pp -= step_size * (mp / denominator)

    run_blocks(compute, p.size, 4 * p.itemsize, xp)


def _over_all(flops: int, passes: int) -> Callable[..., Cost]:
    """A cost function: ``flops`` operations per element of a list of arrays, all read or written ``passes`` times."""
    return lambda arrays, *_, **__: Cost(flops * sum(a.size for a in arrays), passes * sum(a.nbytes for a in arrays))


@kernel(_over_all(2, 1))
def grad_norm(grads: Sequence[Array]) -> Array:
    """Euclidean norm of all gradients together, a 0-d float64 array on their device; 0 for none.

    Args:
        grads: arrays of any shapes.
    """
    squares = [_square(g) for g in grads]
    return (array_module(grads[0]) if grads else np).asarray(math.sqrt(math.fsum(squares)), np.float64)


def _square(grad: Array) -> float:
    """The sum of squares in float64, which a large float32 gradient does not overflow."""
    flat = grad.reshape(-1)

    def compute(block: slice) -> float:
        part = flat[block].astype(np.float64)
        return float(array_module(part).dot(part, part))

    return math.fsum(run_blocks(compute, flat.size, 8, array_module(flat)))


def check_multi_adamw(
    params: Sequence[Array],
    grads: Sequence[Array],
    exp_avgs: Sequence[Array],
    exp_avg_sqs: Sequence[Array],
    decays: Sequence[float],
) -> None:
    """Raise ValueError for lists that do not belong together, or for arrays that cannot be updated in place."""
    lists = (params, grads, exp_avgs, exp_avg_sqs)
    if len({*map(len, lists), len(decays)}) > 1:
        raise ValueError(
            "multi_adamw: expected lists of one length; got "
            f"{', '.join(str(len(a)) for a in lists)} arrays and {len(decays)} decays."
        )
    for group in zip(*lists, strict=True):
        if len({a.shape for a in group}) > 1:
            raise ValueError(
                "multi_adamw: expected param, grad and moments of one shape; got "
                f"{', '.join(str(a.shape) for a in group)}."
            )
    check_adamw(1, *params, *exp_avgs, *exp_avg_sqs)


@kernel(_over_all(14, 8), writes=(0, 2, 3))  # gradients are read twice: the norm comes before the first update
def multi_adamw(
    params: Sequence[Array],
    grads: Sequence[Array],
    exp_avgs: Sequence[Array],
    exp_avg_sqs: Sequence[Array],
    decays: Sequence[float],
    *,
    lr: float | Array,
    beta1: float,
    beta2: float,
    eps: float,
    step: int | Array,
    clip_grad: float | None = None,
    grad_divisor: float = 1.0,
) -> Array:
    """One step of :func:`adamw` on every array, with clipping by the norm of all gradients together.

    If that norm is not finite nothing is written.

    Args:
        params: C-ordered arrays of any shapes.
        grads: one like each of them; not changed.
        exp_avgs: their first moments.
        exp_avg_sqs: their second moments.
        decays: weight decay of each.
        lr: learning rate; a number, or a 0-d float64 array on the arrays' device.
        beta1: decay of the first moments.
        beta2: decay of the second.
        eps: added to the root of the corrected second moments.
        step: number of this update, from 1; a number, or a 0-d int64 array on the arrays' device.
        clip_grad: scale gradients down so that their norm is at most this; None for no clipping.
        grad_divisor: gradients are divided by it first (the factor of loss scaling).

    Returns:
        The norm before clipping and after the division, a 0-d float64 array on the arrays' device.

    Raises:
        ValueError: for lists that do not belong together, step 0, or an array to update that is not C-ordered.
    """
    check_multi_adamw(params, grads, exp_avgs, exp_avg_sqs, decays)
    size = float(grad_norm.reference(grads)) / grad_divisor
    norm: Array = (array_module(grads[0]) if grads else np).asarray(size, np.float64)
    if not math.isfinite(size):
        return norm
    scale = min(1.0, clip_grad / (size + CLIP_EPS)) if clip_grad else 1.0
    for param, grad, first, second, decay in zip(params, grads, exp_avgs, exp_avg_sqs, decays, strict=True):
        adamw.reference(
            param,
            grad,
            first,
            second,
            lr=float(lr),
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=decay,
            step=int(step),
            grad_scale=scale / grad_divisor,
        )
    return norm
