"""The engine's own rows of the registry. A faster implementation is put behind a row by ``register_implementation``.

Costs count each array once, read or written, and an exp, erf or division as one operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.dtypes import accumulator
from autograd.kernels.reference import (
    adamw,
    cross_entropy,
    dropout,
    gelu,
    layer_norm,
    linear,
    mlp,
    multi_cast,
    patches,
    softmax,
)
from autograd.kernels.registry import Cost, Kernel, register_kernel

__all__: list[str] = []


def _elementwise(flops: int, reads: int, writes: int = 1) -> Any:
    """Cost of ``flops`` an element of the first argument, with so many arrays of its size read and written."""

    def cost(x: Any, *_: Any, **__: Any) -> Cost:
        return Cost(flops * x.size, (reads + writes) * x.nbytes)

    return cost


register_kernel(Kernel("layer_norm_fwd", layer_norm.layer_norm_fwd, _elementwise(8, 1)))


def _norm_bwd_cost(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, g_sum: Any = None) -> Cost:
    return Cost((14 + (g_sum is not None)) * x.size, g.nbytes + (2 + (g_sum is not None)) * x.nbytes)


register_kernel(Kernel("layer_norm_bwd", layer_norm.layer_norm_bwd, _norm_bwd_cost))


def _residual_fwd_cost(
    x: Any, branch: Any, keep: Any, weight: Any, bias: Any, eps: float, branch_bias: Any = None, y_dtype: Any = None
) -> Cost:
    y = x.size * np.dtype(y_dtype or x.dtype).itemsize
    return Cost((10 + (branch_bias is not None)) * x.size, 2 * x.nbytes + branch.nbytes + y)


def _residual_bwd_cost(
    g_sum: Any,
    g: Any,
    total: Any,
    keep: Any,
    weight: Any,
    mean: Any,
    rstd: Any,
    to_branch_bias: bool = False,
    branch_dtype: Any = None,
) -> Cost:
    gbranch = total.size * np.dtype(branch_dtype or total.dtype).itemsize
    return Cost((16 + to_branch_bias) * g.size, 3 * total.nbytes + g.nbytes + gbranch)


register_kernel(Kernel("residual_layer_norm_fwd", layer_norm.residual_layer_norm_fwd, _residual_fwd_cost))
register_kernel(Kernel("residual_layer_norm_bwd", layer_norm.residual_layer_norm_bwd, _residual_bwd_cost))
register_kernel(Kernel("gelu_fwd", gelu.gelu_fwd, _elementwise(25, 1)))
register_kernel(Kernel("gelu_bwd", gelu.gelu_bwd, _elementwise(35, 2)))
register_kernel(Kernel("bias_gelu_fwd", gelu.bias_gelu_fwd, _elementwise(26, 1)))
register_kernel(Kernel("bias_gelu_bwd", gelu.bias_gelu_bwd, _elementwise(37, 2)))
register_kernel(Kernel("softmax_fwd", softmax.softmax_fwd, _elementwise(5, 1)))
register_kernel(Kernel("softmax_bwd", softmax.softmax_bwd, _elementwise(4, 2)))


def _cross_entropy_fwd_cost(logits: Any, target: Any, smoothing: float) -> Cost:
    return Cost(6 * logits.size, logits.nbytes + logits.size * accumulator(logits.dtype).itemsize + target.nbytes)


register_kernel(Kernel("cross_entropy_fwd", cross_entropy.cross_entropy_fwd, _cross_entropy_fwd_cost))
register_kernel(
    Kernel(
        "cross_entropy_bwd",
        cross_entropy.cross_entropy_bwd,
        lambda g, log_probs, target, smoothing: Cost(4 * log_probs.size, 2 * log_probs.nbytes + target.nbytes),
    )
)
register_kernel(Kernel("adamw", adamw.adamw, _elementwise(12, 4, 3), writes=(0, 2, 3)))


def _all(flops: int, passes: int) -> Any:
    """Cost of ``flops`` an element of all arrays of a list, with so many arrays of their sizes read or written."""

    def cost(arrays: Any, *_: Any, **__: Any) -> Cost:
        return Cost(flops * sum(a.size for a in arrays), passes * sum(a.nbytes for a in arrays))

    return cost


register_kernel(Kernel("grad_norm", adamw.grad_norm, _all(2, 1)))
# Gradients are read twice: the norm has to be known before the first update.
register_kernel(Kernel("multi_adamw", adamw.multi_adamw, _all(14, 8), writes=(0, 2, 3)))


def _cast_cost(arrays: Any, dtype: Any) -> Cost:
    values = sum(a.size for a in arrays)
    return Cost(values, sum(a.nbytes for a in arrays) + values * np.dtype(dtype).itemsize)


register_kernel(Kernel("multi_cast", multi_cast.multi_cast, _cast_cost))

# Ten rounds of a generator that makes four numbers at a time: about 30 operations a number.
register_kernel(Kernel("dropout", dropout.dropout, _elementwise(30, 1)))
register_kernel(Kernel("keep_scale", dropout.keep_scale, lambda x, **_: Cost(30 * x.shape[0], x.shape[0] * x.itemsize)))
register_kernel(Kernel("patch_merge_fwd", patches.patch_merge_fwd, _elementwise(1, 1)))
register_kernel(Kernel("patch_merge_bwd", patches.patch_merge_bwd, _elementwise(1, 1)))
register_kernel(
    Kernel(
        "patch_rows",
        patches.patch_rows,
        lambda x, patch, mean=None, std=None, dtype=None: Cost(
            (3 if mean else 1) * x.size, x.nbytes + x.size * np.dtype(dtype or x.dtype).itemsize
        ),
    )
)


def _mlp_cost(passes: int) -> Any:
    """FLOPs of so many times both products; each map read or written once, the hidden one too where it is kept."""

    def cost(x: Any, *arguments: Any) -> Cost:
        w1, w2 = (arguments[0], arguments[2]) if passes == 1 else (arguments[2], arguments[4])
        rows = x.size // max(1, x.shape[-1])
        products = 2 * rows * (w1.size + w2.size)
        maps = rows * (w1.shape[1] + w2.shape[0] + w1.shape[0])
        return Cost(passes * products, passes * (maps + w1.size + w2.size) * x.itemsize)

    return cost


register_kernel(Kernel("mlp_fwd", mlp.mlp_fwd, _mlp_cost(1)))
register_kernel(Kernel("mlp_bwd", mlp.mlp_bwd, _mlp_cost(2)))


def _linear_cost(x: Any, weight: Any, *_: Any) -> Cost:
    rows = x.size // max(1, weight.shape[1])
    return Cost(2 * rows * weight.size, (x.size + rows * weight.shape[0] + weight.size) * x.itemsize)


def _linear_bwd_cost(g: Any, x: Any, weight: Any, needs: tuple[bool, ...]) -> Cost:
    inner = (x if weight is None else weight).shape[1] if x is not None or weight is not None else 0
    products = needs[0] + needs[1]
    numbers = g.size + products * (len(g) + g.shape[1]) * inner
    return Cost(2 * products * g.size * inner + needs[2] * g.size, numbers * g.itemsize)


register_kernel(Kernel("linear_fwd", linear.linear_fwd, _linear_cost))
register_kernel(Kernel("linear_bwd", linear.linear_bwd, _linear_bwd_cost))
