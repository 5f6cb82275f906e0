"""Where weights come from: a file, a dict in memory, a dict of dicts; as NumPy arrays by key, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
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
    return not isinstance(value, Mapping) and (hasattr(value, "__array__") or hasattr(value, "shape"))


def _unwrapped(source: Mapping[Any, Any], entry: str | None) -> Mapping[Any, Any]:
    """The tensors' own dict inside what a training program saves, found as in a file; without tensors, the source."""
    survey = Survey(source, _is_array)
    try:
        found = survey.search() if entry is None else survey.choose(entry)
    except Fault as fault:
        raise WeightsError(fault.message("load_weights", "memory")) from None
    return source if found is None else found[1]


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
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if not _is_array(value):
        raise WeightsError(
            f"load_weights: expected an array for {key!r}; got {type(value).__name__}. Pass the dict of tensors alone."
        )
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


def _read_file(path: str | os.PathLike[str], entry: str | None) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays of a file, and the element type of those that were widened."""
    found = read_checkpoint(path, entry=entry)
    if found.unreadable:
        return read_weights(path, entry=entry), {}  # which says what is wrong with them
    widened = {k: t.dtype.name for k, t in found.stored.items() if t.dtype.name != found.tensors[k].dtype.name}
    return found.tensors, widened


@dataclass(frozen=True)
class Given:
    """Weights as they were given.

    Attributes:
        arrays: by key.
        where: what a message calls them.
        widened: key -> element type of the file, where NumPy has no such type (bfloat16).
    """

    arrays: dict[str, Array]
    where: str
    widened: dict[str, str]


def read_given(source: Any, entry: str | None = None) -> Given:
    """Weights of a file or a dict.

    Args:
        source: a path, or a dict of arrays, also in a wrapper of other dicts.
        entry: which part holds the weights, names joined by dots; None to search by the rule of
            :func:`swinpy.io.read_weights`.

    Raises:
        WeightsError: for a source that is neither a file nor a dict of arrays, or one without any.
        WeightsFileError: for a file that cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        arrays, widened = _read_file(source, entry)
        found = Given(arrays, str(Path(source)), widened)
    elif isinstance(source, Mapping):
        tensors = {str(k): v for k, v in _unwrapped(source, entry).items()}
        arrays = {k: _as_array(k, v) for k, v in tensors.items()}
        widened = {
            k: t for k, v in tensors.items() if (t := _element_type(v)) in _WIDENED and arrays[k].dtype.name != t
        }
        found = Given(arrays, "memory", widened)
    else:
        raise WeightsError(
            f"load_weights: expected a path or a dict of arrays; got {type(source).__name__}. Pass model.state_dict()."
        )
    if not found.arrays:
        raise WeightsError(f"load_weights: expected arrays in {found.where}; got none.")
    return found
