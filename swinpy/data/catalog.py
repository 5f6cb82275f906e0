"""Datasets by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinpy.data.cifar.layouts import CIFAR10, CIFAR100, load_cifar
from swinpy.data.digits import load_digits
from swinpy.data.folder.scan import FolderOptions, load_folder
from swinpy.data.scenes.files import load_scenes

if TYPE_CHECKING:
    import os

    from swinpy.data.dataset import ImageDataset

__all__ = ["DATASETS", "load_dataset"]

DATASETS = ("cifar10", "cifar100", "scenes", "digits", "folder")


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str],
    *,
    download: bool = False,
    seed: int = 0,
    folder: FolderOptions | None = None,
) -> tuple[ImageDataset, ImageDataset]:
    """Load a dataset.

    Args:
        name: "cifar10", "cifar100", "scenes", "digits" or "folder" (images of your own).
        data_dir: where the files are kept; "digits" needs none.
        download: whether CIFAR may be fetched. Nothing is fetched otherwise, and nothing is put in its place.
        seed: of the pictures of "scenes"; the other datasets do not depend on it.
        folder: how the images of "folder" become input.

    Returns:
        (train, test).

    Raises:
        ValueError: an unknown name.
        DatasetMissing: the files are not there.
        DatasetCorrupt: the files are there, but are not what they should be.
    """
    if name == "cifar10":
        return load_cifar(data_dir, CIFAR10, download=download)
    if name == "cifar100":
        return load_cifar(data_dir, CIFAR100, download=download)
    if name == "scenes":
        return load_scenes(data_dir, seed=seed)
    if name == "digits":
        return load_digits()
    if name == "folder":
        return load_folder(data_dir, folder)
    raise ValueError(f"load_dataset: expected a name of {', '.join(DATASETS)}; got {name!r}. Choose one of these.")
