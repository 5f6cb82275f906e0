"""One AdamW step on one array, in cache-sized pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.backend import array_module
from autograd.kernels.reference.blocks import run_blocks

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["adamw", "check_adamw"]


def check_adamw(step: int, *updated: Array) -> None:
    """Raise ValueError for a step below 1, or for arrays that cannot be updated in place."""
    if step < 1:
        raise ValueError(f"adamw: expected step of 1 or more; got {step}.")
    if not all(a.flags.c_contiguous for a in updated):  # of others, reshape(-1) is a copy: the update would be lost
        raise ValueError("adamw: expected C-ordered arrays to update in place; got other strides. Use a.copy().")


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

    def piece(block: slice) -> None:
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

    run_blocks(piece, p.size, 4 * p.itemsize, xp)
