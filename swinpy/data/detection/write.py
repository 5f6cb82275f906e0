"""Made-up scenes as files in the layouts of COCO and ADE20K, so that programs can use their true readers on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.data.detection.many_scenes import VOID
from swinpy.data.detection.rle import Rle
from swinpy.data.folder.decode import pillow

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from swinpy.data.detection.many_scenes import ManyScenes

__all__ = ["outline", "write_ade", "write_coco"]


def outline(mask: NDArray[np.bool_]) -> list[int] | None:
    """The polygon ``x0, y0, x1, y1, ...`` along the pixels' edges whose pixels are those of a mask ``(H, W)``.

    Returns:
        None for a mask that one polygon cannot give: in several parts, with a hole, or touching itself at a corner.
    """
    inside = np.pad(mask, 1)
    steps: dict[tuple[int, int], tuple[int, int]] = {}
    count = 0
    # an edge begins at (x, y) and has the mask at its right: along the top, down the right side, and so on
    for neighbour, start, step in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (0, 1)),
        ((1, 0), (1, 1), (-1, 0)),
        ((0, -1), (0, 1), (0, -1)),
    ):
        beside = np.roll(inside, (-neighbour[0], -neighbour[1]), axis=(0, 1))[1:-1, 1:-1]
        for y, x in np.argwhere(mask & ~beside).tolist():
            steps[x + start[0], y + start[1]] = step
            count += 1
    if not steps or len(steps) < count:
        return None
    first = min(steps)
    points: list[int] = []
    place, before, walked = first, (0, 0), 0
    while walked == 0 or place != first:
        step = steps[place]
        if step != before:
            points += place
        place, before, walked = (place[0] + step[0], place[1] + step[1]), step, walked + 1
    return [int(v) for v in points] if walked == count else None


def write_coco(
    folder: str | os.PathLike[str], scenes: ManyScenes, class_names: tuple[str, ...], part: str = "train"
) -> tuple[Path, Path]:
    """Write scenes as COCO has its instances.

    Images are PNG. Every other object that one polygon gives is a polygon, of the others every other one is compressed
    runs and crowds are plain runs; ids of images, classes and objects have holes, as COCO's have.

    Args:
        folder: gets ``annotations/instances_<part>.json`` and ``<part>/*.png``.
        scenes: what to write.
        class_names: one a label.
        part: "train" or "val".

    Returns:
        The json's path and the folder of images.

    Raises:
        ImportError: without Pillow.
    """
    image_module = pillow()
    place, images = Path(folder) / "annotations" / f"instances_{part}.json", Path(folder) / part
    for made in (place.parent, images):
        made.mkdir(parents=True, exist_ok=True)
    numbers = [3 * i + 11 + i // 7 for i in range(len(scenes.images))]
    categories = [{"id": 1 + k + k // 3, "name": name} for k, name in enumerate(class_names)]
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    for i, number in enumerate(numbers):
        name = f"{number:012}.png"
        image_module.fromarray(scenes.images[i].transpose(1, 2, 0)).save(images / name, compress_level=1)
        height, width = scenes.images.shape[2:]
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        for k in range(len(scenes.labels[i])):
            x0, y0, x1, y1 = (int(v) for v in scenes.boxes[i][k])
            mask, crowd = scenes.masks[i][k], bool(scenes.crowds[i][k])
            content["annotations"].append(
                {
                    "id": 2 * len(content["annotations"]) + 5,
                    "image_id": number,
                    "category_id": categories[int(scenes.labels[i][k])]["id"],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(np.count_nonzero(mask)),
                    "iscrowd": int(crowd),
                    "segmentation": _segmentation(mask, crowd, len(content["annotations"])),
                }
            )
    place.write_text(json.dumps(content), encoding="utf-8")
    return place, images


def _segmentation(mask: NDArray[np.bool_], crowd: bool, place: int) -> Any:
    polygon = None if crowd or place % 2 else outline(mask)
    if polygon is not None:
        return [polygon]
    runs = Rle.encode(mask)
    return {"size": list(runs.size), "counts": runs.counts.tolist() if crowd else runs.text()}


def write_ade(folder: str | os.PathLike[str], scenes: ManyScenes, part: str = "training") -> tuple[Path, Path]:
    """Write scenes as ADE20K has its semantic maps: 0 is void, 1 the background, 2 the first class.

    Args:
        folder: gets ``images/<part>/*.jpg`` and ``annotations/<part>/*.png``.
        scenes: what to write.
        part: "training" or "validation".

    Returns:
        The folders of images and maps.

    Raises:
        ImportError: without Pillow.
    """
    image_module = pillow()
    images, maps = Path(folder) / "images" / part, Path(folder) / "annotations" / part
    for made in (images, maps):
        made.mkdir(parents=True, exist_ok=True)
    values = np.where(scenes.semantic == VOID, 0, scenes.semantic + 1).astype(np.uint8)
    for i, (image, labels) in enumerate(zip(scenes.images, values, strict=True)):
        name = f"ADE_{part[:5]}_{i + 1:08}"
        picture = image_module.fromarray(image.transpose(1, 2, 0))
        picture.save(images / f"{name}.jpg", quality=95, subsampling=0)
        image_module.fromarray(labels).save(maps / f"{name}.png")
    return images, maps
