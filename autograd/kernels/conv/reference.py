"""2-D convolution of maps, by blocks of output pixels: each block's receptive fields are one matrix for one product.

The fields of a whole map would be kh * kw times the map (im2col). A block of them stays in the cache, and nothing of it
is kept for backward: the gradient of the map is a convolution of the output's gradient by the turned kernel, that of
the weight gathers the fields again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.kernels import blocks
from autograd.kernels.blocks import as_rows, sum_in_order, sum_rows
from autograd.kernels.buffers import empty
from autograd.kernels.product import product
from autograd.kernels.registry import Cost, kernel
from autograd.kernels.threads import map_pieces

if TYPE_CHECKING:
    from autograd.backend import Array

__all__ = ["conv2d_bwd", "conv2d_fwd", "output_size"]

Pair: TypeAlias = tuple[int, int]
_Block: TypeAlias = tuple[slice, slice]

_GPU_BLOCK = 1 << 28  # bytes of fields at a time on a GPU, which wants few large products
_PIECES = 8  # partial sums of a weight's gradient; a fixed number, so that the bits do not depend on the threads


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Pixels along one axis of the output."""
    return (size + 2 * padding - kernel) // stride + 1


def _channels_last(x: Array) -> Array:
    """(B, C, H, W) as (B, H, W, C), copied only if its channels are not last in memory."""
    return array_module(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


def _wide(x: Array) -> Any:
    """The dtype that products are computed in; a GPU's make wide sums of 16-bit factors."""
    return accumulator(x.dtype) if array_module(x) is np else x.dtype


def _padded(x: Array, padding: Pair) -> Array:
    """(B, C, H, W) as (B, H + 2 padding, W + 2 padding, C), in the dtype of products."""
    acc = _wide(x)
    if padding == (0, 0):
        return _channels_last(x).astype(acc, copy=False)
    batch, channels, height, width = x.shape
    (top, left), xp = padding, array_module(x)
    shape = (batch, height + 2 * top, width + 2 * left, channels)
    out = empty(shape, acc) if xp is np else xp.empty(shape, acc)
    out[:, :top] = out[:, top + height :] = 0
    out[:, :, :left] = out[:, :, left + width :] = 0
    out[:, top : top + height, left : left + width] = x.transpose(0, 2, 3, 1)
    return out


def _fields(x: Array, kernel: Pair, stride: Pair) -> Array:
    """The receptive fields of (B, H, W, C) as a view (B, oh, ow, kh, kw, C)."""
    batch, height, width, channels = x.shape
    oh, ow = (output_size(n, k, s, 0) for n, k, s in zip((height, width), kernel, stride, strict=True))
    sb, sh, sw, sc = x.strides
    return array_module(x).lib.stride_tricks.as_strided(
        x, (batch, oh, ow, *kernel, channels), (sb, sh * stride[0], sw * stride[1], sh, sw, sc)
    )


def _blocks_of(fields: Array) -> list[_Block]:
    """Images and rows of pixels whose fields fit the cache together: rows of one image, or several whole images."""
    batch, rows = fields.shape[:2]
    row_bytes = math.prod(fields.shape[2:]) * fields.itemsize
    most = max(1, (blocks.BLOCK_BYTES if array_module(fields) is np else _GPU_BLOCK) // max(1, row_bytes))
    if most >= rows:
        images = most // max(1, rows)
        return [(slice(i, i + images), slice(0, rows)) for i in range(0, batch, images)]
    return [(slice(i, i + 1), slice(r, r + most)) for i in range(batch) for r in range(0, rows, most)]


def _matrix(fields: Array, block: _Block) -> Array:
    """A block's fields, one a row."""
    chosen = fields[block]
    return chosen.reshape(math.prod(chosen.shape[:3]), math.prod(chosen.shape[3:]))


def _convolve(x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair) -> Array:
    """(B, oh, ow, O) of (B, C, H, W) and a weight (kh, kw, C, O)."""
    *kernel, channels, outputs = weight.shape
    by = weight.reshape(math.prod(kernel) * channels, outputs).astype(_wide(x), copy=False)
    if (*kernel, *stride, *padding) == (1, 1, 1, 1, 0, 0):
        maps = _channels_last(x)
        return product(as_rows(maps), weight[0, 0], bias).reshape(*maps.shape[:3], outputs)
    fields = _fields(_padded(x, padding), (kernel[0], kernel[1]), stride)
    shape, xp = (*fields.shape[:3], outputs), array_module(x)
    out = empty(shape, x.dtype) if xp is np else xp.empty(shape, x.dtype)

    def compute(block: _Block) -> None:
        pixels = out[block]
        sums = product(_matrix(fields, block), by)
        if bias is not None:
            sums += bias
        pixels[...] = sums.reshape(pixels.shape)

    map_pieces(compute, _blocks_of(fields))
    return out


def _fwd_cost(x: Any, weight: Any, bias: Any, stride: Pair, padding: Pair) -> Cost:
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
    outputs = len(x) * math.prod(output_size(*size) for size in sizes)
    numbers = x.size + weight.size + outputs * len(weight)
    return Cost(2 * outputs * weight.size, numbers * x.itemsize)


@kernel(_fwd_cost)
def conv2d_fwd(x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair) -> Array:
    """Cross-correlation of maps.

    Args:
        x: (B, C, H, W), any layout; cheapest with channels last in memory.
        weight: (O, C, kh, kw).
        bias: (O,) or None.
        stride: vertical, horizontal.
        padding: zeros above and below, left and right.

    Returns:
        (B, O, oh, ow), channels last in memory.
    """
    return _convolve(x, weight.transpose(2, 3, 1, 0), bias, stride, padding).transpose(0, 3, 1, 2)


def _spread(g: Array, stride: Pair, rest: Pair) -> Array:
    """``g`` (B, O, oh, ow) with zeros between its pixels, and ``rest`` rows and columns of zeros more at the end."""
    if stride == (1, 1) and rest == (0, 0):
        return g
    batch, outputs, *size = g.shape
    high, wide = (s * (n - 1) + 1 + r for n, s, r in zip(size, stride, rest, strict=True))
    out = array_module(g).zeros((batch, high, wide, outputs), g.dtype).transpose(0, 3, 1, 2)
    out[:, :, : high - rest[0] : stride[0], : wide - rest[1] : stride[1]] = g
    return out


def _map_gradient(g: Array, weight: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
    """The output's gradient, convolved by the turned kernel."""
    kernel = weight.shape[2:]
    rest = tuple(
        (n + 2 * p - k) % s for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    )  # pixels at the end that no window begins at
    turned = weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    around = [k - 1 - p for k, p in zip(kernel, padding, strict=True)]
    more = max(0, -around[0]), max(0, -around[1])  # where there is more padding than kernel, what lies in it is cut off
    inside = max(0, around[0]), max(0, around[1])
    gx = _convolve(_spread(g, stride, (rest[0], rest[1])), turned, None, (1, 1), inside)
    return gx[:, more[0] : more[0] + size[0], more[1] : more[1] + size[1]]


def _weight_gradient(g: Array, x: Array, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """Sums over pixels of each pixel's gradient times its field, (kh, kw, C, O)."""
    acc = accumulator(x.dtype)
    fields = _fields(_padded(x, padding), kernel, stride)
    every = _blocks_of(fields)
    count = min(_PIECES, len(every))
    pieces = [every[len(every) * i // count : len(every) * (i + 1) // count] for i in range(count)]

    def compute(piece: list[_Block]) -> Array:
        each = (
            product(_matrix(fields, block).T, as_rows(g[block]).astype(fields.dtype, copy=False)) for block in piece
        )
        return sum_in_order([part.astype(acc, copy=False) for part in each])

    if not pieces:
        return array_module(x).zeros((*kernel, x.shape[1], g.shape[-1]), x.dtype)
    total = sum_in_order(map_pieces(compute, pieces)).astype(x.dtype, copy=False)
    return total.reshape(*kernel, x.shape[1], g.shape[-1])


def _bwd_cost(g: Any, x: Any, weight: Any, stride: Pair, padding: Pair, needs: tuple[bool, ...]) -> Cost:
    products = needs[0] + needs[1]
    each = 2 * (g.size // max(1, len(weight))) * weight.size
    numbers = g.size + products * (g.size + x.size + weight.size)
    return Cost(products * each + needs[2] * g.size, numbers * g.itemsize)


@kernel(_bwd_cost)
def conv2d_bwd(
    g: Array, x: Array, weight: Array, stride: Pair, padding: Pair, needs: tuple[bool, ...]
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`conv2d_fwd` for x, weight and bias, each only where ``needs`` says so.

    Args:
        g: (B, O, oh, ow), the gradient of the output; cheapest with channels last in memory.
        x, weight, stride, padding: as there.
        needs: of x, weight and bias.

    Returns:
        (B, C, H, W), channels last in memory; (O, C, kh, kw); (O,).
    """
    size, kernel = (x.shape[2], x.shape[3]), (weight.shape[2], weight.shape[3])
    gx = gw = gb = None
    if needs[0]:
        gx = _map_gradient(g, weight, size, stride, padding).transpose(0, 3, 1, 2)
    pixels = _channels_last(g)
    if needs[1]:
        gw = _weight_gradient(pixels, x, kernel, stride, padding).transpose(3, 2, 0, 1)
    if needs[2]:
        gb = sum_rows(as_rows(pixels), accumulator(g.dtype)).astype(g.dtype, copy=False)
    return gx, gw, gb
