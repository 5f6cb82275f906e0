"""The scenes as a dataset on disk, in the layout of CIFAR-10's binary version and read by its loader."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from swinpy.data.cifar.archive import Archive, sha256_of
from swinpy.data.cifar.layouts import CIFAR10, CifarFormat, load_cifar, write_cifar_binary
from swinpy.data.dataset import ImageDataset, channel_stats
from swinpy.data.errors import DatasetCorrupt
from swinpy.data.scenes.draw import SCENE_CLASSES, VARIANTS, generate

__all__ = ["load_scenes"]

VERSION = 1  # of the pictures: a change to any pixel needs a new number, and so a new folder
TEST_FROM = 10**9  # the test set's first index, so that no size of training set reaches it
_MANIFEST, _META = "manifest.json", "batches.meta.txt"
_TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST_FILE = "test_batch.bin"


def load_scenes(
    data_dir: str | os.PathLike[str],
    variant: str = "natural",
    *,
    seed: int = 0,
    train: int = 12_000,
    test: int = 2_000,
) -> tuple[ImageDataset, ImageDataset]:
    """Load the scenes, drawing them first if they are not on disk.

    They are kept in ``data_dir/scenes-<variant>-v1-seed<seed>``, to which ``-<train>-<test>`` is added for other
    numbers of images than the usual ones. What is there is checked against the SHA-256 in its manifest.

    Args:
        data_dir: where the folder is, or is to be made.
        variant: "natural" or "hard".
        seed: of the pictures.
        train: how many images to train on, a multiple of 5 (the layout has five files).
        test: how many to test on.

    Returns:
        (train, test), ``synthetic=True``; mean and std are those of the training images.

    Raises:
        DatasetCorrupt: a file on disk is not the one that was written.
        OSError: the folder cannot be written.
    """
    if variant not in VARIANTS:
        raise ValueError(f"scenes: expected a variant of {', '.join(VARIANTS)}; got {variant!r}. Choose one of these.")
    if train < 5 or train % 5 or test < 1 or train > TEST_FROM:
        raise ValueError(
            f"scenes: expected a positive multiple of 5 to train on and at least 1 to test on; got {train} and {test}. "
            "The layout has five training files of one size; round the number up."
        )
    name = f"scenes-{variant}-v{VERSION}-seed{seed}"
    if (train, test) != (12_000, 2_000):
        name += f"-{train}-{test}"
    folder = Path(data_dir) / name
    if not folder.is_dir():
        _make(folder, variant, seed, train, test)
    _verify(folder)
    train_set, test_set = load_cifar(data_dir, _format(name, train, test), synthetic=True)
    assert isinstance(train_set.images, np.ndarray)
    mean, std = channel_stats(train_set.images)
    return replace(train_set, mean=mean, std=std), replace(test_set, mean=mean, std=std)


def _format(folder: str, train: int, test: int) -> CifarFormat:
    """CIFAR-10's layout with other names and numbers. There is no archive: the folder is always there first."""
    archive = Archive(folder + ".tar.gz", folder, "binary", _TRAIN_FILES, (_TEST_FILE,), size=None, sha256="")
    return replace(
        CIFAR10,
        name="scenes",
        class_names=SCENE_CLASSES,
        train_records=train // len(_TRAIN_FILES),
        test_records=test,
        archives=(archive,),
    )


def _make(folder: Path, variant: str, seed: int, train: int, test: int) -> None:
    """Draw into a temporary folder beside ``folder`` and rename it, so that ``folder`` is whole or not there."""
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        fresh = temporary / folder.name
        fresh.mkdir()
        _write(fresh, variant, seed, train, test)
        os.replace(fresh, folder)
    except OSError as error:
        if not folder.is_dir():  # otherwise another process was quicker, and drew the same pictures
            raise OSError(
                f"scenes: expected to write {folder}; got {error.strerror or error}. "
                "Choose a folder that can be written and has 45 MB free, with --data-dir."
            ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, variant: str, seed: int, train: int, test: int) -> None:
    per_file = train // len(_TRAIN_FILES)
    parts = {name: np.arange(i * per_file, (i + 1) * per_file) for i, name in enumerate(_TRAIN_FILES)}
    parts[_TEST_FILE] = TEST_FROM + np.arange(test)
    for name, indices in parts.items():
        scenes = generate(seed, indices, variant)
        write_cifar_binary(folder / name, scenes.images, scenes.labels)
    (folder / _META).write_text("\n".join(SCENE_CLASSES) + "\n", encoding="utf-8")
    manifest = {
        "what": "procedural scenes drawn by swinpy; not photographs",
        "version": VERSION,
        "variant": variant,
        "seed": seed,
        "sha256": {name: sha256_of(folder / name) for name in (*parts, _META)},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verify(folder: Path) -> None:
    cure = f"Remove {folder} to have the scenes drawn again."
    try:
        expected = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
        names = {*_TRAIN_FILES, _TEST_FILE, _META}
        if set(expected) != names:
            raise ValueError("it lists other files")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetCorrupt(
            f"scenes: expected a readable {_MANIFEST} in {folder}; got {type(error).__name__}: {error}. {cure}"
        ) from error
    for name, digest in expected.items():
        path = folder / name
        got = f"SHA-256 {sha256_of(path)}" if path.is_file() else "no such file"
        if got != f"SHA-256 {digest}":
            raise DatasetCorrupt(f"scenes: expected {path} to have SHA-256 {digest}; got {got}. {cure}")
