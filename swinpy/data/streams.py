"""Which Philox stream each kind of draw takes, so that no two kinds ever share a number.

The engine draws from stream 0. Here the upper half of the 64-bit stream says what a draw is for, the lower half is
the epoch (or the variant of a scene).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "AUGMENT",
    "CROP",
    "DETECTION",
    "DIGITS",
    "MANY_SCENES",
    "MIX",
    "ORDER",
    "SCENES",
    "SUBSET",
    "as_integers",
    "stream_of",
]

ORDER, AUGMENT, MIX, SCENES, DIGITS, CROP, SUBSET, MANY_SCENES, DETECTION = 1, 2, 3, 4, 5, 6, 7, 8, 9


def stream_of(purpose: int, index: int = 0) -> int:
    """The stream of ``purpose`` for epoch (or variant) ``index``."""
    if not 0 <= index < 2**32:
        raise ValueError(f"stream_of: expected 0 <= index < 2**32; got {index}. Count epochs from 0.")
    return (purpose << 32) | index


def as_integers(uniforms: NDArray[np.float32], n: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Integers in ``[0, n)`` from uniforms in [0, 1); in float64, where ``u * n`` cannot round up to ``n``."""
    return np.floor(uniforms.astype(np.float64) * n).astype(np.int64)
