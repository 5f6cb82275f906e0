"""Linear layers and MLPs on a GPU: products of matrices by CuPy (cuBLAS, float32 sums), all else by our kernels.

Only products of two dimensions go to cuBLAS as they are: of more, CuPy makes float32 copies of 16-bit operands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.cuda.column_sum import column_sums
from autograd.kernels.cuda.gelu import bias_gelu_both, bias_gelu_fwd
from autograd.kernels.reference.blocks import as_rows
from autograd.kernels.reference.product import product

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["linear_bwd", "linear_fwd", "mlp_bwd", "mlp_fwd"]


def linear_fwd(x: Array, weight: Array, bias: Array | None) -> Array:
    return product(as_rows(x), weight.T, bias).reshape(*x.shape[:-1], weight.shape[0])


def linear_bwd(
    g: Array, x: Array, weight: Array, needs: tuple[bool, ...]
) -> tuple[Array | None, Array | None, Array | None]:
    rows = as_rows(g)
    gx = gw = gb = None
    if needs[0]:
        gx = product(rows, weight).reshape(*g.shape[:-1], weight.shape[1])
    if needs[1]:
        gw = product(rows.T, as_rows(x))
    if needs[2]:
        gb = column_sums(rows, 1, g.dtype)[0]
    return gx, gw, gb


def mlp_fwd(
    x: Array, w1: Array, b1: Array, w2: Array, b2: Array | None, keep_hidden: bool
) -> tuple[Array, Array | None]:
    hidden = product(as_rows(x), w1.T)
    out = product(bias_gelu_fwd(hidden, b1), w2.T, b2)
    return out.reshape(*x.shape[:-1], w2.shape[0]), hidden if keep_hidden else None


def mlp_bwd(
    g: Array, x: Array, hidden: Array, w1: Array, b1: Array, w2: Array, needs: tuple[bool, ...]
) -> tuple[Array | None, ...]:
    rows, g_rows = as_rows(x), as_rows(g)
    gx = gw1 = gb1 = gw2 = gb2 = None
    if any(needs[:3]):
        ghidden, gb1, activated = bias_gelu_both(product(g_rows, w2), hidden, b1, keep=needs[3])
        if needs[0]:
            gx = product(ghidden, w1).reshape(x.shape)
        if needs[1]:
            gw1 = product(ghidden.T, rows)
    elif needs[3]:
        activated = bias_gelu_fwd(hidden, b1)
    if needs[3]:
        gw2 = product(g_rows.T, activated)
    if needs[4]:
        gb2 = column_sums(g_rows, 1, g.dtype)[0]
    return gx, gw1, gb1 if needs[2] else None, gw2, gb2
