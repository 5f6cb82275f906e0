"""scikit-learn's handwritten digits, enlarged to 32x32: real images that need no download.

Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autograd import random as agr
from swinpy.data.dataset import ImageDataset, channel_stats
from swinpy.data.streams import DIGITS, stream_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["load_digits", "upsample4"]

_TEST = 360


def load_digits() -> tuple[ImageDataset, ImageDataset]:
    """The 1,797 digits as 1,437 to train on and 360 to test on, every class split in the same proportion.

    The split is one fixed Philox permutation, whatever seed a run has: a model is then never tested on images that it
    was trained on under another seed.

    Returns:
        (train, test), images uint8 ``(N, 3, 32, 32)`` with three equal channels.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load_from_sklearn
    except ImportError as error:
        raise ImportError(
            'digits: expected scikit-learn, which ships these images; got none. pip install "swinpy[data]"'
        ) from error
    bunch = load_from_sklearn()
    grey = upsample4(np.asarray(bunch.images, dtype=np.int64))
    images = np.repeat(grey[:, None], 3, axis=1)
    labels = np.asarray(bunch.target, dtype=np.int64)

    test, train = np.split(_stratified_order(labels), [_TEST])
    mean, std = channel_stats(images[train])
    names = tuple(str(digit) for digit in range(10))
    train_set, test_set = (
        ImageDataset("digits", images[part], labels[part], names, False, "sklearn.datasets.load_digits", mean, std)
        for part in (train, test)
    )
    return train_set, test_set


def _stratified_order(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """An order of all samples, every beginning of which holds each class in its proportion (within one image)."""
    shuffled = agr.permutation(0, 0, len(labels), stream=stream_of(DIGITS))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order: NDArray[np.int64] = shuffled[np.argsort(place[shuffled], kind="stable")]
    return order


def upsample4(images: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Enlarge ``(N, H, W)`` with values 0..16 four times, bilinear between pixel centres, to uint8 ``(N, 4H, 4W)``.

    All weights are eighths, so the sums are exact integers; 16 becomes 255, halves round up.
    """
    rows, columns = _weights(images.shape[1]), _weights(images.shape[2])
    sums = rows @ images @ columns.T  # in 64ths
    return ((sums * 255 + 512) // 1024).astype(np.uint8)


def _weights(n: int) -> NDArray[np.int64]:
    """``(4n, n)`` weights in eighths: output k lies at ``(k + 0.5) / 4 - 0.5``, and the edges repeat."""
    matrix = np.zeros((4 * n, n), dtype=np.int64)
    eighths = 2 * np.arange(4 * n) - 3
    below, share = eighths // 8, eighths % 8
    np.add.at(matrix, (np.arange(4 * n), np.clip(below, 0, n - 1)), 8 - share)
    np.add.at(matrix, (np.arange(4 * n), np.clip(below + 1, 0, n - 1)), share)
    return matrix
