"""RoIAlign, compiled.

Each twin has the contract of its namesake in reference.py; what is said here is how.

Channels are the inner axis. Forward takes one box after another: each row below the box gives its bins along x, and is
added to the bins along y that it belongs to. Backward takes one band of rows of a map after another, and walks the
boxes of its image in order. So the sum at a pixel has one order, whichever thread makes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autograd.extend import empty
from autograd.kernels.compiled.pieces import even_pieces, row_pieces, run_pieces
from autograd.kernels.compiled.toolkit import difference, jit, plain, product
from swinpy.kernels.roi_align.samples import axes, of_level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swinpy.kernels.roi_align.samples import Axis

__all__ = ["roi_align_bwd", "roi_align_fwd"]

_BAND = 8  # rows of a map that a thread takes at a time in backward


class _Taps(NamedTuple):
    """The pixels that one box reads along one axis."""

    first: Any  # (bins,) the first pixel of a bin
    count: Any  # (bins,) how many pixels it reads
    weight: Any  # (bins, most) of each


@jit
def _fill(axis: Any, row: int, size: int, taps: Any) -> None:
    """Taps of box ``row``. Positions are rounded as in the reference: no product is fused into a sum."""
    start, length, step, count = axis.start[row], axis.bin[row], axis.step[row], axis.count[row]
    kind, to = axis.start.dtype.type, taps.weight.dtype.type
    zero, one, half, last = kind(0), kind(1), kind(0.5), kind(size - 1)
    for p in range(len(taps.first)):
        taps.count[p] = 0
        if count == 0:
            continue
        begin = difference(start, product(-length, kind(p)))
        first = -1
        for i in range(count):
            at = difference(begin, product(-step, kind(i) + half))
            near = min(max(at, zero), last)
            low = int(near)
            if first < 0:
                first = low
                taps.first[p] = low
                taps.weight[p] = to(0)
            share = near - kind(low)
            if at < -one or at > last + one:
                share, inside = zero, zero
            else:
                inside = one
            taps.weight[p, low - first] += to(inside - share)
            taps.count[p] = low - first + 1
            if low + 1 < size:
                taps.weight[p, low - first + 1] += to(share)
                taps.count[p] = low - first + 2
        for t in range(taps.count[p]):
            taps.weight[p, t] /= to(count)


@jit
def _bounds(taps: Any) -> Any:
    """The first pixel that the bins read, and the one after the last; none for an empty box."""
    bins = len(taps.first)
    if taps.count[bins - 1] == 0:
        return 0, 0
    return taps.first[0], taps.first[bins - 1] + taps.count[bins - 1]


@jit
def _new_taps(bins: int, most: int, like: Any) -> Any:
    return _Taps(np.zeros(bins, np.int64), np.zeros(bins, np.int64), np.zeros((bins, most), like.dtype))


@jit
def _forward(
    x: Any, images: Any, rows: Any, y_axis: Any, x_axis: Any, most: Any, out: Any, _: int, start: int, stop: int
) -> None:
    height, width, channels = x.shape[1:]
    ys, xs = _new_taps(out.shape[1], most[0], x), _new_taps(out.shape[2], most[1], x)
    line = np.empty((out.shape[2], channels), x.dtype)
    zero = x.dtype.type(0)
    for k in range(start, stop):
        _fill(y_axis, k, height, ys)
        _fill(x_axis, k, width, xs)
        row, image = rows[k], images[rows[k]]
        out[row] = zero
        first, after = _bounds(ys)
        for y in range(first, after):
            made = False
            for p in range(len(ys.first)):
                t = y - ys.first[p]
                if t < 0 or t >= ys.count[p]:
                    continue
                if not made:
                    _across(x, image, y, xs, line)
                    made = True
                w = ys.weight[p, t]
                for q in range(len(xs.first)):
                    for c in range(channels):
                        out[row, p, q, c] += w * line[q, c]


@jit
def _across(x: Any, image: int, y: int, xs: Any, line: Any) -> None:
    """One row of a map, gathered into the bins along x."""
    zero = x.dtype.type(0)
    for q in range(len(xs.first)):
        line[q] = zero
        for t in range(xs.count[q]):
            w, at = xs.weight[q, t], xs.first[q] + t
            for c in range(x.shape[3]):
                line[q, c] += w * x[image, y, at, c]


@jit
def _backward(
    g: Any,
    order: Any,
    bounds: Any,
    rows: Any,
    y_axis: Any,
    x_axis: Any,
    most: Any,
    out: Any,
    _: int,
    start: int,
    stop: int,
) -> None:
    height, width, channels = out.shape[1:]
    bands = (height + _BAND - 1) // _BAND
    ys, xs = _new_taps(g.shape[1], most[0], g), _new_taps(g.shape[2], most[1], g)
    line = np.empty((g.shape[2], channels), g.dtype)
    zero = g.dtype.type(0)
    for piece in range(start, stop):
        image, top = piece // bands, piece % bands * _BAND
        below = min(top + _BAND, height)
        out[image, top:below] = zero
        for n in range(bounds[image], bounds[image + 1]):
            k = order[n]
            _fill(y_axis, k, height, ys)
            first, after = _bounds(ys)
            first, after = max(first, top), min(after, below)
            if first >= after:
                continue
            _fill(x_axis, k, width, xs)
            for y in range(first, after):
                if _down(g, rows[k], y, ys, line):
                    _spread(line, xs, out, image, y)


@jit
def _down(g: Any, row: int, y: int, ys: Any, line: Any) -> Any:
    """What row y of the map gets of the gradient of a box's bins, by bin along x; whether it gets any."""
    made, zero = False, g.dtype.type(0)
    for p in range(len(ys.first)):
        t = y - ys.first[p]
        if t < 0 or t >= ys.count[p]:
            continue
        if not made:
            line[:] = zero
            made = True
        w = ys.weight[p, t]
        for q in range(line.shape[0]):
            for c in range(line.shape[1]):
                line[q, c] += w * g[row, p, q, c]
    return made


@jit
def _spread(line: Any, xs: Any, out: Any, image: int, y: int) -> None:
    """Add bins along x to the pixels of a row that they read."""
    for q in range(len(xs.first)):
        for t in range(xs.count[q]):
            w, at = xs.weight[q, t], xs.first[q] + t
            for c in range(line.shape[1]):
                out[image, y, at, c] += w * line[q, c]


def _most(axis: Axis, size: int) -> int:
    """The pixels that a bin reads at most: those between its first and its last sample, and one beyond each."""
    if not len(axis.bin):
        return 1
    return int(min(np.ceil((axis.step * np.maximum(axis.count - 1, 0)).max()) + 2, size)) + 1


def _contiguous(*axes_: Axis) -> tuple[Axis, ...]:
    return tuple(type(a)(*map(plain, a)) for a in axes_)


def roi_align_fwd(
    maps: Sequence[Any],
    boxes: Any,
    images: Any,
    levels: Any,
    size: tuple[int, int],
    scales: tuple[float, ...],
    ratio: int,
    aligned: bool,
) -> Any:
    """Pieces are runs of boxes of a level."""
    channels = maps[0].shape[1]
    out = empty((len(boxes), *size, channels), maps[0].dtype)
    images = plain(images.astype(np.int64, copy=False))
    for level, x in enumerate(maps):
        rows = of_level(levels, level)
        y_axis, x_axis = _contiguous(*axes(boxes[rows], size, scales[level], ratio, aligned))
        most = (_most(y_axis, x.shape[2]), _most(x_axis, x.shape[3]))
        pieces = row_pieces(len(rows), 4 * channels * size[0] * size[1] * x.itemsize)
        run_pieces(_forward, pieces, plain(np.moveaxis(x, 1, -1)), images, rows, y_axis, x_axis, most, out)
    return np.moveaxis(out, -1, 1)


def roi_align_bwd(
    g: Any,
    shapes: Sequence[Sequence[int]],
    boxes: Any,
    images: Any,
    levels: Any,
    scales: tuple[float, ...],
    ratio: int,
    aligned: bool,
) -> list[Any]:
    """Pieces are bands of rows of a map; each pixel is written by one thread."""
    channels, *size = g.shape[1:]
    last = plain(np.moveaxis(g, 1, -1))
    grads = []
    for level, (batch, _, height, width) in enumerate(shapes):
        rows = of_level(levels, level)
        y_axis, x_axis = _contiguous(*axes(boxes[rows], (size[0], size[1]), scales[level], ratio, aligned))
        most = (_most(y_axis, height), _most(x_axis, width))
        order = np.argsort(images[rows], kind="stable")
        bounds = np.searchsorted(images[rows][order], np.arange(batch + 1))
        out = empty((batch, height, width, channels), g.dtype)
        bands = batch * -(-height // _BAND)
        run_pieces(_backward, even_pieces(bands, bands), last, order, bounds, rows, y_axis, x_axis, most, out)
        grads.append(np.moveaxis(out, -1, 1))
    return grads
