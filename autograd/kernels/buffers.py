"""Large arrays in memory that earlier arrays gave back.

The operating system hands out fresh memory page by page and zeroed. That costs about as much as the work that fills it,
and every training step makes the same arrays again. So arrays of a megabyte or more lie in buffers. A buffer comes back
here when the last array or view on it is gone. Smaller arrays are left to NumPy.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SMALLEST", "empty", "release", "retained"]

SMALLEST = 1 << 20  # bytes; an array of this size or more lies in a buffer
_SLACK = 1.25  # a buffer serves arrays of down to 1 / 1.25 of its size

_free: list[np.ndarray[Any, Any]] = []  # oldest first
_lock = threading.RLock()  # re-entrant: a collection inside the lock may run a __del__


class _Lease:
    """Lends a buffer to one array and its views. They keep the lease alive; when they are gone the buffer is free."""

    def __init__(self, buffer: np.ndarray[Any, Any], nbytes: int) -> None:
        self._buffer = buffer
        self.__array_interface__ = {**buffer[:nbytes].__array_interface__, "version": 3}

    def __del__(self) -> None:
        _free.append(self._buffer)


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
    """As ``np.empty``, C-ordered, but a large array may lie in memory that was used before."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < SMALLEST:
        return np.empty(shape, dtype)
    lent: np.ndarray[Any, Any] = np.asarray(_Lease(_buffer(nbytes), nbytes)).view(dtype).reshape(shape)
    return lent


def _buffer(nbytes: int) -> np.ndarray[Any, Any]:
    """A free buffer of about this size, else a new one."""
    with _lock:
        fits = [i for i, free in enumerate(_free) if nbytes <= free.size <= nbytes * _SLACK]
        if fits:
            return _free.pop(
                min(fits, key=lambda i: (_free[i].size, -i))
            )  # among equals the last used, which is still in the cache
        spare = nbytes  # give others back to the system for the new one, so that memory does not pile up
        while _free and spare > 0:
            spare -= _free.pop(0).size
    return np.empty(nbytes, np.uint8)


def retained() -> int:
    """The bytes of free buffers, which are kept for later arrays."""
    return sum(buffer.size for buffer in tuple(_free))


def release() -> None:
    """Give all free buffers back to the operating system."""
    with _lock:
        _free.clear()
