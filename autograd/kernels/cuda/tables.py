"""Tables for kernels that work on all arrays of a list in one launch, kept on the device as long as nothing moves.

The list is cut in chunks, a block each, so that many small arrays and a few large ones fill the device alike. Memory
pools hand out the same addresses step after step, so tables are kept by what is in them: an upload waits for the GPU.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.backend import Array

__all__ = ["CHUNK", "chunks", "table"]

CHUNK = 8192  # values of a block: 8 rounds of 16 bytes a thread in float32


@lru_cache(maxsize=32)
def chunks(sizes: tuple[int, ...], device: int) -> Array:
    """(array, chunk within it) of every chunk of arrays of such sizes, int32, on a device."""
    import cupy

    pairs = [(i, chunk) for i, size in enumerate(sizes) for chunk in range(-(-size // CHUNK))]
    with cupy.cuda.Device(device):
        return cupy.asarray(np.array(pairs, np.int32).reshape(-1, 2))


def table(*columns: Sequence[int], device: int) -> Array:
    """Rows of 64-bit words on a device, given column by column: addresses of arrays (``a.data.ptr``), sizes."""
    return _table(tuple(map(tuple, columns)), device)


@lru_cache(maxsize=32)
def _table(columns: tuple[tuple[int, ...], ...], device: int) -> Array:
    import cupy

    with cupy.cuda.Device(device):
        return cupy.asarray(np.array(columns, np.uint64).T.copy())
