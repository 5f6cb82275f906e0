"""convert_weights: a file of one layout as a file of another."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinpy.io import WeightsFileError
from swinpy.models.registry import model_config
from swinpy.weights.describe import facts_of, geometry_of
from swinpy.weights.dialects import DialectError, find_dialect, from_official, has_place, to_official
from swinpy.weights.find import find_weights, read_model_info
from swinpy.weights.given import WeightsError, read_given
from swinpy.weights.identify import check_model, matching_models
from swinpy.weights.model import check_info
from swinpy.weights.report import SaveReport, some
from swinpy.weights.save import write_with_info

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import numpy as np

    from swinpy.models.config import SwinConfig
    from swinpy.weights.dialects import Translation
    from swinpy.weights.given import Given
    from swinpy.weights.info import ModelInfo

__all__ = ["convert_weights"]

# Parts that a network can do without: a layout that has no place for them gets the rest.
_SPARE = re.compile(r"norm\d+\..*|mask_token|decoder\..*")


# What messages of the steps begin with.
_STEP = re.compile(r"^(load_weights|save_weights|read_weights|read_checkpoint|write_weights|dialect):")


@contextlib.contextmanager
def _under_its_own_name() -> Iterator[None]:
    """Faults of the steps, which other functions take as well, are told as convert_weights' own."""
    try:
        yield
    except (WeightsError, DialectError, WeightsFileError) as error:
        raise type(error)(_STEP.sub("convert_weights:", str(error))) from error


def _check_files(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    if Path(path).exists() and Path(source).exists() and Path(path).samefile(source):
        raise ValueError(
            f"convert_weights: expected a file to write other than the source; got {path} for both. What the new "
            "layout has no place for would be lost: choose another name."
        )


def _config(read: Translation) -> tuple[SwinConfig | None, list[str]]:
    """The configuration whose buffers are to be written, if it can be told, and notes."""
    names = matching_models(read)
    if len(names) == 1:
        return model_config(names[0]), []
    which = f"several models fit ({', '.join(names)})" if names else "no known model fits"
    return None, [f"{which}: no buffers are written; name the model (--model)"]


def _own_info(source: Path, entry: str | None, read: Translation, where: str) -> ModelInfo | None:
    """What the source says of itself, which its arrays must not contradict."""
    info = read_model_info(source, entry)
    if info is not None:
        check_info(info.config, read.arrays, where)
    return info


def convert_weights(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    to: str,
    dialect: str = "auto",
    model: str | None = None,
    entry: str | None = None,
    prefix: str | None = None,
) -> SaveReport:
    """Rewrite a file of weights in another layout; numbers and dtypes are kept, except bfloat16.

    What the source says of itself (configuration, preparation, class names) is kept, where the new file has a place.

    NumPy has no bfloat16: such tensors are written as float32, which is exact and twice as long; the report says so.

    Args:
        source: the file, or the folder of a snapshot or a run (see :func:`swinpy.weights.find_weights`).
        path: the file to write, not the source; its suffix chooses the container.
        to: the layout, one of :data:`swinpy.weights.dialects.DIALECTS`.
        dialect: of the source; "auto" tells it from the keys.
        model: name of the model, for the buffers that some layouts store; None takes what the source says of itself,
            or tells it from shapes and buffers. A name is compared with them, in every layout, and what the source
            says is then left out.
        entry: which part of a torch file to read.
        prefix: what comes before the names of the network, where the file has several; None finds it.

    Returns:
        What was written, dropped and changed; print it.

    Raises:
        DialectError: keys of no dialect, or tensors that the target has no place for.
        WeightsFileError: a file that cannot be read.
        WeightsError: weights of another model than the one named.
        ValueError: an unknown suffix or model, or one file for both.
        OSError: the disk refused; a file that was at ``path`` is as it was.

    """
    with _under_its_own_name():
        _check_files(source, path)
        file, _ = find_weights(source)
        came = read_given(file, entry)
        read = to_official(came.arrays, dialect, prefix)
        whole = facts_of(read.arrays) is not None
        info = _own_info(file, entry, read, came.where) if whole and model is None else None
        return _convert(came, read, path, to, model, info)


def _convert(
    came: Given,
    read: Translation,
    path: str | os.PathLike[str],
    to: str,
    model: str | None,
    info: ModelInfo | None,
) -> SaveReport:
    if facts_of(read.arrays) is None:
        raise DialectError(
            f"convert_weights: expected a whole Swin in the dialect {read.dialect}; got {came.where}, of whose "
            f"{len(came.arrays)} keys {len(read.unknown)} are not of that dialect: {some(read.unknown) or 'none'}. "
            "Leave the dialect of the source to be told from its keys."
        )
    target = find_dialect(to)
    config: SwinConfig | None = None
    notes: list[str] = []
    if model is not None:
        named = check_model(model, read, came.where, buffers=bool(target.buffers))
        config = named if target.buffers else None
    elif target.buffers:
        config, notes = (info.config, []) if info else _config(read)
    kept: dict[str, np.ndarray[Any, Any]] = {}
    buffers = set(read.buffer_source.values())
    dropped = {key: why for key, why in read.ignored.items() if key not in buffers}
    dropped |= {key: f"no tensor but {what}" for key, what in came.others.items()}
    dropped |= dict.fromkeys(read.unknown, f"no key of the dialect {read.dialect}")
    for name, array in read.arrays.items():
        if _SPARE.fullmatch(name) and not has_place(target, name):
            dropped[read.source[name]] = f"{target.name} models have no such part"
        else:
            kept[name] = array
    written = from_official(kept, to, geometry_of(config) if config else None)
    notes += write_with_info(path, written, info)
    if came.widened:
        notes.append(
            f"{len(came.widened)} tensors are written as float32 instead of {some(set(came.widened.values()))}"
        )
    notes += [note for note in written.notes if config is not None]
    return SaveReport(
        str(Path(path)),
        f"{target.name}, was {read.dialect}",
        tuple(written.arrays),
        dropped | written.dropped,
        tuple(notes),
    )
