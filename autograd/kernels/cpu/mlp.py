"""The MLP by chunks of rows: both products and the GELU between them run while the hidden rows are in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.cpu.gelu import activate, bias_gelu_bwd, bias_gelu_fwd, differentiate
from autograd.kernels.cpu.toolkit import add_up, plain, rows_of, run_pieces
from autograd.kernels.reference.blocks import sum_rows
from autograd.kernels.reference.product import product

__all__ = ["mlp_bwd", "mlp_fwd"]

# Rows of a chunk, about. BLAS arranges the weights anew for every chunk, which takes as long as multiplying some tens
# of rows; the hidden rows of a larger one would leave the cache. Few rows in all make up to four chunks, for threads.
_CHUNK, _LEAST_CHUNK, _FEW = 384, 96, 4
_LEAST_ROWS = _FEW * _LEAST_CHUNK  # below, whole products, cut by columns, are faster


def _chunks(rows: int) -> list[tuple[int, int]]:
    count = max(rows // _CHUNK, min(_FEW, rows // _LEAST_CHUNK))
    return [(rows * i // count, rows * (i + 1) // count) for i in range(count)]


def mlp_fwd(x: Any, w1: Any, b1: Any, w2: Any, b2: Any, keep_hidden: bool) -> tuple[Any, Any | None]:
    rows, b1, b2 = rows_of(x), plain(b1), plain(b2)
    n, width = len(rows), w1.shape[0]
    hidden = empty((n, width), x.dtype) if keep_hidden else None
    if n < _LEAST_ROWS:
        hidden = product(rows, w1.T)
        out = product(bias_gelu_fwd(hidden, b1), w2.T, b2)
        return out.reshape(*x.shape[:-1], len(w2)), hidden if keep_hidden else None
    out = empty((n, len(w2)), x.dtype)

    def piece(_: int, a: int, b: int) -> None:
        u = np.matmul(rows[a:b], w1.T) if hidden is None else np.matmul(rows[a:b], w1.T, out=hidden[a:b])
        if hidden is not None:
            u = u.copy()
        activate(u, b1)
        np.matmul(u, w2.T, out=out[a:b])
        out[a:b] += b2

    run_pieces(piece, _chunks(n))
    return out.reshape(*x.shape[:-1], len(w2)), hidden


def mlp_bwd(g: Any, x: Any, hidden: Any, w1: Any, b1: Any, w2: Any, needs: tuple[bool, ...]) -> tuple[Any | None, ...]:
    rows, g_rows, b1 = rows_of(x), rows_of(g), plain(b1)
    gb2 = sum_rows(g_rows, g.dtype) if needs[4] else None
    if not any(needs[:4]):
        return None, None, None, None, gb2
    hidden = plain(hidden)
    activated, gx, gb1 = _through(g_rows, rows, hidden, w1, b1, w2)
    ghidden = activated[1]
    return (
        gx.reshape(x.shape) if needs[0] else None,
        product(ghidden.T, rows) if needs[1] else None,
        gb1 if needs[2] else None,
        product(g_rows.T, activated[0]) if needs[3] else None,
        gb2,
    )


def _through(g: Any, x: Any, hidden: Any, w1: Any, b1: Any, w2: Any) -> tuple[tuple[Any, Any], Any, Any]:
    """(gelu(hidden + b1), its input's gradient), the gradients of x and of b1."""
    n, width = hidden.shape
    if n < _LEAST_ROWS:
        ghidden, gb1 = bias_gelu_bwd(product(g, w2), hidden, b1)
        return (bias_gelu_fwd(hidden, b1), ghidden), product(ghidden, w1), gb1
    activated, ghidden = empty((n, width), x.dtype), empty((n, width), x.dtype)
    gx = empty(x.shape, x.dtype)
    cut = _chunks(n)
    sums = np.empty((len(cut), width), x.dtype)

    def piece(i: int, a: int, b: int) -> None:
        du = np.matmul(g[a:b], w2, out=ghidden[a:b])
        differentiate(du, hidden[a:b], b1, activated[a:b], sums[i])
        np.matmul(du, w1, out=gx[a:b])

    run_pieces(piece, cut)
    return (activated, ghidden), gx, add_up(sums)
