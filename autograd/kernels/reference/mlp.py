"""The MLP of a transformer block, fc2(gelu(fc1(x))), which keeps one hidden map for backward instead of two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.dtypes import accumulator
from autograd.kernels.reference.blocks import as_rows, sum_rows
from autograd.kernels.reference.gelu import bias_gelu_bwd, bias_gelu_fwd
from autograd.kernels.reference.product import product

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["mlp_bwd", "mlp_fwd"]


def mlp_fwd(
    x: Array, w1: Array, b1: Array, w2: Array, b2: Array | None, keep_hidden: bool
) -> tuple[Array, Array | None]:
    """gelu(x w1^T + b1) w2^T + b2.

    Args:
        x: (..., C).
        w1: (H, C).
        b1: (H,).
        w2: (D, H).
        b2: (D,), or None for 0.
        keep_hidden: whether backward will follow.

    Returns:
        (..., D), and x w1^T (rows, H) or None.
    """
    hidden = product(as_rows(x), w1.T)
    out = product(bias_gelu_fwd(hidden, b1), w2.T, b2)
    return out.reshape(*x.shape[:-1], w2.shape[0]), hidden if keep_hidden else None


def mlp_bwd(
    g: Array, x: Array, hidden: Array, w1: Array, b1: Array, w2: Array, needs: tuple[bool, ...]
) -> tuple[Array | None, ...]:
    """Gradients of :func:`mlp_fwd` for x, w1, b1, w2 and b2, each only where ``needs`` says so.

    Args:
        g: (..., D), the gradient of the output.
        x: as in forward; likewise w1, b1 and w2.
        hidden: (rows, H), from forward; the GELU is computed again.
        w1: see x.
        b1: see x.
        w2: see x.
        needs: of x, w1, b1, w2, b2.
    """
    rows, g_rows = as_rows(x), as_rows(g)
    gx = gw1 = gb1 = gw2 = gb2 = None
    if needs[3]:
        gw2 = product(g_rows.T, bias_gelu_fwd(hidden, b1))
    if needs[4]:
        gb2 = sum_rows(g_rows, accumulator(g.dtype)).astype(g.dtype, copy=False)
    if any(needs[:3]):
        ghidden, gb1 = bias_gelu_bwd(product(g_rows, w2), hidden, b1)
        if needs[0]:
            gx = product(ghidden, w1).reshape(x.shape)
        if needs[1]:
            gw1 = product(ghidden.T, rows)
    return gx, gw1, gb1 if needs[2] else None, gw2, gb2
