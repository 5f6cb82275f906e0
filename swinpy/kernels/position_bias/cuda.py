"""Launches position_bias.cu.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograd.extend import (
    FLOAT_NAMES,
    Budget,
    array_module,
    contiguous,
    cuda_dtype,
    launch,
    program,
    register_cuda,
    takes_multi_cast,
)
from swinpy.kernels.position_bias import reference
from swinpy.kernels.position_bias.reference import tables

if TYPE_CHECKING:
    import numpy as np

    from autograd.extend import Array, Program
    from swinpy.geometry import PositionIndex

__all__ = ["BUDGETS", "position_bias_bwd", "position_bias_fwd", "variants"]

BUDGETS = {"position_bias_fwd": Budget(registers=32), "position_bias_bwd": Budget(registers=48)}

_FILE = Path(__file__).with_name("position_bias.cu")
_THREADS, _WARPS = 256, 8
_MOST_Y = 65535  # blocks along the grid's second axis
_MOST = 2**31 - 1


def variants() -> list[Program]:
    """The programs to compile: each type, and each of 16 bits beside float32."""
    kinds = [(kind, kind) for kind in FLOAT_NAMES.values()] + [("float", "f16"), ("float", "bf16")]
    return [program(_FILE, TABLE=table, T=kind) for table, kind in kinds]


def _takes_fwd(table: Array, index: PositionIndex, dtype: np.dtype[Any] | None = None) -> str | None:
    if table.ndim != 2 or table.shape[0] < index.rows:
        return f"expected a table of {index.rows} rows or more; got shape {table.shape}"
    return _takes(table, index, dtype)


def _takes_bwd(g: Array, index: PositionIndex, rows: int, dtype: np.dtype[Any] | None = None) -> str | None:
    if g.ndim != 3 or g.shape[1:] != index.index.shape or rows < index.rows:
        wanted = f"a gradient (heads, {', '.join(map(str, index.index.shape))}) of {index.rows} rows or more"
        return f"expected {wanted}; got shape {g.shape} and {rows} rows"
    return _takes(g, index, dtype)


def _takes(array: Array, index: PositionIndex, dtype: np.dtype[Any] | None) -> str | None:
    if max(index.index.size, index.places.size) > _MOST:
        return f"the CUDA kernel takes less than 2**31 pairs of tokens; got shape {index.index.shape}"
    return cuda_dtype(array) if dtype is None or dtype == array.dtype else takes_multi_cast([array], dtype)


def _code(table: np.dtype[Any], bias: np.dtype[Any]) -> Program:
    return program(_FILE, TABLE=FLOAT_NAMES[table.name], T=FLOAT_NAMES[bias.name])


@register_cuda(reference.position_bias_fwd, _takes_fwd)
def position_bias_fwd(table: Array, index: PositionIndex, dtype: np.dtype[Any] | None = None) -> Array:
    """One gather, a thread for each pair of tokens; it also casts."""
    table, heads, places = contiguous(table), table.shape[1], index.index.size
    bias = array_module(table).empty((heads, *index.index.shape), dtype or table.dtype)
    if bias.size:
        args: tuple[Any, ...] = (table, tables(index, table)[0], bias, places, heads)
        grid = (-(-places // _THREADS), min(heads, _MOST_Y))
        launch(_code(table.dtype, bias.dtype), "position_bias_fwd", grid, _THREADS, args)
    return bias


@register_cuda(reference.position_bias_bwd, _takes_bwd)
def position_bias_bwd(g: Array, index: PositionIndex, rows: int, dtype: np.dtype[Any] | None = None) -> Array:
    """One launch, a warp for each row and head: it reads the row's pairs of tokens from a list, in order."""
    g, heads = contiguous(g), g.shape[0]
    gtable = array_module(g).empty((rows, heads), dtype or g.dtype)
    if gtable.size:
        sizes = (rows, heads, *index.places.shape, index.index.size)
        args: tuple[Any, ...] = (g, tables(index, g)[1], gtable, *sizes)
        grid = (-(-rows // _WARPS), min(heads, _MOST_Y))
        launch(_code(gtable.dtype, g.dtype), "position_bias_bwd", grid, _THREADS, args)
    return gtable
