"""A set of images with objects: each as a `Sample`, all objects in columns for evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.data.detection.annotations import Annotations, as_rle, as_xywh
from swinpy.data.detection.rle import Rle
from swinpy.data.errors import DatasetCorrupt
from swinpy.data.folder.decode import open_image, to_bytes
from swinpy.targets import check_targets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["DetectionDataset", "Sample", "dataset_of"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and what is to be learnt from it.

    Attributes:
        image: uint8 ``(3, H, W)``; float32 in 0..255 once it was resized as torchvision does it.
        boxes: float32 ``(M, 4)``, x0, y0, x1, y1 in pixels, within the image.
        labels: int64 ``(M,)``.
        masks: bool ``(M, H, W)``; None in a set without masks.
        crowd_boxes: float32 ``(C, 4)``, regions of many objects, which are no objects to learn.
        index: of the image in its set.
        id: what its file calls it.
        original: (H, W) of the file.
    """

    image: NDArray[Any]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None
    crowd_boxes: NDArray[np.float32]
    index: int
    id: int | str
    original: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) as it is now."""
        height, width = self.image.shape[1:]
        return height, width

    def keep(self, rows: NDArray[Any]) -> Sample:
        """With these objects alone."""
        masks = None if self.masks is None else self.masks[rows]
        return replace(self, boxes=self.boxes[rows], labels=self.labels[rows], masks=masks)


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """Images of any sizes with objects.

    Attributes:
        name: what the user asked for.
        images: paths of the files, or uint8 ``(3, H, W)`` each; in the order of their ids.
        sizes: (H, W) of each.
        ids: what the file calls them.
        annotations: every object of the file, crowds and unusable ones too, in the file's order: what detections are
            judged by.
        usable: bool, an object each: whether it can be learnt; see ``notes`` for why not.
        class_names: one a label.
        category_ids: what the file calls the classes.
        with_masks: whether samples have masks.
        synthetic: True where no camera took the pictures; whoever reports a result on the set must say so.
        source: the file or folder that was read.
        mean: per channel, of pixels scaled to [0, 1].
        std: per channel, of pixels scaled to [0, 1].
        identity: of the contents; a run resumes on the same one only.
        notes: what was left out and why, a line each.

    Raises:
        DatasetCorrupt: for a label without a class or an image that is not there.
    """

    name: str
    images: Sequence[Path | NDArray[np.uint8]]
    sizes: tuple[tuple[int, int], ...]
    ids: tuple[int | str, ...]
    annotations: Annotations
    usable: NDArray[np.bool_]
    class_names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    with_masks: bool
    synthetic: bool
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    identity: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.sizes) == len(self.ids):
            raise DatasetCorrupt(
                f"{self.name}: expected as many sizes and ids as images, {len(self.images)}; got {len(self.sizes)} and "
                f"{len(self.ids)}. Give one of each."
            )
        for what, values, end in (
            ("image", self.annotations.image, len(self.images)),
            ("label", self.annotations.label, len(self.class_names)),
        ):
            wrong = (values < 0) | (values >= end)
            if wrong.any():
                row = int(wrong.argmax())
                raise DatasetCorrupt(
                    f"{self.name}, object {self.annotations.number[row]}: expected {what} in [0, {end}); got "
                    f"{values[row]}. Name every class, and count from 0."
                )
        order = np.argsort(self.annotations.image, kind="stable")
        object.__setattr__(self, "_order", order)
        starts = np.searchsorted(self.annotations.image[order], np.arange(len(self.images) + 1))
        object.__setattr__(self, "_starts", starts)

    _order: Any = None
    _starts: Any = None

    @property
    def num_classes(self) -> int:
        """K, without background."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.images)

    def rows_of(self, index: int) -> NDArray[np.int64]:
        """The rows of an image's objects in ``annotations``, in their order."""
        rows: NDArray[np.int64] = self._order[self._starts[index] : self._starts[index + 1]]
        return rows

    def __getitem__(self, index: int) -> Sample:
        """One image with its objects.

        Raises:
            BadImage: for a file that cannot be read.
            DatasetCorrupt: for an image of another size than the annotations say, or a mask of another.
        """
        pixels, (height, width) = self._pixels(index), self.sizes[index]
        if pixels.shape[1:] != (height, width):
            raise DatasetCorrupt(
                f"{self.name}, image {self._called(index)}: expected {width}x{height} pixels, as the annotations say; "
                f"got {pixels.shape[2]}x{pixels.shape[1]}. Rotated or resized images do not fit their boxes."
            )
        rows = self.rows_of(index)
        rows = rows[self.usable[rows]]
        crowd = self.annotations.crowd[rows]
        box = self.annotations.box[rows]
        corners = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1)
        corners = np.clip(corners, 0, [width, height, width, height]).astype(np.float32)
        return Sample(
            pixels,
            corners[~crowd],
            self.annotations.label[rows[~crowd]],
            self._masks(index, rows[~crowd]) if self.with_masks else None,
            corners[crowd],
            index,
            self.ids[index],
            (height, width),
        )

    def _called(self, index: int) -> str:
        image = self.images[index]
        return f"{self.ids[index]}" if isinstance(image, np.ndarray) else f"{self.ids[index]} ({image})"

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        image = self.images[index]
        return image if isinstance(image, np.ndarray) else to_bytes(open_image(image))

    def _masks(self, index: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        out = np.zeros((len(rows), *self.sizes[index]), np.bool_)
        for place, row in enumerate(rows.tolist()):
            try:
                out[place] = as_rle(self.annotations.segmentation[row], self.sizes[index]).decode()
            except ValueError as error:
                number = self.annotations.number[row]
                raise DatasetCorrupt(
                    f"{self.name}, image {self._called(index)}, object {number}: {error}. Mend the annotations."
                ) from None
        return out

    def take(self, indices: NDArray[np.int64]) -> DetectionDataset:
        """The images of these numbers, in this order, with their objects."""
        chosen = indices.tolist()
        parts = [self.rows_of(i) for i in chosen]
        rows = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
        taken = self.annotations.take(rows)
        image = np.repeat(np.arange(len(chosen), dtype=np.int64), [len(part) for part in parts])
        listing = self.identity + "\n" + ",".join(map(str, chosen))
        return replace(
            self,
            images=[self.images[i] for i in chosen],
            sizes=tuple(self.sizes[i] for i in chosen),
            ids=tuple(self.ids[i] for i in chosen),
            annotations=replace(taken, image=image),
            usable=self.usable[rows],
            identity=hashlib.sha256(listing.encode()).hexdigest(),
        )

    def without_empty(self) -> DetectionDataset:
        """The images that have an object to learn; says how many others there were. Not for evaluation."""
        learnt = self.annotations.image[self.usable & ~self.annotations.crowd]
        kept = np.unique(learnt).astype(np.int64)
        if len(kept) == len(self):
            return self
        note = f"{len(self) - len(kept)} of {len(self)} images have no object to learn and were left out"
        return replace(self.take(kept), notes=(*self.notes, note))


def _objects(
    index: int, image: NDArray[np.uint8], target: dict[str, Any], classes: int, with_masks: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Checked boxes, labels and masks of one image."""
    boxes, labels = np.asarray(target["boxes"]), np.asarray(target["labels"])
    boxes = boxes.astype(np.float64) if boxes.dtype.kind in "iu" else boxes
    masks = np.asarray(target["masks"]) if with_masks else None
    try:
        check_targets(boxes, labels, (image.shape[1], image.shape[2]), classes, masks=masks, image=index, slack=0)
    except ValueError as error:
        raise DatasetCorrupt(str(error)) from None
    return boxes, labels, masks


def dataset_of(
    images: Sequence[NDArray[np.uint8]],
    targets: Sequence[dict[str, Any]],
    class_names: tuple[str, ...],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    name: str = "memory",
    synthetic: bool = False,
    source: str = "memory",
) -> DetectionDataset:
    """A set of images in memory.

    Args:
        images: uint8 ``(3, H, W)`` each.
        targets: of each image ``boxes`` (x0, y0, x1, y1) ``(M, 4)`` and ``labels`` ``(M,)``; ``masks`` ``(M, H, W)`` in
            all of them or in none; ``crowds``, bool ``(M,)``, if there are any.
        class_names: one a label.
        mean: per channel, of pixels scaled to [0, 1].
        std: likewise.
        name: for messages.
        synthetic: whether no camera took the pictures.
        source: where they came from.

    Raises:
        DatasetCorrupt: for what :func:`swinpy.targets.check_targets` refuses.
    """
    with_masks = any("masks" in target for target in targets)
    parts: dict[str, list[Any]] = {n: [] for n in ("image", "label", "box", "area", "crowd")}
    segmentation: list[Rle | None] = []
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        boxes, labels, masks = _objects(index, image, target, len(class_names), with_masks)
        box = as_xywh(boxes)
        found = [None] * len(labels) if masks is None else [Rle.encode(mask) for mask in masks]
        segmentation += found
        parts["image"].append(np.full(len(labels), index, np.int64))
        parts["label"].append(labels.astype(np.int64))
        parts["box"].append(box)
        parts["area"].append(box[:, 2] * box[:, 3] if masks is None else np.array([m.area for m in found if m], float))
        parts["crowd"].append(np.asarray(target.get("crowds", np.zeros(len(labels))), np.bool_))
    columns = {key: np.concatenate(value) for key, value in parts.items()}
    total = len(columns["image"])
    annotations = Annotations(**columns, segmentation=segmentation, number=np.arange(1, total + 1))
    digest = hashlib.sha256()
    for part in (*images, *(columns[key] for key in sorted(columns))):
        digest.update(np.ascontiguousarray(part).tobytes())
    return DetectionDataset(
        name=name,
        images=list(images),
        sizes=tuple((image.shape[1], image.shape[2]) for image in images),
        ids=tuple(range(1, len(images) + 1)),
        annotations=annotations,
        usable=np.ones(total, np.bool_),
        class_names=class_names,
        category_ids=tuple(range(1, len(class_names) + 1)),
        with_masks=with_masks,
        synthetic=synthetic,
        source=source,
        mean=mean,
        std=std,
        identity=digest.hexdigest(),
    )
