"""The MLP, compiled: both products and the GELU between them on one block of rows after another, while the hidden rows
are in the cache.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.blocks import sum_rows
from autograd.kernels.buffers import empty
from autograd.kernels.compiled.gemm import even_block, is_tall, multiply_rows, pack, tile_pieces
from autograd.kernels.compiled.narrow import is_narrow, mlp_backward, mlp_forward, output_bias_gradient
from autograd.kernels.compiled.outer import add_outer, gradient, make_partials, most_pieces, scratch_size
from autograd.kernels.compiled.pieces import add_up, run_pieces
from autograd.kernels.compiled.toolkit import jit, plain, rows_of
from autograd.kernels.gelu.cpu import activate, bias_gelu_bwd, bias_gelu_fwd, differentiate
from autograd.kernels.product import product

__all__ = ["mlp_bwd", "mlp_fwd"]

_PIECES = 16  # of a forward pass, at most: a fixed number, so that the bits do not depend on the threads


@jit
def _forward(
    x: Any, first: Any, hidden: Any, b1: Any, second: Any, b2: Any, out: Any, zeros: Any, _: int, start: int, stop: int
) -> None:
    """Rows [start, stop) of ``out``, and of ``hidden`` unless it is empty; first and second are the packed weights."""
    kept = len(hidden) > 0
    block = even_block(stop - start)
    scratch = np.empty((block, b1.size), x.dtype)
    for top in range(start, stop, block):
        bottom = min(top + block, stop)
        rows = bottom - top
        multiply_rows(x[top:bottom], first, zeros, scratch, 0, rows)
        if kept:
            hidden[top:bottom] = scratch[:rows]
        activate(scratch[:rows], b1)
        multiply_rows(scratch, second, b2, out[top:bottom], 0, rows)


@jit
def _backward(
    g: Any, x: Any, hidden: Any, second: Any, b1: Any, first: Any, zeros: Any, gx: Any, biases1: Any, weights1: Any,
    weights2: Any, number: int, start: int, stop: int
) -> None:  # fmt: skip
    """Gradients of rows [start, stop): gx, and partial sums for b1, w1 (x^T ghidden) and w2 (g^T activated). Of these,
    gx and weights that are empty are left out."""
    width, inputs, outputs = hidden.shape[1], x.shape[1], g.shape[1]
    gb1, gw1, gw2 = biases1[number], weights1[number], weights2[number]
    block = even_block(stop - start)
    activated, ghidden = np.empty((block, width), g.dtype), np.empty((block, width), g.dtype)
    left, right = (
        np.empty(scratch_size(block, max(inputs, outputs)), g.dtype),
        np.empty(scratch_size(block, width), g.dtype),
    )
    block_sum = np.empty_like(gb1)
    gb1[:] = 0
    gw1[:] = 0
    gw2[:] = 0
    for top in range(start, stop, block):
        bottom = min(top + block, stop)
        rows = bottom - top
        multiply_rows(g[top:bottom], second, zeros, ghidden, 0, rows)
        differentiate(ghidden[:rows], hidden[top:bottom], b1, activated, block_sum)
        for j in range(width):
            gb1[j] += block_sum[j]
        if len(gx):
            multiply_rows(ghidden, first, zeros, gx[top:bottom], 0, rows)
        if gw1.size:
            add_outer(x, top, ghidden, 0, rows, left, right, gw1)
        if gw2.size:
            add_outer(g, top, activated, 0, rows, left, right, gw2)


def _is_fused(rows: int, w1: Any, w2: Any) -> bool:
    return is_tall(rows, w1) and is_tall(rows, w2)


def _zeros(w1: Any, w2: Any) -> Any:
    """A bias of zeros, long enough for any of the products."""
    return np.zeros(2 * max(*w1.shape, *w2.shape), w1.dtype)


def mlp_fwd(x: Any, w1: Any, b1: Any, w2: Any, b2: Any | None, keep_hidden: bool) -> tuple[Any, Any | None]:
    """By :mod:`~autograd.kernels.compiled.narrow` for few channels, in one pass by our own tiles if x is tall, else by
    BLAS."""
    rows, b1 = rows_of(x), plain(b1)
    n, width = len(rows), w1.shape[0]
    if is_narrow(n, w1) and is_narrow(n, w2):
        out, kept = mlp_forward(rows, w1, b1, w2, b2, keep_hidden)
        return out.reshape(*x.shape[:-1], len(w2)), kept
    if not _is_fused(n, w1, w2):
        hidden = product(rows, w1.T)
        out = product(bias_gelu_fwd(hidden, b1), w2.T, b2)
        return out.reshape(*x.shape[:-1], len(w2)), hidden if keep_hidden else None
    hidden = empty((n if keep_hidden else 0, width), x.dtype)
    out = empty((n, len(w2)), x.dtype)
    first, second, zeros = pack(plain(w1), True), pack(plain(w2), True, b2), _zeros(w1, w2)
    pieces = tile_pieces(n, w1.size + w2.size, _PIECES)
    run_pieces(_forward, pieces, rows, first.panels, hidden, b1, second.panels, second.bias, out, zeros)
    return out.reshape(*x.shape[:-1], len(w2)), hidden if keep_hidden else None


def mlp_bwd(g: Any, x: Any, hidden: Any, w1: Any, b1: Any, w2: Any, needs: tuple[bool, ...]) -> tuple[Any | None, ...]:
    """As :func:`mlp_fwd`; in one pass, the gradient of the hidden layer and the GELU are blocks and never whole
    arrays."""
    rows, g_rows, b1 = rows_of(x), rows_of(g), plain(b1)
    if is_narrow(len(rows), w1) and is_narrow(len(rows), w2):
        return _narrow_bwd(g_rows, x, hidden, (w1, b1, w2), needs)
    gb2 = sum_rows(g_rows, g.dtype) if needs[4] else None
    if not any(needs[:4]):
        return None, None, None, None, gb2
    run = _in_one_pass if _is_fused(len(rows), w1, w2) else _by_products
    gx, *others = run(g_rows, rows, plain(hidden), (w1, b1, w2), needs)
    return gx.reshape(x.shape) if needs[0] else None, *others, gb2


def _narrow_bwd(
    g: Any, x: Any, hidden: Any | None, parameters: tuple[Any, Any, Any], needs: tuple[bool, ...]
) -> tuple[Any | None, ...]:
    w1, b1, w2 = parameters
    if not any(needs[:4]):
        return None, None, None, None, output_bias_gradient(g, w1, w2) if needs[4] else None
    gx, *others = mlp_backward(g, rows_of(x), hidden, w1, b1, w2)
    grads = zip((gx.reshape(x.shape), *others), needs, strict=True)
    return tuple(grad if need else None for grad, need in grads)


def _by_products(
    g: Any, x: Any, hidden: Any, parameters: tuple[Any, Any, Any], needs: tuple[bool, ...]
) -> tuple[Any, ...]:
    """Gradients for x, w1, b1 and w2, by separate products and kernels."""
    w1, b1, w2 = parameters
    ghidden, gb1 = bias_gelu_bwd(product(g, w2), hidden, b1)
    return (
        product(ghidden, w1) if needs[0] else None,
        product(ghidden.T, x) if needs[1] else None,
        gb1 if needs[2] else None,
        product(g.T, bias_gelu_fwd(hidden, b1)) if needs[3] else None,
    )


def _in_one_pass(
    g: Any, x: Any, hidden: Any, parameters: tuple[Any, Any, Any], needs: tuple[bool, ...]
) -> tuple[Any, ...]:
    """The same gradients, in one pass over the rows."""
    w1, b1, w2 = parameters
    (n, width), inputs, outputs = hidden.shape, x.shape[1], g.shape[1]
    gx = empty((n if needs[0] else 0, inputs), g.dtype)
    pieces = tile_pieces(n, 2 * (w1.size + w2.size), most_pieces(n))
    weights1 = make_partials(len(pieces), inputs, width if needs[1] else 0, g.dtype)
    weights2 = make_partials(len(pieces), outputs, width if needs[3] else 0, g.dtype)
    biases1 = np.empty((len(pieces), width), g.dtype)
    second, first, zeros = pack(plain(w2), False), pack(plain(w1), False), _zeros(w1, w2)
    run_pieces(_backward, pieces, g, x, hidden, second.panels, b1, first.panels, zeros, gx, biases1, weights1, weights2)
    return (
        gx if needs[0] else None,
        gradient(weights1, inputs, width, True) if needs[1] else None,
        add_up(biases1) if needs[2] else None,
        gradient(weights2, outputs, width, False) if needs[3] else None,
    )
