"""Launches softmax.cu: a row stays in the registers of the threads that share it.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from autograd.backend import array_module
from autograd.kernels.cuda import register_cuda
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.checks import cuda_dtype, one_device, row_lengths, shapes
from autograd.kernels.cuda.launch import contiguous, launch
from autograd.kernels.cuda.layout import row_layout, vector_widths
from autograd.kernels.cuda.source import TYPE_NAMES, program
from autograd.kernels.softmax import reference

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.kernels.cuda.layout import RowLayout
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "softmax_bwd", "softmax_fwd", "variants"]

_FILE = Path(__file__).with_name("softmax.cu")
BUDGETS = {"softmax_fwd": Budget(registers=96), "softmax_bwd": Budget(registers=96)}
_AXES = 4  # of a mask, at most, over which the kernel counts rows


def variants() -> list[Program]:
    """The programs to compile: windows of 7 and 8, and a long row."""
    return [
        program(
            _FILE,
            T=kind,
            MASK="float",
            **row_layout(columns, vector_widths(4 if kind == "float" else 2)).defines,
        )
        for kind, lengths in (("float", (49, 1000)), ("f16", (49, 64, 1000)), ("bf16", (64,)))
        for columns in lengths
    ]


def _plan(x: Array, mask: Array | None = None) -> tuple[Program, RowLayout, int, int]:
    """The program, its layout, the number of rows, and of blocks."""
    layout = row_layout(x.shape[-1], vector_widths(x.itemsize))
    rows = math.prod(x.shape[:-1])
    kinds = {"T": TYPE_NAMES[x.dtype.name], "MASK": "float" if mask is None else TYPE_NAMES[mask.dtype.name]}
    return program(_FILE, **kinds, **layout.defines), layout, rows, -(-rows // layout.rows)


def _merged_axes(mask: Array, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """(size, stride) of the row axes of a mask that broadcasts to ``shape``; neighbouring axes are merged where one
    stride serves both."""
    lead = (1,) * (len(shape) - mask.ndim) + mask.shape
    axes: list[tuple[int, int]] = []
    for i, size in enumerate(shape[:-1]):
        step = math.prod(lead[i + 1 :]) if lead[i] > 1 else 0
        if size == 1:
            continue
        if axes and axes[-1][1] == size * step:
            axes[-1] = (axes[-1][0] * size, step)
        else:
            axes.append((size, step))
    return axes


def _mask_steps(mask: Array | None, shape: tuple[int, ...]) -> tuple[Array | None, tuple[int, ...]]:
    """The mask, and its sizes and strides as the kernel takes them: n1, n2, n3, s0, s1, s2, s3, step."""
    if mask is None:
        return None, (1,) * 8
    axes = _merged_axes(mask, shape)
    if len(axes) > _AXES:  # broadcast and other axes alternate too often for the kernel
        mask = array_module(mask).broadcast_to(mask, shape)
        axes = _merged_axes(mask, shape)
    axes = [(1, 0)] * (_AXES - len(axes)) + axes
    column = int(mask.ndim > 0 and mask.shape[-1] > 1)
    return contiguous(mask), (*(size for size, _ in axes[1:]), *(step for _, step in axes), column)


def _takes_softmax_fwd(x: Array, mask: Array | None = None) -> str | None:
    if mask is not None and mask.dtype not in (x.dtype, "float32"):
        return f"the CUDA kernel takes a mask of x's dtype or float32; got {mask.dtype}"
    if mask is not None and one_device(x, mask):
        return one_device(x, mask)
    if mask is not None and not _broadcasts(mask.shape, x.shape):
        return f"expected a mask that broadcasts to {x.shape}; got {mask.shape}"
    return cuda_dtype(x) or row_lengths(x)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(n in (1, m) for n, m in pairs)


@register_cuda(reference.softmax_fwd, _takes_softmax_fwd)
def softmax_fwd(x: Array, mask: Array | None = None) -> Array:
    """One launch; a mask is read with its strides and not broadcast in memory."""
    y = array_module(x).empty(x.shape, x.dtype)
    if x.size:
        code, layout, rows, grid = _plan(x, mask)
        mask, steps = _mask_steps(mask, x.shape)
        args = (contiguous(x), mask, y, rows, x.shape[-1], *steps)
        launch(code, "softmax_fwd", grid, layout.threads, args, layout.scratch)
    return y


def _takes_softmax_bwd(g: Array, y: Array) -> str | None:
    return cuda_dtype(g, y) or row_lengths(y) or shapes(g=(g, y.shape))


@register_cuda(reference.softmax_bwd, _takes_softmax_bwd)
def softmax_bwd(g: Array, y: Array) -> Array:
    """One launch over g and y."""
    gx = array_module(y).empty(y.shape, y.dtype)
    if y.size:
        code, layout, rows, grid = _plan(y)
        args = (contiguous(g), contiguous(y), gx, rows, y.shape[-1])
        launch(code, "softmax_bwd", grid, layout.threads, args, layout.scratch)
    return gx
