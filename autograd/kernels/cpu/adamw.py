"""AdamW in one pass: each number of the parameter, the gradient and both moments is read and written once."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.cpu.toolkit import jit, pieces, plain, run_pieces
from autograd.kernels.reference.adamw import check_adamw

__all__ = ["adamw"]


@jit
def _update(param: Any, grad: Any, first: Any, second: Any, numbers: Any, start: int, stop: int) -> None:
    """``numbers``: gradient scale, beta1, 1 - beta1, beta2, 1 - beta2, decay, step size, 1 / root of the correction,
    eps; in the arrays' dtype."""
    scale, beta1, rest1, beta2, rest2, decay, step_size, correction, eps = (
        numbers[0],
        numbers[1],
        numbers[2],
        numbers[3],
        numbers[4],
        numbers[5],
        numbers[6],
        numbers[7],
        numbers[8],
    )
    p, g, m, v = param[start:stop], grad[start:stop], first[start:stop], second[start:stop]
    for i in range(p.size):
        gi = g[i] * scale
        mi = beta1 * m[i] + rest1 * gi
        vi = beta2 * v[i] + rest2 * gi * gi
        m[i] = mi
        v[i] = vi
        p[i] = p[i] * decay - step_size * (mi / (np.sqrt(vi) * correction + eps))


def adamw(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float = 1.0,
) -> None:
    check_adamw(step, param, exp_avg, exp_avg_sq)
    correction = (1 - beta2**step) ** -0.5
    step_size = lr / (1 - beta1**step)
    decay = 1 - lr * weight_decay
    numbers = np.array([grad_scale, beta1, 1 - beta1, beta2, 1 - beta2, decay, step_size, correction, eps], param.dtype)
    p, g, m, v = (a.reshape(-1) for a in (param, plain(grad), exp_avg, exp_avg_sq))
    run_pieces(lambda _, a, b: _update(p, g, m, v, numbers, a, b), pieces(p.size, 7 * p.itemsize))
