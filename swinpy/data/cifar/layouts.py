"""CIFAR-10 and CIFAR-100, from any of the four published archives or the folders they unpack to.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009, and the layouts described at
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swinpy.data.cifar.archive import Archive, members_of_folder, members_of_tar, verify_archive
from swinpy.data.cifar.download import fetch
from swinpy.data.cifar.pickled import read_batch_pickle
from swinpy.data.dataset import ImageDataset
from swinpy.data.errors import DatasetCorrupt, DatasetMissing

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CifarFormat",
    "load_cifar",
    "read_cifar_binary",
    "write_cifar_binary",
]

# The classes in the order of their labels (batches.meta.txt, fine_label_names.txt).
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
    bowl boy bridge bus butterfly camel can castle caterpillar cattle
    chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
    mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket
    rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(_CIFAR100_NAMES.split())

_OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/"
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class CifarFormat:
    """A dataset laid out like CIFAR.

    Attributes:
        name: for messages and for the dataset.
        class_names: names of the classes, in the order of the labels.
        coarse_classes: how many superclasses precede the label in a record (CIFAR-100: 20); 0 if there is no such byte.
        train_records: images in each training file.
        test_records: images in each test file.
        archives: where the files may come from, the preferred one first.
        mean: per channel of the training images, pixels scaled to [0, 1].
        std: likewise.
    """

    name: str
    class_names: tuple[str, ...]
    coarse_classes: int
    train_records: int
    test_records: int
    archives: tuple[Archive, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def label_bytes(self) -> int:
        """Bytes of the labels that come before each image."""
        return 2 if self.coarse_classes else 1

    @property
    def record_bytes(self) -> int:
        """Bytes of one image with its labels."""
        return self.label_bytes + _PIXELS


_CIFAR10_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))

CIFAR10 = CifarFormat(
    name="cifar10",
    class_names=CIFAR10_CLASSES,
    coarse_classes=0,
    train_records=10_000,
    test_records=10_000,
    archives=(
        Archive(
            filename="cifar-10-binary.tar.gz",
            folder="cifar-10-batches-bin",
            layout="binary",
            train=tuple(f"{name}.bin" for name in _CIFAR10_BATCHES),
            test=("test_batch.bin",),
            size=170_052_171,
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
        Archive(
            filename="cifar-10-python.tar.gz",
            folder="cifar-10-batches-py",
            layout="python",
            train=_CIFAR10_BATCHES,
            test=("test_batch",),
            size=170_498_071,
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

CIFAR100 = CifarFormat(
    name="cifar100",
    class_names=CIFAR100_CLASSES,
    coarse_classes=20,
    train_records=50_000,
    test_records=10_000,
    archives=(
        Archive(
            filename="cifar-100-binary.tar.gz",
            folder="cifar-100-binary",
            layout="binary",
            train=("train.bin",),
            test=("test.bin",),
            size=168_513_733,
            sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
        Archive(
            filename="cifar-100-python.tar.gz",
            folder="cifar-100-python",
            layout="python",
            train=("train",),
            test=("test",),
            size=None,
            sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ),
    ),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


def load_cifar(
    data_dir: str | os.PathLike[str], fmt: CifarFormat = CIFAR10, *, download: bool = False, synthetic: bool = False
) -> tuple[ImageDataset, ImageDataset]:
    """Load the training and the test set.

    For each archive in order of preference its folder is looked for in ``data_dir``, then the archive itself, which is
    checked against its SHA-256 and read without being unpacked.

    Args:
        data_dir: where the files are, or are to be fetched to.
        fmt: which dataset.
        download: fetch the preferred archive if nothing is there.
        synthetic: marks the result, for sets that only share CIFAR's layout.

    Returns:
        (train, test), images uint8 ``(N, 3, 32, 32)``.

    Raises:
        DatasetMissing: nothing there; names the path, the URL, the SHA-256 and the built-in choices.
        DatasetCorrupt: something is there, but it is not the dataset.
    """
    root = Path(data_dir)
    for archive in fmt.archives:
        folder, file = root / archive.folder, root / archive.filename
        if folder.is_dir():
            contents = members_of_folder(folder, _size_limits(fmt, archive), fmt.name)
            return _assemble(fmt, archive, contents, folder, synthetic)
        if file.is_file():
            return _from_archive(fmt, archive, file, synthetic)
    archive = fmt.archives[0]
    if not download:
        raise DatasetMissing(_missing_message(fmt, root))
    file = fetch(_urls(archive), root / archive.filename, archive, fmt.name)
    return _from_archive(fmt, archive, file, synthetic)


def _from_archive(fmt: CifarFormat, archive: Archive, file: Path, synthetic: bool) -> tuple[ImageDataset, ImageDataset]:
    url = _OFFICIAL_URL + archive.filename
    verify_archive(file, archive, fmt.name, url)
    contents = members_of_tar(file, archive.folder, _size_limits(fmt, archive), fmt.name, url)
    return _assemble(fmt, archive, contents, file, synthetic)


def _urls(archive: Archive) -> list[str]:
    """Where to fetch from: SWINPY_CIFAR_URL (a file, or the folder that holds it) before the official place."""
    urls = [_OFFICIAL_URL + archive.filename]
    mirror = os.environ.get("SWINPY_CIFAR_URL", "").strip()
    if mirror:
        urls.insert(0, mirror if mirror.endswith(".tar.gz") else f"{mirror.rstrip('/')}/{archive.filename}")
    return urls


def _missing_message(fmt: CifarFormat, root: Path) -> str:
    places = ", ".join(f"{archive.folder}/ or {archive.filename}" for archive in fmt.archives)
    archive = fmt.archives[0]
    return (
        f"{fmt.name}: expected {places} in {root.absolute()}; got neither. Put {_OFFICIAL_URL}{archive.filename} "
        f"(SHA-256 {archive.sha256}) there, pass --dataset-download to fetch it, or use a built-in dataset: "
        "--dataset scenes (procedural) or --dataset digits (scikit-learn's handwritten digits)."
    )


def _size_limits(fmt: CifarFormat, archive: Archive) -> dict[str, tuple[int, int]]:
    """Fewest and most bytes of each file: one figure for records, a bracket for pickles (names of varying length)."""
    records = {**dict.fromkeys(archive.train, fmt.train_records), **dict.fromkeys(archive.test, fmt.test_records)}
    if archive.layout == "binary":
        return {name: (n * fmt.record_bytes, n * fmt.record_bytes) for name, n in records.items()}
    return {name: (n * _PIXELS, n * (_PIXELS + 256) + 65_536) for name, n in records.items()}


def _assemble(
    fmt: CifarFormat, archive: Archive, contents: Mapping[str, bytes], source: Path, synthetic: bool
) -> tuple[ImageDataset, ImageDataset]:
    read = _read_python if archive.layout == "python" else read_cifar_binary
    sets = []
    for names, records in ((archive.train, fmt.train_records), (archive.test, fmt.test_records)):
        parts = [read(contents[name], fmt, records, f"{source}:{name}") for name in names]
        sets.append(
            ImageDataset(
                name=fmt.name,
                images=np.concatenate([images for images, _ in parts]),
                labels=np.concatenate([labels for _, labels in parts]),
                class_names=fmt.class_names,
                synthetic=synthetic,
                source=str(source),
                mean=fmt.mean,
                std=fmt.std,
            )
        )
    return sets[0], sets[1]


def read_cifar_binary(buffer: bytes, fmt: CifarFormat, records: int, where: str) -> Arrays:
    """Read ``records`` records of label bytes and 3072 pixel bytes (red plane, green plane, blue plane, row by row).

    Returns:
        images uint8 ``(records, 3, 32, 32)`` (a view of ``buffer``) and labels int64 ``(records,)``.
    """
    if len(buffer) != records * fmt.record_bytes:
        raise DatasetCorrupt(
            f"{fmt.name}: expected {where} to hold {records} records of {fmt.record_bytes} bytes; got {len(buffer)} "
            "bytes. The file is truncated or another one; fetch the dataset again."
        )
    table = np.frombuffer(buffer, dtype=np.uint8).reshape(records, fmt.record_bytes)
    labels = table[:, fmt.label_bytes - 1].astype(np.int64)
    _check_labels(labels, len(fmt.class_names), fmt.name, where)
    if fmt.coarse_classes:
        _check_labels(table[:, 0].astype(np.int64), fmt.coarse_classes, f"{fmt.name} superclass", where)
    return table[:, fmt.label_bytes :].reshape(records, 3, _SIDE, _SIDE), labels


def _read_python(buffer: bytes, fmt: CifarFormat, records: int, where: str) -> Arrays:
    batch = read_batch_pickle(buffer, where)
    key = "fine_labels" if fmt.coarse_classes else "labels"
    data, labels = batch.get("data"), batch.get(key)
    if not isinstance(data, np.ndarray) or data.shape != (records, _PIXELS):
        got = data.shape if isinstance(data, np.ndarray) else type(data).__name__
        raise DatasetCorrupt(
            f"{fmt.name}: expected 'data' of shape ({records}, {_PIXELS}) in {where}; got {got}. "
            "Fetch the dataset again."
        )
    if not isinstance(labels, list) or len(labels) != records or any(type(n) is not int for n in labels):
        got = f"{len(labels)} items" if isinstance(labels, list) else type(labels).__name__
        raise DatasetCorrupt(
            f"{fmt.name}: expected {key!r} to list {records} integers in {where}; got {got}. Fetch the dataset again."
        )
    numbers = np.array(labels, dtype=np.int64)
    _check_labels(numbers, len(fmt.class_names), fmt.name, where)
    return data.reshape(records, 3, _SIDE, _SIDE), numbers


def _check_labels(labels: NDArray[np.int64], classes: int, op: str, where: str) -> None:
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        record = int(np.argmax((labels < 0) | (labels >= classes)))
        raise DatasetCorrupt(
            f"{op}: expected labels in [0, {classes}) in {where}; got {labels[record]} in record {record}. "
            "The file is damaged or another one; fetch the dataset again."
        )


def write_cifar_binary(path: str | os.PathLike[str], images: NDArray[np.uint8], labels: NDArray[np.integer]) -> None:
    """Write CIFAR-10 records: one label byte, then 3072 pixel bytes.

    Args:
        path: the file to make.
        images: uint8 ``(N, 3, 32, 32)``.
        labels: integers ``(N,)`` in [0, 256).
    """
    if images.dtype != np.uint8 or images.shape[1:] != (3, _SIDE, _SIDE) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"write_cifar_binary: expected uint8 images (N, 3, 32, 32) and labels (N,); got {images.dtype} "
            f"{images.shape} and {labels.shape}. Transpose to channels first."
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() <= 255:
        raise ValueError(
            f"write_cifar_binary: expected labels that fit a byte; got {labels.min()}..{labels.max()}. Renumber them."
        )
    table = np.concatenate([labels.astype(np.uint8)[:, None], images.reshape(len(images), _PIXELS)], axis=1)
    Path(path).write_bytes(table.tobytes())
