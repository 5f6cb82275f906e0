"""Planted faults: each breaks the engine in one way and names the generic check that must notice.

Rows for other packages are made with :class:`Fault` and any zero-argument check.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import autograd as ag
from autograd import graph, ops, random
from autograd.kernels import KERNELS
from autograd.primitive import PRIMITIVES

from . import checks
from .rows.table import find

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FAULTS", "Fault", "assert_caught", "generic", "plant_forward", "plant_global", "plant_kernel", "plant_vjp"]

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Fault:
    """A way to be wrong.

    Attributes:
        name: what is wrong.
        check: passes on clean code, raises AssertionError with the fault planted.
        plant: puts the fault in, through the given monkeypatch.
    """

    name: str
    check: Callable[[], None]
    plant: Callable[[Patch], None]


def _run(check: str, row: str) -> None:
    info = find(row)
    assert checks.applies(check, info), f"{check} does not run on {row}"
    for case in info.samples:
        checks.CHECKS[check].run(info, info.sample(case))


def generic(check: str, row: str) -> Callable[[], None]:
    """The generic check of that name on every case of that row."""
    return partial(_run, check, row)


def assert_caught(fault: Fault) -> None:
    """The check passes, fails while the fault is planted, and passes again.

    With the references, because that is where faults of kernels are planted.
    """
    with ag.kernel_mode("reference"):
        fault.check()
        with Patch.context() as patch:
            fault.plant(patch)
            try:
                fault.check()
            except AssertionError:
                pass
            else:
                raise AssertionError(f"nothing noticed: {fault.name}")
        fault.check()


# ---- ways to plant


def plant_vjp(name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[Patch], None]:
    """Replace a primitive's vjp by ``make(the right one)``."""
    return lambda patch: patch.setattr(PRIMITIVES[name], "vjp", make(PRIMITIVES[name].vjp))


def plant_forward(name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[Patch], None]:
    """Replace a primitive's forward by ``make(the right one)``."""
    return lambda patch: patch.setattr(PRIMITIVES[name], "forward", make(PRIMITIVES[name].forward))


def plant_kernel(name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[Patch], None]:
    """Replace a kernel's reference by ``make(the right one)``."""

    def plant(patch: Patch) -> None:
        patch.setattr(KERNELS[name], "reference", make(KERNELS[name].reference))

    return plant


def plant_global(function: Any, name: str, make: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """Replace a name in the module of ``function`` by ``make(the right one)``."""
    return lambda patch: patch.setitem(function.__globals__, name, make(function.__globals__[name]))


# ---- the faults


def _table_without_accumulation(ctx: Any, g: Any) -> Any:
    out = np.zeros(ctx.shape, g.dtype)
    out[ctx.index] = g
    return out


def _tanh_gelu(x: Any) -> Any:
    return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))).astype(x.dtype)


def _eps_outside_the_root(right: Any) -> Any:
    def layer_norm_fwd(x: Any, weight: Any, bias: Any, eps: float) -> Any:
        _, mean, rstd = right(x, weight, bias, 0.0)
        rstd = 1 / (1 / rstd + eps)
        shape = (*x.shape[:-1], 1)
        y = (x - mean.reshape(shape)) * rstd.reshape(shape) * weight + bias
        return y.astype(x.dtype), mean, rstd

    return layer_norm_fwd


def _unbroadcast_without_keepdims(grad: Any, shape: tuple[int, ...]) -> Any:
    lead = grad.ndim - len(shape)
    axes = tuple(i for i in range(grad.ndim) if i < lead or shape[i - lead] == 1)
    return grad.sum(axis=axes)


def _mask_without_scale(right: Any) -> Any:
    return lambda like, *draw: (right(like, *draw) != 0).astype(like.dtype)


def _no_fork(state: Any = None) -> Any:
    from contextlib import nullcontext

    return nullcontext()


def _assigned_windows(ctx: Any, g: Any) -> Any:
    window, axes, step = ctx.geometry
    out = np.zeros(ctx.shape, g.dtype)
    for place in np.ndindex(*[g.shape[a] for a in axes], *window):
        counts, offset = place[: len(axes)], place[len(axes) :]
        at: list[Any] = [slice(None)] * out.ndim
        source: list[Any] = [slice(None)] * out.ndim
        for axis, count, inside, hop in zip(axes, counts, offset, step, strict=True):
            at[axis], source[axis] = count * hop + inside, count
        out[tuple(at)] = g[(*source, *offset)]
    return out


def _ties_get_all(ctx: Any, g: Any) -> Any:
    x, out = ctx.saved
    return (x == out) * g.reshape(out.shape)


def _strides_swapped(right: Any) -> Any:
    return lambda ctx, x, w, b, *, stride, padding: right(ctx, x, w, b, stride=stride[::-1], padding=padding)


def _nearest_backward(right: Any) -> Any:
    return lambda kind, n, size, adjoint: right("nearest" if adjoint else kind, n, size, adjoint)


def _variance_without_slope(right: Any) -> Any:
    def batch_norm_bwd(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, *of_statistics: Any) -> Any:
        gx = weight * rstd * (g - g.mean(axis=tuple(range(g.ndim - 1))))
        return gx, *right(g, x, weight, mean, rstd, *of_statistics)[1:]

    return batch_norm_bwd


def _smoothing_dropped(right: Any) -> Any:
    return lambda *args: right(*args[:-1], 0.0)


def _both_gradients(ctx: Any, g: Any) -> Any:
    ctx.needs = (True, True)
    return _matmul_vjp(ctx, g)


_matmul_vjp = PRIMITIVES["matmul"].vjp


def _relu_in_place(ctx: Any, x: Any) -> Any:
    np.maximum(x, 0, out=x)
    ctx.save(x)
    return x.copy()


def _assigned_means(windows: Any, shape: Any, kernel: Any, stride: Any, padding: Any) -> Any:
    out = np.zeros((*shape[:2], shape[2] + 2 * padding[0], shape[3] + 2 * padding[1]), windows.dtype)
    for i, j in np.ndindex(*windows.shape[2:4]):
        y, x = i * stride[0], j * stride[1]
        out[:, :, y : y + kernel[0], x : x + kernel[1]] = windows[:, :, i, j]
    return out[:, :, padding[0] : padding[0] + shape[2], padding[1] : padding[1] + shape[3]].copy()


def _coarse(right: Any) -> Any:
    """Rounded to 8 bits, as bfloat16 would, where the result is not float64."""

    def run(*args: Any) -> Any:
        out = right(*args)
        if out.dtype == np.float64:
            return out
        mantissa, exponent = np.frexp(out.astype(np.float64))
        return np.ldexp(np.round(mantissa * 256) / 256, exponent).astype(out.dtype)

    return run


def _memory_order(right: Any) -> Any:
    """Takes the elements as they lie in memory."""
    return lambda x: right(x.ravel(order="K")).reshape(x.shape)


_calls = iter(range(10**9))


def _counting(right: Any) -> Any:
    """Different at each call by less than any tolerance."""
    return lambda ctx, x: right(ctx, x) * (1 + 4e-16 * (next(_calls) % 2))


FAULTS = (
    Fault(
        "bias table gather: backward without accumulation",
        generic("adjoint", "table_gather"),
        plant_vjp("table_gather", lambda right: _table_without_accumulation),
    ),
    Fault(
        "tanh GELU instead of erf",
        generic("forward", "gelu"),
        plant_kernel("gelu_fwd", lambda right: _tanh_gelu),
    ),
    Fault(
        "bias + GELU with tanh",
        generic("composite", "bias_gelu"),
        plant_kernel("bias_gelu_fwd", lambda right: lambda x, bias: _tanh_gelu(x + bias)),
    ),
    Fault(
        "layer norm: eps added to the root",
        generic("forward", "layer_norm"),
        plant_kernel("layer_norm_fwd", _eps_outside_the_root),
    ),
    Fault(
        "softmax: backward without the row sum",
        generic("gradcheck", "softmax"),
        plant_kernel("softmax_bwd", lambda right: lambda g, y: g * y),
    ),
    Fault(
        "un-broadcast: axes of size 1 lost",
        generic("gradcheck", "multiply"),
        lambda patch: patch.setattr(graph, "unbroadcast", _unbroadcast_without_keepdims),
    ),
    Fault(
        "DropPath: kept samples not divided by the keep rate",
        generic("forward", "drop_path"),
        plant_global(KERNELS["dropout"].reference, "_scales", _mask_without_scale),
    ),
    Fault(
        "checkpoint: the replay draws new random numbers",
        generic("composite", "checkpoint"),
        lambda patch: patch.setattr(random, "rewound", _no_fork),
    ),
    Fault(
        "roll: the adjoint rolls the same way",
        generic("adjoint", "roll"),
        plant_vjp("roll", lambda right: lambda ctx, g: np.roll(g, [-b for b in ctx.back], ctx.axis)),
    ),
    Fault(
        "overlapping windows: the adjoint assigns",
        generic("adjoint", "sliding_window_view"),
        plant_vjp("sliding_window_view", lambda right: _assigned_windows),
    ),
    Fault(
        "max: every tied element gets the whole gradient",
        generic("kinks", "max"),
        plant_vjp("max", lambda right: _ties_get_all),
    ),
    Fault(
        "maximum: a tie goes to the first",
        generic("kinks", "maximum"),
        plant_vjp("maximum", lambda right: lambda ctx, g: (g * (ctx.saved[0] >= ctx.saved[1]), None)),
    ),
    Fault(
        "conv2d: vertical and horizontal stride swapped",
        generic("forward", "conv2d"),
        plant_forward("conv2d", _strides_swapped),
    ),
    Fault(
        "conv2d: the kernel is not turned for the map's gradient",
        generic("gradcheck", "conv2d"),
        plant_kernel(
            "conv2d_bwd",
            lambda right: (
                lambda g, x, w, *more: (right(g, x, w[:, :, ::-1, ::-1], *more)[0], *right(g, x, w, *more)[1:])
            ),
        ),
    ),
    Fault(
        "avg_pool2d: the adjoint assigns",
        generic("gradcheck", "avg_pool2d"),
        plant_global(ops.avg_pool2d, "_unwindow", lambda right: _assigned_means),
    ),
    Fault(
        "cross-entropy: label smoothing dropped",
        generic("forward", "cross_entropy"),
        plant_kernel("cross_entropy_fwd", _smoothing_dropped),
    ),
    Fault(
        "cross-entropy: label smoothing dropped in backward",
        generic("gradcheck", "cross_entropy"),
        plant_kernel("cross_entropy_bwd", _smoothing_dropped),
    ),
    Fault(
        "max_pool2d: the last of equal elements",
        generic("kinks", "max_pool2d"),
        plant_global(ops.max_pool2d, "_max_elements", lambda right: lambda *args: reversed(list(right(*args)))),
    ),
    Fault(
        "interpolate: the adjoint is that of the nearest pixels",
        generic("adjoint", "interpolate"),
        plant_global(ops.interpolate, "_steps", _nearest_backward),
    ),
    Fault(
        "batch norm: the variance is a constant in backward",
        generic("composite", "batch_norm"),
        plant_kernel("batch_norm_bwd", _variance_without_slope),
    ),
    Fault(
        "matmul: needs ignored",
        generic("needs", "matmul"),
        plant_vjp("matmul", lambda right: _both_gradients),
    ),
    Fault(
        "relu: input written in place",
        generic("unmutated", "relu"),
        plant_forward("relu", lambda right: _relu_in_place),
    ),
    Fault(
        "astype: a fresh gradient that is the incoming one",
        generic("unaliased", "astype"),
        plant_vjp("astype", lambda right: lambda ctx, g: g.astype(ctx.dtype, copy=False)),
    ),
    Fault(
        "leaf gradients that are the incoming one",
        generic("unaliased", "add"),
        lambda patch: patch.setattr(graph._Pending, "own", lambda self, index=0: self.grads[index]),
    ),
    Fault(
        "residual: keep-scales forgotten in backward",
        generic("composite", "residual_layer_norm"),
        plant_kernel("residual_layer_norm_bwd", lambda right: lambda *a: right(*a[:3], None, *a[4:])),
    ),
    Fault(
        "residual: keep-scales forgotten in the gradient of the branch's bias",
        generic("composite", "residual_layer_norm"),
        plant_kernel(
            "residual_layer_norm_bwd", lambda right: lambda *a: (*right(*a)[:4], right(*a[:3], None, *a[4:])[4])
        ),
    ),
    Fault(
        "softmax: coarse in low precision",
        generic("forward_low", "softmax"),
        plant_kernel("softmax_fwd", _coarse),
    ),
    Fault(
        "softmax: backward coarse in low precision",
        generic("gradients_low", "softmax"),
        plant_kernel("softmax_bwd", _coarse),
    ),
    Fault(
        "gelu: takes elements in memory order",
        generic("layouts", "gelu"),
        plant_kernel("gelu_fwd", _memory_order),
    ),
    Fault(
        "exp: two runs differ in the last digit",
        generic("repeatable", "exp"),
        plant_forward("exp", _counting),
    ),
    Fault(
        "tanh: the result widened to float64",
        generic("dtype_and_device", "tanh"),
        plant_forward("tanh", lambda right: lambda ctx, x: right(ctx, x).astype(np.float64)),
    ),
    Fault(
        "sin: a constant added to the gradient",
        generic("linearity", "sin"),
        plant_vjp("sin", lambda right: lambda ctx, g: right(ctx, g) + 1e-6),
    ),
)
