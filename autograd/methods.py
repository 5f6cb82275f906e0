"""Binds operators and methods to Tensor, once. Their signatures are declared in ``tensor.py``."""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd import graph, ops
from autograd.tensor import Tensor

__all__ = ["METHODS"]


def _reshape(x: Tensor, *shape: Any) -> Tensor:
    return ops.reshape(x, shape[0] if len(shape) == 1 else shape)


def _transpose(x: Tensor, *axes: Any) -> Tensor:
    if not axes or axes == (None,):
        return ops.transpose(x)
    return ops.transpose(x, axes[0] if len(axes) == 1 and np.ndim(axes[0]) else axes)


METHODS: dict[str, Any] = {
    "__add__": ops.add,
    "__radd__": ops.add,
    "__sub__": ops.subtract,
    "__rsub__": lambda x, y: ops.subtract(y, x),
    "__mul__": ops.multiply,
    "__rmul__": ops.multiply,
    "__truediv__": ops.divide,
    "__rtruediv__": lambda x, y: ops.divide(y, x),
    "__pow__": ops.power,
    "__rpow__": lambda x, y: ops.power(y, x),
    "__matmul__": ops.matmul,
    "__rmatmul__": lambda x, y: ops.matmul(y, x),
    "__neg__": ops.negative,
    "__abs__": ops.absolute,
    "__eq__": ops.equal,
    "__ne__": ops.not_equal,
    "__lt__": ops.less,
    "__le__": ops.less_equal,
    "__gt__": ops.greater,
    "__ge__": ops.greater_equal,
    "__getitem__": ops.getitem,
    "backward": graph.backward,
    "T": property(ops.transpose),
    "to": ops.to_device,
    "reshape": _reshape,
    "transpose": _transpose,
    **{
        name: getattr(ops, name)
        for name in (
            "argmax",
            "astype",
            "clip",
            "exp",
            "log",
            "log_softmax",
            "max",
            "mean",
            "min",
            "relu",
            "sigmoid",
            "softmax",
            "sqrt",
            "squeeze",
            "sum",
            "swapaxes",
            "take",
            "tanh",
            "var",
        )
    },
}

for _name, _function in METHODS.items():
    setattr(Tensor, _name, _function)
