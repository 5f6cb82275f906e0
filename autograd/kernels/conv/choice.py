"""Which way float32 convolutions go on a CPU: the fastest, or directly, output pixel by output pixel."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["conv_algorithm", "only_direct"]

_only_direct: ContextVar[bool] = ContextVar("only_direct", default=False)


def only_direct() -> bool:
    """Whether the direct way was asked for."""
    return _only_direct.get()


@contextmanager
def conv_algorithm(algorithm: Literal["auto", "direct"]) -> Iterator[None]:
    """A block in which convolutions that compiled kernels compute go a given way. ``ag.explain`` tells which.

    Args:
        algorithm: ``"auto"``, the fastest: 3x3 kernels of stride 1 on maps of 256 pixels or more, whose channels are
            multiples of a vector register, by Winograd's minimal filtering; ``"direct"``, sums over taps. Winograd's
            error is as small, but relative to the largest input nearby, and an infinity spreads to its neighbours.
            float64 always goes directly.

    Raises:
        ValueError: for another name.

    >>> import autograd as ag, numpy as np
    >>> with ag.conv_algorithm("direct"):
    ...     ag.conv2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)), padding=1).sum().item()
    100.0
    """
    if algorithm not in ("auto", "direct"):
        raise ValueError(f"conv_algorithm: expected 'auto' or 'direct'; got {algorithm!r}.")
    token = _only_direct.set(algorithm == "direct")
    try:
        yield
    finally:
        _only_direct.reset(token)
