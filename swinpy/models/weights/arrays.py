"""Where weights come from: a file, a dict in memory, a dict of dicts; as NumPy arrays by key, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import autograd as ag
from swinpy.io import read_weights

__all__ = ["WeightsError", "is_floating", "read_source"]

Array = np.ndarray[Any, Any]

# What training checkpoints and repositories keep the model's tensors under.
_HOLDERS = ("model", "state_dict")


class WeightsError(ValueError):
    """Weights that do not fit the model, or that no model can use; nothing was loaded."""


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype holds floats, ml_dtypes' (bfloat16 and smaller ones) included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat16", "float8"))


def _unwrapped(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors' own dict inside what a training program saved."""
    for holder in _HOLDERS:
        inner = source.get(holder)
        if isinstance(inner, Mapping):
            return _unwrapped(inner)
    return source


def _as_array(key: str, value: Any) -> Array:
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if isinstance(value, Mapping) or not (hasattr(value, "__array__") or hasattr(value, "shape")):
        raise WeightsError(
            f"load_weights: expected an array for {key!r}; got {type(value).__name__}. Pass the dict of tensors alone."
        )
    try:
        return np.asarray(value) if hasattr(value, "__array__") and not isinstance(value, ag.Tensor) else _host(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"load_weights: expected an array for {key!r}; got {type(value).__name__}: {error}"
        ) from None


def _host(value: Any) -> Array:
    array: Array = value.numpy() if isinstance(value, ag.Tensor) else ag.Tensor(value).numpy()
    return array


def read_source(source: Any) -> tuple[dict[str, Array], str]:
    """Arrays by key, and what a message calls them.

    Raises:
        WeightsError: for a source that is neither a file nor a dict of arrays, or one without any.
    """
    if isinstance(source, (str, os.PathLike)):
        arrays, where = dict(read_weights(source)), str(Path(source))
    elif isinstance(source, Mapping):
        arrays, where = {str(k): _as_array(str(k), v) for k, v in _unwrapped(source).items()}, "memory"
    else:
        raise WeightsError(
            f"load_weights: expected a path or a dict of arrays; got {type(source).__name__}. Pass model.state_dict()."
        )
    if not arrays:
        raise WeightsError(f"load_weights: expected arrays in {where}; got none.")
    return arrays, where
