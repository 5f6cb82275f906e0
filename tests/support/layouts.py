"""The same values in other memory layouts."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["LAYOUTS", "relayout"]

Array = np.ndarray[Any, Any]


def _fortran(x: Array) -> Array:
    return x.copy(order="F")


def _permuted(x: Array) -> Array:
    """First axis innermost in memory, the others in order."""
    return np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0)


def _sliced(x: Array) -> Array:
    """Every second element of every axis of a larger array whose other elements are poison."""
    poison = {"f": np.nan, "b": True}.get(x.dtype.kind, np.iinfo(x.dtype).max if x.dtype.kind in "iu" else 0)
    big = np.full(tuple(2 * n + 1 for n in x.shape), poison, x.dtype)
    view = big[tuple(slice(1, 2 * n + 1, 2) for n in x.shape)]
    view[...] = x
    return view


def _negative(x: Array) -> Array:
    """Every axis stored backwards."""
    every = (slice(None, None, -1),) * x.ndim
    return x[every].copy()[every]


def _stretched(x: Array) -> Array:
    """Stride 0 along every axis but the last: the first row, repeated (the values change), and read-only."""
    return np.broadcast_to(x[(slice(0, 1),) * (x.ndim - 1)].copy(), x.shape)


def _constant(x: Array) -> Array:
    """Stride 0 along every axis: one value, repeated (the values change), and read-only."""
    return np.broadcast_to(x.reshape(-1)[:1].reshape((1,) * x.ndim).copy(), x.shape)


LAYOUTS = {
    "fortran": _fortran,
    "permuted": _permuted,
    "sliced": _sliced,
    "negative": _negative,
    "stretched": _stretched,
    "constant": _constant,
}


def relayout(x: Array, layout: str) -> Array:
    """``x`` in another layout. Arrays without an axis or an element have only one layout and come back as a copy."""
    return LAYOUTS[layout](x) if x.ndim and x.size else x.copy()
