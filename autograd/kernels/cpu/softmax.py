"""Softmax and cross-entropy over the last axis, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.cpu.toolkit import exp, jit, larger, pieces, plain, read, rows_of, run_pieces, write
from autograd.kernels.reference.cross_entropy import smoothed_targets

__all__ = ["cross_entropy_bwd", "cross_entropy_fwd", "softmax_bwd", "softmax_fwd"]


@jit
def _softmax(x: Any, mask: Any, out: Any, start: int, stop: int) -> None:
    """Rows may be short (49 scores), so nothing is done once a row but what must be: see ``read``."""
    zero, one, width, masked = x.dtype.type(0), x.dtype.type(1), x.shape[1], mask.size > 0
    for i in range(start, stop):
        at = i * width
        if masked:
            for j in range(at, at + width):
                write(out, j, read(x, j) + read(mask, j))
        else:
            for j in range(at, at + width):
                write(out, j, read(x, j))
        peak = read(out, at)
        for j in range(at, at + width):
            peak = larger(peak, read(out, j))
        if peak == -np.inf:  # nothing left to keep
            peak = zero
        total = zero
        for j in range(at, at + width):
            e = exp(read(out, j) - peak)
            write(out, j, e)
            total += e
        scale = one / total if total != zero else one
        for j in range(at, at + width):
            write(out, j, read(out, j) * scale)


@jit
def _softmax_backward(g: Any, y: Any, out: Any, start: int, stop: int) -> None:
    width = y.shape[1]
    for i in range(start, stop):
        at, total = i * width, y.dtype.type(0)
        for j in range(at, at + width):
            total += read(g, j) * read(y, j)
        for j in range(at, at + width):
            write(out, j, read(y, j) * (read(g, j) - total))


@jit
def _losses(logits: Any, soft: Any, losses: Any, log_probs: Any, start: int, stop: int) -> None:
    zero = logits.dtype.type(0)
    for i in range(start, stop):
        row, ti, oi = logits[i], soft[i], log_probs[i]
        peak = row[0]
        for j in range(row.size):
            peak = larger(peak, row[j])
        total = zero
        for j in range(row.size):
            total += exp(row[j] - peak)
        shift = np.log(total)
        loss = zero
        for j in range(row.size):
            z = row[j] - peak - shift
            oi[j] = z
            if ti[j] != zero:  # a class without probability adds nothing, also where z is -inf
                loss -= ti[j] * z
        losses[i] = loss


@jit
def _losses_backward(g: Any, log_probs: Any, soft: Any, out: Any, start: int, stop: int) -> None:
    for i in range(start, stop):
        zi, ti, oi, gi = log_probs[i], soft[i], out[i], g[i]
        total = log_probs.dtype.type(0)
        for j in range(zi.size):
            total += ti[j]
        for j in range(zi.size):
            oi[j] = gi * (exp(zi[j]) * total - ti[j])


def softmax_fwd(x: Any, mask: Any | None = None) -> Any:
    rows = rows_of(x)
    masks = np.empty((0, 0), x.dtype)
    if mask is not None:
        masks = rows_of(np.broadcast_to(mask, x.shape).astype(x.dtype, copy=False))
    out = empty(rows.shape, x.dtype)
    cut = pieces(len(rows), 2 * rows.shape[1] * x.itemsize)
    run_pieces(lambda _, a, b: _softmax(rows, masks, out, a, b), cut)
    return out.reshape(x.shape)


def softmax_bwd(g: Any, y: Any) -> Any:
    g_rows, rows = rows_of(g), rows_of(y)
    out = empty(rows.shape, y.dtype)
    cut = pieces(len(rows), 3 * rows.shape[1] * y.itemsize)
    run_pieces(lambda _, a, b: _softmax_backward(g_rows, rows, out, a, b), cut)
    return out.reshape(y.shape)


def cross_entropy_fwd(logits: Any, target: Any, smoothing: float) -> tuple[Any, Any]:
    rows = plain(logits)
    soft = plain(smoothed_targets(target, rows.shape[1], smoothing, rows.dtype))
    losses, log_probs = np.empty(len(rows), rows.dtype), np.empty(rows.shape, rows.dtype)
    cut = pieces(len(rows), 3 * rows.shape[1] * rows.itemsize)
    run_pieces(lambda _, a, b: _losses(rows, soft, losses, log_probs, a, b), cut)
    return losses, log_probs


def cross_entropy_bwd(g: Any, log_probs: Any, target: Any, smoothing: float) -> Any:
    rows, grads = plain(log_probs), plain(g)
    soft = plain(smoothed_targets(target, rows.shape[1], smoothing, rows.dtype))
    out = np.empty(rows.shape, rows.dtype)
    cut = pieces(len(rows), 3 * rows.shape[1] * rows.itemsize)
    run_pieces(lambda _, a, b: _losses_backward(grads, rows, soft, out, a, b), cut)
    return out
