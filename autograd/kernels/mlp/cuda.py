"""The MLP on a GPU: matrix products by CuPy (cuBLAS, float32 sums), everything else by our kernels.

Each twin has the contract of its namesake in reference.py; what is said here is how.

Products are of two dimensions: for more, CuPy would make float32 copies of 16-bit operands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.blocks import as_rows
from autograd.kernels.cuda import register_cuda
from autograd.kernels.cuda.checks import cuda_dtype, shapes
from autograd.kernels.cuda.column_sum import column_sums
from autograd.kernels.gelu.cuda import bias_gelu_both, bias_gelu_fwd
from autograd.kernels.linear.cuda import fits_layer
from autograd.kernels.mlp import reference
from autograd.kernels.product import product

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["mlp_bwd", "mlp_fwd"]


def _two_layers(w1: Array, w2: Array, b2: Array | None) -> str | None:
    if w2.ndim != 2 or w2.shape[1] != w1.shape[0]:
        return f"expected a second weight (O, {w1.shape[0]}); got {w2.shape}"
    return shapes(b2=(b2, w2.shape[:1]))


def _takes_mlp_fwd(x: Array, w1: Array, b1: Array, w2: Array, b2: Array | None, keep_hidden: bool) -> str | None:
    return cuda_dtype(x, w1, b1, w2, b2) or fits_layer(x, w1, b1) or _two_layers(w1, w2, b2)


@register_cuda(reference.mlp_fwd, _takes_mlp_fwd)
def mlp_fwd(
    x: Array, w1: Array, b1: Array, w2: Array, b2: Array | None, keep_hidden: bool
) -> tuple[Array, Array | None]:
    """Two products, and one kernel for bias and GELU between them."""
    hidden = product(as_rows(x), w1.T)
    out = product(bias_gelu_fwd(hidden, b1), w2.T, b2)
    return out.reshape(*x.shape[:-1], w2.shape[0]), hidden if keep_hidden else None


def _takes_mlp_bwd(
    g: Array, x: Array, hidden: Array, w1: Array, b1: Array, w2: Array, needs: tuple[bool, ...]
) -> str | None:
    rows = x.size // x.shape[-1] if x.ndim and x.shape[-1] else 0
    return (
        cuda_dtype(g, x, hidden, w1, b1, w2)
        or fits_layer(x, w1, b1)
        or _two_layers(w1, w2, None)
        or shapes(g=(g, (*x.shape[:-1], len(w2))), hidden=(hidden, (rows, len(w1))))
    )


@register_cuda(reference.mlp_bwd, _takes_mlp_bwd)
def mlp_bwd(
    g: Array, x: Array, hidden: Array, w1: Array, b1: Array, w2: Array, needs: tuple[bool, ...]
) -> tuple[Array | None, ...]:
    """Four products; one kernel computes the GELU, its gradient and the sums for b1."""
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
