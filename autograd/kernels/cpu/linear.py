"""The linear layer, compiled: products of tall matrices by our own tiles, weight gradients and others by BLAS; backward
of narrow ones in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.cpu.gemm import is_tall, multiply_rows, pack, product_rows
from autograd.kernels.cpu.narrow import is_narrow, linear_backward
from autograd.kernels.cpu.pieces import add_up, even_pieces
from autograd.kernels.cpu.toolkit import plain
from autograd.kernels.reference import linear as reference
from autograd.kernels.threads import map_pieces

__all__ = ["linear_bwd", "linear_fwd"]

_PIECES = 8  # of a backward pass; a fixed number, so that the bits do not depend on the threads


def linear_fwd(x: Any, weight: Any, bias: Any | None) -> Any:
    if not is_tall(len(x), weight):
        return reference.linear_fwd(x, weight, bias)
    return product_rows(plain(x), pack(plain(weight), True, bias))


def linear_bwd(g: Any, x: Any | None, weight: Any | None, needs: tuple[bool, ...]) -> tuple[Any, Any, Any]:
    if needs[1] and weight is not None and is_narrow(len(g), weight):
        gx, gw, gb = linear_backward(g, x, weight, needs[0])
        return gx, gw, gb if needs[2] else None
    if not (needs[0] and is_tall(len(g), weight)):
        return reference.linear_bwd(g, x, weight, needs)
    g, packed = plain(g), pack(plain(weight), False)
    if not needs[1]:
        return product_rows(g, packed), *reference.linear_bwd(g, None, None, (False, False, needs[2]))[1:]
    return _in_one_pass(g, plain(x), packed, needs[2])


def _in_one_pass(g: Any, x: Any, packed: Any, needs_bias: bool) -> tuple[Any, Any, Any]:
    """All gradients from one pass over the rows of g, while they are in the cache."""
    rows = len(g)
    count = _PIECES if rows >= _PIECES * max(g.shape[1], x.shape[1]) else _PIECES // 2
    cut, gx = even_pieces(rows, count).tolist(), empty(x.shape, x.dtype)
    gw = np.empty((count, g.shape[1], x.shape[1]), x.dtype)
    gb = np.empty((count, g.shape[1]), x.dtype)

    def piece(i: int) -> None:
        start, stop = cut[i]
        multiply_rows(g, packed.panels, packed.bias, gx, start, stop)
        np.matmul(g[start:stop].T, x[start:stop], out=gw[i])
        if needs_bias:
            np.sum(g[start:stop], axis=0, out=gb[i])

    map_pieces(piece, list(range(count)))
    return gx, add_up(gw), add_up(gb) if needs_bias else None
