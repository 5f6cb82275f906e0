"""The head of a file and of a model that has other classes: keep, drop, zero, or pick rows by a map file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from swinpy.weights.given import WeightsError

__all__ = ["HEAD_CHOICES", "read_class_map"]

HEAD_CHOICES = ("keep", "drop", "zero")


def read_class_map(path: str | os.PathLike[str], classes: int, available: int) -> np.ndarray[Any, Any]:
    """For each class of the model, its row in the file's head.

    Args:
        path: a text file with one row number a line, counted from 0 (the official map22kto1k.txt).
        classes: of the model, as many as there must be lines.
        available: rows of the file's head.

    Raises:
        WeightsError: a file that cannot be read, another number of lines, a line that is no row of the head.
    """
    try:
        text = Path(path).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        what = "which is no text" if isinstance(error, ValueError) else getattr(error, "strerror", "")
        raise WeightsError(
            f"load_weights: expected head to be {', '.join(HEAD_CHOICES)} or a text file of class numbers; got "
            f"{os.fspath(path)!r}, {'a file that does not exist' if isinstance(error, FileNotFoundError) else what}. "
            "Choose one of the words, or name a file with one row number a line."
        ) from None
    lines = text.split()
    if len(lines) != classes:
        raise WeightsError(
            f"load_weights: expected {classes} class numbers in {path}, one for each class of the model; got "
            f"{len(lines)}. Use the map for these classes, or build the model with num_classes={len(lines)}."
        )
    for number, line in enumerate(lines, 1):
        if not line.isdecimal() or int(line) >= available:
            raise WeightsError(
                f"load_weights: expected class numbers from 0 to {available - 1} in {path}, the rows of the file's "
                f"head; got {line!r} in line {number}. Use the map for this file."
            )
    return np.array([int(line) for line in lines])
