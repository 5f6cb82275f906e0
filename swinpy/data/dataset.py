"""What a dataset is here: images, labels, the names of the classes and where they came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from swinpy.data.subset import stratified
from swinpy.preparation import Preparation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ImageDataset", "ImageReader", "channel_stats"]


class ImageReader(Protocol):
    """Images in files, which stand where an array uint8 ``(N, 3, H, W)`` may stand."""

    @property
    def ndim(self) -> int:
        """Number of axes: 4."""

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Of the pixels: uint8."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 3, H, W)."""

    @property
    def preparation(self) -> Preparation:
        """How a file becomes one of the images."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | NDArray[np.int64]) -> NDArray[np.uint8]: ...

    def take(self, indices: NDArray[np.int64]) -> ImageReader:
        """A reader of these images alone, in this order."""
        ...

    def at_epoch(self, indices: NDArray[np.int64], epoch: int) -> NDArray[np.uint8]:
        """The images ``(B, 3, H, W)`` of an epoch."""
        ...


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A labelled set of images of one size.

    Attributes:
        name: what the user asked for, e.g. "cifar10".
        images: uint8 ``(N, 3, H, W)``, in memory or read from files as they are asked for.
        labels: int64 ``(N,)``, each in ``[0, num_classes)``.
        class_names: one name a class.
        synthetic: True where no camera took the pictures; whoever reports a result on the set must say so.
        source: the file or folder that was read, for the log.
        mean: per channel, of pixels scaled to [0, 1].
        std: per channel, of pixels scaled to [0, 1].
        identity: of the list of files, where users make it up, and of a subset; a run resumes on the same one only.
        notes: what was left out in loading or drawn from the whole, a line each, for the log.

    Raises:
        ValueError: an array of another shape or dtype, a label without a class, an unusable mean or std.
    """

    name: str
    images: NDArray[np.uint8] | ImageReader
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    synthetic: bool
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    identity: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"ImageDataset {self.name!r}: expected images as uint8 (N, 3, H, W); got {images.dtype} "
                f"{images.shape}. Transpose to channels first and scale to 0..255."
            )
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"ImageDataset {self.name!r}: expected labels as int64 ({len(images)},); got {labels.dtype} "
                f"{labels.shape}. Give one class number an image, labels.astype(np.int64)."
            )
        if not len(images):
            raise ValueError(f"ImageDataset {self.name!r}: expected at least one image; got none. Check the source.")
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise ValueError(
                f"ImageDataset {self.name!r}: expected labels in [0, {len(self.class_names)}); got "
                f"{labels.min()}..{labels.max()}. Name every class in class_names, and count classes from 0."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise ValueError(
                f"ImageDataset {self.name!r}: expected three means and three positive stds; got {self.mean} and "
                f"{self.std}. channel_stats(images) computes them."
            )

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def preparation(self) -> Preparation:
        """How an image file becomes what a model is evaluated on; one of the images' own size is not resized."""
        images = self.images
        if isinstance(images, np.ndarray):
            height, width = (int(side) for side in images.shape[2:])
            return Preparation((height, width), None, "bicubic", self.mean, self.std)
        return replace(images.preparation, mean=self.mean, std=self.std)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: NDArray[np.int64], epoch: int) -> NDArray[np.uint8]:
        """Images ``(B, 3, H, W)`` by their numbers, as an epoch has them (random crops of files differ by epoch).

        Raises:
            BadImage: for files that cannot be read, all named.
        """
        images = self.images
        return images[indices] if isinstance(images, np.ndarray) else images.at_epoch(indices, epoch)

    def take(self, indices: NDArray[np.int64]) -> ImageDataset:
        """The images of these numbers, in this order."""
        images = self.images
        chosen = images[indices] if isinstance(images, np.ndarray) else images.take(indices)
        listing = self.identity + "\n" + ",".join(map(str, indices.tolist()))
        identity = hashlib.sha256(listing.encode()).hexdigest()
        return replace(self, images=chosen, labels=self.labels[indices], identity=identity)

    def subset(self, n: int, seed: int = 0) -> ImageDataset:
        """``n`` images drawn by a seed, each class in its proportion (see :mod:`swinpy.data.subset`), in their order.

        Raises:
            ValueError: for an ``n`` below 1 or above the number of images.
        """
        if not 1 <= n <= len(self):
            raise ValueError(
                f"ImageDataset.subset: expected 1 <= n <= {len(self)}; got {n}. Ask for no more images than there are."
            )
        part = self.take(stratified(self.labels, n, seed))
        shares = np.bincount(part.labels)
        shares = shares[shares > 0]
        there = f"{shares.min()} to {shares.max()}" if shares.min() < shares.max() else f"{shares.min()}"
        note = f"{n} of {len(self)} images drawn by seed {seed}: {there} of each of {len(shares)} classes"
        rest = len(np.unique(self.labels)) - len(shares)
        return replace(part, notes=(*self.notes, note + (f", none of {rest}" if rest else "")))


def channel_stats(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 ``(N, 3, H, W)``, pixels scaled to [0, 1].

    Counted from histograms, so that the sums are exact integers and the result is the same on every machine.
    """
    values = np.arange(256, dtype=np.int64)
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].reshape(-1), minlength=256)
        total, first, second = int(counts.sum()), int(counts @ values), int(counts @ (values * values))
        means.append(first / total / 255)
        stds.append(float(np.sqrt((total * second - first * first) / total**2)) / 255)
    return tuple(means), tuple(stds)
