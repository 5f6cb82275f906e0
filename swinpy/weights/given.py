"""Where weights come from: a file, a dict in memory, a dict of dicts; as NumPy arrays by key, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import autograd as ag
from swinpy.io import read_checkpoint, read_weights
from swinpy.io.entries import Survey
from swinpy.io.errors import Fault

__all__ = ["Given", "WeightsError", "is_floating", "read_given"]

Array = np.ndarray[Any, Any]

# Tensors of torch that NumPy has no type for, and that are widened as those of files are.
_WIDENED = ("bfloat16",)


class WeightsError(ValueError):
    """Weights that do not fit the model, or that no model can use; nothing was loaded."""


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype holds floats, ml_dtypes' (bfloat16 and smaller ones) included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat16", "float8"))


def _is_array(value: Any) -> bool:
    """Whether a value is a tensor of any library; NumPy's scalars are numbers, as in a file."""
    if isinstance(value, (Mapping, np.generic)):
        return False
    return hasattr(value, "__array__") or hasattr(value, "shape")


def _unwrapped(source: Mapping[Any, Any], entry: str | None) -> tuple[str, Mapping[Any, Any]]:
    """The tensors' own dict inside what a training program saves, and where it is, found as in a file."""
    survey = Survey(source, _is_array)
    try:
        found = survey.search() if entry is None else survey.choose(entry)
    except Fault as fault:
        raise WeightsError(fault.message("load_weights", "memory")) from None
    if found is None:
        got = next((f"{type(value).__name__} for {str(key)!r}" for key, value in source.items()), "none")
        raise WeightsError(f"load_weights: expected arrays in memory; got {got}. Pass the dict of tensors.")
    return ".".join(map(str, found[0])), found[1]


def _plain_tensor(value: Any) -> Any:
    """A torch tensor without its graph, on the host, of a type that NumPy has; anything else as it is.

    Told by its methods: torch itself is not imported.
    """
    if isinstance(value, ag.Tensor) or not all(hasattr(value, name) for name in ("detach", "cpu", "float")):
        return value
    value = value.detach().cpu()
    return value.float() if _element_type(value) in _WIDENED else value


def _element_type(value: Any) -> str:
    return str(getattr(value, "dtype", "")).removeprefix("torch.")


def _as_array(key: str, value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    try:
        value = _plain_tensor(value)
        return np.asarray(value) if hasattr(value, "__array__") and not isinstance(value, ag.Tensor) else _host(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"load_weights: expected an array for {key!r}; got {type(value).__name__}: {error}. Convert it to float32."
        ) from None


def _host(value: Any) -> Array:
    array: Array = value.numpy() if isinstance(value, ag.Tensor) else ag.Tensor(value).numpy()
    return array


def _of_file(path: str | os.PathLike[str], entry: str | None) -> Given:
    found = read_checkpoint(path, entry=entry)
    where = str(Path(path))
    if found.unreadable:
        return Given(read_weights(path, entry=entry), where, {})  # which says what is wrong with them
    widened = {k: t.dtype.name for k, t in found.stored.items() if t.dtype.name != found.tensors[k].dtype.name}
    beside = f"{found.entry}." if found.entry else ""
    others = {k.removeprefix(beside): what for k, what in found.skipped.items() if k.startswith(beside)}
    return Given(found.tensors, where, widened, found.entry, others)


def _of_dict(source: Mapping[Any, Any], entry: str | None) -> Given:
    path, found = _unwrapped(source, entry)
    tensors = {str(k): v for k, v in found.items() if _is_array(v)}
    others = {str(k): type(v).__name__ for k, v in found.items() if not _is_array(v)}
    arrays = {k: _as_array(k, v) for k, v in tensors.items()}
    types = {k: t for k, v in tensors.items() if (t := _element_type(v)) in _WIDENED}
    widened = {k: t for k, t in types.items() if arrays[k].dtype.name != t}
    return Given(arrays, "memory", widened, path, others)


@dataclass(frozen=True)
class Given:
    """Weights as they were given.

    Attributes:
        arrays: by key.
        where: what a message calls them.
        widened: key -> element type of the file, where NumPy has no such type (bfloat16).
        entry: which part of the file or the dict they are, names joined by dots; "" for the top.
        others: key beside them -> what it is instead of a tensor.
    """

    arrays: dict[str, Array]
    where: str
    widened: dict[str, str]
    entry: str = ""
    others: dict[str, str] = field(default_factory=dict)


def read_given(source: Any, entry: str | None = None) -> Given:
    """Weights of a file or a dict.

    Args:
        source: a path, or a dict of arrays, also in a wrapper of other dicts; what is no array is left out.
        entry: which part holds the weights, names joined by dots; None to search by the rule of
            :func:`swinpy.io.read_weights`.

    Raises:
        WeightsError: for a source that is neither a file nor a dict of arrays, or one without any.
        WeightsFileError: for a file that cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        found = _of_file(source, entry)
    elif isinstance(source, Mapping):
        found = _of_dict(source, entry)
    else:
        raise WeightsError(
            f"load_weights: expected a path or a dict of arrays; got {type(source).__name__}. Pass model.state_dict()."
        )
    if not found.arrays:
        raise WeightsError(f"load_weights: expected arrays in {found.where}; got none.")
    return found
