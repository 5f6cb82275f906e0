"""Launches adamw.cu: the norm of all gradients, and AdamW on all parameters.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module, is_array
from autograd.kernels.adamw import reference
from autograd.kernels.adamw.reference import CLIP_EPS, check_adamw, check_multi_adamw
from autograd.kernels.cuda import register_cuda
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.launch import contiguous, launch
from autograd.kernels.cuda.source import FLOAT_NAMES, program
from autograd.kernels.cuda.tables import CHUNK, address_table, chunk_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.backend import Array
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "grad_norm", "multi_adamw", "variants"]

_FILE = Path(__file__).with_name("adamw.cu")
BUDGETS = {
    "grad_squares": Budget(registers=48),
    "grad_norm": Budget(registers=48),
    "adamw_numbers": Budget(registers=56),
    "multi_adamw": Budget(registers=64),
}
_THREADS = 256
_SHARED = 8 * _THREADS
_NUMBERS = 6


def _program(kind: str) -> Program:
    return program(_FILE, T=kind, CHUNK=CHUNK, CLIP_EPS=str(CLIP_EPS))


def variants() -> list[Program]:
    """The programs to compile: each type."""
    return [_program(kind) for kind in FLOAT_NAMES.values()]


@lru_cache(maxsize=16)
def _decays(decays: tuple[float, ...], device: int) -> Array:
    import cupy

    with cupy.cuda.Device(device):
        return cupy.asarray(np.array(decays, np.float64))


def _table(*lists: Sequence[Array]) -> tuple[Array, Array]:
    """A column of addresses for each list (params, grads, both moments) and one of sizes; and the chunks."""
    sizes, device = tuple(a.size for a in lists[0]), lists[0][0].device.id
    addresses = ([a.data.ptr for a in arrays] for arrays in lists)
    return address_table(*addresses, sizes, device=device), chunk_table(sizes, device)


def _partials(code: Program, rows: Array, chunks: Array) -> Array:
    """The sum of squares of each chunk."""
    partials = array_module(rows).empty(len(chunks), np.float64)
    if len(chunks):
        launch(code, "grad_squares", len(chunks), _THREADS, (rows, chunks, partials), _SHARED)
    return partials


@register_cuda(reference.grad_norm)
def grad_norm(grads: Sequence[Array]) -> Array:
    """Two launches: float64 sums of squares per chunk, then their total in order. No wait for the GPU."""
    grads = [contiguous(g) for g in grads]
    first = grads[0]
    code = _program(FLOAT_NAMES[first.dtype.name])
    with first.device:
        partials = _partials(code, *_table(grads, grads, grads, grads))
        norm = array_module(first).empty((), np.float64)
        launch(code, "grad_norm", 1, _THREADS, (partials, len(partials), norm), _SHARED)
    return norm


@register_cuda(reference.multi_adamw)
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
    """Three launches for all arrays: sums of squares, the scalars of the step, the update. No wait for the GPU."""
    check_multi_adamw(params, grads, exp_avgs, exp_avg_sqs, decays)
    grads = [contiguous(g) for g in grads]
    first, (lr_at, lr), (step_at, step) = params[0], _where(lr), _where(step)
    if step_at is None:
        check_adamw(step)
    code, xp = _program(FLOAT_NAMES[first.dtype.name]), array_module(first)
    with first.device:
        rows, chunks = _table(params, grads, exp_avgs, exp_avg_sqs)
        partials = _partials(code, rows, chunks)
        numbers = xp.empty(_NUMBERS, np.float64)
        settings = (lr_at, lr, step_at, step, beta1, beta2, clip_grad or 0.0, grad_divisor)
        launch(code, "adamw_numbers", 1, _THREADS, (partials, len(partials), *settings, numbers), _SHARED)
        if len(chunks):
            betas = (beta1, 1 - beta1, beta2, 1 - beta2)
            shared = (rows, chunks, _decays(tuple(decays), first.device.id), numbers)
            launch(code, "multi_adamw", len(chunks), _THREADS, (*shared, *betas, eps))
    return numbers[0]


def _where(value: Any) -> tuple[Array | None, Any]:
    """A number on the device as (array, 0), a number on the host as (None, number)."""
    if is_array(value) and value.size != 1:
        raise ValueError(f"multi_adamw: expected lr and step to be one number each; got shape {value.shape}.")
    return (contiguous(value), 0) if is_array(value) else (None, value)
