"""A part of a dataset with the classes of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autograd import random as agr
from swinpy.data.streams import SUBSET, stream_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["class_shares", "stratified"]


def class_shares(sizes: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """How many of ``n`` images each class gives: in proportion to its size, by the largest remainder.

    Where ``n`` reaches the number of classes that have images, each of these gives one at least; what that takes is
    given up where the share is furthest above proportion. The seed decides between equals.
    """
    total = int(sizes.sum())
    ranks = np.empty(len(sizes), np.int64)  # of the classes, where remainders are equal
    ranks[agr.permutation(seed, 0, len(sizes), stream=stream_of(SUBSET, 1))] = np.arange(len(sizes))
    shares, remainders = np.divmod(n * sizes, total)
    shares[np.lexsort((ranks, -remainders))[: n - int(shares.sum())]] += 1
    if n < np.count_nonzero(sizes):
        return shares
    for label in np.flatnonzero((shares == 0) & (sizes > 0)):
        missing = n * sizes - shares * total  # of proportion
        missing[shares <= 1] = np.iinfo(np.int64).max  # they have none to give
        shares[np.lexsort((ranks, missing))[0]] -= 1
        shares[label] = 1
    return shares


def stratified(labels: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Which ``n`` of the samples are drawn, int64 in ascending order; see :func:`class_shares` for how many a class.

    A class gives the first of its images in a Philox permutation of ``seed``: another ``n`` draws of the same row.
    """
    shares = class_shares(np.bincount(labels).astype(np.int64), n, seed)
    shuffled = agr.permutation(seed, 0, len(labels), stream=stream_of(SUBSET))
    row = shuffled[np.argsort(labels[shuffled], kind="stable")]  # class by class
    starts = np.searchsorted(labels[row], np.arange(len(shares)))
    drawn = [row[start : start + share] for start, share in zip(starts, shares, strict=True)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)
