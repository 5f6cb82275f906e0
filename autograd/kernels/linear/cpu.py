"""The linear layer, compiled: products of tall matrices by our own tiles, all gradients in one pass over the rows; what
is not tall, by BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.gemm import even_block, is_tall, multiply_rows, pack, product_rows, row_pieces
from autograd.kernels.compiled.narrow import is_narrow, linear_backward
from autograd.kernels.compiled.outer import add_outer, add_rows, gradient, piece_count, room, sums_of
from autograd.kernels.compiled.pieces import add_up, run_pieces
from autograd.kernels.compiled.toolkit import jit, plain
from autograd.kernels.linear import reference

__all__ = ["linear_bwd", "linear_fwd"]


def linear_fwd(x: Any, weight: Any, bias: Any | None) -> Any:
    if not is_tall(len(x), weight):
        return reference.linear_fwd.reference(x, weight, bias)
    return product_rows(plain(x), pack(plain(weight), True, bias))


def linear_bwd(g: Any, x: Any | None, weight: Any | None, needs: tuple[bool, ...]) -> tuple[Any, Any, Any]:
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
    g: Any, x: Any, panels: Any, zeros: Any, gx: Any, sums: Any, totals: Any, number: int, start: int, stop: int
) -> None:
    """All gradients of rows [start, stop); ``gx`` without rows is not wanted. The weight's is that of the wider matrix
    times the other: the wider one is arranged with less work."""
    inputs, outputs = x.shape[1], g.shape[1]
    total, gb = sums[number], totals[number]
    block = even_block(stop - start)
    a, b = np.empty(room(block, min(inputs, outputs)), x.dtype), np.empty(room(block, max(inputs, outputs)), x.dtype)
    total[:] = 0
    gb[:] = 0
    for top in range(start, stop, block):
        rows = min(block, stop - top)
        if len(gx):
            multiply_rows(g, panels, zeros, gx, top, top + rows)
        add_rows(g, top * outputs, outputs, rows, gb)
        if outputs >= inputs:
            add_outer(x, top, g, top, rows, a, b, total)
        else:
            add_outer(g, top, x, top, rows, a, b, total)


def _in_one_pass(g: Any, x: Any, weight: Any, needs: tuple[bool, ...]) -> tuple[Any, Any, Any]:
    (rows, outputs), inputs = g.shape, x.shape[1]
    left, right = sorted((inputs, outputs))
    gx = empty((rows if needs[0] else 0, inputs), x.dtype)
    cut = row_pieces(rows, 2 * weight.size, piece_count(rows))
    sums, totals = sums_of(len(cut), left, right, x.dtype), np.empty((len(cut), outputs), x.dtype)
    packed = pack(plain(weight), False)
    run_pieces(_backward, cut, g, x, packed.panels, packed.bias, gx, sums, totals)
    gw = gradient(sums, left, right, flipped=outputs >= inputs)
    return gx if needs[0] else None, gw, add_up(totals) if needs[2] else None
