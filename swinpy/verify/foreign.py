"""What users bring from other frameworks, none of them imported here: their arrays are taken, their models refused."""

from __future__ import annotations

from typing import Any

import numpy as np

import autograd as ag
from swinpy.nn import Module

__all__ = ["as_array", "kind_of", "require_callable", "require_module"]

Array = np.ndarray[Any, Any]

# What models of other frameworks have and plain functions have not (torch and Paddle, TensorFlow, Flax).
_MARKS = ("state_dict", "named_parameters", "trainable_variables", "init_with_output")
_FIX = "Dump its values to an npz and use diff (docs/verifying.md)."


def as_array(value: Any) -> Array:
    """The numbers of a Tensor of the engine, of another framework's (taken off its graph and device), or of a list."""
    if isinstance(value, ag.Tensor):
        return np.asarray(value.numpy())
    if not isinstance(value, np.ndarray) and callable(getattr(value, "detach", None)):
        value = value.detach()
        value = (value.cpu() if callable(getattr(value, "cpu", None)) else value).numpy()
    return np.asarray(value)


def kind_of(value: object) -> str:
    """The class with its module: a Tensor of the engine and one of torch are both called Tensor."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def require_module(op: str, model: object) -> None:
    """Refuse what is no Module of this library."""
    if not isinstance(model, Module):
        raise TypeError(f"{op}: expected a swinpy.nn.Module; got {kind_of(model)}. {_FIX}")


def require_callable(op: str, model: object) -> None:
    """Refuse what is neither a Module of this library nor a plain function."""
    if isinstance(model, Module):
        return
    if not callable(model) or any(hasattr(model, mark) for mark in _MARKS):
        raise TypeError(f"{op}: expected a swinpy.nn.Module or a function of a Tensor; got {kind_of(model)}. {_FIX}")
