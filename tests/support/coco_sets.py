"""Made-up sets of objects and detections in COCO's json, and pycocotools as the judge of them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["judge", "made_up", "write_set"]

_SIDES = (1, 8, 16, 20, 31, 32, 33, 48, 64, 96, 97)  # 32 x 32 and 96 x 96 are the limits between the areas


def _box(rng: np.random.Generator, width: int, height: int) -> list[int]:
    w, h = (min(int(rng.choice(_SIDES)), side) for side in (width, height))
    return [int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h]


def _mask(rng: np.random.Generator, box: list[int], width: int, height: int) -> dict[str, Any]:
    """Runs of a box of which some columns or rows are missing."""
    from pycocotools import mask as coco_mask

    x, y, w, h = box
    pixels = np.zeros((height, width), np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    if rng.random() < 0.5:
        pixels[y + int(rng.integers(0, h)), x : x + w] = 0
    runs = coco_mask.encode(pixels)
    return {"size": [height, width], "counts": runs["counts"].decode()}


def _moved(rng: np.random.Generator, box: list[int], width: int, height: int) -> list[int]:
    x, y, w, h = box
    x, y = (int(np.clip(v + rng.integers(-4, 5), 0, end - 1)) for v, end in ((x, width), (y, height)))
    if rng.random() < 0.3:
        w = max(w // 2, 1)  # an overlap of exactly a half, where nothing else is moved
    return [x, y, min(w, width - x), min(h, height - y)]


def made_up(
    seed: int, *, images: int = 12, classes: int = 4, most: int = 5, found: int = 8
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A file of objects and its results: crowds, equal scores, empty images, areas at the limits, ids with holes."""
    rng = np.random.default_rng(seed)
    ids = [int(v) for v in rng.permutation(5 * images)[:images] + 1]
    categories = [{"id": int(k), "name": f"class {k}"} for k in rng.permutation(3 * classes)[:classes] + 1]
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    results: list[dict[str, Any]] = []
    numbers = iter(rng.permutation(images * most) + 1)
    for number in ids:
        width, height = (int(v) for v in rng.integers(40, 130, 2))
        content["images"].append({"id": number, "width": width, "height": height, "file_name": f"{number:04}.png"})
        there = [] if rng.random() < 0.2 else [_box(rng, width, height) for _ in range(rng.integers(0, most + 1))]
        labels = [int(rng.choice([c["id"] for c in categories])) for _ in there]
        for box, label in zip(there, labels, strict=True):
            area = float(box[2] * box[3]) if rng.random() < 0.8 else float(rng.choice([1024.0, 9216.0, 1023.5, 9216.5]))
            content["annotations"].append(
                {
                    "id": int(next(numbers)),
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentation": _mask(rng, box, width, height),
                }
            )
        for _ in range(0 if rng.random() < 0.1 else rng.integers(0, found + 1)):
            near = there and rng.random() < 0.8
            which = int(rng.integers(len(there))) if near else 0
            box = _moved(rng, there[which], width, height) if near else _box(rng, width, height)
            label = labels[which] if near and rng.random() < 0.8 else int(rng.choice([c["id"] for c in categories]))
            results.append(
                {
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "score": float(np.round(rng.random(), 1)),
                    "segmentation": _mask(rng, box, width, height),
                }
            )
    order = rng.permutation(len(content["annotations"]))
    content["annotations"] = [content["annotations"][i] for i in order]
    return content, [results[i] for i in rng.permutation(len(results))]


def judge(content: dict[str, Any], results: list[dict[str, Any]], kind: str, max_dets: tuple[int, ...]) -> Any:
    """What pycocotools makes of it: its COCOeval after summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        dropped = "segmentation" if kind == "box" else "bbox"
        rows = [{key: value for key, value in row.items() if key != dropped} for row in results]
        judged = COCOeval(truth, truth.loadRes(copy.deepcopy(rows)), "bbox" if kind == "box" else "segm")
        judged.params.maxDets = list(max_dets)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged


def write_set(folder: Path, content: dict[str, Any]) -> tuple[Path, Path]:
    """The json and grey images of a set; returns the json's path and the images' folder."""
    images = folder / "images"
    images.mkdir(parents=True)
    for row in content["images"]:
        Image.new("RGB", (row["width"], row["height"]), (90, 120, 30)).save(images / row["file_name"])
    path = folder / "objects.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path, images
