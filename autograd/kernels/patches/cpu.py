"""Pixels in another order, compiled: 2x2 neighbours side by side, and the patches of images as rows.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import row_pieces, run_pieces
from autograd.kernels.compiled.toolkit import jit, plain, read, write
from autograd.kernels.patches import reference

__all__ = ["patch_merge_bwd", "patch_merge_fwd", "patch_rows"]


@jit
def _merge(x: Any, out: Any, _: int, start: int, stop: int) -> None:
    """Rows [start, stop) of ``out`` (B * h, w, 4C), counted through the batch."""
    _, height, width, channels = x.shape
    h, w, zero = (height + 1) // 2, (width + 1) // 2, x.dtype.type(0)
    for row in range(start, stop):
        image, top = row // h, row % h * 2
        for cell in range(w):
            to = (row * w + cell) * 4 * channels
            for corner in range(4):
                y, left = top + corner % 2, 2 * cell + corner // 2
                if y < height and left < width:
                    source = ((image * height + y) * width + left) * channels
                    for c in range(channels):
                        write(out, to + c, read(x, source + c))
                else:
                    for c in range(channels):
                        write(out, to + c, zero)
                to += channels


@jit
def _unmerge(g: Any, out: Any, _: int, start: int, stop: int) -> None:
    """Rows [start, stop) of ``out`` (B * H, W, C), counted through the batch."""
    h, w = g.shape[1], g.shape[2]
    _, height, width, channels = out.shape
    for row in range(start, stop):
        image, y = row // height, row % height
        for left in range(width):
            to, corner = (row * width + left) * channels, y % 2 + 2 * (left % 2)
            source = (((image * h + y // 2) * w + left // 2) * 4 + corner) * channels
            for c in range(channels):
                write(out, to + c, read(g, source + c))


@jit
def _rows(images: Any, table: Any, patch: Any, out: Any, _: int, start: int, stop: int) -> None:
    """Rows [start, stop) of patches, counted through the batch. ``table`` (C, 256) holds the value of each byte, and is
    empty for images of floats."""
    _, channels, height, width = images.shape
    (ph, pw), zero = patch, out.dtype.type(0)
    h, w = -(-height // ph), -(-width // pw)
    for line in range(start, stop):
        image, top = line // h, line % h * ph
        for cell in range(w):
            to = (line * w + cell) * channels * ph * pw
            for c in range(channels):
                for y in range(top, top + ph):
                    for left in range(cell * pw, cell * pw + pw):
                        value = zero
                        if y < height and left < width:
                            number = read(images, ((image * channels + c) * height + y) * width + left)
                            value = table[c, int(number)] if table.size else out.dtype.type(number)
                        write(out, to, value)
                        to += 1


def patch_merge_fwd(x: Any) -> Any:
    """One gather, padding included: the padded map is not made."""
    x = plain(x)
    batch, height, width, channels = x.shape
    h, w = (height + 1) // 2, (width + 1) // 2
    out = empty((batch, h, w, 4 * channels), x.dtype)
    run_pieces(_merge, row_pieces(batch * h, 8 * w * channels * x.itemsize), x, out)
    return out


def patch_merge_bwd(g: Any, height: int, width: int) -> Any:
    """One gather: each pixel looks up its gradient."""
    g = plain(g)
    batch, channels = g.shape[0], g.shape[3] // 4
    out = empty((batch, height, width, channels), g.dtype)
    pieces = row_pieces(batch * height, 2 * width * channels * g.itemsize)
    run_pieces(_unmerge, pieces, g, out)
    return out


def patch_rows(images: Any, patch: tuple[int, int], mean: Any = None, std: Any = None, dtype: Any = None) -> Any:
    """One gather; bytes are normalised by a table of 256 values per channel, made by the reference."""
    dtype = np.dtype(images.dtype if dtype is None else dtype)
    images = plain(images)
    batch, channels, height, width = images.shape
    lines = -(-height // patch[0])
    out = empty((batch * lines * -(-width // patch[1]), channels * patch[0] * patch[1]), dtype)
    table = np.empty((0, 0), dtype)
    if mean is not None:  # the reference's result for each byte, so that the bits are the same
        every = np.broadcast_to(np.arange(256, dtype=np.uint8), (1, channels, 1, 256))
        table = plain(reference.patch_rows.reference(every, (1, 1), mean, std, dtype).T)
    pieces = row_pieces(batch * lines, 2 * patch[0] * channels * width * dtype.itemsize)
    run_pieces(_rows, pieces, images, table, patch, out)
    return out
