"""Launches gelu.cu.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module
from autograd.kernels.blocks import as_rows
from autograd.kernels.cuda import register_cuda
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.checks import MOST_ROWS, cuda_dtype, shapes
from autograd.kernels.cuda.column_sum import column_sums
from autograd.kernels.cuda.launch import contiguous, launch
from autograd.kernels.cuda.layout import tile_layout, vector_width, vector_widths
from autograd.kernels.cuda.source import TYPE_NAMES, program
from autograd.kernels.gelu import reference

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "FILE", "bias_gelu_both", "bias_gelu_bwd", "bias_gelu_fwd", "gelu_bwd", "gelu_fwd", "variants"]

FILE = Path(__file__).with_name("gelu.cu")
BUDGETS = {"gelu_fwd": Budget(registers=64), "gelu_bwd": Budget(registers=64), "bias_gelu_bwd": Budget(registers=80)}
_THREADS = 256
_FLOAT32 = np.dtype(np.float32)


def variants() -> list[Program]:
    """The programs to compile: each type of data."""
    kinds = (("float", 4), ("float", 1), ("f16", 8), ("f16", 1), ("bf16", 8), ("bf16", 1))
    return [program(FILE, T=kind, N=width) for kind, width in kinds]


def _program(x: Array) -> tuple[Program, int]:
    """The program for the elementwise kernels, and the number of blocks."""
    width = vector_width(x.shape[-1] if x.ndim else 1, vector_widths(x.itemsize))
    code = program(FILE, T=TYPE_NAMES[x.dtype.name], N=width)
    return code, -(-x.size // (width * _THREADS))


def _forward(x: Array, bias: Array | None) -> Array:
    x = contiguous(x)
    y = array_module(x).empty(x.shape, x.dtype)
    code, blocks = _program(x)
    if x.size:
        launch(code, "gelu_fwd", blocks, _THREADS, (x, bias, y, x.size, x.shape[-1] if x.ndim else 1))
    return y


@register_cuda(reference.gelu_fwd)
def gelu_fwd(x: Array) -> Array:
    """One launch, 16 bytes per thread where rows allow it."""
    return _forward(x, None)


def _takes_bias_gelu_fwd(x: Array, bias: Array | None) -> str | None:
    return cuda_dtype(x, bias) or shapes(bias=(bias, x.shape[-1:]))


@register_cuda(reference.bias_gelu_fwd, _takes_bias_gelu_fwd)
def bias_gelu_fwd(x: Array, bias: Array | None) -> Array:
    """As :func:`gelu_fwd`; the same kernel adds the bias."""
    return _forward(x, None if bias is None else contiguous(bias))


def _takes_gelu_bwd(g: Array, x: Array) -> str | None:
    return cuda_dtype(g, x) or shapes(g=(g, x.shape))


@register_cuda(reference.gelu_bwd, _takes_gelu_bwd)
def gelu_bwd(g: Array, x: Array) -> Array:
    """One launch, 16 bytes per thread where rows allow it."""
    g, x = contiguous(g), contiguous(x)
    gx = array_module(x).empty(x.shape, x.dtype)
    code, blocks = _program(x)
    if x.size:
        launch(code, "gelu_bwd", blocks, _THREADS, (g, x, gx, x.size))
    return gx


def _takes_bias_gelu_bwd(g: Array, x: Array, bias: Array | None) -> str | None:
    if not x.ndim:
        return "expected x (..., C); got a 0-d array"
    if bias is not None and x.shape[-1] and x.size // x.shape[-1] > MOST_ROWS:
        return f"the CUDA kernel takes less than 2**31 rows; got shape {x.shape}"
    return _takes_gelu_bwd(g, x) or _takes_bias_gelu_fwd(x, bias)


@register_cuda(reference.bias_gelu_bwd, _takes_bias_gelu_bwd)
def bias_gelu_bwd(g: Array, x: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """One pass over g and x, with a partial sum of the bias's gradient per chunk; then a sum over columns."""
    if bias is None:
        return gelu_bwd(g, x), None
    gx, gbias, _ = bias_gelu_both(g, x, bias, keep=False)
    return gx, gbias


def bias_gelu_both(g: Array, x: Array, bias: Array, keep: bool) -> tuple[Array, Array, Array | None]:
    """The results of :func:`bias_gelu_bwd`, and with ``keep`` that of :func:`bias_gelu_fwd`, from one pass over x."""
    xp = array_module(x)
    gx, y = xp.empty(x.shape, x.dtype), xp.empty(x.shape, x.dtype) if keep else None
    if not x.size:
        return gx, xp.zeros_like(bias), y
    g, x, bias = contiguous(g), contiguous(x), contiguous(bias)
    rows, columns = as_rows(x).shape
    layout = tile_layout(rows, columns, x.itemsize)
    partial = xp.empty((layout.grid[1], columns), _FLOAT32)
    code = program(FILE, T=TYPE_NAMES[x.dtype.name], N=layout.width)
    args = (g, x, bias, gx, y, partial, rows, columns, layout.lanes, layout.chunk)
    launch(code, "bias_gelu_bwd", layout.grid, layout.threads, args, layout.shared)
    return gx, column_sums(partial, 1, bias.dtype)[0], y
