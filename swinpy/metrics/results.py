"""Detections as COCO's json of results: original pixels, the file's own ids of images and classes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.data.detection.annotations import Detections
from swinpy.data.detection.rle import Rle
from swinpy.data.errors import DatasetCorrupt

if TYPE_CHECKING:
    import os

    from swinpy.data.detection.dataset import DetectionDataset
    from swinpy.metrics.coco_map import Kind

__all__ = ["read_results", "result_rows", "write_results"]


def result_rows(found: Detections, dataset: DetectionDataset, kind: Kind = "box") -> list[dict[str, Any]]:
    """The rows of a file of results.

    Args:
        found: the detections in the images of ``dataset``.
        dataset: gives the ids.
        kind: "box" gives ``bbox``; "mask" gives ``segmentation`` and no ``bbox``, from which pycocotools would take
            the area that makes an object small or large.

    Raises:
        ValueError: for masks of detections that have none.
    """
    if len(found) and (found.box if kind == "box" else found.masks) is None:
        wanted, got = ("boxes", "masks") if kind == "box" else ("masks", "boxes")
        raise ValueError(f"results: expected detections with {wanted}; got {got} alone. Ask for the other kind.")
    rows = []
    for row in range(len(found)):
        entry: dict[str, Any] = {
            "image_id": dataset.ids[int(found.image[row])],
            "category_id": dataset.category_ids[int(found.label[row])],
            "score": float(found.score[row]),
        }
        if kind == "box":
            assert found.box is not None
            entry["bbox"] = found.box[row].tolist()
        else:
            assert found.masks is not None
            mask = found.masks[row]
            entry["segmentation"] = {"size": list(mask.size), "counts": mask.text()}
        rows.append(entry)
    return rows


def write_results(
    path: str | os.PathLike[str], found: Detections, dataset: DetectionDataset, kind: Kind = "box"
) -> None:
    """Write a file of results; one without detections is ``[]``. See :func:`result_rows`."""
    Path(path).write_text(json.dumps(result_rows(found, dataset, kind), allow_nan=False) + "\n", encoding="utf-8")


def read_results(path: str | os.PathLike[str], dataset: DetectionDataset) -> Detections:
    """Read a file of results, of boxes, of masks, or of both.

    Raises:
        DatasetCorrupt: for a file that is no list of results, an unknown image or category, a number that is not
            finite, or a mask of another size.
    """
    try:
        rows = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DatasetCorrupt(f"results: expected json in {path}; got {error}. Write the file again.") from None
    if type(rows) is not list or not all(isinstance(row, dict) for row in rows):
        raise DatasetCorrupt(f"results: expected a list of detections in {path}; got {type(rows).__name__}.")
    images = {number: place for place, number in enumerate(dataset.ids)}
    labels = {number: place for place, number in enumerate(dataset.category_ids)}
    boxes, masks = any("bbox" in row for row in rows) or not rows, any("segmentation" in row for row in rows)
    columns: tuple[list[Any], ...] = ([], [], [], [], [])
    for place, row in enumerate(rows):
        try:
            image = _known(row, "image_id", images)
            columns[0].append(image)
            columns[1].append(_known(row, "category_id", labels))
            columns[2].append(_finite([row.get("score")], 1, "score")[0])
            columns[3].append(_finite(row.get("bbox"), 4, "bbox") if boxes else None)
            columns[4].append(_mask(row.get("segmentation"), dataset.sizes[image]) if masks else None)
        except ValueError as error:
            raise DatasetCorrupt(f"results: in detection {place} of {path}: {error}. Write the file again.") from None
    return Detections(
        np.array(columns[0], np.int64),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.float64),
        np.array(columns[3], np.float64).reshape(-1, 4) if boxes else None,
        columns[4] if masks else None,
    )


def _known(row: dict[str, Any], key: str, table: dict[Any, int]) -> int:
    value = row.get(key)
    if type(value) not in (int, str) or value not in table:
        raise ValueError(f"expected the {key} of one of {len(table)}; got {value!r}")
    return table[value]


def _finite(value: Any, count: int, what: str) -> list[float]:
    good = type(value) is list and len(value) == count and all(type(v) in (int, float) for v in value)
    if not good or not all(map(math.isfinite, value)):
        raise ValueError(f"expected {what} to be {count} finite numbers; got {str(value)[:60]}")
    return [float(v) for v in value]


def _mask(value: Any, size: tuple[int, int]) -> Rle:
    text = value.get("counts") if isinstance(value, dict) else None
    if type(text) is not str or value.get("size") != list(size):
        raise ValueError(f"expected compressed runs of the image's {list(size)}; got {str(value)[:60]}")
    return Rle.from_text(text, size)
