"""Other sizes of NCHW maps: interpolation, adaptive means, maxima of windows, pixels out of channels.

What is linear goes axis by axis. A sparse matrix says which places of an axis a new place is made of; the gradient's is
its transpose. Maps whose channels lie last in memory, as a convolution leaves them, stay so.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.ops.shaping import reshape, transpose
from autograd.primitive import Ctx, Primitive
from autograd.shapes import as_int, as_pair
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.backend import Array
    from autograd.tensor import TensorLike

__all__ = ["adaptive_avg_pool2d", "interpolate", "max_pool2d", "pixel_shuffle", "pixel_unshuffle"]

Pair = tuple[int, int]


# ---- maps


def _as_map(op: str, x: TensorLike) -> Tensor:
    x = x if isinstance(x, Tensor) else Tensor(x)
    if x.ndim != 4 or 0 in x.shape[2:]:
        raise ValueError(f"{op}: expected x (B, C, H, W) with H, W > 0; got {x.shape}.")
    return x


def _opened(x: Array) -> tuple[Array, int]:
    """The map as it lies in memory, (B, C, H, W) or (B, H, W, C), and the axis of H, which that of W follows."""
    last = x.transpose(0, 2, 3, 1)
    return (last, 1) if last.flags.c_contiguous and not x.flags.c_contiguous else (x, 2)


def _closed(x: Array, axis: int) -> Array:
    """(B, C, H, W) again."""
    return x if axis == 2 else x.transpose(0, 3, 1, 2)


# ---- sparse matrices along an axis


class _Step(NamedTuple):
    """``out[rows] += weights * x[places]`` along an axis; None for all rows, and for weights of 1."""

    rows: Array | None
    places: Array
    weights: Array | None


def _nearest(n: int, size: int) -> tuple[Array, Array, None]:
    """torch rounds n / size to float32 first, and so decides on pixels."""
    target = np.arange(size)
    places = np.floor(target.astype(np.float32) * np.float32(n / size)).astype(np.int64)
    return target, np.minimum(places, n - 1), None


def _linear(n: int, size: int, corners: bool) -> tuple[Array, Array, Array]:
    target = np.arange(size)
    if corners:
        at = target * ((n - 1) / (size - 1) if size > 1 else 0.0)
    else:
        at = np.maximum((target + 0.5) * (n / size) - 0.5, 0.0)
    low = np.minimum(at.astype(np.int64), n - 1)
    share = np.minimum(at - low, 1.0)
    return np.tile(target, 2), np.concatenate([low, np.minimum(low + 1, n - 1)]), np.concatenate([1 - share, share])


def _bins(n: int, size: int) -> tuple[Array, Array, None]:
    """Bin i is places floor(i n / size) up to ceil((i + 1) n / size): they may share places."""
    bins = [np.arange(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
    return np.repeat(np.arange(size), [len(b) for b in bins]), np.concatenate(bins), None


_ENTRIES = {
    "nearest": _nearest,
    "bilinear": lambda n, size: _linear(n, size, False),
    "corners": lambda n, size: _linear(n, size, True),
    "bins": _bins,
}


@lru_cache(maxsize=512)
def _steps(kind: str, n: int, size: int, adjoint: bool) -> tuple[_Step, ...]:
    """The matrix (size, n) of a kind, or its transpose: the first entry of each row, the second one ..."""
    target, source, weights = _ENTRIES[kind](n, size)
    if adjoint:
        target, source, size = source, target, n
    order = np.argsort(target, kind="stable")
    counts = np.bincount(target, minlength=size)
    first = np.cumsum(counts) - counts
    steps = []
    for k in range(counts.max()):
        rows = np.flatnonzero(counts > k)
        at = order[first[rows] + k]
        steps.append(_Step(None if len(rows) == size else rows, source[at], None if weights is None else weights[at]))
    return tuple(steps)


def _along(x: Array, axis: int, size: int, steps: tuple[_Step, ...]) -> Array:
    """The product with a matrix, in the accumulation dtype."""
    xp, acc = array_module(x), accumulator(x.dtype)
    out = None
    for rows, places, weights in steps:
        part = x.take(xp.asarray(places), axis=axis).astype(acc, copy=False)
        if weights is not None:
            part *= xp.asarray(weights.astype(acc).reshape(-1, *(1,) * (x.ndim - axis - 1)))
        if out is None and rows is None:
            out = part
            continue
        if out is None:
            out = xp.zeros((*x.shape[:axis], size, *x.shape[axis + 1 :]), acc)
        out[(slice(None),) * axis + (slice(None) if rows is None else xp.asarray(rows),)] += part
    return out


def _resized(x: Array, kind: str, size: Pair, adjoint: bool) -> Array:
    """Both axes, that which makes the map smaller first; in the accumulation dtype."""
    x, axis = _opened(x)
    shape = (x.shape[axis], x.shape[axis + 1])
    for i in (0, 1) if size[0] < shape[0] else (1, 0):
        if size[i] != shape[i]:
            n, m = (size[i], shape[i]) if adjoint else (shape[i], size[i])
            x = _along(x, axis + i, size[i], _steps(kind, n, m, adjoint))
    return _closed(x, axis)


# ---- interpolation


def _interpolate_forward(ctx: Ctx, x: Array, *, kind: str, size: Pair) -> Array:
    ctx.kind, ctx.shape = kind, x.shape[2:]
    return _resized(x, kind, size, False).astype(x.dtype, copy=False)


def _interpolate_vjp(ctx: Ctx, g: Array) -> Array:
    return _resized(g, ctx.kind, ctx.shape, True).astype(g.dtype, copy=False)


_interpolate = Primitive("interpolate", _interpolate_forward, _interpolate_vjp, floats=True, fresh=True)


def interpolate(
    x: TensorLike,
    size: int | Sequence[int],
    mode: Literal["nearest", "bilinear"] = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """A map of another size, as ``torch.nn.functional.interpolate``, without antialiasing. Saves nothing.

    There are no scale factors: a factor that does not divide the sizes shifts the result.

    Args:
        x: (B, C, H, W), with H, W > 0.
        size: of the result, one number or (height, width).
        mode: "nearest", whose pixel i is pixel floor(i * n / size) (in float32, as torch), or "bilinear".
        align_corners: for "bilinear", put the centres of the corner pixels upon each other; by default the corners
            of the map, beyond whose outermost centres values are constant.

    Returns:
        (B, C, height, width); ``x`` itself where that is its size.

    Raises:
        ValueError: for another shape, size or mode; for align_corners with "nearest".
        TypeError: for a size that is no integer.
    """
    x, (height, width) = _as_map("interpolate", x), as_pair("interpolate", "size", size, 1)
    if mode not in ("nearest", "bilinear") or (align_corners and mode == "nearest"):
        raise ValueError(
            f"interpolate: expected mode nearest or bilinear, align_corners with bilinear alone; got {mode!r}, "
            f"align_corners={align_corners}."
        )
    if (height, width) == x.shape[2:]:
        return x
    return _interpolate(x, kind="corners" if align_corners else mode, size=(height, width))


# ---- adaptive means


def _lengths(n: int, size: int) -> Array:
    return np.array([-(-(i + 1) * n // size) - i * n // size for i in range(size)])


def _adaptive_counts(shape: Pair, size: Pair, like: Array) -> Array:
    counts = np.outer(_lengths(shape[0], size[0]), _lengths(shape[1], size[1]))
    return array_module(like).asarray(counts.astype(accumulator(like.dtype)))


def _adaptive_forward(ctx: Ctx, x: Array, *, size: Pair) -> Array:
    ctx.shape = x.shape[2:]
    return (_resized(x, "bins", size, False) / _adaptive_counts(ctx.shape, size, x)).astype(x.dtype, copy=False)


def _adaptive_vjp(ctx: Ctx, g: Array) -> Array:
    share = g / _adaptive_counts(ctx.shape, g.shape[2:], g)
    return _resized(share, "bins", ctx.shape, True).astype(g.dtype, copy=False)


_adaptive = Primitive("adaptive_avg_pool2d", _adaptive_forward, _adaptive_vjp, autocast="f32", floats=True, fresh=True)


def adaptive_avg_pool2d(x: TensorLike, output_size: int | Sequence[int]) -> Tensor:
    """Means of so many bins, as ``torch.nn.functional.adaptive_avg_pool2d``. Saves nothing.

    Along an axis of n places bin i of b covers places floor(i n / b) up to ceil((i + 1) n / b). Where b does not divide
    n neighbours share a place.

    Args:
        x: (B, C, H, W), with H, W > 0.
        output_size: one number or (height, width).

    Returns:
        (B, C, height, width).

    Raises:
        ValueError: for another shape or size.
    """
    return _adaptive(
        _as_map("adaptive_avg_pool2d", x), size=as_pair("adaptive_avg_pool2d", "output_size", output_size, 1)
    )


# ---- maxima of windows


def _window_starts(n: int, kernel: int, stride: int, padding: int) -> tuple[Array, Array]:
    """Along an axis, the first place of each window that is inside the map, and how far that is into the window."""
    start = np.arange((n + 2 * padding - kernel) // stride + 1) * stride - padding
    return np.maximum(start, 0), np.maximum(-start, 0)


def _shifted(n: int, count: int, offset: int, stride: int, padding: int) -> tuple[slice, slice]:
    """Which windows have their element ``offset`` inside the map, and where in the map these elements are."""
    first = max(0, -(-(padding - offset) // stride))
    stop = max(first, min(count, (n - 1 + padding - offset) // stride + 1))
    start = first * stride + offset - padding
    return slice(first, stop), slice(start, start + (stop - first - 1) * stride + 1 if stop > first else start, stride)


def _max_elements(shape: Pair, windows: Pair, kernel: Pair, stride: Pair, padding: Pair, axis: int) -> Any:
    """For each element k of a window, in row-major order: k, the index of those windows, the index of the elements."""
    lead = (slice(None),) * axis
    for k in range(kernel[0] * kernel[1]):
        pairs = [_shifted(shape[i], windows[i], divmod(k, kernel[1])[i], stride[i], padding[i]) for i in (0, 1)]
        yield k, (*lead, pairs[0][0], pairs[1][0]), (*lead, pairs[0][1], pairs[1][1])


def _max_pool_forward(ctx: Ctx, x: Array, *, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    xp = array_module(x)
    x, axis = _opened(x)
    shape = (x.shape[axis], x.shape[axis + 1])
    (rows, above), (columns, left) = (_window_starts(*of) for of in zip(shape, kernel, stride, padding, strict=True))
    windows = (len(rows), len(columns))
    best = x.take(xp.asarray(rows), axis=axis).take(xp.asarray(columns), axis=axis + 1)
    first = np.add.outer(above * kernel[1], left).astype(np.uint8 if kernel[0] * kernel[1] <= 256 else np.int32)
    found = xp.broadcast_to(xp.asarray(first.reshape(*windows, *(1,) * (2 - axis))), best.shape).copy()
    for k, here, there in _max_elements(shape, windows, kernel, stride, padding, axis):
        values = x[there]
        better = values > best[here]
        better |= values != values  # NaN
        xp.copyto(best[here], values, where=better)
        xp.copyto(found[here], k, where=better)
    ctx.geometry = (x.shape, kernel, stride, padding, axis)
    ctx.save(found)
    return _closed(best, axis)


def _max_pool_vjp(ctx: Ctx, g: Array) -> Array:
    (found,) = ctx.saved
    shape, kernel, stride, padding, axis = ctx.geometry
    xp, acc = array_module(g), accumulator(g.dtype)
    g = g if axis == 2 else g.transpose(0, 2, 3, 1)
    out = xp.zeros(shape, acc)
    windows = found.shape[axis : axis + 2]
    for k, here, there in _max_elements(shape[axis : axis + 2], windows, kernel, stride, padding, axis):
        out[there] += xp.where(found[here] == k, g[here], 0)
    return _closed(out.astype(g.dtype, copy=False), axis)


_max_pool2d = Primitive("max_pool2d", _max_pool_forward, _max_pool_vjp, fresh=True)


def max_pool2d(
    x: TensorLike,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
) -> Tensor:
    """Largest element of each window, as ``torch.nn.functional.max_pool2d``. Saves where it was found.

    The gradient goes to the first of equal elements, row by row. Of several NaN the last one is the largest.

    Args:
        x: (B, C, H, W), with H, W > 0.
        kernel_size: one number or (vertical, horizontal).
        stride: default ``kernel_size``.
        padding: places outside the map on each side, which are never the largest; at most half the kernel.

    Returns:
        (B, C, oh, ow).

    Raises:
        ValueError: for a kernel larger than the padded map, or padding above half the kernel.
    """
    x = _as_map("max_pool2d", x)
    kernel = as_pair("max_pool2d", "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else as_pair("max_pool2d", "stride", stride, 1)
    pads = as_pair("max_pool2d", "padding", padding, 0)
    if any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise ValueError(f"max_pool2d: expected padding of at most half the kernel {kernel}; got {pads}.")
    if any(n + 2 * p < k for n, p, k in zip(x.shape[2:], pads, kernel, strict=True)):
        raise ValueError(f"max_pool2d: expected a map of at least the kernel's size {kernel}; got {x.shape[2:]}.")
    return _max_pool2d(x, kernel=kernel, stride=strides, padding=pads)


# ---- pixels out of channels


def _factor(op: str, name: str, value: int) -> int:
    factor = as_int(op, name, value)
    if factor < 1:
        raise ValueError(f"{op}: expected {name} of 1 or more; got {factor}.")
    return factor


def pixel_shuffle(x: TensorLike, upscale_factor: int) -> Tensor:
    """(B, C r r, H, W) to (B, C, H r, W r), as ``torch.nn.functional.pixel_shuffle``. Saves nothing.

    Channel c r r + i r + j holds the pixels (i, j) of each r x r block of channel c.

    Raises:
        ValueError: for channels that r r does not divide, or another shape or factor.

    Source: Shi et al. 2016, equation 4.
    """
    x, r = x if isinstance(x, Tensor) else Tensor(x), _factor("pixel_shuffle", "upscale_factor", upscale_factor)
    if x.ndim != 4 or x.shape[1] % (r * r):
        raise ValueError(f"pixel_shuffle: expected x (B, C, H, W) with C a multiple of {r * r}; got {x.shape}.")
    batch, channels, height, width = x.shape
    blocks = reshape(x, (batch, channels // (r * r), r, r, height, width))
    return reshape(transpose(blocks, (0, 1, 4, 2, 5, 3)), (batch, channels // (r * r), height * r, width * r))


def pixel_unshuffle(x: TensorLike, downscale_factor: int) -> Tensor:
    """(B, C, H r, W r) to (B, C r r, H, W): the inverse of :func:`pixel_shuffle`. Saves nothing.

    Raises:
        ValueError: for a map that r does not divide, or another shape or factor.
    """
    x, r = x if isinstance(x, Tensor) else Tensor(x), _factor("pixel_unshuffle", "downscale_factor", downscale_factor)
    if x.ndim != 4 or x.shape[2] % r or x.shape[3] % r:
        raise ValueError(f"pixel_unshuffle: expected x (B, C, H, W) with H, W multiples of {r}; got {x.shape}.")
    batch, channels, height, width = x.shape
    blocks = reshape(x, (batch, channels, height // r, r, width // r, r))
    return reshape(transpose(blocks, (0, 1, 3, 5, 2, 4)), (batch, channels * r * r, height // r, width // r))
