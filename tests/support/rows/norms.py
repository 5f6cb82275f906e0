"""Rows of autograd/ops/norms.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag

from .opinfo import BadCall, OpInfo, Sample, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .opinfo import Source

_NO_SCALAR = {"scalar": "x is (B, C, ...); the error is checked"}
X, C = np.ones((2, 4, 3)), np.ones(4)


def _sample(s: Source, shape: tuple[int, ...], last: bool = False, **static: Any) -> Sample:
    channels = shape[1]
    x = s.normal(shape) + 0.5
    if last:  # as a convolution leaves it
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        x = np.moveaxis(x, -1, 1)
    return Sample((x, s.between(0.5, 1.5, (channels,)), s.normal((channels,))), static)


def _channels(a: Any, x: Any) -> Any:
    return a.reshape((1, -1) + (1,) * (x.ndim - 2))


# ---- batch norm


def _axes(x: Any) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _batch(x: Any, weight: Any, bias: Any, *, eps: float = 1e-5) -> Any:
    mean, var = x.mean(axis=_axes(x)), x.var(axis=_axes(x), ddof=1)
    y = (x - _channels(mean, x)) / np.sqrt(_channels(x.var(axis=_axes(x)), x) + eps)
    return y * _channels(weight, x) + _channels(bias, x), mean, var


def _batch_call(x: Any, weight: Any, bias: Any, **static: Any) -> Any:
    """Statistics are float32 for float16; here all have one dtype."""
    y, mean, var = ag.batch_norm(x, weight, bias, **static)
    return y, mean.astype(y.dtype), var.astype(y.dtype)


def _batch_composite(x: Any, weight: Any, bias: Any, *, eps: float = 1e-5) -> Any:
    axes = _axes(x)
    n = math.prod(x.shape[a] for a in axes)
    mean, var = (op(x, axes, keepdims=True) for op in (ag.mean, ag.var))
    y = (x - mean) / ag.sqrt(var + eps) * _channels(weight, x) + _channels(bias, x)
    return y, mean.reshape(-1), (var * (n / (n - 1))).reshape(-1)


def _running(s: Source, shape: tuple[int, ...], **static: Any) -> Sample:
    channels = shape[1]
    return _sample(s, shape, mean=s.normal((channels,)), var=s.between(0.2, 2, (channels,)), **static)


def _eval(x: Any, weight: Any, bias: Any, *, mean: Any, var: Any, eps: float = 1e-5) -> Any:
    mean, var = mean.astype(x.dtype), var.astype(x.dtype)
    return (x - _channels(mean, x)) / np.sqrt(_channels(var, x) + eps) * _channels(weight, x) + _channels(bias, x)


def _eval_composite(x: Any, weight: Any, bias: Any, *, mean: Any, var: Any, eps: float = 1e-5) -> Any:
    mean, var = ag.Tensor(mean.astype(x.dtype)), ag.Tensor(var.astype(x.dtype))
    return (x - _channels(mean, x)) / ag.sqrt(_channels(var, x) + eps) * _channels(weight, x) + _channels(bias, x)


def _bad(call: Callable[..., Any]) -> tuple[BadCall, ...]:
    return (
        BadCall(lambda: call(np.ones(()), C, C), ValueError, "(B, C, ...)"),
        BadCall(lambda: call(X, C[:3], C), ValueError, "(3,)"),
        BadCall(lambda: call(X, C, np.ones((1, 4))), ValueError, "(1, 4)"),
    )


register(
    OpInfo(
        "batch_norm",
        _batch_call,
        {
            "map": lambda s: _sample(s, (2, 3, 4, 5)),
            "channels_last": lambda s: _sample(s, (2, 4, 3, 5), last=True),
            "matrix": lambda s: _sample(s, (6, 3), eps=0.1),
            "two_values": lambda s: _sample(s, (1, 3, 1, 2), eps=0.1),
            "eps": lambda s: _sample(s, (3, 2, 4), eps=0.5),
            "drawn": lambda s: _sample(s, (2, *s.shape(3))),
            "empty": lambda s: _sample(s, (3, 0, 2)),
        },
        _batch,
        composite=_batch_composite,
        exempt=_NO_SCALAR,
        errors=(
            *_bad(ag.batch_norm),
            BadCall(lambda: ag.batch_norm(X[:1, :, :1], C, C), ValueError, "more than one value a channel; got 1"),
            BadCall(lambda: ag.batch_norm(X[:0], C, C), ValueError, "more than one value a channel; got 0"),
        ),
    ),
    OpInfo(
        "batch_norm_eval",
        ag.batch_norm_eval,
        {
            "map": lambda s: _running(s, (2, 3, 4, 5)),
            "channels_last": lambda s: _running(s, (2, 4, 3, 5), last=True),
            "matrix": lambda s: _running(s, (4, 3), eps=0.1),
            "one_value": lambda s: _running(s, (1, 3, 1, 1)),
            "empty": lambda s: _running(s, (0, 3, 2)),
        },
        _eval,
        composite=_eval_composite,
        exempt=_NO_SCALAR,
        errors=(
            *_bad(lambda x, w, b: ag.batch_norm_eval(x, w, b, C, C)),
            BadCall(lambda: ag.batch_norm_eval(X, C, C, C[:2], C), ValueError, "(2,)"),
            BadCall(lambda: ag.batch_norm_eval(X, C, C, C, 1.0), ValueError, "()"),
        ),
    ),
)


# ---- group norm


def _group(x: Any, weight: Any, bias: Any, *, num_groups: int, eps: float = 1e-5) -> Any:
    out = np.empty_like(x)
    size = x.shape[1] // num_groups
    for sample, group in np.ndindex(x.shape[0], num_groups):
        part = x[sample, group * size : (group + 1) * size]
        out[sample, group * size : (group + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + eps)
    return out * _channels(weight, x) + _channels(bias, x)


def _group_composite(x: Any, weight: Any, bias: Any, *, num_groups: int, eps: float = 1e-5) -> Any:
    parts = x.reshape(x.shape[0], num_groups, math.prod(x.shape[1:]) // num_groups)
    centred = parts - ag.mean(parts, -1, keepdims=True)
    y = centred / ag.sqrt(ag.mean(centred * centred, -1, keepdims=True) + eps)
    return y.reshape(x.shape) * _channels(weight, x) + _channels(bias, x)


def _group_call(x: Any, weight: Any, bias: Any, *, num_groups: int, **static: Any) -> Any:
    return ag.group_norm(x, num_groups, weight, bias, **static)


register(
    OpInfo(
        "group_norm",
        _group_call,
        {
            "map": lambda s: _sample(s, (2, 6, 3, 4), num_groups=2),
            "channels_last": lambda s: _sample(s, (2, 6, 3, 4), last=True, num_groups=3),
            "one_group": lambda s: _sample(s, (2, 3, 4), num_groups=1),
            "each_channel": lambda s: _sample(s, (2, 3, 5), num_groups=3, eps=0.1),
            "matrix": lambda s: _sample(s, (3, 8), num_groups=2),
            "empty": lambda s: Sample((s.normal((0, 4, 3)), s.normal((4,)), s.normal((4,))), {"num_groups": 2}),
        },
        _group,
        composite=_group_composite,
        exempt=_NO_SCALAR,
        errors=(
            *_bad(lambda x, w, b: ag.group_norm(x, 2, w, b)),
            BadCall(lambda: ag.group_norm(X, 3, C, C), ValueError, "that 3 groups divide"),
            BadCall(lambda: ag.group_norm(X[:, :, :0], 2, C, C), ValueError, "not empty"),
            BadCall(lambda: ag.group_norm(X, 0, C, C), ValueError, "num_groups of 1 or more"),
            BadCall(lambda: ag.group_norm(X, 2.0, C, C), TypeError, "num_groups as an integer"),
        ),
    ),
)
