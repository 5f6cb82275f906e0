"""What a run makes of the words of the weights that it evaluates or starts from."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from swinpy.io.errors import plain
from swinpy.snapshots.store import SnapshotStore
from swinpy.weights import ModelInfo, WeightsError, checked_info, read_model_info

if TYPE_CHECKING:
    from argparse import Namespace

    from swinpy.data import ImageDataset

__all__ = ["evaluated_info", "run_folder", "warn_of_other_classes", "warn_of_other_data"]


def run_folder(options: Namespace) -> Path:
    """Where a run's files are."""
    return Path(options.output) / (options.experiment or f"{options.dataset}-{options.model}-seed{options.seed}")


def evaluated_info(options: Namespace) -> ModelInfo | None:
    """What the weights that --eval evaluates say of themselves; None for those that say nothing, and in training.

    Raises:
        WeightsError: they say it in a way that cannot be read, or their arrays contradict it.
        WeightsFileError, SnapshotError: they cannot be read.
    """
    if not options.eval_only:
        return None
    source = options.resume or options.initial_checkpoint
    if source in (None, "auto"):
        source, _ = SnapshotStore(run_folder(options)).newest()
    info = None if source is None else checked_info(source)
    if info and info.model not in ("", options.model):
        warnings.warn(
            f"{source} says that it is a {plain(info.model)}: evaluated as that, not as {options.model}", stacklevel=2
        )
    return info


def warn_of_other_classes(info: ModelInfo, data: ImageDataset) -> None:
    """Whether weights know other classes than the data has, or in another order."""
    own, other = info.class_names, data.class_names
    pairs = enumerate(zip(own, other, strict=False))
    different = next((f"class {i} is {plain(a)}, not {plain(b)}" for i, (a, b) in pairs if a != b), "")
    if own and own != other:
        counted = f"{len(own)} classes, not {len(other)}"
        warnings.warn(f"the weights were trained on other classes: {different or counted}", stacklevel=2)


def warn_of_other_data(options: Namespace, data: ImageDataset) -> None:
    """Whether the weights of --initial-checkpoint were trained on other classes, or images normalised otherwise."""
    try:
        info = read_model_info(options.initial_checkpoint)
    except WeightsError:  # the report of loading says so; training needs no more than the arrays
        return
    if info is None:
        return
    by = info.preparation
    if by and (by.mean, by.std) != (tuple(data.mean), tuple(data.std)):
        warnings.warn(
            f"the weights were trained on images normalised otherwise: by mean {by.mean} and std {by.std}; this run "
            f"normalises by mean {data.mean} and std {data.std}",
            stacklevel=2,
        )
    if options.initial_head == "keep":
        warn_of_other_classes(info, data)
