"""Dropout by the counter-based generator: a mask is a function of (seed, offset) and is never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd import random
from autograd.backend import array_module
from autograd.dtypes import as_float
from autograd.kernels.registry import Cost, elementwise, kernel

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["dropout", "keep_scale"]


def _scales(like: Array, count: int, seed: int, offset: int, p: float) -> Array:
    """``count`` scales in the dtype of ``like``: 0 with probability p, else 1 / (1 - p)."""
    keep = random.keep_mask(seed, offset, count, p, xp=array_module(like))
    return (keep / (1 - p)).astype(as_float(like.dtype))


# Ten rounds of a generator that makes four numbers at a time: about 30 operations per number.
@kernel(elementwise(30, 1))
def dropout(x: Array, *, seed: int, offset: int, p: float, together: int = 1) -> Array:
    """Zero elements with probability ``p`` and multiply the others by 1 / (1 - p).

    Args:
        x: any shape.
        seed: of the draw.
        offset: the draw's first counter.
        p: in [0, 1).
        together: this many elements, neighbours in C order, are kept or zeroed together (DropPath: those of a sample).
            It divides the size.

    Returns:
        A new array like x. Its own gradient: the same call on the output's gradient.
    """
    count = x.size // together if x.size else 0
    return (x.reshape(count, together) * _scales(x, count, seed, offset, p)[:, None]).reshape(x.shape)


@kernel(lambda like, **_: Cost(30 * like.shape[0], like.shape[0] * like.itemsize))
def keep_scale(like: Array, *, seed: int, offset: int, p: float) -> Array:
    """The scale of each sample, (B,): 0 with probability ``p``, else 1 / (1 - p).

    Args:
        like: (B, ...), gives the number of samples, the float dtype and the device.
        seed: of the draw.
        offset: the draw's first counter.
        p: in [0, 1).
    """
    return _scales(like, like.shape[0], seed, offset, p)
