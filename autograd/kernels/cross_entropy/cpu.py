"""Cross-entropy, compiled: each row is finished while it lies in the cache.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import row_pieces, run_pieces
from autograd.kernels.compiled.toolkit import difference, exp, jit, larger, plain, read, write

__all__ = ["cross_entropy_bwd", "cross_entropy_fwd"]

# Label smoothing replaces a target, a label's 1 or probabilities, by kept * target + spread.


@jit
def _place(label: Any, classes: int, kept: Any) -> Any:
    """The place of a label in its row, and ``kept``; if it is no class, place 0 and NaN, as in the reference."""
    if 0 <= label < classes:
        return label, kept
    return 0, kept * np.nan


@jit
def _losses(
    logits: Any,
    labels: Any,  # empty where there are probabilities
    soft: Any,  # empty where there are labels
    kept: Any,
    spread: Any,
    losses: Any,
    log_probs: Any,
    _: int,
    start: int,
    stop: int,
) -> None:
    zero, classes = logits.dtype.type(0), logits.shape[1]
    for i in range(start, stop):
        at = i * classes
        peak = read(logits, at)
        for j in range(at, at + classes):
            peak = larger(peak, read(logits, j))
        total = zero
        for j in range(at, at + classes):
            total += exp(read(logits, j) - peak)
        shift = np.log(total)
        for j in range(at, at + classes):
            write(log_probs, j, difference(difference(read(logits, j), peak), shift))
        loss = zero
        if labels.size == 0 or spread != zero:
            for j in range(at, at + classes):
                t = spread if labels.size else kept * read(soft, j) + spread
                if t != zero:  # a class without probability adds nothing, also where its log-probability is -inf
                    loss -= t * read(log_probs, j)
        if labels.size:
            label, on_label = _place(labels[i], classes, kept)
            if on_label != zero:
                loss -= on_label * read(log_probs, at + label)
        losses[i] = loss


@jit
def _losses_backward(
    g: Any, log_probs: Any, labels: Any, soft: Any, kept: Any, spread: Any, out: Any, _: int, start: int, stop: int
) -> None:
    classes = log_probs.shape[1]
    all_spread = spread * log_probs.dtype.type(classes)
    for i in range(start, stop):
        at, gi = i * classes, g[i]
        if labels.size:
            label, on_label = _place(labels[i], classes, kept)
            total = on_label + all_spread
            for j in range(at, at + classes):
                write(out, j, gi * (exp(read(log_probs, j)) * total - spread))
            write(out, at + label, gi * (exp(read(log_probs, at + label)) * total - (on_label + spread)))
        else:
            total = all_spread
            for j in range(at, at + classes):
                total += kept * read(soft, j)
            for j in range(at, at + classes):
                write(out, j, gi * (exp(read(log_probs, j)) * total - (kept * read(soft, j) + spread)))


def _target(target: Any, smoothing: float, classes: int, dtype: Any) -> tuple[Any, Any, Any, Any]:
    """Labels (empty if there are none), probabilities (likewise), and the numbers of label smoothing: kept, spread."""
    labels, soft = np.empty(0, np.int64), np.empty((0, classes), dtype)
    if target.ndim == 1:
        labels = plain(target.astype(np.int64, copy=False))
    else:
        soft = plain(target.astype(dtype, copy=False))
    return labels, soft, dtype.type(1 - smoothing), dtype.type(smoothing / classes)


def cross_entropy_fwd(logits: Any, target: Any, smoothing: float) -> tuple[Any, Any]:
    """One pass. Labels are looked up: no array of smoothed targets is made."""
    rows = plain(logits)
    sides = _target(target, smoothing, rows.shape[1], rows.dtype)
    losses, log_probs = np.empty(len(rows), rows.dtype), empty(rows.shape, rows.dtype)
    pieces = row_pieces(len(rows), 3 * rows.shape[1] * rows.itemsize)
    run_pieces(_losses, pieces, rows, *sides, losses, log_probs)
    return losses, log_probs


def cross_entropy_bwd(g: Any, log_probs: Any, target: Any, smoothing: float) -> Any:
    """One pass from log-probabilities to gradients."""
    rows, grads = plain(log_probs), plain(g)
    sides = _target(target, smoothing, rows.shape[1], rows.dtype)
    out = empty(rows.shape, rows.dtype)
    pieces = row_pieces(len(rows), 3 * rows.shape[1] * rows.itemsize)
    run_pieces(_losses_backward, pieces, grads, rows, *sides, out)
    return out
