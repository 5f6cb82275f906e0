"""One row for every kernel of the registry: arguments to call it with, and the op whose checks hold its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KERNEL_ROWS", "KernelRow", "register_kernel_rows"]

Rng = np.random.Generator


@dataclass(frozen=True)
class KernelRow:
    """One row.

    Attributes:
        arguments: positional and keyword arguments in a given dtype.
        op: the row of the op table whose forward or vjp calls the kernel, so that its values are checked there; None
            for a kernel with a test of its own.
    """

    arguments: Callable[[Rng, Any], tuple[tuple[Any, ...], dict[str, Any]]]
    op: str | None


def _statistics(x: Any, eps: float) -> tuple[Any, Any]:
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    wide = np.float64 if x.dtype == np.float64 else np.float32
    return rows.mean(axis=1).astype(wide), (1 / np.sqrt(rows.var(axis=1) + eps)).astype(wide)


def _norm(rng: Rng, dtype: Any) -> tuple[Any, ...]:
    """x, another like x, weight, bias, mean, rstd."""
    x, other = (rng.standard_normal((3, 4, 6)).astype(dtype) for _ in range(2))
    weight, bias = rng.uniform(0.5, 1.5, 6).astype(dtype), rng.standard_normal(6).astype(dtype)
    return x, other, weight, bias, *_statistics(x, 1e-5)


def _layer_norm_fwd(rng: Rng, dtype: Any) -> Any:
    x, _, weight, bias, _, _ = _norm(rng, dtype)
    return (x, weight, bias, 1e-5), {}


def _layer_norm_bwd(rng: Rng, dtype: Any) -> Any:
    x, g, weight, _, mean, rstd = _norm(rng, dtype)
    return (g, x, weight, mean, rstd), {}


def _keep(dtype: Any) -> Any:
    return np.array([1.25, 0.0, 1.25], dtype)


def _residual_layer_norm_fwd(rng: Rng, dtype: Any) -> Any:
    x, branch, weight, bias, _, _ = _norm(rng, dtype)
    return (x, branch, _keep(dtype), weight, bias, 1e-5, rng.standard_normal(6).astype(dtype)), {}


def _residual_layer_norm_bwd(rng: Rng, dtype: Any) -> Any:
    x, g, weight, _, mean, rstd = _norm(rng, dtype)
    return (rng.standard_normal(x.shape).astype(dtype), g, x, _keep(dtype), weight, mean, rstd, True), {}


def _normals(*shapes: tuple[int, ...]) -> Callable[[Rng, Any], Any]:
    return lambda rng, dtype: (tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes), {})


def _softmax_bwd(rng: Rng, dtype: Any) -> Any:
    x = np.exp(rng.standard_normal((3, 2, 5)))
    return (rng.standard_normal(x.shape).astype(dtype), (x / x.sum(axis=-1, keepdims=True)).astype(dtype)), {}


def _softplus(arrays: int) -> Callable[[Rng, Any], Any]:
    return lambda rng, dtype: ((*_normals(*[(3, 7)] * arrays)(rng, dtype)[0], 1.5, 1.0), {})


def _cross_entropy_fwd(rng: Rng, dtype: Any) -> Any:
    return (rng.standard_normal((4, 5)).astype(dtype), rng.integers(0, 5, 4), 0.1), {}


def _cross_entropy_bwd(rng: Rng, dtype: Any) -> Any:
    wide = np.float64 if dtype == np.float64 else np.float32
    x = rng.standard_normal((4, 5)).astype(wide)
    log_probs = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return (rng.standard_normal(4).astype(wide), log_probs, rng.integers(0, 5, 4), 0.1), {}


def _mlp(rng: Rng, dtype: Any) -> tuple[Any, ...]:
    """x, w1, b1, w2, b2."""
    shapes = ((3, 2, 4), (8, 4), (8,), (5, 8), (5,))
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def _mlp_bwd(rng: Rng, dtype: Any) -> Any:
    x, w1, b1, w2, _ = _mlp(rng, dtype)
    g, hidden = rng.standard_normal((3, 2, 5)).astype(dtype), (x.reshape(6, 4) @ w1.T).astype(dtype)
    return (g, x, hidden, w1, b1, w2, (True,) * 5), {}


def _linear(rng: Rng, dtype: Any) -> Any:
    x, weight, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((6, 4), (5, 4), (5,)))
    return (x, weight, bias), {}


def _linear_bwd(rng: Rng, dtype: Any) -> Any:
    (x, weight, _), _ = _linear(rng, dtype)
    return (rng.standard_normal((6, 5)).astype(dtype), x, weight, (True,) * 3), {}


def _adamw(rng: Rng, dtype: Any) -> Any:
    param, grad, first = (rng.standard_normal((5, 7)).astype(dtype) for _ in range(3))
    second = np.square(rng.standard_normal((5, 7))).astype(dtype)
    options = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.05, "step": 3, "grad_scale": 0.5}
    return (param, grad, first, second), options


def _grads(rng: Rng, dtype: Any) -> list[Any]:
    """Three arrays: one of several rows, one of an odd size, one of a single number."""
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in ((5, 7), (3,), ())]


def _multi_adamw(rng: Rng, dtype: Any) -> Any:
    params, grads, firsts = (_grads(rng, dtype) for _ in range(3))
    seconds = [np.asarray(np.square(a)) for a in _grads(rng, dtype)]
    options = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-4, "step": 3, "clip_grad": 1.0, "grad_divisor": 2.0}
    return (params, grads, firsts, seconds, [0.05, 0.0, 0.05]), options


def _multi_cast(rng: Rng, dtype: Any) -> Any:
    return (_grads(rng, dtype), np.dtype(np.float32 if np.dtype(dtype).itemsize == 2 else np.float16)), {}


def _batch_norm(rng: Rng, dtype: Any) -> tuple[Any, ...]:
    """x, another like x, weight, bias, mean, rstd, and two more like weight."""
    x, other, weight, bias, _, _ = _norm(rng, dtype)
    wide = np.float64 if dtype == np.float64 else np.float32
    mean, var = x.astype(np.float64).mean(axis=(0, 1)), x.astype(np.float64).var(axis=(0, 1))
    more = (rng.standard_normal(6).astype(wide) for _ in range(2))
    return x, other, weight, bias, mean.astype(wide), (1 / np.sqrt(var + 1e-5)).astype(wide), *more


def _batch_norm_fwd(rng: Rng, dtype: Any) -> Any:
    x, _, weight, bias, *_ = _batch_norm(rng, dtype)
    return (x, weight, bias, 1e-5), {}


def _batch_norm_bwd(rng: Rng, dtype: Any) -> Any:
    x, g, weight, _, *statistics = _batch_norm(rng, dtype)
    return (g, x, weight, *statistics), {}


def _batch_norm_eval_fwd(rng: Rng, dtype: Any) -> Any:
    x, _, weight, bias, mean, rstd, *_ = _batch_norm(rng, dtype)
    return (x, weight, bias, mean, rstd, 1e-5), {}


DRAW = {"seed": (7 << 32) + 11, "offset": (1 << 32) - 2, "p": 0.4}


def _dropout(rng: Rng, dtype: Any) -> Any:
    return (rng.standard_normal((5, 7)).astype(dtype),), DRAW


def _keep_scale(rng: Rng, dtype: Any) -> Any:
    return (rng.standard_normal((9, 1)).astype(dtype),), DRAW


def _patch_merge_bwd(rng: Rng, dtype: Any) -> Any:
    return (rng.standard_normal((2, 2, 3, 8)).astype(dtype), 3, 5), {}


def _patch_rows(rng: Rng, dtype: Any) -> Any:
    images = rng.integers(0, 256, (2, 3, 5, 6), dtype=np.uint8)
    return (images, (2, 3), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), np.dtype(dtype)), {}


def _conv(rng: Rng, dtype: Any) -> Any:
    x, weight, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((2, 3, 5, 6), (4, 3, 3, 3), (4,)))
    return (x, weight, bias, (1, 1), (1, 1)), {}


def _conv_bwd(rng: Rng, dtype: Any) -> Any:
    (x, weight, _, *geometry), _ = _conv(rng, dtype)
    return (rng.standard_normal((2, 4, 5, 6)).astype(dtype), x, weight, *geometry, (True,) * 3), {}


KERNEL_ROWS: dict[str, KernelRow] = {
    "conv2d_fwd": KernelRow(_conv, "conv2d"),
    "conv2d_bwd": KernelRow(_conv_bwd, "conv2d"),
    "layer_norm_fwd": KernelRow(_layer_norm_fwd, "layer_norm"),
    "layer_norm_bwd": KernelRow(_layer_norm_bwd, "layer_norm"),
    "batch_norm_fwd": KernelRow(_batch_norm_fwd, "batch_norm"),
    "batch_norm_bwd": KernelRow(_batch_norm_bwd, "batch_norm"),
    "batch_norm_eval_fwd": KernelRow(_batch_norm_eval_fwd, "batch_norm_eval"),
    "residual_layer_norm_fwd": KernelRow(_residual_layer_norm_fwd, "residual_layer_norm"),
    "residual_layer_norm_bwd": KernelRow(_residual_layer_norm_bwd, "residual_layer_norm"),
    "gelu_fwd": KernelRow(_normals((3, 4)), "gelu"),
    "gelu_bwd": KernelRow(_normals((3, 4), (3, 4)), "gelu"),
    "bias_gelu_fwd": KernelRow(_normals((3, 2, 4), (4,)), "bias_gelu"),
    "bias_gelu_bwd": KernelRow(_normals((3, 2, 4), (3, 2, 4), (4,)), "bias_gelu"),
    "softmax_fwd": KernelRow(_normals((3, 2, 5), (1, 2, 5)), "masked_softmax"),
    "softmax_bwd": KernelRow(_softmax_bwd, "softmax"),
    "softplus_fwd": KernelRow(lambda rng, dtype: ((*_normals((3, 7))(rng, dtype)[0], 1.5, 1.0), {}), "softplus"),
    "softplus_bwd": KernelRow(
        lambda rng, dtype: ((*_normals((3, 7), (3, 7))(rng, dtype)[0], 1.5, 1.0), {}), "softplus"
    ),
    "cross_entropy_fwd": KernelRow(_cross_entropy_fwd, "cross_entropy"),
    "cross_entropy_bwd": KernelRow(_cross_entropy_bwd, "cross_entropy"),
    "linear_fwd": KernelRow(_linear, "linear"),
    "linear_bwd": KernelRow(_linear_bwd, "linear"),
    "mlp_fwd": KernelRow(lambda rng, dtype: ((*_mlp(rng, dtype), True), {}), "mlp"),
    "mlp_bwd": KernelRow(_mlp_bwd, "mlp"),
    "dropout": KernelRow(_dropout, "dropout"),
    "keep_scale": KernelRow(_keep_scale, "drop_path_keep"),
    "patch_merge_fwd": KernelRow(_normals((2, 3, 5, 2)), "patch_merge"),
    "patch_merge_bwd": KernelRow(_patch_merge_bwd, "patch_merge"),
    "patch_rows": KernelRow(_patch_rows, "patch_rows"),
    "adamw": KernelRow(_adamw, None),
    "grad_norm": KernelRow(lambda rng, dtype: ((_grads(rng, dtype),), {}), None),
    "multi_cast": KernelRow(_multi_cast, None),
    "multi_adamw": KernelRow(_multi_adamw, None),
}


def register_kernel_rows(**kernels: KernelRow) -> None:
    """Add rows for kernels that are not the engine's own."""
    KERNEL_ROWS.update(kernels)
