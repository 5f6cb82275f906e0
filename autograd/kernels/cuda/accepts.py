"""What the kernels of this folder take: one function a kernel, with its arguments; None, or the reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.backend import device_of
from autograd.dtypes import as_dtype, is_float
from autograd.kernels.cuda.launch import capability
from autograd.kernels.cuda.layout import LONGEST_ROW
from autograd.kernels.cuda.source import FLOAT_NAMES
from autograd.kernels.registry import arrays_in

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np

    from autograd.backend import Array

__all__ = [
    "bias_gelu_bwd",
    "bias_gelu_fwd",
    "cross_entropy_bwd",
    "cross_entropy_fwd",
    "cuda_dtype",
    "dropout",
    "gelu_bwd",
    "keep_scale",
    "layer_norm_bwd",
    "layer_norm_fwd",
    "linear_bwd",
    "linear_fwd",
    "mlp_bwd",
    "mlp_fwd",
    "multi_cast",
    "patch_merge_bwd",
    "patch_merge_fwd",
    "residual_layer_norm_bwd",
    "residual_layer_norm_fwd",
    "softmax_bwd",
    "softmax_fwd",
]

_BF16_CAPABILITY = 80
_MOST_ROWS = 2**30  # counted by an int, with room for the step of blocks that take row after row


def cuda_dtype(*args: Any, **_: Any) -> str | None:
    """None if the arrays are on one device and floats of one dtype that kernels exist for; else why not.

    Kernels that find arrays by addresses in a table, and products by cuBLAS, have no other check of either.
    """
    arrays = arrays_in(args)
    apart = _one_device(*arrays)
    if apart:
        return apart
    names = sorted({a.dtype.name for a in arrays})
    if len(names) != 1 or names[0] not in FLOAT_NAMES:
        allowed = ", ".join(FLOAT_NAMES)
        return f"CUDA kernels take arrays of one dtype out of {allowed}; got {', '.join(names) or 'none'}"
    return _too_old(names, arrays[0])


def _too_old(names: Collection[str], on: Array) -> str | None:
    """Why the device of ``on`` does not compute with the dtypes of these names."""
    if "bfloat16" in names and capability(on) < _BF16_CAPABILITY:
        return f"bfloat16 needs compute capability 8.0; got {capability(on) / 10}"
    return None


def _float32(**arrays: Array) -> str | None:
    wrong = next((f"{name} is {a.dtype}" for name, a in arrays.items() if a.dtype.name != "float32"), None)
    return wrong and f"the CUDA kernel takes float32 there; {wrong}"


def _shapes(**wanted: tuple[Any, tuple[int, ...]]) -> str | None:
    for name, (array, shape) in wanted.items():
        if array is not None and array.shape != shape:
            return f"expected {name} of shape {shape}; got {array.shape}"
    return None


def _one_device(*arrays: Array) -> str | None:
    devices = sorted({device_of(a) for a in arrays})
    return f"CUDA kernels take arrays of one device; got {', '.join(devices)}" if len(devices) > 1 else None


def _rows(x: Array) -> str | None:
    """Rows of 1 to LONGEST_ROW values, and not too many of them."""
    if x.ndim == 0 or not 0 < x.shape[-1] <= LONGEST_ROW or x.size // x.shape[-1] > _MOST_ROWS:
        return f"CUDA kernels take rows of 1 to {LONGEST_ROW} values, and at most 2**30 of them; got shape {x.shape}"
    return None


def layer_norm_fwd(x: Array, weight: Array, bias: Array, eps: float) -> str | None:
    channels = x.shape[-1:]
    return cuda_dtype(x, weight, bias) or _rows(x) or _shapes(weight=(weight, channels), bias=(bias, channels))


def layer_norm_bwd(
    g: Array, x: Array, weight: Array, mean: Array, rstd: Array, g_sum: Array | None = None
) -> str | None:
    return residual_layer_norm_bwd(g_sum, g, x, None, weight, mean, rstd)


def _kept(x: Array, keep: Array | None) -> str | None:
    return f"keep is of samples; got x of shape {x.shape}" if keep is not None and x.ndim < 2 else None


def _beside(x: Array, low: Array, other: np.dtype[Any] | None) -> str | None:
    """``low`` (on the same device), and what else is in ``other``, may be in 16 bits beside a float32 x."""
    apart = _one_device(x, low)
    if apart:
        return apart
    names = {low.dtype.name, x.dtype.name if other is None else as_dtype(other).name} - {x.dtype.name}
    if not names or (x.dtype.name == "float32" and len(names) == 1 and names <= {"float16", "bfloat16"}):
        return _too_old(names, x)
    return (
        f"CUDA norms take one dtype, or one of 16 bits beside float32; got {x.dtype.name}, {', '.join(sorted(names))}"
    )


def residual_layer_norm_fwd(
    x: Array,
    branch: Array,
    keep: Array | None,
    weight: Array,
    bias: Array,
    eps: float,
    branch_bias: Array | None = None,
    y_dtype: np.dtype[Any] | None = None,
) -> str | None:
    return (
        cuda_dtype(x, keep, weight, bias, branch_bias)
        or _kept(x, keep)
        or _beside(x, branch, y_dtype)
        or layer_norm_fwd(x, weight, bias, eps)
        or _shapes(branch=(branch, x.shape), keep=(keep, x.shape[:1]), branch_bias=(branch_bias, x.shape[-1:]))
    )


def residual_layer_norm_bwd(
    g_sum: Array | None,
    g: Array,
    total: Array,
    keep: Array | None,
    weight: Array,
    mean: Array,
    rstd: Array,
    to_branch_bias: bool = False,
    branch_dtype: np.dtype[Any] | None = None,
) -> str | None:
    no_rows = _rows(total)
    if no_rows:
        return no_rows
    rows = (total.size // total.shape[-1],)
    return (
        cuda_dtype(g_sum, total, keep, weight)
        or _kept(total, keep)
        or _beside(total, g, branch_dtype)
        or _float32(mean=mean, rstd=rstd)
        or _one_device(total, mean, rstd)
        or _shapes(g=(g, total.shape), g_sum=(g_sum, total.shape), keep=(keep, total.shape[:1]))
        or _shapes(weight=(weight, total.shape[-1:]), mean=(mean, rows), rstd=(rstd, rows))
    )


def dropout(x: Array, *, seed: int, offset: int, p: float, together: int = 1) -> str | None:
    if together < 1 or x.size % together:
        return f"expected `together` to divide the {x.size} values of x; got {together}"
    return cuda_dtype(x) or _chance(p)


def keep_scale(like: Array, *, seed: int, offset: int, p: float) -> str | None:
    return cuda_dtype(like) or _chance(p) or (None if like.ndim else "expected (B, ...); got a 0-d array")


def _chance(p: float) -> str | None:
    return None if 0 <= p < 1 else f"expected p in [0, 1); got {p}"


def gelu_bwd(g: Array, x: Array) -> str | None:
    return cuda_dtype(g, x) or _shapes(g=(g, x.shape))


def bias_gelu_fwd(x: Array, bias: Array | None) -> str | None:
    return cuda_dtype(x, bias) or _shapes(bias=(bias, x.shape[-1:]))


def bias_gelu_bwd(g: Array, x: Array, bias: Array | None) -> str | None:
    if not x.ndim:
        return "expected x (..., C); got a 0-d array"
    if bias is not None and x.shape[-1] and x.size // x.shape[-1] > _MOST_ROWS:
        return f"the CUDA kernel takes less than 2**31 rows; got shape {x.shape}"
    return gelu_bwd(g, x) or bias_gelu_fwd(x, bias)


def patch_merge_fwd(x: Array) -> str | None:
    return cuda_dtype(x) if x.ndim == 4 else f"expected a map (B, H, W, C); got shape {x.shape}"


def patch_merge_bwd(g: Array, height: int, width: int) -> str | None:
    half = (-(-height // 2), -(-width // 2))
    if g.ndim != 4 or g.shape[1:3] != half or g.shape[3] % 4:
        return f"expected a gradient (B, {half[0]}, {half[1]}, 4C) of a map {height}x{width}; got shape {g.shape}"
    return cuda_dtype(g)


def softmax_fwd(x: Array, mask: Array | None = None) -> str | None:
    if mask is not None and mask.dtype not in (x.dtype, "float32"):
        return f"the CUDA kernel takes a mask of x's dtype or float32; got {mask.dtype}"
    if mask is not None and _one_device(x, mask):
        return _one_device(x, mask)
    if mask is not None and not _broadcasts(mask.shape, x.shape):
        return f"expected a mask that broadcasts to {x.shape}; got {mask.shape}"
    return cuda_dtype(x) or _rows(x)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(n in (1, m) for n, m in pairs)


def softmax_bwd(g: Array, y: Array) -> str | None:
    return cuda_dtype(g, y) or _rows(y) or _shapes(g=(g, y.shape))


def _labels(target: Array, shape: tuple[int, ...]) -> str | None:
    if target.dtype.kind in "iu":
        return _shapes(labels=(target, shape[:1]))
    if not is_float(target.dtype) or target.dtype.itemsize > 4:
        return f"the CUDA kernel takes labels or probabilities up to float32; got {target.dtype}"
    return _shapes(target=(target, shape))


def cross_entropy_fwd(logits: Array, target: Array, smoothing: float) -> str | None:
    if logits.ndim != 2:
        return f"expected logits (B, K); got {logits.shape}"
    return _one_device(logits, target) or cuda_dtype(logits) or _rows(logits) or _labels(target, logits.shape)


def cross_entropy_bwd(g: Array, log_probs: Array, target: Array, smoothing: float) -> str | None:
    return (
        _one_device(g, log_probs)
        or cross_entropy_fwd(log_probs, target, smoothing)
        or _float32(g=g, log_probs=log_probs)
        or _shapes(g=(g, log_probs.shape[:1]))
    )


def linear_fwd(x: Array, weight: Array, bias: Array | None) -> str | None:
    return cuda_dtype(x, weight, bias) or _layer(x, weight, bias)


def _layer(x: Array, weight: Array, bias: Array | None) -> str | None:
    if not x.ndim or weight.ndim != 2 or weight.shape[1] != x.shape[-1]:
        return f"expected a weight (O, {x.shape[-1] if x.ndim else 'C'}) for x {x.shape}; got {weight.shape}"
    return _shapes(bias=(bias, weight.shape[:1]))


def linear_bwd(g: Array, x: Array | None, weight: Array | None, needs: tuple[bool, ...]) -> str | None:
    if x is not None and g.shape[:-1] != x.shape[:-1]:
        return f"expected g (..., O) for x {x.shape}; got {g.shape}"
    return cuda_dtype(g, x, weight)


def mlp_fwd(x: Array, w1: Array, b1: Array, w2: Array, b2: Array | None, keep_hidden: bool) -> str | None:
    return cuda_dtype(x, w1, b1, w2, b2) or _layer(x, w1, b1) or _two_layers(w1, w2, b2)


def _two_layers(w1: Array, w2: Array, b2: Array | None) -> str | None:
    if w2.ndim != 2 or w2.shape[1] != w1.shape[0]:
        return f"expected a second weight (O, {w1.shape[0]}); got {w2.shape}"
    return _shapes(b2=(b2, w2.shape[:1]))


def mlp_bwd(g: Array, x: Array, hidden: Array, w1: Array, b1: Array, w2: Array, needs: tuple[bool, ...]) -> str | None:
    rows = x.size // x.shape[-1] if x.ndim and x.shape[-1] else 0
    return (
        cuda_dtype(g, x, hidden, w1, b1, w2)
        or _layer(x, w1, b1)
        or _two_layers(w1, w2, None)
        or _shapes(g=(g, (*x.shape[:-1], len(w2))), hidden=(hidden, (rows, len(w1))))
    )


def multi_cast(arrays: Sequence[Array], dtype: np.dtype[Any]) -> str | None:
    refusal = cuda_dtype(arrays)
    if refusal:
        return refusal
    pair = {dtype.name, arrays[0].dtype.name}
    if len(pair) != 2 or "float32" not in pair or not pair <= set(FLOAT_NAMES):
        return f"CUDA casts between float32 and 16-bit floats; got {arrays[0].dtype} to {dtype}"
    return _too_old(pair, arrays[0])
