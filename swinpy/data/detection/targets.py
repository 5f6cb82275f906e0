"""What an image's objects must be before anything is trained on them; the message names image, object and value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from swinpy.data.errors import DatasetCorrupt

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["check_targets"]


def check_targets(
    where: object,
    size: tuple[int, int],
    num_classes: int,
    boxes: NDArray[Any],
    labels: NDArray[Any],
    masks: NDArray[Any] | None = None,
) -> None:
    """Refuse objects that would end in a loss of NaN, or in no learning at all.

    Args:
        where: the image, for the message.
        size: (H, W) of the image.
        num_classes: K.
        boxes: ``(M, 4)``, x0, y0, x1, y1 in pixels; ``(0, 4)`` for an image without objects.
        labels: ``(M,)``, in ``[0, K)``.
        masks: ``(M, H, W)``, if there are any.

    Raises:
        DatasetCorrupt: for shapes that do not agree, a box that is not finite, has no area or leaves the image, or a
            label out of range.
    """
    boxes, labels, (height, width) = np.asarray(boxes), np.asarray(labels), size
    shapes = boxes.shape, labels.shape, None if masks is None else np.shape(masks)
    wanted = (len(labels), 4), (len(labels),), None if masks is None else (len(labels), height, width)
    if shapes != wanted:
        raise DatasetCorrupt(
            f"image {where}: expected boxes, labels and masks of shapes {wanted[0]}, {wanted[1]} and {wanted[2]}; got "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}. Give each object one of each, masks of the image's size."
        )
    x0, y0, x1, y1 = boxes.astype(np.float64).T
    finite = np.isfinite(boxes.astype(np.float64)).all(axis=1)
    for bad, expected, cure in (
        (~finite, "a finite box", "Compute it again."),
        (finite & ~((x1 > x0) & (y1 > y0)), "x1 > x0 and y1 > y0", "Leave it out; no objects are an empty (0, 4)."),
        (
            finite & ~((x0 >= 0) & (y0 >= 0) & (x1 <= width) & (y1 <= height)),
            f"a box within {width} x {height} pixels",
            "Boxes are x0, y0, x1, y1 in pixels: clip it, or convert it.",
        ),
    ):
        if bad.any():
            row = int(bad.argmax())
            raise DatasetCorrupt(f"image {where}, box {row}: expected {expected}; got {boxes[row].tolist()}. {cure}")
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        row = int(wrong.argmax())
        raise DatasetCorrupt(
            f"image {where}, label {row}: expected a class in [0, {num_classes}); got {labels[row]}. Count classes "
            "from 0; the background has no label."
        )
