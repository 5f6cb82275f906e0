"""Convolutions of any kernel, stride and padding, as products: the fields of a block of pixels, and the packed weight.

A block's fields stay in the cache while all panels of the weight pass over them, in the forward as in the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.gemm import even_block, multiply_rows, pack, tile_pieces
from autograd.kernels.compiled.outer import add_outer, gradient, make_partials, most_pieces, scratch_size
from autograd.kernels.compiled.pieces import run_pieces
from autograd.kernels.compiled.toolkit import jit
from autograd.kernels.conv.reference import output_size

if TYPE_CHECKING:
    from autograd.kernels.conv.reference import Pair

__all__ = ["convolve", "weight_gradient"]


@jit
def _gather(x: Any, geometry: Any, size: Any, first: int, count: int, fields: Any) -> None:
    """The fields of output pixels [first, first + count), one a row, (kh, kw, C) each; zeros outside the map.

    Args:
        x: (B, H, W, C).
        geometry: kernel, stride and padding, vertical before horizontal.
        size: rows and columns of the output.
        first: number of the first pixel.
        count: of pixels.
        fields: (count or more, kh kw C).
    """
    _, height, width, channels = x.shape
    kh, kw, down, right, above, before = geometry
    flat, to = x.ravel(), fields.ravel()
    for r in range(count):
        pixel, at = first + r, r * fields.shape[1]
        top = pixel // size[1] % size[0] * down - above
        left = pixel % size[1] * right - before
        image = pixel // (size[0] * size[1])
        for y in range(top, top + kh):
            here = ((image * height + y) * width + left) * channels
            if 0 <= y < height and left >= 0 and left + kw <= width:
                for c in range(kw * channels):
                    to[at + c] = flat[here + c]
            else:
                for j in range(kw):
                    inside = 0 <= y < height and 0 <= left + j < width
                    for c in range(j * channels, (j + 1) * channels):
                        to[at + c] = flat[here + c] if inside else 0
            at += kw * channels


@jit
def _forward(x: Any, geometry: Any, size: Any, panels: Any, bias: Any, out: Any, _: int, start: int, stop: int) -> None:
    """Pixels [start, stop)."""
    block = even_block(stop - start)
    fields = np.empty((block, geometry[0] * geometry[1] * x.shape[3]), x.dtype)
    for first in range(start, stop, block):
        count = min(block, stop - first)
        _gather(x, geometry, size, first, count, fields)
        multiply_rows(fields[:count], panels, bias, out[first : first + count], 0, count)


@jit
def _backward(x: Any, geometry: Any, size: Any, g: Any, partials: Any, number: int, start: int, stop: int) -> None:
    """What pixels [start, stop) add to the weight's gradient."""
    block, depth = even_block(stop - start), geometry[0] * geometry[1] * x.shape[3]
    fields = np.empty((block, depth), x.dtype)
    left, right = np.empty(scratch_size(block, g.shape[1]), x.dtype), np.empty(scratch_size(block, depth), x.dtype)
    partial = partials[number]
    partial[:] = 0
    for first in range(start, stop, block):
        count = min(block, stop - first)
        _gather(x, geometry, size, first, count, fields)
        add_outer(g, first, fields, 0, count, left, right, partial)


def _sizes(x: Any, kernel: Pair, stride: Pair, padding: Pair) -> tuple[int, int]:
    rows, columns = (output_size(*n) for n in zip(x.shape[1:3], kernel, stride, padding, strict=True))
    return rows, columns


def convolve(x: Any, weight: Any, bias: Any | None, stride: Pair, padding: Pair) -> Any:
    """The convolution.

    Args:
        x: (B, H, W, C), C-ordered.
        weight: (kh, kw, C, O).
        bias: (O,) or None.
        stride: vertical, horizontal.
        padding: likewise.

    Returns:
        (B, oh, ow, O).
    """
    *kernel, channels, outputs = weight.shape
    size = _sizes(x, (kernel[0], kernel[1]), stride, padding)
    matrix = np.ascontiguousarray(weight).reshape(kernel[0] * kernel[1] * channels, outputs)
    packed = pack(matrix, False, bias)
    pixels = len(x) * size[0] * size[1]
    out = empty((pixels, outputs), x.dtype)
    run_pieces(
        _forward,
        tile_pieces(pixels, matrix.size),
        x,
        (*kernel, *stride, *padding),
        size,
        packed.panels,
        packed.bias,
        out,
    )
    return out.reshape(len(x), *size, outputs)


def weight_gradient(g: Any, x: Any, kernel: Pair, stride: Pair, padding: Pair) -> Any:
    """The weight's gradient of :func:`convolve`.

    Args:
        g: (B, oh, ow, O), C-ordered.
        x, kernel, stride, padding: as there.

    Returns:
        (kh, kw, C, O), a view.
    """
    outputs, channels = g.shape[3], x.shape[3]
    rows = g.reshape(-1, outputs)
    depth = kernel[0] * kernel[1] * channels
    pieces = tile_pieces(len(rows), depth * outputs, most_pieces(len(rows)))
    partials = make_partials(len(pieces), outputs, depth, x.dtype)
    run_pieces(_backward, pieces, x, (*kernel, *stride, *padding), _sizes(x, kernel, stride, padding), rows, partials)
    total = gradient(partials, outputs, depth, flipped=False)
    return total.reshape(outputs, *kernel, channels).transpose(1, 2, 3, 0)
