"""Dtypes: what counts as a float, what sums are made in, and what mixed operands become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import DTypeLike

__all__ = ["Policy", "accumulator", "as_dtype", "as_float", "cast_target", "is_float", "promote"]

Policy = Literal["low", "f32", "f32_or_low", "widest", "keep"]

FLOAT32: np.dtype[Any] = np.dtype(np.float32)
FLOAT64: np.dtype[Any] = np.dtype(np.float64)


def as_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """``np.dtype(dtype)``, with "bfloat16" understood where ml_dtypes is installed."""
    if dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError("bfloat16: expected ml_dtypes; it is not installed. pip install ml_dtypes") from error
        dtype = ml_dtypes.bfloat16
    try:
        resolved: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype: expected a NumPy dtype or its name; got {dtype!r}.") from None
    return resolved.newbyteorder("=") if not resolved.isnative else resolved


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether it is a float dtype, bfloat16 of ml_dtypes among them."""
    return bool(dtype.kind == "f" or dtype.name == "bfloat16")


def as_float(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What functions that give floats compute in: a float dtype itself, float64 for integers and booleans.

    NumPy's rule but for integers of 8 and 16 bits and booleans, of which NumPy makes float16 and float32.
    """
    return dtype if is_float(dtype) else FLOAT64


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that sums over ``dtype`` are made in: float32 for 16-bit floats, else itself."""
    return FLOAT32 if dtype.itemsize == 2 and is_float(dtype) else dtype


def promote(dtypes: Iterable[np.dtype[Any]]) -> np.dtype[Any]:
    """The common dtype of mixed operands: the widest float if there is a float, else NumPy's rule.

    Integers and booleans never widen a float (int64 with float32 is float32, as in torch; NumPy would say float64).
    """
    dtypes = list(dtypes)
    floats = [dtype for dtype in dtypes if is_float(dtype)]
    return np.result_type(*(floats or dtypes))


def cast_target(policy: Policy, dtypes: list[np.dtype[Any]], low: np.dtype[Any] | None) -> np.dtype[Any] | None:
    """The dtype that an op casts its float operands to, or None to leave them as they are.

    Args:
        policy: the op's autocast policy.
        dtypes: of its array operands.
        low: the autocast dtype in force, or None.
    """
    if low is not None and FLOAT64 not in dtypes:
        if policy == "low":
            return low
        if policy == "f32":
            return FLOAT32
    return promote(dtypes) if policy == "widest" else None
