"""Many arrays to another float type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.kernels.registry import Cost, kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.backend import Array

__all__ = ["multi_cast"]


def _cost(arrays: Sequence[Array], dtype: np.dtype[Any]) -> Cost:
    values = sum(a.size for a in arrays)
    return Cost(values, sum(a.nbytes for a in arrays) + values * np.dtype(dtype).itemsize)


@kernel(_cost)
def multi_cast(arrays: Sequence[Array], dtype: np.dtype[Any]) -> list[Array]:
    """Each array as ``dtype``.

    Args:
        arrays: of one float type, at least one.
        dtype: another float type.

    Returns:
        C-ordered arrays that share memory neither with ``arrays`` nor with each other.
    """
    return [a.astype(dtype, order="C") for a in arrays]
