"""The MLP of a transformer block as one op."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.deferred import with_bias
from autograd.kernels.blocks import as_rows
from autograd.kernels.mlp import mlp_bwd, mlp_fwd
from autograd.kernels.product import product
from autograd.primitive import Ctx, Primitive

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import Tensor, TensorLike

__all__ = ["mlp"]


def _forward(ctx: Ctx, x: Array, w1: Array, b1: Array, w2: Array, b2: Array | None, *, recompute: bool) -> Array:
    fits = x.ndim and w1.ndim == w2.ndim == 2 and x.shape[-1] == w1.shape[1] and w2.shape[1] == w1.shape[0]
    if not fits or b1.shape != w1.shape[:1] or (b2 is not None and b2.shape != w2.shape[:1]):
        raise ValueError(
            "mlp: expected x (..., C), w1 (H, C), b1 (H,), w2 (D, H) and b2 (D,); got "
            f"{x.shape}, {w1.shape}, {b1.shape}, {w2.shape} and {None if b2 is None else b2.shape}."
        )
    out, hidden = mlp_fwd(x, w1, b1, w2, b2, any(ctx.needs[:4]) and not recompute)
    ctx.save(x, hidden, w1, b1, w2)
    return out


def _vjp(ctx: Ctx, g: Array) -> tuple[Array | None, ...]:
    x, hidden, w1, b1, w2 = ctx.saved
    if hidden is None and any(ctx.needs[:4]):
        hidden = product(as_rows(x), w1.T)
    return mlp_bwd(g, x, hidden, w1, b1, w2, ctx.needs)


_mlp = Primitive("mlp", _forward, _vjp, autocast="low", floats=True, fresh=True)


def mlp(
    x: TensorLike,
    w1: TensorLike,
    b1: TensorLike,
    w2: TensorLike,
    b2: TensorLike | None,
    recompute: bool = False,
    defer_bias: bool = False,
) -> Tensor:
    """``linear(bias_gelu(linear(x, w1), b1), w2, b2)``, keeping one hidden map instead of two, or none.

    Saves ``x``, ``x @ w1.T`` (rows, H) unless it is to be recomputed, and the parameters but for b2; the GELU is
    computed again in backward.

    Args:
        x: (..., C).
        w1: (H, C).
        b1: (H,).
        w2: (D, H).
        b2: (D,), or None.
        recompute: compute ``x @ w1.T`` again in backward instead of keeping it.
        defer_bias: of b2, as in :func:`linear`.

    Returns:
        (..., D).

    Raises:
        ValueError: for shapes that do not fit.
        TypeError: for operands of different dtypes.
    """
    if defer_bias:
        return with_bias(lambda added: _mlp(x, w1, b1, w2, added, recompute=recompute), x, b2)
    return _mlp(x, w1, b1, w2, b2, recompute=recompute)
