"""Linear layers on a GPU: matrix products by CuPy (cuBLAS, float32 sums), everything else by our kernels.

Each twin has the contract of its namesake in reference.py; what is said here is how.

Products are of two dimensions: for more, CuPy would make float32 copies of 16-bit operands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.blocks import as_rows
from autograd.kernels.cuda import register_cuda
from autograd.kernels.cuda.checks import cuda_dtype, shapes
from autograd.kernels.cuda.column_sum import column_sums
from autograd.kernels.linear import reference
from autograd.kernels.product import product

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["fits_layer", "linear_bwd", "linear_fwd"]


def fits_layer(x: Array, weight: Array, bias: Array | None) -> str | None:
    """None if x, a weight (O, C) and its bias belong together, else why not."""
    if not x.ndim or weight.ndim != 2 or weight.shape[1] != x.shape[-1]:
        return f"expected a weight (O, {x.shape[-1] if x.ndim else 'C'}) for x {x.shape}; got {weight.shape}"
    return shapes(bias=(bias, weight.shape[:1]))


def _takes_linear_fwd(x: Array, weight: Array, bias: Array | None) -> str | None:
    return cuda_dtype(x, weight, bias) or fits_layer(x, weight, bias)


@register_cuda(reference.linear_fwd, _takes_linear_fwd)
def linear_fwd(x: Array, weight: Array, bias: Array | None) -> Array:
    """One product, then the bias."""
    return product(as_rows(x), weight.T, bias).reshape(*x.shape[:-1], weight.shape[0])


def _takes_linear_bwd(g: Array, x: Array | None, weight: Array | None, needs: tuple[bool, ...]) -> str | None:
    if x is not None and g.shape[:-1] != x.shape[:-1]:
        return f"expected g (..., O) for x {x.shape}; got {g.shape}"
    return cuda_dtype(g, x, weight)


@register_cuda(reference.linear_bwd, _takes_linear_bwd)
def linear_bwd(
    g: Array, x: Array, weight: Array, needs: tuple[bool, ...]
) -> tuple[Array | None, Array | None, Array | None]:
    """A product for x, one for the weight, a sum over columns for the bias."""
    rows = as_rows(g)
    gx = gw = gb = None
    if needs[0]:
        gx = product(rows, weight).reshape(*g.shape[:-1], weight.shape[1])
    if needs[1]:
        gw = product(rows.T, as_rows(x))
    if needs[2]:
        gb = column_sums(rows, 1, g.dtype)[0]
    return gx, gw, gb
