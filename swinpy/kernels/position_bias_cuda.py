"""Launching position_bias.cu."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograd.extend import FLOAT_NAMES, Budget, array_module, contiguous, cuda_dtype, launch, program
from swinpy.kernels.position_bias import tables

if TYPE_CHECKING:
    from autograd.extend import Array, Program
    from swinpy.geometry import PositionIndex

__all__ = ["BUDGETS", "can_run", "position_bias_bwd", "position_bias_fwd", "variants"]

BUDGETS = {"position_bias_fwd": Budget(registers=32), "position_bias_bwd": Budget(registers=48)}

_FILE = Path(__file__).parent / "cuda" / "position_bias.cu"
_THREADS, _WARPS = 256, 8
_MOST_Y = 65535  # blocks along the grid's second axis
_MOST = 2**31 - 1


def variants() -> list[Program]:
    """What there is to compile: each type."""
    return [program(_FILE, T=kind) for kind in FLOAT_NAMES.values()]


def can_run(array: Array, index: PositionIndex, rows: int | None = None) -> str | None:
    """None if the kernels take the arguments of position_bias_fwd (a table) or _bwd (a gradient), else why not."""
    if rows is None:
        fits, wanted = array.ndim == 2 and array.shape[0] >= index.rows, f"a table of {index.rows} rows or more"
    else:
        fits = array.ndim == 3 and array.shape[1:] == index.index.shape and rows >= index.rows
        wanted = f"a gradient (heads, {', '.join(map(str, index.index.shape))}) of {index.rows} rows or more"
    if not fits:
        return f"expected {wanted}; got shape {array.shape}" + ("" if rows is None else f" and {rows} rows")
    if max(index.index.size, index.places.size) > _MOST:
        return f"the CUDA kernel takes less than 2**31 pairs of tokens; got shape {index.index.shape}"
    return cuda_dtype(array)


def _code(x: Array) -> Program:
    return program(_FILE, T=FLOAT_NAMES[x.dtype.name])


def position_bias_fwd(table: Array, index: PositionIndex) -> Array:
    """As the reference ``swinpy.kernels.position_bias.position_bias_fwd``."""
    table, heads, places = contiguous(table), table.shape[1], index.index.size
    bias = array_module(table).empty((heads, *index.index.shape), table.dtype)
    if bias.size:
        args: tuple[Any, ...] = (table, tables(index, table)[0], bias, places, heads)
        launch(_code(table), "position_bias_fwd", (-(-places // _THREADS), min(heads, _MOST_Y)), _THREADS, args)
    return bias


def position_bias_bwd(g: Array, index: PositionIndex, rows: int) -> Array:
    """As the reference ``swinpy.kernels.position_bias.position_bias_bwd``."""
    g, heads = contiguous(g), g.shape[0]
    gtable = array_module(g).empty((rows, heads), g.dtype)
    if gtable.size:
        sizes = (rows, heads, *index.places.shape, index.index.size)
        args: tuple[Any, ...] = (g, tables(index, g)[1], gtable, *sizes)
        launch(_code(g), "position_bias_bwd", (-(-rows // _WARPS), min(heads, _MOST_Y)), _THREADS, args)
    return gtable
