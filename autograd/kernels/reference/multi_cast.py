"""Many arrays to another float type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from autograd.backend import Array

__all__ = ["multi_cast"]


def multi_cast(arrays: Sequence[Array], dtype: np.dtype[Any]) -> list[Array]:
    """Each array as ``dtype``.

    Args:
        arrays: of one float type, at least one.
        dtype: another float type.

    Returns:
        C-ordered arrays that share memory neither with ``arrays`` nor with each other.
    """
    return [a.astype(dtype, order="C") for a in arrays]
