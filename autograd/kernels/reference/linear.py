"""The linear layer on a matrix of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.dtypes import accumulator
from autograd.kernels.reference.blocks import sum_rows
from autograd.kernels.reference.product import linear_gradients, product, worth_one_pass

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["linear_bwd", "linear_fwd"]


def linear_fwd(x: Array, weight: Array, bias: Array | None) -> Array:
    """x weight^T + bias.

    Args:
        x: (rows, in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (rows, out).
    """
    return product(x, weight.T, bias)


def linear_bwd(
    g: Array, x: Array | None, weight: Array | None, needs: tuple[bool, ...]
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`linear_fwd` for x, weight and bias, each only where ``needs`` says so.

    Args:
        g: (rows, out), the gradient of the output.
        x: (rows, in); may be None if the weight's gradient is not needed.
        weight: (out, in); may be None if x's gradient is not needed.
        needs: of x, weight and bias.
    """
    if needs[0] and needs[1] and worth_one_pass(g, weight):
        gx, gw, gb = linear_gradients(g, x, weight)
        return gx, gw, gb if needs[2] else None
    gx = product(g, weight) if needs[0] else None
    gw = product(g.T, x) if needs[1] else None
    gb = sum_rows(g, accumulator(g.dtype)).astype(g.dtype, copy=False) if needs[2] else None
    return gx, gw, gb
