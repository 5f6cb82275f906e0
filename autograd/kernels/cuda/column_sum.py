"""Launches column_sum.cu: sums over the rows of a matrix, in a fixed order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.launch import contiguous, launch
from autograd.kernels.cuda.layout import tile_layout
from autograd.kernels.cuda.source import TYPE_NAMES, program

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "column_sum", "column_sums", "variants"]

_FILE = Path(__file__).with_name("column_sum.cu")
BUDGETS = {"column_sum": Budget(registers=40)}
_FLOAT32 = np.dtype(np.float32)


def variants() -> list[Program]:
    """The programs to compile: each type of data."""
    kinds = (
        ("float", "float", 4),
        ("float", "f16", 1),
        ("f16", "float", 8),
        ("bf16", "float", 8),
        ("float", "bf16", 4),
    )
    return [program(_FILE, T=kind, OUT=out, N=width) for kind, out, width in kinds]


def _pass(x: Array, outputs: list[Array]) -> None:
    """Sum the rows of each chunk. The columns are divided among ``outputs``, each (chunks, columns of it)."""
    rows, columns = x.shape
    layout = tile_layout(rows, columns, x.itemsize)
    kinds = {"T": TYPE_NAMES[x.dtype.name], "OUT": TYPE_NAMES[outputs[0].dtype.name]}
    code = program(_FILE, **kinds, N=layout.width)
    first, second, third = (*outputs, None, None)[:3]
    args = (x, first, second, third, rows, columns, columns // len(outputs), layout.lanes, layout.chunk)
    launch(code, "column_sum", layout.grid, layout.threads, args, layout.shared)


def column_sums(x: Array, outputs: int = 1, dtype: Any = _FLOAT32) -> list[Array]:
    """Sums over the rows of a matrix. The chunks of rows depend on sizes alone, so that the bits repeat.

    Args:
        x: (rows, C), float32 or 16-bit; sums are made in float32.
        outputs: 1 to 3, the number of arrays among which the columns are divided.
        dtype: of the results.

    Returns:
        ``outputs`` arrays of C / outputs.
    """
    xp = array_module(x)
    rows, columns = x.shape
    if x.size == 0:
        return [xp.zeros(columns // outputs, dtype) for _ in range(outputs)]
    totals = [xp.empty(columns // outputs, dtype) for _ in range(outputs)]
    x = contiguous(x)
    chunks = tile_layout(rows, columns, x.itemsize).grid[1]
    if chunks > 1:
        partial = xp.empty((chunks, columns), _FLOAT32)
        _pass(x, [partial])
        x = partial
    _pass(x, totals)
    return totals


def column_sum(x: Array) -> Array:
    """The float32 sum (C,) over the rows of (rows, C)."""
    return column_sums(x)[0]
