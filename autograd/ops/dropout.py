"""Dropout and DropPath by the counter-based generator: the mask is drawn again in backward, never stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from autograd import random
from autograd.kernels import dropout as kernels
from autograd.primitive import Ctx, Primitive
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import TensorLike

__all__ = ["drop_path", "drop_path_keep", "dropout", "dropout2d"]


def _check_rate(op: str, p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"{op}: expected a rate in [0, 1); got {p}.")


def _dropout_forward(ctx: Ctx, x: Array, **draw: Any) -> Array:
    """``draw``: seed, offset, p, and how many neighbouring elements are kept or dropped together."""
    ctx.draw = draw
    return kernels.dropout(x, **draw)


def _dropout_vjp(ctx: Ctx, g: Array) -> Array:
    return kernels.dropout(g, **ctx.draw)


_dropout = Primitive("dropout", _dropout_forward, _dropout_vjp, floats=True, fresh=True)
_dropout2d = Primitive("dropout2d", _dropout_forward, _dropout_vjp, floats=True, fresh=True)
_drop_path = Primitive("drop_path", _dropout_forward, _dropout_vjp, floats=True, fresh=True)


def dropout(x: TensorLike, p: float = 0.5, training: bool = True, generator: random.Generator | None = None) -> Tensor:
    """Zero each element with probability ``p`` and scale the others by 1 / (1 - p). Saves only (seed, offset).

    Args:
        x: any shape.
        p: in [0, 1).
        training: False returns ``x``.
        generator: where the draw comes from (default: the default generator).

    Raises:
        ValueError: for another rate.

    Source: Srivastava et al. 2014, section 4.
    """
    _check_rate("dropout", p)
    x = x if isinstance(x, Tensor) else Tensor(x)
    if not training or p == 0:
        return x
    seed, offset = (generator or random.default_generator).reserve(x.size)
    return _dropout(x, seed=seed, offset=offset, p=p, together=1)


def dropout2d(
    x: TensorLike, p: float = 0.5, training: bool = True, generator: random.Generator | None = None
) -> Tensor:
    """Zero whole channels of a sample with probability ``p`` and scale the others by 1 / (1 - p).

    Saves only (seed, offset).

    Args:
        x: (B, C, ...), as (B, C, H, W).
        p: in [0, 1).
        training: False returns ``x``.
        generator: where the draw, one number a sample and channel, comes from (default: the default generator).

    Raises:
        ValueError: for another rate, or an ``x`` without channels.

    Source: Tompson et al. 2015, "Efficient Object Localization Using Convolutional Networks", section 3.1.
    """
    _check_rate("dropout2d", p)
    x = x if isinstance(x, Tensor) else Tensor(x)
    if x.ndim < 2:
        raise ValueError(f"dropout2d: expected x (B, C, ...); got {x.shape}.")
    if not training or p == 0:
        return x
    seed, offset = (generator or random.default_generator).reserve(x.shape[0] * x.shape[1])
    return _dropout2d(x, seed=seed, offset=offset, p=p, together=math.prod(x.shape[2:]))


def drop_path(
    x: TensorLike, p: float = 0.0, training: bool = True, generator: random.Generator | None = None
) -> Tensor:
    """Zero whole samples (the first axis) with probability ``p``, scale the others by 1 / (1 - p).

    Saves only (seed, offset).

    Args:
        x: (B, ...).
        p: in [0, 1).
        training: False returns ``x``.
        generator: where the draw comes from (default: the default generator).

    Raises:
        ValueError: for another rate, or an ``x`` without a batch axis.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth".
    """
    _check_rate("drop_path", p)
    x = x if isinstance(x, Tensor) else Tensor(x)
    if not training or p == 0:
        return x
    if x.ndim == 0:
        raise ValueError("drop_path: expected a batch axis; got a 0-d tensor.")
    seed, offset = (generator or random.default_generator).reserve(x.shape[0])
    together = math.prod(x.shape[1:])
    return _drop_path(x, seed=seed, offset=offset, p=p, together=together)


def drop_path_keep(
    like: TensorLike, p: float, training: bool = True, generator: random.Generator | None = None
) -> Array | None:
    """The (B,) scales by which :func:`drop_path` would multiply the samples of ``like``; None for "all 1".

    For :func:`residual_layer_norm`, which folds the multiplication in. Same draw as ``drop_path(like, p)``.

    Args:
        like: (B, ...).
        p: in [0, 1).
        training: False returns None.
        generator: where the draw comes from (default: the default generator).

    Raises:
        ValueError: for another rate, or a ``like`` without a batch axis.
    """
    _check_rate("drop_path_keep", p)
    like = like if isinstance(like, Tensor) else Tensor(like)
    if not training or p == 0:
        return None
    if like.ndim == 0:
        raise ValueError("drop_path_keep: expected a batch axis; got a 0-d tensor.")
    seed, offset = (generator or random.default_generator).reserve(like.shape[0])
    return kernels.keep_scale(like.data, seed=seed, offset=offset, p=p)
