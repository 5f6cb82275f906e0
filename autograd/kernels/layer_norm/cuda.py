"""Launches layer_norm.cu: a row stays in the registers of the threads that share it.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import as_dtype
from autograd.kernels.cuda import register_cuda
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.checks import all_float32, cuda_dtype, one_device, row_lengths, shapes, too_old
from autograd.kernels.cuda.column_sum import column_sums
from autograd.kernels.cuda.launch import contiguous, launch, multiprocessors
from autograd.kernels.cuda.layout import row_layout, vector_widths
from autograd.kernels.cuda.source import TYPE_NAMES, program
from autograd.kernels.layer_norm import reference

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.kernels.cuda.layout import RowLayout
    from autograd.kernels.cuda.source import Program

__all__ = [
    "BUDGETS",
    "layer_norm_bwd",
    "layer_norm_fwd",
    "residual_layer_norm_bwd",
    "residual_layer_norm_fwd",
    "variants",
]

_FILE = Path(__file__).with_name("layer_norm.cu")
BUDGETS = {
    "layer_norm_fwd": Budget(registers=112, spill_bytes=24),
    "residual_layer_norm_fwd": Budget(registers=128, spill_bytes=24),
    "layer_norm_bwd": Budget(registers=240, spill_bytes=24),
    "layer_norm_branch_bias_bwd": Budget(registers=255, spill_bytes=24),
}

_BLOCKS = 4  # of backward per multiprocessor; each writes a row of partial sums
_FLOAT32 = np.dtype(np.float32)


def variants() -> list[Program]:
    """The programs to compile: for rows of 8, 32 and 128 lanes, and an odd width."""
    kinds = {
        ("float", "float"): (7, 96, 1024, 1536),
        ("f16", "f16"): (7, 96, 1024, 1536),
        ("bf16", "bf16"): (96, 768),
        ("float", "f16"): (7, 96, 768, 1536),
        ("float", "bf16"): (96,),
    }
    sizes = {"float": 4, "f16": 2, "bf16": 2}
    return [
        program(_FILE, T=kind, U=low, **row_layout(columns, _widths(sizes[kind], sizes[low])).defines)
        for (kind, low), widths in kinds.items()
        for columns in widths
    ]


def _widths(size: int, low: int) -> tuple[int, ...]:
    """Values per load, for two types of ``size`` and ``low`` bytes: a load has 16 or 8 bytes in either."""
    return tuple(n for n in vector_widths(size) if n * low in (8, 16))


def _plan(x: Array, low: np.dtype[Any] | None = None) -> tuple[Program, RowLayout, int, int]:
    """The program, its layout, the number of rows, and the blocks for all rows at once. ``low`` is the dtype of branch
    and y, by default x's."""
    layout = row_layout(x.shape[-1], _widths(x.itemsize, (low or x.dtype).itemsize))
    rows = math.prod(x.shape[:-1])
    kind, low_kind = (TYPE_NAMES[dtype.name] for dtype in (x.dtype, low or x.dtype))
    return program(_FILE, T=kind, U=low_kind, **layout.defines), layout, rows, -(-rows // layout.rows)


def _takes_layer_norm_fwd(x: Array, weight: Array, bias: Array, eps: float) -> str | None:
    channels = x.shape[-1:]
    return cuda_dtype(x, weight, bias) or row_lengths(x) or shapes(weight=(weight, channels), bias=(bias, channels))


@register_cuda(reference.layer_norm_fwd, _takes_layer_norm_fwd)
def layer_norm_fwd(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, Array, Array]:
    """One launch; the variance comes from a second pass over registers."""
    xp, columns = array_module(x), x.shape[-1]
    code, layout, rows, grid = _plan(x)
    x, weight, bias = contiguous(x), contiguous(weight), contiguous(bias)
    y, mean, rstd = xp.empty(x.shape, x.dtype), xp.empty(rows, _FLOAT32), xp.empty(rows, _FLOAT32)
    if rows:
        args = (x, weight, bias, eps, y, mean, rstd, rows, columns)
        launch(code, "layer_norm_fwd", grid, layout.threads, args, layout.scratch)
    return y, mean, rstd


def _kept(x: Array, keep: Array | None) -> str | None:
    return f"keep is of samples; got x of shape {x.shape}" if keep is not None and x.ndim < 2 else None


def _beside(x: Array, low: Array, other: np.dtype[Any] | None) -> str | None:
    """None if ``low`` is on x's device and, as dtype ``other``, of x's dtype or of 16 bits beside a float32 x; else why
    not."""
    apart = one_device(x, low)
    if apart:
        return apart
    names = {low.dtype.name, x.dtype.name if other is None else as_dtype(other).name} - {x.dtype.name}
    if not names or (x.dtype.name == "float32" and len(names) == 1 and names <= {"float16", "bfloat16"}):
        return too_old(names, x)
    return (
        f"CUDA norms take one dtype, or one of 16 bits beside float32; got {x.dtype.name}, {', '.join(sorted(names))}"
    )


def _takes_residual_layer_norm_fwd(
    x: Array,
    branch: Array,
    keep: Array | None,
    weight: Array,
    bias: Array,
    eps: float,
    branch_bias: Array | None = None,
    y_dtype: np.dtype[Any] | None = None,
) -> str | None:
    return (
        cuda_dtype(x, keep, weight, bias, branch_bias)
        or _kept(x, keep)
        or _beside(x, branch, y_dtype)
        or _takes_layer_norm_fwd(x, weight, bias, eps)
        or shapes(branch=(branch, x.shape), keep=(keep, x.shape[:1]), branch_bias=(branch_bias, x.shape[-1:]))
    )


@register_cuda(reference.residual_layer_norm_fwd, _takes_residual_layer_norm_fwd)
def residual_layer_norm_fwd(
    x: Array,
    branch: Array,
    keep: Array | None,
    weight: Array,
    bias: Array,
    eps: float,
    branch_bias: Array | None = None,
    y_dtype: np.dtype[Any] | None = None,
) -> tuple[Array, Array, Array, Array]:
    """One launch, which also adds the branch. A branch and y in different dtypes are cast by CuPy."""
    y_dtype = y_dtype or x.dtype
    if branch.dtype != y_dtype:  # the kernel takes both in one dtype only
        total, y, mean, rstd = residual_layer_norm_fwd(
            x, branch.astype(x.dtype, copy=False), keep, weight, bias, eps, branch_bias
        )
        return total, y.astype(y_dtype, copy=False), mean, rstd
    xp, columns = array_module(x), x.shape[-1]
    code, layout, rows, grid = _plan(x, y_dtype)
    x, branch, weight, bias = contiguous(x), contiguous(branch), contiguous(weight), contiguous(bias)
    keep, branch_bias = (None if a is None else contiguous(a) for a in (keep, branch_bias))
    total, y = xp.empty(x.shape, x.dtype), xp.empty(x.shape, y_dtype)
    mean, rstd = xp.empty(rows, _FLOAT32), xp.empty(rows, _FLOAT32)
    if rows:
        sizes = (rows, rows // x.shape[0], columns)
        args = (x, branch, branch_bias, keep, weight, bias, eps, total, y, mean, rstd, *sizes)
        launch(code, "residual_layer_norm_fwd", grid, layout.threads, args, layout.scratch)
    return total, y, mean, rstd


def _unspread(g: Array) -> tuple[Array, int]:
    """The distinct rows of a gradient that was broadcast (as that of a mean over a map is), and how many rows of ``g``
    each of them stands for."""
    first = last = g.ndim - 1
    while first and (g.strides[first - 1] == 0 or g.shape[first - 1] == 1):
        first -= 1
    return g[(slice(None),) * first + (0,) * (last - first)], math.prod(g.shape[first:last])


def _backward(
    g: Array,
    x: Array,
    weight: Array,
    mean: Array,
    rstd: Array,
    g_sum: Array | None,
    keep: Array | None,
    sums: int,
    has_branch: bool = True,
) -> tuple[Array, ...]:
    """gx, gbranch (in the dtype of g), and the first ``sums`` (2 or 3) of the gradients of weight, bias and the
    branch's bias."""
    xp, columns = array_module(x), x.shape[-1]
    code, layout, rows, grid = _plan(x, g.dtype)
    grid = min(grid, _BLOCKS * multiprocessors(x))
    gx = xp.empty(x.shape, x.dtype)
    gbranch = xp.empty(x.shape, g.dtype) if has_branch and (keep is not None or g.dtype != x.dtype) else gx
    if not rows:
        return gx, gbranch, *(xp.zeros_like(weight) for _ in range(sums))
    g, rows_a_g = _unspread(g)
    g, x, weight, mean, rstd = (contiguous(a) for a in (g, x, weight, mean, rstd))
    g_sum, keep = (None if a is None else contiguous(a) for a in (g_sum, keep))
    partial = xp.empty((grid, sums * columns), _FLOAT32)
    shared = layout.scratch if layout.rows == 1 else max(layout.scratch, 4 * sums * layout.rows * columns)
    sizes = (rows, rows_a_g, rows // x.shape[0] if keep is not None else 1, columns)
    args = (g, x, weight, mean, rstd, g_sum, keep, gx, None if gbranch is gx else gbranch, partial, *sizes)
    kernel = "layer_norm_branch_bias_bwd" if sums == 3 else "layer_norm_bwd"
    launch(code, kernel, grid, layout.threads, args, shared)
    return gx, gbranch, *column_sums(partial, sums, weight.dtype)


def _takes_residual_layer_norm_bwd(
    g_sum: Array | None,
    g: Array,
    total: Array,
    keep: Array | None,
    weight: Array,
    mean: Array,
    rstd: Array,
    to_branch_bias: bool = False,
    branch_dtype: np.dtype[Any] | None = None,
) -> str | None:
    no_rows = row_lengths(total)
    if no_rows:
        return no_rows
    rows = (total.size // total.shape[-1],)
    return (
        cuda_dtype(g_sum, total, keep, weight)
        or _kept(total, keep)
        or _beside(total, g, branch_dtype)
        or all_float32(mean=mean, rstd=rstd)
        or one_device(total, mean, rstd)
        or shapes(g=(g, total.shape), g_sum=(g_sum, total.shape), keep=(keep, total.shape[:1]))
        or shapes(weight=(weight, total.shape[-1:]), mean=(mean, rows), rstd=(rstd, rows))
    )


def _takes_layer_norm_bwd(
    g: Array, x: Array, weight: Array, mean: Array, rstd: Array, g_sum: Array | None = None
) -> str | None:
    return _takes_residual_layer_norm_bwd(g_sum, g, x, None, weight, mean, rstd)


@register_cuda(reference.layer_norm_bwd, _takes_layer_norm_bwd)
def layer_norm_bwd(
    g: Array, x: Array, weight: Array, mean: Array, rstd: Array, g_sum: Array | None = None
) -> tuple[Array, Array, Array]:
    """One pass, with a partial sum of both parameters' gradients per block; then a sum over columns. A gradient that is
    broadcast over a map is read as one row per image."""
    gx, _, gweight, gbias = _backward(g, x, weight, mean, rstd, g_sum, None, 2, has_branch=False)
    return gx, gweight, gbias


@register_cuda(reference.residual_layer_norm_bwd, _takes_residual_layer_norm_bwd)
def residual_layer_norm_bwd(
    g_sum: Array,
    g: Array,
    total: Array,
    keep: Array | None,
    weight: Array,
    mean: Array,
    rstd: Array,
    to_branch_bias: bool = False,
    branch_dtype: np.dtype[Any] | None = None,
) -> tuple[Array, Array, Array, Array, Array | None]:
    """As :func:`layer_norm_bwd`; the same pass makes the branch's gradient and the sums for its bias."""
    branch_dtype = branch_dtype or total.dtype
    if g.dtype != branch_dtype:  # the kernel takes both in one dtype only
        wide = residual_layer_norm_bwd(
            g_sum, g.astype(total.dtype, copy=False), total, keep, weight, mean, rstd, to_branch_bias
        )
        return wide[0], wide[1].astype(branch_dtype, copy=False), *wide[2:]
    results = _backward(g, total, weight, mean, rstd, g_sum, keep, 3 if to_branch_bias else 2)
    gx, gbranch, gweight, gbias, gbranch_bias = (*results, None)[:5]
    return gx, gbranch, gweight, gbias, gbranch_bias
