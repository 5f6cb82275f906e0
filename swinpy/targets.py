"""The check of what an image's objects are given as, before anything is computed from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autograd.extend import Array

__all__ = ["check_targets"]


def check_targets(
    boxes: Array,
    labels: Array,
    size: tuple[int, int],
    classes: int,
    *,
    masks: Array | None = None,
    image: int | str,
    slack: float = 1.0,
) -> None:
    """Refuse objects that would train a detector to NaN, or to nothing.

    Args:
        boxes: (G, 4) floats as x0, y0, x1, y1 in pixels, on the host; G may be 0.
        labels: (G,) integers from 0 to ``classes`` - 1.
        size: (height, width) of the image.
        classes: how many, background not counted.
        masks: (G, height, width) or None.
        image: its index or name, for the message.
        slack: pixels that a box may reach over the image: annotations are rounded, and rounded sides are scaled.

    Raises:
        ValueError: naming the image, the object and the value.
    """

    def wrong(expected: str, got: object) -> ValueError:
        return ValueError(f"targets of image {image}: expected {expected}; got {got}.")

    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind != "f":
        hint = " An image without objects has an array (0, 4)" if boxes.size == 0 else ""
        raise wrong("float boxes (G, 4)", f"{boxes.dtype} {boxes.shape}.{hint}".rstrip("."))
    count = len(boxes)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise wrong(f"{count} integer labels, one for each box", f"{labels.dtype} {labels.shape}")
    if masks is not None and masks.shape != (count, *size):
        raise wrong(f"masks {(count, *size)}, one of the image's size for each box", masks.shape)
    height, width = size
    limits = np.array([width, height, width, height])
    checks = (
        (~np.isfinite(boxes), "finite boxes"),
        ((boxes[:, :2] >= boxes[:, 2:]), "boxes with x0 < x1 and y0 < y1 (leave out an object without area)"),
        ((boxes < -slack) | (boxes > limits + slack), f"boxes inside the image of {height} x {width}"),
    )
    for bad, expected in checks:
        if bad.any():
            index = int(np.argmax(bad.any(axis=1)))
            raise wrong(expected, f"{boxes[index].tolist()} as box {index}")
    bad_labels = (labels < 0) | (labels >= classes)
    if bad_labels.any():
        index = int(np.argmax(bad_labels))
        raise wrong(f"labels from 0 to {classes - 1} (background is no label)", f"{int(labels[index])} for box {index}")
