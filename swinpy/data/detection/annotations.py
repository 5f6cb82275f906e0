"""Objects of many images in columns: what is there (`Annotations`) and what a model found (`Detections`).

Boxes stand as COCO's files have them, x, y, width, height in float64, so that a result is judged by the numbers that
its file holds. A model's boxes are x0, y0, x1, y1; :meth:`Detections.of_images` turns one into the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.data.detection.rle import Rle, rasterise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Polygons = tuple[NDArray[np.float64], ...]
    Segmentation = Rle | Polygons | None

__all__ = ["Annotations", "Detections", "as_rle", "as_xywh"]


def as_xywh(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """x, y, width, height in float64 of boxes x0, y0, x1, y1 ``(M, 4)``."""
    out = np.asarray(boxes, np.float64).reshape(-1, 4).copy()
    out[:, 2:] -= out[:, :2]
    return out


def as_rle(segmentation: Segmentation, size: tuple[int, int]) -> Rle:
    """A segmentation as runs.

    Args:
        segmentation: runs, or polygons (which pycocotools rasterises).
        size: (H, W) of the image.

    Raises:
        ValueError: if there is none, or one of another size.
    """
    if segmentation is None:
        raise ValueError("expected a mask; got none")
    if not isinstance(segmentation, Rle):
        return rasterise(segmentation, size)
    if segmentation.size != size:
        raise ValueError(
            f"expected a mask of the image's {size[0]}x{size[1]} pixels; got {segmentation.size[0]}x"
            f"{segmentation.size[1]}"
        )
    return segmentation


@dataclass(frozen=True, eq=False)
class Annotations:
    """What there is in a set of images, a row each, in the order of the file.

    Attributes:
        image: int64 ``(N,)``, which image (its place in the set).
        label: int64 ``(N,)``, the class in ``[0, K)``.
        box: float64 ``(N, 4)``: x, y, width, height in pixels.
        area: float64 ``(N,)``: pixels of the mask, or of the box where there is no mask; judges small and large.
        crowd: bool ``(N,)``: a region of many objects, to which any number of detections may belong.
        segmentation: runs or polygons, or None, for each.
        number: what the file calls it, for messages ``(N,)``.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    box: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    segmentation: Sequence[Segmentation]
    number: NDArray[Any]

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: NDArray[np.int64]) -> Annotations:
        """These rows alone, in this order."""
        return Annotations(
            self.image[rows],
            self.label[rows],
            self.box[rows],
            self.area[rows],
            self.crowd[rows],
            [self.segmentation[row] for row in rows.tolist()],
            self.number[rows],
        )


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in a set of images, a row each.

    Attributes:
        image: int64 ``(N,)``, which image (its place in the set).
        label: int64 ``(N,)``, the class in ``[0, K)``.
        score: float64 ``(N,)``.
        box: float64 ``(N, 4)``: x, y, width, height in pixels; None where masks alone were read.
        masks: one for each; None for boxes alone.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    box: NDArray[np.float64] | None
    masks: Sequence[Rle] | None = None

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def of_images(cls, results: Sequence[Mapping[str, Any]], images: Sequence[int] | None = None) -> Detections:
        """Put the results of single images together.

        Args:
            results: of each image ``boxes`` (x0, y0, x1, y1) ``(M, 4)``, ``scores`` and ``labels`` ``(M,)``, and
                perhaps ``masks``, bool ``(M, H, W)`` or a list of :class:`Rle`.
            images: the place of each image in the set; 0, 1, 2, ... by default.

        Raises:
            ValueError: for results of which one has no masks though others have, lengths that differ, or a value that
                is not finite.
        """
        places = range(len(results)) if images is None else images
        with_masks = any("masks" in result for result in results)
        columns: dict[str, list[Any]] = {name: [] for name in ("image", "label", "score", "box")}
        masks: list[Rle] = []
        for place, result in zip(places, results, strict=True):
            boxes, labels, scores = (np.asarray(result[name]) for name in ("boxes", "labels", "scores"))
            found = [m if isinstance(m, Rle) else Rle.encode(m) for m in result.get("masks", ())]
            if not len(boxes) == len(labels) == len(scores) or (with_masks and len(found) != len(scores)):
                raise ValueError(
                    f"image {place}: expected as many boxes, labels and masks as there are scores, {len(scores)}; got "
                    f"{len(boxes)}, {len(labels)} and {len(found)}. Give each detection all of them."
                )
            columns["image"].append(np.full(len(scores), place, np.int64))
            columns["label"].append(labels.astype(np.int64).reshape(-1))
            columns["score"].append(scores.astype(np.float64).reshape(-1))
            columns["box"].append(as_xywh(boxes))
            masks += found
        empty = {"image": np.int64, "label": np.int64, "score": np.float64, "box": np.float64}
        joined = {
            name: np.concatenate(parts) if parts else np.zeros((0, 4) if name == "box" else 0, empty[name])
            for name, parts in columns.items()
        }
        made = cls(joined["image"], joined["label"], joined["score"], joined["box"], masks if with_masks else None)
        made.check_finite()
        return made

    def check_finite(self) -> None:
        """Refuse scores and boxes that are not finite, by name."""
        for name, values in (("score", self.score), ("box", self.box)):
            if values is None or bool(np.isfinite(values).all()):
                continue
            row = int(np.flatnonzero(~np.isfinite(values.reshape(len(self), -1)).all(axis=1))[0])
            raise ValueError(
                f"image {self.image[row]}, detection {row}: expected a finite {name}; got {values[row].tolist()}. "
                "The model's weights or its input hold a NaN or an infinity."
            )
