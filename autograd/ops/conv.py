"""2-D convolution, its transpose, and average pooling over NCHW maps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.kernels.conv import conv2d_bwd, conv2d_fwd
from autograd.kernels.patches import patch_rows
from autograd.kernels.product import product
from autograd.primitive import Ctx, Primitive
from autograd.shapes import as_pair
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.backend import Array
    from autograd.tensor import TensorLike

__all__ = ["avg_pool2d", "conv2d", "conv_transpose2d"]

Pair = tuple[int, int]


def _padded(x: Array, padding: Pair) -> Array:
    if padding == (0, 0):
        return x
    (top, left) = padding
    return array_module(x).pad(x, ((0, 0), (0, 0), (top, top), (left, left)))


def _windows(x: Array, kernel: Pair, stride: Pair) -> Array:
    """(B, C, H, W) as a view (B, C, oh, ow, kh, kw)."""
    batch, channels, height, width = x.shape
    sb, sc, sh, sw = x.strides
    shape = (batch, channels, (height - kernel[0]) // stride[0] + 1, (width - kernel[1]) // stride[1] + 1, *kernel)
    strides = (sb, sc, sh * stride[0], sw * stride[1], sh, sw)
    return array_module(x).lib.stride_tricks.as_strided(x, shape, strides)


def _unwindow(windows: Array, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """Adjoint of padding and :func:`_windows`: (B, C, oh, ow, kh, kw) added up to (B, C, H, W)."""
    batch, channels, height, width = shape
    xp = array_module(windows)
    out = xp.zeros((batch, channels, height + 2 * padding[0], width + 2 * padding[1]), accumulator(windows.dtype))
    oh, ow = windows.shape[2:4]
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i, i + stride[0] * (oh - 1) + 1, stride[0])
            columns = slice(j, j + stride[1] * (ow - 1) + 1, stride[1])
            out[:, :, rows, columns] += windows[..., i, j]
    inside = out[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    return xp.ascontiguousarray(inside).astype(windows.dtype, copy=False)


def _check_map(op: str, x: Tensor, kernel: Pair, padding: Pair) -> None:
    if x.ndim != 4:
        raise ValueError(f"{op}: expected x (B, C, H, W); got {x.shape}.")
    if any(n + 2 * p < k for n, p, k in zip(x.shape[2:], padding, kernel, strict=True)):
        raise ValueError(f"{op}: expected a map of at least the kernel's size {kernel}; got {x.shape[2:]}. Pad it.")


def _patches(x: Array, kernel: Pair, stride: Pair, padding: Pair) -> bool:
    """Whether windows lie side by side and cover the map, as those of a patch embedding."""
    return kernel == stride and padding == (0, 0) and not (x.shape[2] % kernel[0] or x.shape[3] % kernel[1])


def _flat(weight: Array) -> Array:
    """(O, C kh kw)."""
    return weight.reshape(len(weight), math.prod(weight.shape[1:]))


def _conv_forward(ctx: Ctx, x: Array, weight: Array, bias: Array | None, *, stride: Pair, padding: Pair) -> Array:
    kernel = weight.shape[2:]
    ctx.geometry = (stride, padding)
    ctx.save(x, weight)
    if not _patches(x, kernel, stride, padding):
        return conv2d_fwd(x, weight, bias, stride, padding)
    rows = product(patch_rows(x, kernel), _flat(weight).T, bias)
    return rows.reshape(len(x), x.shape[2] // kernel[0], x.shape[3] // kernel[1], len(weight)).transpose(0, 3, 1, 2)


def _conv_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None, Array | None]:
    x, weight = ctx.saved
    stride, padding = ctx.geometry
    kernel = weight.shape[2:]
    if not _patches(x, kernel, stride, padding):
        return conv2d_bwd(g, x, weight, stride, padding, ctx.needs)
    batch, out_channels, oh, ow = g.shape
    rows = g.transpose(0, 2, 3, 1).reshape(batch * oh * ow, out_channels)
    gx = gw = gb = None
    if ctx.needs[0]:
        patches = product(rows, _flat(weight)).reshape(batch, oh, ow, x.shape[1], *kernel)
        gx = patches.transpose(0, 3, 1, 4, 2, 5).reshape(x.shape)
    if ctx.needs[1]:
        gw = product(rows.T, patch_rows(x, kernel)).reshape(weight.shape)
    if ctx.needs[2]:
        gb = rows.sum(axis=0, dtype=accumulator(g.dtype)).astype(g.dtype, copy=False)
    return gx, gw, gb


_conv2d = Primitive("conv2d", _conv_forward, _conv_vjp, autocast="low", fresh=True)


def _operands(
    op: str, x: TensorLike, weight: TensorLike, bias: TensorLike | None, layout: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Map, weight in the given layout, and bias as tensors, if their shapes fit."""
    maps = x if isinstance(x, Tensor) else Tensor(x)
    kernel = weight if isinstance(weight, Tensor) else Tensor(weight)
    inputs, outputs = (1, 0) if layout.startswith("(O") else (0, 1)
    if kernel.ndim != 4 or maps.ndim != 4 or kernel.shape[inputs] != maps.shape[1] or 0 in kernel.shape[2:]:
        raise ValueError(f"{op}: expected x (B, C, H, W) and weight {layout}; got {maps.shape}, {kernel.shape}.")
    shift = bias if bias is None or isinstance(bias, Tensor) else Tensor(bias)
    if shift is not None and shift.shape != (kernel.shape[outputs],):
        raise ValueError(f"{op}: expected bias {(kernel.shape[outputs],)}; got {shift.shape}.")
    return maps, kernel, shift


def conv2d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
) -> Tensor:
    """Cross-correlation of NCHW maps, as ``torch.nn.functional.conv2d``. Saves ``x`` and ``weight`` by reference.

    Args:
        x: (B, C, H, W).
        weight: (O, C, kh, kw).
        bias: (O,) or None.
        stride: one number or (vertical, horizontal).
        padding: zeros on each side, one number or (vertical, horizontal).

    Returns:
        (B, O, oh, ow), channels last in memory.

    Raises:
        ValueError: for shapes that do not fit, or a kernel larger than the padded map.
    """
    x, weight, bias = _operands("conv2d", x, weight, bias, "(O, C, kh, kw)")
    strides, pads = as_pair("conv2d", "stride", stride, 1), as_pair("conv2d", "padding", padding, 0)
    _check_map("conv2d", x, (weight.shape[2], weight.shape[3]), pads)
    return _conv2d(x, weight, bias, stride=strides, padding=pads)


def _side_by_side(x: Array, weight: Array) -> Array:
    """Each pixel becomes a patch of its own: (B, H, W, C) by (C, O, kh, kw) to (B, H kh, W kw, O)."""
    batch, height, width, channels = x.shape
    outputs, kh, kw = weight.shape[1:]
    by_pixel = weight.transpose(0, 2, 3, 1).reshape(channels, kh * kw * outputs)
    patches = product(x.reshape(batch * height * width, channels), by_pixel)
    patches = patches.reshape(batch, height, width, kh, kw, outputs).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(batch, height * kh, width * kw, outputs)


def _map_of(shape: tuple[int, ...], like: Array) -> Array:
    """A map of zeros that takes no memory, for kernels that ask it for its shape."""
    xp = array_module(like)
    return xp.broadcast_to(xp.zeros((), like.dtype), shape)


def _transpose_forward(ctx: Ctx, x: Array, weight: Array, bias: Array | None, *, stride: Pair, padding: Pair) -> Array:
    ctx.geometry = (stride, padding)
    ctx.save(x, weight)
    kernel = weight.shape[2:]
    if kernel == stride and padding == (0, 0):
        out = _side_by_side(x.transpose(0, 2, 3, 1), weight).transpose(0, 3, 1, 2)
    else:
        sizes = zip(x.shape[2:], kernel, stride, padding, strict=True)
        size = [(n - 1) * s - 2 * p + k for n, k, s, p in sizes]
        there = _map_of((len(x), weight.shape[1], *size), x)
        out = conv2d_bwd(x, there, weight, stride, padding, (True, False, False))[0]
    if bias is not None:
        out += bias[:, None, None]
    return out


def _transpose_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None, Array | None]:
    x, weight = ctx.saved
    stride, padding = ctx.geometry
    gx = gw = gb = None
    if ctx.needs[0]:
        gx = conv2d_fwd(g, weight, None, stride, padding)
    if ctx.needs[1]:
        gw = conv2d_bwd(x, g, weight, stride, padding, (False, True, False))[1]
    if ctx.needs[2]:
        gb = g.sum(axis=(0, 2, 3), dtype=accumulator(g.dtype)).astype(g.dtype, copy=False)
    return gx, gw, gb


_conv_transpose2d = Primitive("conv_transpose2d", _transpose_forward, _transpose_vjp, autocast="low", fresh=True)


def conv_transpose2d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
) -> Tensor:
    """The adjoint of :func:`conv2d` in its map, as ``torch.nn.functional.conv_transpose2d``.

    Saves ``x`` and ``weight`` by reference.

    Args:
        x: (B, C, H, W).
        weight: (C, O, kh, kw).
        bias: (O,) or None.
        stride: one number or (vertical, horizontal).
        padding: rows and columns that are cut off at each side, one number or (vertical, horizontal).

    Returns:
        (B, O, (H - 1) stride - 2 padding + kh, ...), channels last in memory.

    Raises:
        ValueError: for shapes that do not fit, or padding that leaves nothing.
    """
    x, weight, bias = _operands("conv_transpose2d", x, weight, bias, "(C, O, kh, kw)")
    strides, pads = as_pair("conv_transpose2d", "stride", stride, 1), as_pair("conv_transpose2d", "padding", padding, 0)
    sizes = zip(x.shape[2:], weight.shape[2:], strides, pads, strict=True)
    if 0 in x.shape[2:] or any((n - 1) * s - 2 * p + k < 1 for n, k, s, p in sizes):
        raise ValueError(
            f"conv_transpose2d: expected a map and an output of at least one pixel; got a map {x.shape[2:]} and "
            f"padding {pads}."
        )
    return _conv_transpose2d(x, weight, bias, stride=strides, padding=pads)


def _window_counts(x: Array, kernel: Pair, stride: Pair, padding: Pair, include_pad: bool) -> Array | int:
    """How many elements each window's mean is over: a number, or (oh, ow) where padding does not count."""
    if include_pad or padding == (0, 0):
        return kernel[0] * kernel[1]
    ones = array_module(x).ones((1, 1, *x.shape[2:]), accumulator(x.dtype))
    return _windows(_padded(ones, padding), kernel, stride).sum(axis=(-2, -1))[0, 0]


def _pool_forward(ctx: Ctx, x: Array, *, kernel: Pair, stride: Pair, padding: Pair, include_pad: bool) -> Array:
    counts = _window_counts(x, kernel, stride, padding, include_pad)
    ctx.geometry = (x.shape, counts, kernel, stride, padding)
    total = _windows(_padded(x, padding), kernel, stride).sum(axis=(-2, -1), dtype=accumulator(x.dtype))
    return (total / counts).astype(x.dtype, copy=False)


def _pool_vjp(ctx: Ctx, g: Array) -> Array:
    shape, counts, kernel, stride, padding = ctx.geometry
    share = (g / counts).astype(g.dtype, copy=False)[..., None, None]
    windows = array_module(g).broadcast_to(share, (*g.shape, *kernel))
    return _unwindow(windows, shape, kernel, stride, padding)


_avg_pool2d = Primitive("avg_pool2d", _pool_forward, _pool_vjp, autocast="f32", floats=True, fresh=True)


def avg_pool2d(
    x: TensorLike,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean of each window of an NCHW map, as ``torch.nn.functional.avg_pool2d``. Saves nothing.

    Args:
        x: (B, C, H, W).
        kernel_size: one number or (vertical, horizontal).
        stride: default ``kernel_size``.
        padding: zeros on each side, at most half the kernel.
        count_include_pad: whether padded zeros count in the mean.

    Returns:
        (B, C, oh, ow).

    Raises:
        ValueError: for a kernel larger than the padded map, or padding above half the kernel.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    kernel = as_pair("avg_pool2d", "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else as_pair("avg_pool2d", "stride", stride, 1)
    pads = as_pair("avg_pool2d", "padding", padding, 0)
    if any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise ValueError(f"avg_pool2d: expected padding of at most half the kernel {kernel}; got {pads}.")
    _check_map("avg_pool2d", x, kernel, pads)
    return _avg_pool2d(x, kernel=kernel, stride=strides, padding=pads, include_pad=count_include_pad)
