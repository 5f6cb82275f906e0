"""Image files for tests, made by Pillow from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CLASSES", "picture", "write_folder", "write_truncated"]

CLASSES = ("ant", "Bee", "cat")


def picture(seed: int = 0, size: tuple[int, int] | None = None) -> Any:
    """An RGB image of smooth shapes and noise; (H, W) from 20 to 60 unless given."""
    rng = np.random.default_rng(seed)
    height, width = size or (int(n) for n in rng.integers(20, 60, 2))
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / a + y / b) for a, b in rng.uniform(3, 9, (3, 2))]
    noise = rng.integers(-20, 20, (height, width, 3))
    return Image.fromarray(np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8))


def write_folder(root: Path, train: int = 6, val: int = 2, classes: tuple[str, ...] = CLASSES) -> Path:
    """root/train and root/val with a directory a class: JPEG, PNG and BMP, one in a folder below, one grey."""
    for part, count in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            for i in range(count):
                folder = root / part / name / ("more" if i == 1 else "")
                folder.mkdir(parents=True, exist_ok=True)
                image = picture(1000 * label + i + 100 * (part == "val"))
                if i == 2:
                    image = image.convert("L")
                image.save(folder / f"{i}.{('jpg', 'PNG', 'bmp')[i % 3]}")
    return root


def write_truncated(path: Path) -> Path:
    """A JPEG whose beginning is sound and whose end is missing."""
    picture(5, (64, 64)).save(path, format="JPEG")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path
