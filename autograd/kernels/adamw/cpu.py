"""AdamW and the norm of gradients, compiled: each in one pass over all arrays.

Each twin has the contract of its namesake in reference.py; what is said here is how.

A model has hundreds of arrays, most of them small. So compiled code gets a table of their addresses, and a piece is a
range of elements, counted through all arrays. Threads are woken once for the norm and once for the update.
"""

from __future__ import annotations

import math
from ctypes import addressof, c_char
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba.core import types

from autograd.kernels.adamw.reference import CLIP_EPS, check_adamw, check_multi_adamw
from autograd.kernels.compiled.pieces import row_pieces, run_pieces
from autograd.kernels.compiled.toolkit import instruction, jit, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["adamw", "grad_norm", "multi_adamw"]


# ---- compiled


def _pointer(builder: Any, kind: Any, address: Any, index: Any) -> Any:
    number = ir.FloatType() if kind == types.float32 else ir.DoubleType()
    return builder.gep(builder.inttoptr(address, number.as_pointer()), [index])


@instruction
def _peek(context: Any, like: Any, address: Any, index: Any) -> Any:
    """The element at ``index`` of the array at ``address``, in the dtype of ``like``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(builder, signature.args[0], args[1], args[2]))

    return like(like, types.intp, types.intp), generate


@instruction
def _poke(context: Any, value: Any, address: Any, index: Any) -> Any:
    """Store ``value`` at ``index`` of the array at ``address``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[0], _pointer(builder, signature.args[0], args[1], args[2]))
        return context.get_dummy_value()

    return types.void(value, types.intp, types.intp), generate


@jit
def _squares(like: Any, addresses: Any, ends: Any, partials: Any, number: int, start: int, stop: int) -> None:
    """The sum of squares of elements [start, stop), counted through all arrays; array i ends before ``ends[i]``."""
    total, first = 0.0, 0
    for i in range(ends.size):
        low, high = max(start, first) - first, min(stop, ends[i]) - first
        array_sum = 0.0
        for j in range(low, high):
            v = np.float64(_peek(like, addresses[i], j))
            array_sum += v * v
        total += array_sum
        first = ends[i]
    partials[number] = total


@jit
def _update(table: Any, ends: Any, shrinks: Any, numbers: Any, _: int, start: int, stop: int) -> None:
    """Update elements [start, stop), counted through all arrays.

    Args:
        table: (4, arrays), addresses of parameters, gradients and both moments.
        ends: (arrays,), array i ends before ends[i].
        shrinks: (arrays,), the factor by which weight decay shrinks a parameter.
        numbers: gradient scale, beta1, 1 - beta1, beta2, 1 - beta2, step size, 1 / root of the second moment's
            correction, eps; all in the arrays' dtype.
        _: the piece's number.
        start: the first element.
        stop: the element after the last.
    """
    scale, beta1, rest1, beta2 = numbers[0], numbers[1], numbers[2], numbers[3]
    rest2, step_size, correction, eps = numbers[4], numbers[5], numbers[6], numbers[7]
    first = 0
    for i in range(ends.size):
        low, high = max(start, first) - first, min(stop, ends[i]) - first
        param, grad, moment1, moment2, shrink = table[0, i], table[1, i], table[2, i], table[3, i], shrinks[i]
        for j in range(low, high):
            g = _peek(scale, grad, j) * scale
            m = beta1 * _peek(scale, moment1, j) + rest1 * g
            v = beta2 * _peek(scale, moment2, j) + rest2 * g * g
            _poke(m, moment1, j)
            _poke(v, moment2, j)
            p = _peek(scale, param, j) * shrink - step_size * (m / (np.sqrt(v) * correction + eps))
            _poke(p, param, j)
        first = ends[i]


# ---- on the Python side


def _addresses(arrays: Sequence[Any]) -> Any:
    """Addresses of writable C-ordered arrays, in a quarter of the time that NumPy's attribute takes: there are
    hundreds."""
    return np.array([addressof(c_char.from_buffer(a)) if a.size else 0 for a in arrays], np.int64)


def _ends(arrays: Sequence[Any]) -> Any:
    """Where each array ends, if elements are counted through all arrays."""
    return np.cumsum([a.size for a in arrays], dtype=np.int64)


def _norm(grads: Sequence[Any], ends: Any) -> float:
    """Euclidean norm of all C-ordered gradients together."""
    like, addresses = grads[0].dtype.type(0), _addresses(grads)
    pieces = row_pieces(int(ends[-1]), grads[0].itemsize)
    partials = np.empty(len(pieces))
    run_pieces(_squares, pieces, like, addresses, ends, partials)
    return math.sqrt(math.fsum(partials))


def _run_update(lists: Sequence[Sequence[Any]], ends: Any, shrinks: Any, scale: float, **options: Any) -> None:
    """Update all arrays; ``lists`` are parameters, gradients and both moments."""
    dtype, beta1, beta2, step = lists[0][0].dtype, options["beta1"], options["beta2"], options["step"]
    correction, step_size = (1 - beta2**step) ** -0.5, options["lr"] / (1 - beta1**step)
    numbers = np.array([scale, beta1, 1 - beta1, beta2, 1 - beta2, step_size, correction, options["eps"]], dtype)
    table, shrinks = np.stack([_addresses(arrays) for arrays in lists]), np.array(shrinks, dtype)
    run_pieces(_update, row_pieces(int(ends[-1]), 7 * dtype.itemsize), table, ends, shrinks, numbers)


def grad_norm(grads: Sequence[Any]) -> Any:
    """One pass over all gradients; each piece sums squares in float64."""
    grads = [plain(g) for g in grads]
    return np.asarray(_norm(grads, _ends(grads)), np.float64)


def multi_adamw(
    params: Sequence[Any],
    grads: Sequence[Any],
    exp_avgs: Sequence[Any],
    exp_avg_sqs: Sequence[Any],
    decays: Sequence[float],
    *,
    lr: Any,
    beta1: float,
    beta2: float,
    eps: float,
    step: Any,
    clip_grad: float | None = None,
    grad_divisor: float = 1.0,
) -> Any:
    """Two passes over all arrays: one over the gradients for their norm, one for the update."""
    check_multi_adamw(params, grads, exp_avgs, exp_avg_sqs, decays)
    grads = [plain(g) for g in grads]  # kept alive here: the tables hold bare addresses
    ends, lr = _ends(grads), float(lr)
    size = _norm(grads, ends) / grad_divisor
    if math.isfinite(size):
        scale = (min(1.0, clip_grad / (size + CLIP_EPS)) if clip_grad else 1.0) / grad_divisor
        shrinks, options = [1 - lr * decay for decay in decays], {"lr": lr, "eps": eps, "step": int(step)}
        lists = (params, grads, exp_avgs, exp_avg_sqs)
        _run_update(lists, ends, shrinks, scale, beta1=beta1, beta2=beta2, **options)
    return np.asarray(size, np.float64)


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
    """One pass in which each element of the four arrays is read once, and written once."""
    check_adamw(step, param, exp_avg, exp_avg_sq)
    grad, shrinks = plain(grad), [1 - lr * weight_decay]
    lists = ([param], [grad], [exp_avg], [exp_avg_sq])
    _run_update(lists, _ends([grad]), shrinks, grad_scale, lr=lr, beta1=beta1, beta2=beta2, eps=eps, step=step)
