"""Large arrays from memory that earlier ones gave back.

The operating system hands out fresh memory page by page, zeroed, at a cost comparable to computing what goes in; every
training step makes the same arrays again. So arrays over a megabyte come from blocks that return here when the last
array or view on them is gone. Smaller ones are left to NumPy.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SMALLEST", "empty", "release", "retained"]

SMALLEST = 1 << 20  # bytes from which an array is worth a block
_SLACK = 1.25  # a block serves requests of down to 1 / 1.25 of its size

_free: list[np.ndarray[Any, Any]] = []  # oldest first
_lock = threading.RLock()  # re-entrant: a collection inside the lock may run a __del__


class _Lease:
    """Lends a block to one array and its views; they keep it alive, and when they are gone the block is free again."""

    def __init__(self, block: np.ndarray[Any, Any], nbytes: int) -> None:
        self._block = block
        self.__array_interface__ = {**block[:nbytes].__array_interface__, "version": 3}

    def __del__(self) -> None:
        _free.append(self._block)


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
    """As ``np.empty``, C-ordered; a large array may lie in memory that was used before."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < SMALLEST:
        return np.empty(shape, dtype)
    lent: np.ndarray[Any, Any] = np.asarray(_Lease(_block(nbytes), nbytes)).view(dtype).reshape(shape)
    return lent


def _block(nbytes: int) -> np.ndarray[Any, Any]:
    with _lock:
        fits = [i for i, block in enumerate(_free) if nbytes <= block.size <= nbytes * _SLACK]
        if fits:
            return _free.pop(min(fits, key=lambda i: (_free[i].size, -i)))  # of several the last used: still in cache
        spare = nbytes  # no block of this size: others go back to the system for it, so that memory does not pile up
        while _free and spare > 0:
            spare -= _free.pop(0).size
    return np.empty(nbytes, np.uint8)


def retained() -> int:
    """Bytes that are kept for later arrays."""
    return sum(block.size for block in tuple(_free))


def release() -> None:
    """Give all free blocks back to the operating system."""
    with _lock:
        _free.clear()
