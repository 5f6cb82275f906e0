"""Products: matmul, and the linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.backend import is_array
from autograd.deferred import with_bias
from autograd.kernels.blocks import as_rows
from autograd.kernels.linear import linear_bwd, linear_fwd
from autograd.kernels.product import product
from autograd.primitive import Ctx, Primitive
from autograd.shapes import unbroadcast

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import Tensor, TensorLike

__all__ = ["linear", "matmul"]


def _transposed(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def _fits(x: Any, y: Any) -> bool:
    """Whether ``x @ y`` is defined."""
    if not is_array(x) or not is_array(y) or x.ndim == 0 or y.ndim == 0:
        return False
    stacks = zip(x.shape[-3::-1], y.shape[-3::-1], strict=False)
    return x.shape[-1] == y.shape[-2 if y.ndim > 1 else 0] and all(n == m or 1 in (n, m) for n, m in stacks)


def _matmul_forward(ctx: Ctx, x: Array, y: Array) -> Array:
    if not _fits(x, y):
        found = " and ".join(str(a.shape) if is_array(a) else "a number" for a in (x, y))
        raise ValueError(f"matmul: expected (..., n, k) and (..., k, m); got {found}.")
    ctx.save(x, y)
    return product(x, y)


def _matmul_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None]:
    x, y = ctx.saved
    x2 = x[None, :] if x.ndim == 1 else x
    y2 = y[:, None] if y.ndim == 1 else y
    if x.ndim == 1:
        g = g[..., None, :] if y.ndim > 1 else g[None]
    if y.ndim == 1:
        g = g[..., None]
    gx = gy = None
    if ctx.needs[0]:
        gx = unbroadcast(product(g, _transposed(y2)), x2.shape).reshape(x.shape)
    if ctx.needs[1]:
        gy = unbroadcast(product(_transposed(x2), g), y2.shape).reshape(y.shape)
    return gx, gy


_matmul = Primitive("matmul", _matmul_forward, _matmul_vjp, autocast="low", fresh=True)


def matmul(x: TensorLike, y: TensorLike) -> Tensor:
    """Matrix product of the last two axes, broadcast over the others; 1-D operands as in NumPy. Saves both.

    Raises:
        ValueError: if the inner sizes differ.
        TypeError: for operands of different dtypes.
    """
    return _matmul(x, y)


def _linear_forward(ctx: Ctx, x: Array, weight: Array, bias: Array | None) -> Array:
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: expected x (..., {weight.shape[-1]}) for weight {weight.shape}; got x {x.shape}. "
            "The weight's shape is (out_features, in_features)."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: expected bias {weight.shape[:1]} for weight {weight.shape}; got {bias.shape}.")
    needs = ctx.needs
    ctx.save(x if needs[1] else None, weight if needs[0] else None)
    out = linear_fwd(as_rows(x), weight, bias)
    return out.reshape(*x.shape[:-1], weight.shape[0])


def _linear_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None, Array | None]:
    x, weight = ctx.saved
    gx, gw, gb = linear_bwd(as_rows(g), None if x is None else as_rows(x), weight, ctx.needs)
    return None if gx is None else gx.reshape(*g.shape[:-1], gx.shape[1]), gw, gb


_linear = Primitive("linear", _linear_forward, _linear_vjp, autocast="low", fresh=True)


def linear(x: TensorLike, weight: TensorLike, bias: TensorLike | None = None, defer_bias: bool = False) -> Tensor:
    """``x @ weight.T + bias`` as one 2-D product.

    Saves ``x`` (for the weight's gradient) and ``weight`` (for x's), by reference.

    Args:
        x: (..., in_features).
        weight: (out_features, in_features).
        bias: (out_features,) or None.
        defer_bias: for a result that goes to :func:`residual_layer_norm`, which may add the bias at less cost: where
            that holds, return a :class:`autograd.deferred.DeferredBias`. The values are the same.

    Returns:
        (..., out_features).

    Raises:
        ValueError: for shapes that do not fit.
        TypeError: for operands of different dtypes.
    """
    if defer_bias:
        return with_bias(lambda added: _linear(x, weight, added), x, bias)
    return _linear(x, weight, bias)
