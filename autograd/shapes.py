"""Shapes: pure functions on tuples and arrays that several ops share."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import device_scope
from autograd.dtypes import accumulator

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "as_int",
    "as_ints",
    "as_pair",
    "axis_or_all",
    "check_broadcast",
    "normalize_axes",
    "normalize_axis",
    "unbroadcast",
]


def as_int(op: str, name: str, value: Any) -> int:
    """``value`` (an int, a NumPy integer) as a Python int.

    Raises:
        TypeError: for anything else; floats are not rounded.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: expected {name} as an integer; got {value!r}.") from None


def as_ints(op: str, name: str, value: Any, count: int = 1) -> tuple[int, ...]:
    """A sequence of integers as a tuple; one integer stands for ``count`` of them.

    Raises:
        TypeError: for anything else.
    """
    if hasattr(value, "__iter__") and getattr(value, "ndim", None) != 0:
        return tuple(as_int(op, name, v) for v in value)
    return (as_int(op, name, value),) * count


def as_pair(op: str, name: str, value: int | Sequence[int], least: int) -> tuple[int, int]:
    """One or two integers, (vertical, horizontal), of ``least`` or more; one stands for both.

    Raises:
        ValueError: for smaller ones, or another number of them.
        TypeError: for anything else.
    """
    pair = as_ints(op, name, value, 2)
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"{op}: expected {name} as one or two integers of {least} or more; got {value}.")
    return pair[0], pair[1]


def normalize_axis(op: str, axis: int, ndim: int) -> int:
    """``axis`` as a number in ``range(ndim)``.

    Raises:
        TypeError: if it is no integer.
        IndexError: if it is out of range.
    """
    axis = as_int(op, "axis", axis)
    if ndim == 0:
        raise IndexError(f"{op}: expected at least one dimension; got a 0-d tensor.")
    if not -ndim <= axis < ndim:
        raise IndexError(f"{op}: expected an axis in [{-ndim}, {ndim - 1}]; got {axis}.")
    return axis % ndim


def normalize_axes(op: str, axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """The axes of a reduction as sorted distinct numbers; None means all of them.

    A 0-d array is taken to have one axis, 0 or -1, as in NumPy and torch; naming it names no axis.
    """
    if axis is None:
        return tuple(range(ndim))
    axes = as_ints(op, "axis", axis)
    result = sorted(normalize_axis(op, a, max(ndim, 1)) for a in axes)
    if len(set(result)) != len(result):
        raise ValueError(f"{op}: expected distinct axes; got {axes}.")
    return tuple(result) if ndim else ()


def axis_or_all(op: str, axis: int | None, ndim: int) -> int | None:
    """One axis as a number, or None for the flat array: where no axis is named, or the one of a 0-d array."""
    if axis is None:
        return None
    number = normalize_axis(op, axis, max(ndim, 1))
    return number if ndim else None


def check_broadcast(op: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that ``shapes`` broadcast to.

    Raises:
        ValueError: if they do not.
    """
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        names = " and ".join(map(str, shapes))
        raise ValueError(f"{op}: expected shapes that broadcast together; got {names}.") from None


def sum_over(x: Any, axes: tuple[int, ...]) -> Any:
    """Sum over ``axes``, which stay with size 1, in the accumulation dtype.

    Axis by axis, the last one first: no running sum is longer than an axis, which rounds less.
    """
    for axis in sorted(axes, reverse=True):
        x = x.sum(axis=axis, keepdims=True, dtype=accumulator(x.dtype))
    return x


def unbroadcast(grad: Any, shape: tuple[int, ...]) -> Any:
    """Sum ``grad`` over the axes that broadcasting added or stretched, so that it has ``shape``.

    This is the adjoint of ``broadcast_to``; 16-bit sums are made in float32.
    """
    if grad.shape == shape:
        return grad
    lead = grad.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        lead + i for i, size in enumerate(shape) if size == 1 and grad.shape[lead + i] != 1
    )
    with device_scope(grad):
        summed = grad.sum(axis=axes, dtype=accumulator(grad.dtype), keepdims=True)
        return summed.astype(grad.dtype, copy=False).reshape(shape)
