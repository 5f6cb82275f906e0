"""The linear layer on a matrix of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.dtypes import accumulator
from autograd.kernels.blocks import sum_rows
from autograd.kernels.product import linear_gradients, product, worth_one_pass
from autograd.kernels.registry import Cost, kernel

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["linear_bwd", "linear_fwd"]


def _fwd_cost(x: Any, weight: Any, *_: Any) -> Cost:
    rows = x.size // max(1, weight.shape[1])
    return Cost(2 * rows * weight.size, (x.size + rows * weight.shape[0] + weight.size) * x.itemsize)


@kernel(_fwd_cost)
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


def _bwd_cost(g: Any, x: Any, weight: Any, needs: tuple[bool, ...]) -> Cost:
    inner = (x if weight is None else weight).shape[1] if x is not None or weight is not None else 0
    products = needs[0] + needs[1]
    numbers = g.size + products * (len(g) + g.shape[1]) * inner
    return Cost(2 * products * g.size * inner + needs[2] * g.size, numbers * g.itemsize)


@kernel(_bwd_cost)
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
