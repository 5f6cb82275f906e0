"""Launching gelu.cu."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.column_sum import column_sums
from autograd.kernels.cuda.launch import contiguous, launch
from autograd.kernels.cuda.layout import tile_layout, vector_width, vector_widths
from autograd.kernels.cuda.source import TYPE_NAMES, program
from autograd.kernels.reference.blocks import as_rows

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "bias_gelu_both", "bias_gelu_bwd", "bias_gelu_fwd", "gelu_bwd", "gelu_fwd", "variants"]

BUDGETS = {"gelu_fwd": Budget(registers=64), "gelu_bwd": Budget(registers=64), "bias_gelu_bwd": Budget(registers=80)}
_THREADS = 256
_FLOAT32 = np.dtype(np.float32)


def variants() -> list[Program]:
    """Programs that a compile check covers: each type of data."""
    kinds = (("float", 4), ("float", 1), ("f16", 8), ("f16", 1), ("bf16", 8), ("bf16", 1))
    return [program("gelu.cu", T=kind, N=width) for kind, width in kinds]


def _program(x: Array) -> tuple[Program, int]:
    """The program for single elements, and the blocks that take all of them."""
    width = vector_width(x.shape[-1] if x.ndim else 1, vector_widths(x.itemsize))
    code = program("gelu.cu", T=TYPE_NAMES[x.dtype.name], N=width)
    return code, -(-x.size // (width * _THREADS))


def _forward(x: Array, bias: Array | None) -> Array:
    x = contiguous(x)
    y = array_module(x).empty(x.shape, x.dtype)
    code, blocks = _program(x)
    if x.size:
        launch(code, "gelu_fwd", blocks, _THREADS, (x, bias, y, x.size, x.shape[-1] if x.ndim else 1))
    return y


def gelu_fwd(x: Array) -> Array:
    return _forward(x, None)


def bias_gelu_fwd(x: Array, bias: Array | None) -> Array:
    return _forward(x, None if bias is None else contiguous(bias))


def gelu_bwd(g: Array, x: Array) -> Array:
    g, x = contiguous(g), contiguous(x)
    gx = array_module(x).empty(x.shape, x.dtype)
    code, blocks = _program(x)
    if x.size:
        launch(code, "gelu_bwd", blocks, _THREADS, (g, x, gx, x.size))
    return gx


def bias_gelu_bwd(g: Array, x: Array, bias: Array | None) -> tuple[Array, Array | None]:
    if bias is None:
        return gelu_bwd(g, x), None
    gx, gbias, _ = bias_gelu_both(g, x, bias, keep=False)
    return gx, gbias


def bias_gelu_both(g: Array, x: Array, bias: Array, keep: bool) -> tuple[Array, Array, Array | None]:
    """The results of backward, and if it is to be kept that of forward once more, from one pass over x."""
    xp = array_module(x)
    gx, y = xp.empty(x.shape, x.dtype), xp.empty(x.shape, x.dtype) if keep else None
    if not x.size:
        return gx, xp.zeros_like(bias), y
    g, x, bias = contiguous(g), contiguous(x), contiguous(bias)
    rows, columns = as_rows(x).shape
    layout = tile_layout(rows, columns, x.itemsize)
    partial = xp.empty((layout.grid[1], columns), _FLOAT32)
    code = program("gelu.cu", T=TYPE_NAMES[x.dtype.name], N=layout.width)
    args = (g, x, bias, gx, y, partial, rows, columns, layout.lanes, layout.chunk)
    launch(code, "bias_gelu_bwd", layout.grid, layout.threads, args, layout.shared)
    return gx, column_sums(partial, 1, bias.dtype)[0], y
