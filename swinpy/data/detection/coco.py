"""COCO's json of objects: read once into columns, with everything checked before the first image is opened."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.data.detection.annotations import Annotations
from swinpy.data.detection.dataset import DetectionDataset
from swinpy.data.detection.rle import Rle, check_polygons
from swinpy.data.errors import DatasetCorrupt, DatasetMissing

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from swinpy.data.detection.annotations import Segmentation

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "load_coco"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LARGEST = 1 << 26  # pixels of an image
_NAMED = 5


def load_coco(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    with_masks: bool = True,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> DetectionDataset:
    """Read a set of images with objects.

    Labels are the categories by ascending id, images stand in the order of their ids. Objects that cannot be learnt
    (marked ``ignore``, without area, less than a pixel wide or high, outside their image) are left out of samples and
    counted in ``notes``; evaluation sees them as pycocotools does.

    Args:
        annotations: the json file.
        images: the folder that its ``file_name`` are in.
        with_masks: whether samples have masks; each object that can be learnt must then have one.
        mean: per channel, of pixels scaled to [0, 1].
        std: likewise.

    Returns:
        The set; images without objects are in it.

    Raises:
        DatasetMissing: the file or an image is not there.
        DatasetCorrupt: the json is not COCO's, or names what cannot be: an id twice, an object of an unknown image or
            category, a box that is not finite or of negative size, a mask of another size or that does not fill it, a
            polygon of two points.
    """
    path = Path(annotations)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DatasetMissing(
            f"coco: expected COCO's json of objects at {path.absolute()}; got no such file. Name the file."
        ) from None
    except OSError as error:
        raise DatasetCorrupt(f"coco: expected to read {path}; got {error.strerror}. Name a json file.") from None
    content = _Content(path, _parsed(path, raw))
    files = _files(path, Path(images), content.file_names)
    usable, notes = content.usable(with_masks)
    return DetectionDataset(
        name="coco",
        images=files,
        sizes=content.sizes,
        ids=content.image_ids,
        annotations=content.annotations,
        usable=usable,
        class_names=content.class_names,
        category_ids=content.category_ids,
        with_masks=with_masks,
        synthetic=False,
        source=str(path),
        mean=mean,
        std=std,
        identity=hashlib.sha256(raw).hexdigest(),
        notes=notes,
    )


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DatasetCorrupt(f"coco: expected json in {path}; got {error}. Write the file again.") from None
    for key in ("images", "annotations", "categories"):
        table = content.get(key) if isinstance(content, dict) else None
        if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
            raise DatasetCorrupt(
                f"coco: expected a list {key!r} of objects in {path}; got {type(table).__name__}. "
                "Give the file of instances, not one of results."
            )
    return content


def _files(path: Path, folder: Path, names: list[str]) -> list[Path]:
    for name in names:
        pure = PurePosixPath(name)
        if not name or pure.is_absolute() or ".." in pure.parts:
            raise DatasetCorrupt(f"coco: expected file names below the folder of images in {path}; got {name!r}.")
    files = [folder / name for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        rest = len(missing) - _NAMED
        raise DatasetMissing(
            f"coco: expected the {len(files)} images of {path} in {folder.absolute()}; got {len(missing)} that are not "
            f"there: {', '.join(str(f) for f in missing[:_NAMED])}{f' and {rest} more' if rest > 0 else ''}. "
            "Name their folder."
        )
    return files


@dataclass(frozen=True)
class _Where:
    """Which part of a file a fault is in."""

    path: Path
    what: str

    def fault(self, expected: str, got: object) -> DatasetCorrupt:
        return DatasetCorrupt(
            f"coco: expected {expected} in {self.what} of {self.path}; got {str(got)[:120]}. Mend the file."
        )


class _Content:
    """The tables of a file, checked."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        images = self._table(content["images"], "image")
        self.image_ids: tuple[int | str, ...] = tuple(images)
        self.sizes = tuple(self._size(number, row) for number, row in images.items())
        self.file_names = [self._text(f"image {number}", row, "file_name") for number, row in images.items()]
        categories = self._table(content["categories"], "category")
        if not categories:
            raise _Where(path, "categories").fault("at least one", "none")
        self.category_ids: tuple[int | str, ...] = tuple(categories)
        self.class_names = tuple(self._text(f"category {number}", row, "name") for number, row in categories.items())
        self._once(self.class_names, "name", "categories")
        self._ignore: list[bool] = []
        self._without_area = 0
        self.annotations = self._objects(content["annotations"])

    def _table(self, rows: list[dict[str, Any]], what: str) -> dict[int | str, dict[str, Any]]:
        """The rows by ascending id."""
        ids = [self._id(f"{what} {place}", row, "id") for place, row in enumerate(rows)]
        self._once(ids, "id", f"the {what} table")
        if len({type(number) for number in ids}) > 1:
            raise _Where(self.path, f"the {what} table").fault("ids of one kind", "numbers and texts")
        return dict(sorted(zip(ids, rows, strict=True), key=lambda pair: pair[0]))

    def _once(self, values: Any, what: str, where: str) -> None:
        counts = Counter(values)
        if len(counts) < len(values):
            twice = next(value for value, count in counts.items() if count > 1)
            raise _Where(self.path, where).fault(f"each {what} once", f"{twice!r} {counts[twice]} times")

    def _id(self, what: str, row: dict[str, Any], key: str) -> int | str:
        value = row.get(key)
        if type(value) is str or (type(value) is int and abs(value) < 2**63):
            return value
        raise _Where(self.path, what).fault(f"{key} to be a whole number or a text", repr(value))

    def _text(self, what: str, row: dict[str, Any], key: str) -> str:
        value = row.get(key)
        if type(value) is not str:
            raise _Where(self.path, what).fault(f"{key} to be a text", repr(value))
        return value

    def _size(self, number: object, row: dict[str, Any]) -> tuple[int, int]:
        height, width = row.get("height"), row.get("width")
        if type(height) is not int or type(width) is not int or min(height, width) < 1 or height * width > _LARGEST:
            raise _Where(self.path, f"image {number}").fault("height and width in pixels", (height, width))
        return height, width

    def _objects(self, rows: list[dict[str, Any]]) -> Annotations:
        image_rows = {number: place for place, number in enumerate(self.image_ids)}
        labels = {number: place for place, number in enumerate(self.category_ids)}
        numbers, image, label, box, area, crowd = [], [], [], [], [], []
        segmentation: list[Segmentation] = []
        for place, row in enumerate(rows):
            where = _Where(self.path, f"annotation {row.get('id', f'at place {place}')}")
            numbers.append(self._id(f"annotation at place {place}", row, "id"))
            image.append(self._known(where, row, "image_id", image_rows))
            label.append(self._known(where, row, "category_id", labels))
            where = _Where(self.path, f"{where.what} (image {self.file_names[image[-1]]})")
            box.append(_box(where, row.get("bbox")))
            area.append(self._area(where, row, box[-1]))
            crowd.append(_flag(where, row, "iscrowd"))
            self._ignore.append(_flag(where, row, "ignore"))
            segmentation.append(_segmentation(where, row.get("segmentation"), self.sizes[image[-1]]))
        self._once(numbers, "id", "the annotation table")
        return Annotations(
            np.array(image, np.int64),
            np.array(label, np.int64),
            np.array(box, np.float64).reshape(-1, 4),
            np.array(area, np.float64),
            np.array(crowd, np.bool_),
            segmentation,
            np.array(numbers),
        )

    def _known(self, where: _Where, row: dict[str, Any], key: str, table: dict[int | str, int]) -> int:
        value = row.get(key)
        if type(value) not in (int, str) or value not in table:
            raise where.fault(f"the {key} of one of {len(table)}", repr(value))
        return table[value]

    def _area(self, where: _Where, row: dict[str, Any], box: list[float]) -> float:
        if "area" not in row:
            self._without_area += 1
            return box[2] * box[3]
        (value,) = _numbers([row["area"]]) or (math.nan,)
        if not math.isfinite(value) or value < 0:
            raise where.fault("area to be a finite number of pixels", repr(row["area"]))
        return value

    def usable(self, with_masks: bool) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
        """Which objects can be learnt, and why the others cannot, in one line."""
        objects = self.annotations
        size = np.array(self.sizes, np.float64).reshape(-1, 2)[objects.image][:, ::-1]
        begin, sides = objects.box[:, :2], objects.box[:, 2:]
        shared = np.minimum(begin + sides, size) - np.maximum(begin, 0)
        reasons = {
            "marked ignore": np.array(self._ignore, np.bool_),
            "without area": objects.area <= 0,
            "less than a pixel wide or high": (sides < 1).any(axis=1),
            "outside their image": (shared <= 0).any(axis=1),
        }
        usable = np.ones(len(objects), np.bool_)
        left_out = []
        for reason, found in reasons.items():
            bad = np.asarray(found) & usable
            usable &= ~bad
            if bad.any():
                row = int(bad.argmax())
                left_out.append(f"{int(bad.sum())} {reason} (such as {self._named(row)})")
        if with_masks:
            self._need_masks(usable & ~objects.crowd)
        beyond = ((begin < 0) | (begin + sides > size)) & usable[:, None]
        clipped = len(np.unique(np.nonzero(beyond)[0]))
        empty = len(self.sizes) - len(np.unique(objects.image))
        notes = [
            f"left out of {len(objects)} objects: {', '.join(left_out)}" if left_out else "",
            f"{clipped} boxes were clipped to their images" if clipped else "",
            f"{self._without_area} objects have no area; that of their box is used" if self._without_area else "",
            f"{empty} of {len(self.sizes)} images have no object" if empty else "",
        ]
        line = "; ".join(filter(None, notes))
        return usable, (f"{self.path.name}: {line}",) if line else ()

    def _named(self, row: int) -> str:
        objects = self.annotations
        file = self.file_names[objects.image[row]]
        return f"annotation {objects.number[row]} of {file}, box {objects.box[row].tolist()}"

    def _need_masks(self, wanted: NDArray[np.bool_]) -> None:
        for row in np.flatnonzero(wanted).tolist():
            if self.annotations.segmentation[row] is None:
                raise DatasetCorrupt(
                    f"coco: expected a segmentation of every object in {self.path}; got none in {self._named(row)}. "
                    "Add it, or train on boxes alone."
                )


def _numbers(value: Any) -> list[float] | None:
    """A list of numbers as floats; None for anything else."""
    if type(value) is not list or not all(type(v) in (int, float) for v in value):
        return None
    try:
        return [float(v) for v in value]
    except OverflowError:
        return None


def _box(where: _Where, value: Any) -> list[float]:
    box = _numbers(value)
    if box is None or len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
        raise where.fault("bbox to be finite x, y and a width and height of 0 or more", value)
    return box


def _flag(where: _Where, row: dict[str, Any], key: str) -> bool:
    value = row.get(key, 0)
    if value not in (0, 1):
        raise where.fault(f"{key} to be 0 or 1", repr(value))
    return bool(value)


def _segmentation(where: _Where, value: Any, size: tuple[int, int]) -> Segmentation:
    if value is None or value == []:
        return None
    try:
        if isinstance(value, dict):
            return _runs(value, size)
        if type(value) is not list:
            raise ValueError(f"expected polygons or runs; got {type(value).__name__}")
        parts = [_numbers(part) for part in value]
        if any(part is None for part in parts):
            raise ValueError(f"expected polygons, lists of numbers; got {str(value)[:60]}")
        polygons = tuple(np.array(part, np.float64) for part in parts)
        check_polygons(polygons, size)
    except ValueError as error:
        expected, _, got = str(error).removeprefix("expected ").partition("; got ")
        raise where.fault(expected, got) from None
    return polygons


def _runs(value: dict[str, Any], size: tuple[int, int]) -> Rle:
    said, counts = value.get("size"), value.get("counts")
    if said != list(size):
        raise ValueError(f"expected a mask of the image's {list(size)} (height, width); got {said}")
    if type(counts) is str:
        return Rle.from_text(counts, size)
    if type(counts) is not list or not all(type(c) is int and 0 <= c <= _LARGEST for c in counts):
        raise ValueError(f"expected counts of pixels or a text; got {str(counts)[:60]}")
    return Rle(size, np.array(counts, np.int64))
