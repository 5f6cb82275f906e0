"""Dropout and DropPath by the counter-based generator: the mask is drawn again in backward, never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd import random
from autograd.backend import array_module
from autograd.dtypes import as_float
from autograd.primitive import Ctx, Primitive
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import TensorLike

__all__ = [
    "drop_path",
    "drop_path_keep",
    "dropout",
]


def _check_rate(op: str, p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"{op}: expected a rate in [0, 1); got {p}.")


def _dropout_mask(ctx: Ctx, like: Array) -> Array:
    seed, offset, p, shape = ctx.draw
    xp = array_module(like)
    keep = random.keep_mask(seed, offset, shape, p, xp=xp)
    return (keep / (1 - p)).astype(like.dtype).reshape(shape + (1,) * (like.ndim - len(shape)))


def _dropout_forward(ctx: Ctx, x: Array, *, seed: int, offset: int, p: float, shape: tuple[int, ...]) -> Array:
    ctx.draw = (seed, offset, p, shape)
    return x * _dropout_mask(ctx, x)


def _dropout_vjp(ctx: Ctx, g: Array) -> Array:
    return g * _dropout_mask(ctx, g)


_dropout = Primitive("dropout", _dropout_forward, _dropout_vjp, floats=True, fresh=True)
_drop_path = Primitive("drop_path", _dropout_forward, _dropout_vjp, floats=True, fresh=True)


def dropout(x: TensorLike, p: float = 0.5, training: bool = True, generator: random.Generator | None = None) -> Tensor:
    """Zero each element with probability ``p`` and scale the others by 1 / (1 - p). Saves only (seed, offset).

    Args:
        x: any shape.
        p: in [0, 1).
        training: False returns ``x``.
        generator: where the draw comes from (default: the default generator).
    """
    _check_rate("dropout", p)
    x = x if isinstance(x, Tensor) else Tensor(x)
    if not training or p == 0:
        return x
    seed, offset = (generator or random.default_generator).reserve(x.size)
    return _dropout(x, seed=seed, offset=offset, p=p, shape=x.shape)  # type: ignore[no-any-return]


def drop_path(
    x: TensorLike, p: float = 0.0, training: bool = True, generator: random.Generator | None = None
) -> Tensor:
    """Zero whole samples (the first axis) with probability ``p``, scale the others by 1 / (1 - p).

    Saves only (seed, offset).

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth".
    """
    _check_rate("drop_path", p)
    x = x if isinstance(x, Tensor) else Tensor(x)
    if not training or p == 0:
        return x
    if x.ndim == 0:
        raise ValueError("drop_path: expected a batch axis; got a 0-d tensor.")
    seed, offset = (generator or random.default_generator).reserve(x.shape[0])
    return _drop_path(x, seed=seed, offset=offset, p=p, shape=x.shape[:1])  # type: ignore[no-any-return]


def drop_path_keep(
    like: Tensor, p: float, training: bool = True, generator: random.Generator | None = None
) -> Array | None:
    """The (B,) scales by which :func:`drop_path` would multiply the samples of ``like``; None for "all 1".

    For :func:`residual_layer_norm`, which folds the multiplication in. Same draw as ``drop_path(like, p)``.
    """
    _check_rate("drop_path_keep", p)
    if not training or p == 0:
        return None
    if like.ndim == 0:
        raise ValueError("drop_path_keep: expected a batch axis; got a 0-d tensor.")
    batch = like.shape[0]
    seed, offset = (generator or random.default_generator).reserve(batch)
    keep = random.keep_mask(seed, offset, batch, p, xp=array_module(like.data))
    return (keep / (1 - p)).astype(as_float(like.dtype))
