"""The MLP of a transformer block as one op."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.registry import call_kernel
from autograd.primitive import Ctx, Primitive

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import Tensor, TensorLike

__all__ = ["mlp"]


def _forward(ctx: Ctx, x: Array, w1: Array, b1: Array, w2: Array, b2: Array) -> Array:
    fits = x.ndim and w1.ndim == w2.ndim == 2 and x.shape[-1] == w1.shape[1] and w2.shape[1] == w1.shape[0]
    if not fits or b1.shape != w1.shape[:1] or b2.shape != w2.shape[:1]:
        raise ValueError(
            "mlp: expected x (..., C), w1 (H, C), b1 (H,), w2 (D, H) and b2 (D,); got "
            f"{x.shape}, {w1.shape}, {b1.shape}, {w2.shape} and {b2.shape}."
        )
    out, hidden = call_kernel("mlp_fwd", x, w1, b1, w2, b2, any(ctx.needs[:4]))
    ctx.save(x, hidden, w1, b1, w2)
    return out


_mlp = Primitive(
    "mlp",
    _forward,
    lambda ctx, g: call_kernel("mlp_bwd", g, *ctx.saved, ctx.needs),
    autocast="low",
    floats=True,
    fresh=True,
)


def mlp(x: TensorLike, w1: TensorLike, b1: TensorLike, w2: TensorLike, b2: TensorLike) -> Tensor:
    """``linear(bias_gelu(linear(x, w1), b1), w2, b2)``, keeping one hidden map instead of two.

    Saves ``x``, ``x @ w1.T`` (rows, H) and the parameters but for b2; the GELU is computed again in backward.

    Args:
        x: (..., C).
        w1: (H, C).
        b1: (H,).
        w2: (D, H).
        b2: (D,).

    Returns:
        (..., D).

    Raises:
        ValueError: for shapes that do not fit.
        TypeError: for operands of different dtypes.
    """
    return _mlp(x, w1, b1, w2, b2)  # type: ignore[no-any-return]
