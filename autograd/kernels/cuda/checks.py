"""Checks of what CUDA kernels take, as far as rooms share them: each returns None, or the reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.backend import device_of
from autograd.kernels.cuda.launch import capability
from autograd.kernels.cuda.layout import LONGEST_ROW
from autograd.kernels.cuda.source import FLOAT_NAMES
from autograd.kernels.validate import arrays_in

if TYPE_CHECKING:
    from collections.abc import Collection

    from autograd.backend import Array

__all__ = ["MOST_ROWS", "all_float32", "cuda_dtype", "one_device", "row_lengths", "shapes", "too_old"]

_BF16_CAPABILITY = 80
MOST_ROWS = 2**30  # row numbers are ints, with room to add the rows of a grid to the last one


def cuda_dtype(*args: Any, **_: Any) -> str | None:
    """None if the arrays are on one device and of one float dtype that kernels exist for, else why not.

    For kernels that find arrays by addresses in a table, and for products by cuBLAS, this is the only check of both.
    """
    arrays = arrays_in(args)
    apart = one_device(*arrays)
    if apart:
        return apart
    names = sorted({a.dtype.name for a in arrays})
    if len(names) != 1 or names[0] not in FLOAT_NAMES:
        allowed = ", ".join(FLOAT_NAMES)
        return f"CUDA kernels take arrays of one dtype out of {allowed}; got {', '.join(names) or 'none'}"
    return too_old(names, arrays[0])


def too_old(names: Collection[str], on: Array) -> str | None:
    """None if the device of ``on`` computes with the dtypes of these names, else why not."""
    if "bfloat16" in names and capability(on) < _BF16_CAPABILITY:
        return f"bfloat16 needs compute capability 8.0; got {capability(on) / 10}"
    return None


def all_float32(**arrays: Array) -> str | None:
    """None if all arrays are float32, else which is not, by its keyword."""
    wrong = next((f"{name} is {a.dtype}" for name, a in arrays.items() if a.dtype.name != "float32"), None)
    return wrong and f"the CUDA kernel takes float32 there; {wrong}"


def shapes(**wanted: tuple[Any, tuple[int, ...]]) -> str | None:
    """None if each array has the shape beside it, else which has not, by its keyword. None in place of an array
    passes."""
    for name, (array, shape) in wanted.items():
        if array is not None and array.shape != shape:
            return f"expected {name} of shape {shape}; got {array.shape}"
    return None


def one_device(*arrays: Array) -> str | None:
    """None if all arrays are on one device, else on which they are."""
    devices = sorted({device_of(a) for a in arrays})
    return f"CUDA kernels take arrays of one device; got {', '.join(devices)}" if len(devices) > 1 else None


def row_lengths(x: Array) -> str | None:
    """None if ``x`` has rows of 1 to LONGEST_ROW values and at most MOST_ROWS of them, else why not."""
    if x.ndim == 0 or not 0 < x.shape[-1] <= LONGEST_ROW or x.size // x.shape[-1] > MOST_ROWS:
        return f"CUDA kernels take rows of 1 to {LONGEST_ROW} values, and at most 2**30 of them; got shape {x.shape}"
    return None
