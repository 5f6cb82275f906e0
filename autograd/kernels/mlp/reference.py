"""The MLP of a transformer block, fc2(gelu(fc1(x))), which keeps one hidden map for backward instead of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.dtypes import accumulator
from autograd.kernels.blocks import as_rows, sum_rows
from autograd.kernels.gelu.reference import bias_gelu_bwd, bias_gelu_fwd
from autograd.kernels.product import product
from autograd.kernels.registry import Cost, kernel

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["mlp_bwd", "mlp_fwd"]


def _cost(x: Any, w1: Any, w2: Any, passes: int) -> Cost:
    """Both products ``passes`` times; each map, the hidden one included, is read or written once per pass."""
    rows = x.size // max(1, x.shape[-1])
    products = 2 * rows * (w1.size + w2.size)
    maps = rows * (w1.shape[1] + w2.shape[0] + w1.shape[0])
    return Cost(passes * products, passes * (maps + w1.size + w2.size) * x.itemsize)


@kernel(lambda x, w1, b1, w2, *_: _cost(x, w1, w2, 1))
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
    out = product(bias_gelu_fwd.reference(hidden, b1), w2.T, b2)
    return out.reshape(*x.shape[:-1], w2.shape[0]), hidden if keep_hidden else None


@kernel(lambda g, x, hidden, w1, b1, w2, needs: _cost(g, w1, w2, 2))
def mlp_bwd(
    g: Array, x: Array, hidden: Array, w1: Array, b1: Array, w2: Array, needs: tuple[bool, ...]
) -> tuple[Array | None, ...]:
    """Gradients of :func:`mlp_fwd` for x, w1, b1, w2 and b2, each only where ``needs`` says so.

    Args:
        g: (..., D), the gradient of the output.
        x: as in forward.
        hidden: (rows, H), from forward; the GELU is computed again.
        w1: as in forward.
        b1: as in forward.
        w2: as in forward.
        needs: of x, w1, b1, w2, b2.
    """
    rows, g_rows = as_rows(x), as_rows(g)
    gx = gw1 = gb1 = gw2 = gb2 = None
    if needs[3]:
        gw2 = product(g_rows.T, bias_gelu_fwd.reference(hidden, b1))
    if needs[4]:
        gb2 = sum_rows(g_rows, accumulator(g.dtype)).astype(g.dtype, copy=False)
    if any(needs[:3]):
        ghidden, gb1 = bias_gelu_bwd.reference(product(g_rows, w2), hidden, b1)
        if needs[0]:
            gx = product(ghidden, w1).reshape(x.shape)
        if needs[1]:
            gw1 = product(ghidden.T, rows)
    return gx, gw1, gb1 if needs[2] else None, gw2, gb2
