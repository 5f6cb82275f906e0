"""A dataset of your own: a directory for each class, under train and val as ImageNet is laid out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swinpy.data.dataset import ImageDataset
from swinpy.data.errors import DatasetCorrupt, DatasetMissing
from swinpy.data.folder.decode import BadImage, peek_image
from swinpy.data.folder.images import FolderImages, bad_files
from swinpy.data.folder.walk import IMAGE_SUFFIXES, LeftOut, class_folders, image_files
from swinpy.preparation import Preparation

if TYPE_CHECKING:
    import os

    from swinpy.preparation import Interpolation

__all__ = ["FolderOptions", "load_folder"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FolderOptions:
    """How the images of a folder become input.

    Attributes:
        size: (H, W) that every image is brought to.
        resize: pixels of the shorter side before the centre crop, or (H, W) for no crop.
        interpolation: of the resize.
        mean: per channel, of pixels scaled to [0, 1].
        std: per channel, of pixels scaled to [0, 1].
        random_crop: whether training images are cropped by a box of random area and aspect.
        seed: of that draw.
    """

    size: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] = 256
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD
    random_crop: bool = False
    seed: int = 0

    @property
    def preparation(self) -> Preparation:
        """What is done to images that are not cropped at random."""
        crop = None if self.resize == self.size else self.size
        return Preparation(self.resize, crop, self.interpolation, self.mean, self.std)


def load_folder(
    data_dir: str | os.PathLike[str], options: FolderOptions | None = None, *, val_alone: bool = False
) -> tuple[ImageDataset, ImageDataset]:
    """Load ``data_dir/train/CLASS/...`` and ``data_dir/val/CLASS/...``.

    Classes are numbered in the order of their sorted names, images in that of class and path. Which files are taken:
    see :mod:`swinpy.data.folder.walk`; what is left out is counted in the notes of the sets. Every file's beginning is
    looked at here; its pixels are read when a batch needs them.

    Args:
        data_dir: holds the folders train and val, with a folder for each class in both.
        options: how images become input.
        val_alone: for an evaluation: where there is no folder train, val stands for it too.

    Returns:
        (train, val); their images are :class:`FolderImages`.

    Raises:
        DatasetMissing: without these folders, or without images in them.
        DatasetCorrupt: other classes in val than in train, a directory that cannot be read, or files that are no images
            (all named in one message).
        ImportError: without Pillow.
    """
    options = options or FolderOptions()
    root = Path(data_dir)
    if val_alone and (root / "val").is_dir() and not (root / "train").is_dir():
        left_out = LeftOut()
        val = _part(root, "val", _classes(root / "val", left_out), options, False, left_out)
        return val, val
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise _missing(root, part)
    of_train, of_val = LeftOut(), LeftOut()
    classes = _classes(root / "train", of_train)
    _same_classes(root, classes, _classes(root / "val", of_val))
    train = _part(root, "train", classes, options, options.random_crop, of_train)
    return train, _part(root, "val", classes, options, False, of_val)


def _missing(root: Path, part: str) -> DatasetMissing:
    """What to do where there is no train or no val."""
    here = root.absolute()
    others = [] if not root.is_dir() else [n for n in class_folders(root, LeftOut()) if n not in ("train", "val")]
    if others and part == "train":
        got = f"no train, but the directories {_few(others)} in {here} itself"
        fix = (
            f"Nothing is split here by chance: if these are the classes, move each to {here}/train and a part of its "
            f"images, say a tenth, to a directory of that name in {here}/val ({here}/train/{others[0]}/..., "
            f"{here}/val/{others[0]}/...). If the classes are elsewhere, name the folder that holds train and val with "
            "--data-dir."
        )
    else:
        got, fix = f"no {part}", "Name the folder that holds them with --data-dir."
    return DatasetMissing(
        f"folder: expected {here}/train and {here}/val, each with one directory a class; got {got}. {fix}"
    )


def _classes(folder: Path, left_out: LeftOut) -> tuple[str, ...]:
    names = class_folders(folder, left_out)
    if not names:
        raise DatasetMissing(
            f"folder: expected one directory a class in {folder.absolute()}; got none. Sort images in."
        )
    return names


def _same_classes(root: Path, train: tuple[str, ...], val: tuple[str, ...]) -> None:
    lacking, extra = sorted(set(train) - set(val)), sorted(set(val) - set(train))
    if lacking or extra:
        raise DatasetCorrupt(
            f"folder: expected the {len(train)} classes of {root / 'train'} in {root / 'val'} as well; got {len(val)}: "
            f"not in val: {_few(lacking)}; only in val: {_few(extra)}. Give both the same directories."
        )


def _few(names: list[str], most: int = 5) -> str:
    rest = len(names) - most
    return (", ".join(names[:most]) or "none") + (f" and {rest} more" if rest > 0 else "")


def _part(
    root: Path, part: str, classes: tuple[str, ...], options: FolderOptions, random_crop: bool, left_out: LeftOut
) -> ImageDataset:
    files = [image_files(root / part / name, left_out) for name in classes]
    empty = [name for name, found in zip(classes, files, strict=True) if not found]
    note = left_out.note(root / part)
    if empty:
        raise DatasetMissing(
            f"folder: expected images ({', '.join(IMAGE_SUFFIXES)}) in every class of {(root / part).absolute()}; got "
            f"none in {_few(empty)}{f' ({note})' if note else ''}. Add images, or remove the directory from train and "
            "val."
        )
    paths = tuple(path for found in files for path in found)
    _check_beginnings(paths, root / part)
    listing = "\n".join(path.relative_to(root).as_posix() for path in paths)
    return ImageDataset(
        name="folder",
        images=FolderImages(paths, options.preparation, random_crop, options.seed),
        labels=np.repeat(np.arange(len(classes), dtype=np.int64), [len(found) for found in files]),
        class_names=classes,
        synthetic=False,
        source=str(root),
        mean=options.mean,
        std=options.std,
        identity=hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest(),
        notes=(note,) if note else (),
    )


def _check_beginnings(paths: tuple[Path, ...], folder: Path) -> None:
    problems = []
    for path in paths:
        try:
            peek_image(path)
        except BadImage as problem:
            problems.append(problem)
    if problems:
        raise DatasetCorrupt(str(bad_files(problems, str(folder))))
