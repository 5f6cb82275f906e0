"""Where a run's weights are, and what they say of themselves: a snapshot's folder and a run's stand for their file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinpy.io import read_checkpoint
from swinpy.io.atomic import read_regular
from swinpy.models.presets import eval_config_of
from swinpy.snapshots.manifest import MANIFEST, STATE, group_file
from swinpy.snapshots.plain_json import decode_plain
from swinpy.snapshots.store import find_snapshot
from swinpy.weights.given import WeightsError
from swinpy.weights.info import METADATA, ModelInfo, config_from_json, info_of_metadata

if TYPE_CHECKING:
    from swinpy.models.config import SwinConfig

__all__ = ["differences", "find_weights", "read_model_info", "says_something"]

_WEIGHTS = group_file("model", "find_weights")
_STATE_LIMIT = 1 << 28
# Options that change what a model answers, and none of its arrays.
_UNSEEN = (
    "qk_scale",
    "shift",
    "patch_rule",
    "small_map",
    "shift_rule",
    "windows",
    "pad_order",
    "mask_value",
    "coordinates",
    "layer_norm_eps",
)


def find_weights(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """The file of weights that a path means.

    Args:
        path: a file, which may be a run's ``latest``; a snapshot's folder; or a run's folder, whose best snapshot is
            taken, the newest where none is marked as best.

    Returns:
        The file, and which snapshot was taken; "" where the path leaves no choice.

    Raises:
        WeightsError: a folder that is neither.
        SnapshotError: a snapshot that is damaged, or a run without a good one.
    """
    given = Path(path)
    if given.is_dir():
        if not any(os.path.lexists(given / name) for name in (MANIFEST, "snapshots")) and given.name != "snapshots":
            raise WeightsError(
                f"weights: expected a file, a snapshot's folder or a run's; got the folder {given}, which has neither "
                f"{MANIFEST} nor snapshots in it. Name the file."
            )
    elif given.name != "latest" or given.parent.name != "snapshots" or not given.is_file():
        return given, ""
    snapshot, said = find_snapshot(given)
    return snapshot / _WEIGHTS, said


def read_model_info(path: str | os.PathLike[str], entry: str | None = None) -> ModelInfo | None:
    """What weights say of themselves: their configuration, preparation and class names.

    Args:
        path: as `find_weights` takes it.
        entry: part of a torch file that holds the weights.

    Returns:
        None for a file that says nothing, as those of other libraries.

    Raises:
        WeightsError: it is damaged, hostile, or written by another version.
        WeightsFileError, SnapshotError: the file or folder cannot be read.
    """
    file, _ = find_weights(path)
    metadata, size = _metadata(file, entry)
    return info_of_metadata(metadata, size, str(file)) or _info_of_state(file)


def differences(path: str | os.PathLike[str], config: SwinConfig, entry: str | None) -> dict[str, str]:
    """Where a model's configuration differs from what weights say of theirs, as far as no array shows it.

    Returns:
        A line for each such option, by its name; or, under "", that what they say cannot be read.
    """
    try:
        info = read_model_info(path, entry)
    except WeightsError as error:
        return {"": str(error)}
    if info is None:
        return {}
    unseen = [name for name in _UNSEEN if getattr(info.config, name) != getattr(config, name)]
    return {
        name: f"the weights are of a model with {name}={getattr(info.config, name)!r}, this one has "
        f"{name}={getattr(config, name)!r}"
        for name in unseen
    }


def says_something(file: Path, entry: str | None) -> bool:
    """Whether a file says something of itself, be it readable or not."""
    return METADATA in _metadata(file, entry)[0]


def _metadata(file: Path, entry: str | None) -> tuple[Mapping[str, Any], int]:
    """Where a file says something of itself, and the file's size in bytes."""
    found = read_checkpoint(file, entry=entry, load=False)
    return found.metadata or (found.tree if isinstance(found.tree, Mapping) else {}), found.size


def _info_of_state(file: Path) -> ModelInfo | None:
    """Of a snapshot from before files said it themselves: its state has the configuration and the run's options.

    How images were prepared follows from these for folders of images alone; the datasets had numbers of their own.
    """
    if file.name != _WEIGHTS or not os.path.lexists(file.parent / MANIFEST):
        return None
    try:
        state: Any = decode_plain(read_regular(file.parent / STATE, limit=_STATE_LIMIT), "model info", STATE)
        options = state["options"]
        config, name, dataset = config_from_json(state["model_config"]), options["model"], options["dataset"]
        preparation = eval_config_of(name, config) if dataset == "folder" else None
        return ModelInfo(config, preparation, (), str(name), str(dataset), bool(state["synthetic"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise WeightsError(
            f"model info: expected the state of a run in {file.parent / STATE}; got {type(error).__name__}: "
            f"{str(error)[:200]}. Copy the weights elsewhere to use them without it."
        ) from None
