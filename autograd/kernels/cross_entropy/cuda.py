"""Launches cross_entropy.cu.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import is_float
from autograd.kernels.cross_entropy import reference
from autograd.kernels.cuda import register_cuda
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.checks import all_float32, cuda_dtype, one_device, row_lengths, shapes
from autograd.kernels.cuda.launch import contiguous, launch
from autograd.kernels.cuda.layout import row_layout
from autograd.kernels.cuda.source import TYPE_NAMES, program

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.kernels.cuda.layout import RowLayout
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "cross_entropy_bwd", "cross_entropy_fwd", "variants"]

_FILE = Path(__file__).with_name("cross_entropy.cu")
BUDGETS = {"cross_entropy_fwd": Budget(registers=112, spill_bytes=16), "cross_entropy_bwd": Budget(registers=112)}
_WIDTHS = (4,)  # values per load: a row is read as logits, as probabilities and as log-probabilities
_FLOAT32 = np.dtype(np.float32)


def variants() -> list[Program]:
    """The programs to compile, for a thousand classes."""
    kinds = (("float", "i64", 1), ("float", "float", 0), ("f16", "float", 0), ("bf16", "float", 0))
    return [
        program(_FILE, T=kind, TARGET=target, HARD=hard, **row_layout(1000, _WIDTHS).defines)
        for kind, target, hard in kinds
    ]


def _plan(x: Array, target: Array) -> tuple[Program, RowLayout, int, Array]:
    """The program, its layout, the number of blocks, and the target as the kernel takes it."""
    layout = row_layout(x.shape[1], _WIDTHS)
    hard = target.dtype.kind in "iu"
    target = contiguous(target.astype(np.int64, copy=False) if hard else target)
    kinds = {"T": TYPE_NAMES[x.dtype.name], "TARGET": TYPE_NAMES[target.dtype.name]}
    code = program(_FILE, **kinds, HARD=int(hard), **layout.defines)
    return code, layout, -(-x.shape[0] // layout.rows), target


def _labels(target: Array, shape: tuple[int, ...]) -> str | None:
    if target.dtype.kind in "iu":
        return shapes(labels=(target, shape[:1]))
    if not is_float(target.dtype) or target.dtype.itemsize > 4:
        return f"the CUDA kernel takes labels or probabilities up to float32; got {target.dtype}"
    return shapes(target=(target, shape))


def _takes_cross_entropy_fwd(logits: Array, target: Array, smoothing: float) -> str | None:
    if logits.ndim != 2:
        return f"expected logits (B, K); got {logits.shape}"
    return one_device(logits, target) or cuda_dtype(logits) or row_lengths(logits) or _labels(target, logits.shape)


@register_cuda(reference.cross_entropy_fwd, _takes_cross_entropy_fwd)
def cross_entropy_fwd(logits: Array, target: Array, smoothing: float) -> tuple[Array, Array]:
    """One launch; a row stays in registers."""
    xp, (rows, classes) = array_module(logits), logits.shape
    loss, log_probs = xp.empty(rows, _FLOAT32), xp.empty((rows, classes), _FLOAT32)
    if rows:
        code, layout, grid, target = _plan(logits, target)
        args = (contiguous(logits), target, 1 - smoothing, smoothing / classes, loss, log_probs, rows, classes)
        launch(code, "cross_entropy_fwd", grid, layout.threads, args, layout.scratch)
    return loss, log_probs


def _takes_cross_entropy_bwd(g: Array, log_probs: Array, target: Array, smoothing: float) -> str | None:
    return (
        one_device(g, log_probs)
        or _takes_cross_entropy_fwd(log_probs, target, smoothing)
        or all_float32(g=g, log_probs=log_probs)
        or shapes(g=(g, log_probs.shape[:1]))
    )


@register_cuda(reference.cross_entropy_bwd, _takes_cross_entropy_bwd)
def cross_entropy_bwd(g: Array, log_probs: Array, target: Array, smoothing: float) -> Array:
    """One launch; a gradient that broadcasts one number is read as one."""
    rows, classes = log_probs.shape
    grad = array_module(log_probs).empty(log_probs.shape, _FLOAT32)
    if rows:
        code, layout, grid, target = _plan(log_probs, target)
        step = int(g.strides[0] != 0)  # 0 for the gradient of a mean, which broadcasts one number
        kept, spread = 1 - smoothing, smoothing / classes
        g = contiguous(g if step else g[:1])
        args = (g, step, contiguous(log_probs), target, kept, spread, grad, rows, classes)
        launch(code, "cross_entropy_bwd", grid, layout.threads, args, layout.scratch)
    return grad
