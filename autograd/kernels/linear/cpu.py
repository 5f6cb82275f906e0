"""The linear layer, compiled: products of tall matrices by our own tiles, and all gradients in one pass over the rows.
Other matrices are left to BLAS.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.gemm import even_block, is_tall, multiply_rows, pack, product_rows, tile_pieces
from autograd.kernels.compiled.narrow import is_narrow, linear_backward
from autograd.kernels.compiled.outer import add_outer, add_rows, gradient, make_partials, most_pieces, scratch_size
from autograd.kernels.compiled.pieces import add_up, run_pieces
from autograd.kernels.compiled.toolkit import jit, plain
from autograd.kernels.linear import reference

__all__ = ["linear_bwd", "linear_fwd"]


def linear_fwd(x: Any, weight: Any, bias: Any | None) -> Any:
    """By :mod:`~autograd.kernels.compiled.gemm` if x is tall, else the reference."""
    if not is_tall(len(x), weight):
        return reference.linear_fwd.reference(x, weight, bias)
    return product_rows(plain(x), pack(plain(weight), True, bias))


def linear_bwd(g: Any, x: Any | None, weight: Any | None, needs: tuple[bool, ...]) -> tuple[Any, Any, Any]:
    """One pass for all gradients, by :mod:`~autograd.kernels.compiled.narrow` for few channels; if g is not tall, the
    reference."""
    if needs[1] and weight is not None and is_narrow(len(g), weight):
        gx, gw, gb = linear_backward(g, x, weight, needs[0])
        return gx, gw, gb if needs[2] else None
    if not any(needs[:2]) or weight is None or not is_tall(len(g), weight):
        return reference.linear_bwd.reference(g, x, weight, needs)
    g = plain(g)
    if needs[1]:
        return _in_one_pass(g, plain(x), weight, needs)
    gx = product_rows(g, pack(plain(weight), False))
    return gx, *reference.linear_bwd.reference(g, None, None, (False, False, needs[2]))[1:]


@jit
def _backward(
    g: Any, x: Any, panels: Any, zeros: Any, gx: Any, weights: Any, biases: Any, number: int, start: int, stop: int
) -> None:
    """Gradients of rows [start, stop): gx, unless it is empty, and the partial sums ``weights`` and ``biases``.

    The wider matrix is the right operand of the weight's gradient, because it takes less work to pack that one.
    """
    inputs, outputs = x.shape[1], g.shape[1]
    gw, gb = weights[number], biases[number]
    block = even_block(stop - start)
    a, b = (
        np.empty(scratch_size(block, min(inputs, outputs)), x.dtype),
        np.empty(scratch_size(block, max(inputs, outputs)), x.dtype),
    )
    gw[:] = 0
    gb[:] = 0
    for top in range(start, stop, block):
        rows = min(block, stop - top)
        if len(gx):
            multiply_rows(g, panels, zeros, gx, top, top + rows)
        add_rows(g, top * outputs, outputs, rows, gb)
        if outputs >= inputs:
            add_outer(x, top, g, top, rows, a, b, gw)
        else:
            add_outer(g, top, x, top, rows, a, b, gw)


def _in_one_pass(g: Any, x: Any, weight: Any, needs: tuple[bool, ...]) -> tuple[Any, Any, Any]:
    (rows, outputs), inputs = g.shape, x.shape[1]
    left, right = sorted((inputs, outputs))
    gx = empty((rows if needs[0] else 0, inputs), x.dtype)
    pieces = tile_pieces(rows, 2 * weight.size, most_pieces(rows))
    weights = make_partials(len(pieces), left, right, x.dtype)
    biases = np.empty((len(pieces), outputs), x.dtype)
    packed = pack(plain(weight), False)
    run_pieces(_backward, pieces, g, x, packed.panels, packed.bias, gx, weights, biases)
    gw = gradient(weights, left, right, flipped=outputs >= inputs)
    return gx if needs[0] else None, gw, add_up(biases) if needs[2] else None
