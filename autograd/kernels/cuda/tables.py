"""Tables for kernels that work on all arrays of a list in one launch. They stay on the device while no array moves.

Arrays are divided into chunks, one for each block, so that many small arrays and a few large ones both fill the device.
To upload a table, the host waits for the GPU. But memory pools hand out the same addresses in every step, so tables are
cached by their contents.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.backend import Array

__all__ = ["CHUNK", "address_table", "chunk_table"]

CHUNK = 8192  # values per block: 8 loads of 16 bytes per thread in float32


@lru_cache(maxsize=32)
def chunk_table(sizes: tuple[int, ...], device: int) -> Array:
    """Every chunk of arrays of the given sizes, on a device: int32 (chunks, 2), array and number of the chunk in it."""
    import cupy

    pairs = [(i, chunk) for i, size in enumerate(sizes) for chunk in range(-(-size // CHUNK))]
    with cupy.cuda.Device(device):
        return cupy.asarray(np.array(pairs, np.int32).reshape(-1, 2))


def address_table(*columns: Sequence[int], device: int) -> Array:
    """A table of 64-bit words on a device, one row for each array.

    Args:
        *columns: addresses (``a.data.ptr``) or sizes of the arrays.
        device: its number.
    """
    return _table(tuple(map(tuple, columns)), device)


@lru_cache(maxsize=32)
def _table(columns: tuple[tuple[int, ...], ...], device: int) -> Array:
    import cupy

    with cupy.cuda.Device(device):
        return cupy.asarray(np.array(columns, np.uint64).T.copy())
