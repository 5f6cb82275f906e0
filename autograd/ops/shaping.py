"""Ops that move elements without computing: views where NumPy makes views, copies where it copies.

Their adjoints move the gradient back; where several outputs read one input (overlapping windows, broadcasting) the
adjoint adds.
"""

from __future__ import annotations

import math
from itertools import product as cartesian
from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module
from autograd.dtypes import accumulator
from autograd.primitive import Ctx, Primitive
from autograd.shapes import as_ints, normalize_axes, normalize_axis, unbroadcast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.backend import Array
    from autograd.tensor import Axis, Tensor, TensorLike

__all__ = [
    "broadcast_to",
    "expand_dims",
    "flip",
    "moveaxis",
    "pad",
    "reshape",
    "roll",
    "sliding_window_view",
    "squeeze",
    "swapaxes",
    "transpose",
]


# ---- shape and order of axes


def _reshape_forward(ctx: Ctx, x: Array, *, shape: tuple[int, ...]) -> Array:
    ctx.shape = x.shape
    return x.reshape(shape)


_reshape = Primitive("reshape", _reshape_forward, lambda ctx, g: g.reshape(ctx.shape))


def reshape(x: TensorLike, shape: int | Sequence[int]) -> Tensor:
    """``x`` with another shape (one size may be -1), a view where possible. Saves nothing.

    Raises:
        ValueError: if the number of elements differs.
    """
    target = as_ints("reshape", "shape", shape)
    size = math.prod(np.shape(x))
    known = math.prod(n for n in target if n != -1)
    wild = target.count(-1)
    if wild > 1 or any(n < -1 for n in target) or (size != known if not wild else known == 0 or size % known):
        raise ValueError(f"reshape: expected a shape of {size} elements for {np.shape(x)}; got {target}.")
    return _reshape(x, shape=target)


def _transpose_forward(ctx: Ctx, x: Array, *, axes: tuple[int, ...]) -> Array:
    ctx.inverse = tuple(sorted(range(len(axes)), key=axes.__getitem__))
    return x.transpose(axes)


_transpose = Primitive("transpose", _transpose_forward, lambda ctx, g: g.transpose(ctx.inverse))


def transpose(x: TensorLike, axes: Sequence[int] | None = None) -> Tensor:
    """``x`` with its axes permuted (default: reversed), a view. Saves nothing.

    Raises:
        ValueError: if ``axes`` is not a permutation.
    """
    ndim = np.ndim(x)
    order = tuple(range(ndim))[::-1] if axes is None else tuple(normalize_axis("transpose", a, ndim) for a in axes)
    if sorted(order) != list(range(ndim)):
        raise ValueError(f"transpose: expected a permutation of {ndim} axes; got {axes}.")
    return _transpose(x, axes=order)


def swapaxes(x: TensorLike, axis1: int, axis2: int) -> Tensor:
    """``x`` with two axes exchanged, a view."""
    order = list(range(np.ndim(x)))
    a, b = (normalize_axis("swapaxes", axis, len(order)) for axis in (axis1, axis2))
    order[a], order[b] = b, a
    return transpose(x, order)


def moveaxis(x: TensorLike, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """``x`` with axes moved to other places, the rest in their order; a view.

    Raises:
        ValueError: if there are not as many sources as destinations, or one of them twice.
    """
    ndim = np.ndim(x)
    sources, places = (
        tuple(normalize_axis("moveaxis", a, ndim) for a in as_ints("moveaxis", name, value))
        for name, value in (("source", source), ("destination", destination))
    )
    if not len(sources) == len(set(sources)) == len(places) == len(set(places)):
        raise ValueError(f"moveaxis: expected as many sources as destinations, each once; got {source}, {destination}.")
    order = [a for a in range(ndim) if a not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return transpose(x, order)


def expand_dims(x: TensorLike, axis: int | Sequence[int]) -> Tensor:
    """``x`` with axes of size 1 inserted at these places of the result, a view."""
    places = as_ints("expand_dims", "axis", axis)
    ndim = np.ndim(x) + len(places)
    new = normalize_axes("expand_dims", places, ndim)
    old = iter(np.shape(x))
    return reshape(x, [1 if i in new else next(old) for i in range(ndim)])


def squeeze(x: TensorLike, axis: Axis = None) -> Tensor:
    """``x`` without its axes of size 1 (all of them, or those named), a view.

    Raises:
        ValueError: if a named axis has another size.
    """
    shape = np.shape(x)
    axes = normalize_axes("squeeze", axis, len(shape))
    if axis is None:
        axes = tuple(a for a in axes if shape[a] == 1)
    if any(shape[a] != 1 for a in axes):
        raise ValueError(f"squeeze: expected axes of size 1; got axes {axes} of shape {shape}.")
    return reshape(x, [n for i, n in enumerate(shape) if i not in axes])


def _broadcast_forward(ctx: Ctx, x: Array, *, shape: tuple[int, ...]) -> Array:
    ctx.shape = x.shape
    try:
        return array_module(x).broadcast_to(x, shape)
    except ValueError:
        raise ValueError(f"broadcast_to: expected a shape that {x.shape} broadcasts to; got {shape}.") from None


_broadcast_to = Primitive("broadcast_to", _broadcast_forward, lambda ctx, g: unbroadcast(g, ctx.shape))


def broadcast_to(x: TensorLike, shape: Sequence[int]) -> Tensor:
    """``x`` stretched to ``shape``, a read-only view. Saves nothing.

    Raises:
        ValueError: if ``x`` does not broadcast to ``shape``.
    """
    return _broadcast_to(x, shape=as_ints("broadcast_to", "shape", shape))


# ---- moving elements along axes


def _roll_forward(ctx: Ctx, x: Array, *, shift: tuple[int, ...], axis: tuple[int, ...]) -> Array:
    ctx.back, ctx.axis = tuple(-s for s in shift), axis
    return array_module(x).roll(x, shift, axis)


_roll = Primitive("roll", _roll_forward, lambda ctx, g: array_module(g).roll(g, ctx.back, ctx.axis), fresh=True)


def roll(x: TensorLike, shift: int | Sequence[int], axis: int | Sequence[int] | None = None) -> Tensor:
    """``x`` shifted cyclically: element i moves to i + shift. Saves nothing.

    Args:
        x: any shape.
        shift: one number, or one for each axis.
        axis: one axis, or several; None for the flat array.

    Raises:
        ValueError: if there are not as many shifts as axes.
    """
    if axis is None:
        return reshape(roll(reshape(x, -1), shift, 0), np.shape(x))
    shifts, axes = as_ints("roll", "shift", shift), as_ints("roll", "axis", axis)
    shifts, axes = shifts * (len(axes) if len(shifts) == 1 else 1), axes * (len(shifts) if len(axes) == 1 else 1)
    if len(shifts) != len(axes):
        raise ValueError(f"roll: expected one shift an axis; got {len(shifts)} shifts for {len(axes)} axes.")
    axes = tuple(normalize_axis("roll", a, np.ndim(x)) for a in axes)
    return _roll(x, shift=shifts, axis=axes)


def _flip_forward(ctx: Ctx, x: Array, *, axes: tuple[int, ...]) -> Array:
    ctx.axes = axes
    return array_module(x).flip(x, axes)


_flip = Primitive("flip", _flip_forward, lambda ctx, g: array_module(g).flip(g, ctx.axes))


def flip(x: TensorLike, axis: Axis = None) -> Tensor:
    """``x`` reversed along ``axis`` (default: all), a view. Saves nothing."""
    return _flip(x, axes=normalize_axes("flip", axis, np.ndim(x)))


def _pad_forward(ctx: Ctx, x: Array, *, width: tuple[tuple[int, int], ...], value: float) -> Array:
    ctx.inside = tuple(slice(before, before + n) for (before, _), n in zip(width, x.shape, strict=True))
    return array_module(x).pad(x, width, constant_values=value) if width else x.copy()  # NumPy refuses a 0-d array


_pad = Primitive("pad", _pad_forward, lambda ctx, g: g[ctx.inside])


def pad(
    x: TensorLike,
    pad_width: int | Sequence[int] | Sequence[Sequence[int]],
    mode: str = "constant",
    constant_values: float = 0.0,
) -> Tensor:
    """``x`` with a constant border. Saves nothing.

    Args:
        x: any shape.
        pad_width: as in ``numpy.pad``: one number, (before, after), or that for each axis; not negative.
        mode: "constant" is the only one here.
        constant_values: the border's value.

    Raises:
        ValueError: for another mode, negative widths, or a number of them that does not fit.
    """
    if mode != "constant":
        raise ValueError(f"pad: expected mode 'constant', the only one here; got {mode!r}. Use take for other borders.")
    try:
        width = np.broadcast_to(np.asarray(pad_width, dtype=int), (np.ndim(x), 2))
    except ValueError:
        raise ValueError(
            f"pad: expected one width, (before, after), or that for each axis of {np.shape(x)}; got {pad_width}."
        ) from None
    if (width < 0).any():
        raise ValueError(f"pad: expected widths of 0 or more; got {pad_width}. Slice to crop.")
    pairs = tuple((int(a), int(b)) for a, b in width)
    return _pad(x, width=pairs, value=constant_values)


# ---- windows


def _windows(x: Array, window: tuple[int, ...], axes: tuple[int, ...], step: tuple[int, ...]) -> Array:
    shape, strides = list(x.shape), list(x.strides)
    for axis, size, hop in zip(axes, window, step, strict=True):
        shape[axis] = (x.shape[axis] - size) // hop + 1
        strides[axis] *= hop
    shape += window
    strides += [x.strides[axis] for axis in axes]
    return array_module(x).lib.stride_tricks.as_strided(x, shape, strides)


def _windows_forward(
    ctx: Ctx, x: Array, *, window: tuple[int, ...], axes: tuple[int, ...], step: tuple[int, ...]
) -> Array:
    ctx.shape, ctx.geometry = x.shape, (window, axes, step)
    view = _windows(x, window, axes, step)
    if isinstance(view, np.ndarray):
        view.flags.writeable = False  # elements may alias each other
    return view


def _windows_vjp(ctx: Ctx, g: Array) -> Array:
    """Add each window's gradient at its place: one strided addition for each offset inside the window."""
    window, axes, step = ctx.geometry
    xp = array_module(g)
    out = xp.zeros(ctx.shape, accumulator(g.dtype))
    if all(size == hop for size, hop in zip(window, step, strict=True)):
        _windows(out, window, axes, step)[...] = g  # disjoint: every element is written at most once
        return out.astype(g.dtype, copy=False)
    counts = g.shape[: len(ctx.shape)]
    for offset in cartesian(*map(range, window)):
        place: list[slice] = [slice(None)] * len(counts)
        for axis, start, hop in zip(axes, offset, step, strict=True):
            place[axis] = slice(start, start + hop * (counts[axis] - 1) + 1, hop)
        out[tuple(place)] += g[(..., *offset)]
    return out.astype(g.dtype, copy=False)


_sliding_window_view = Primitive("sliding_window_view", _windows_forward, _windows_vjp, fresh=True)


def sliding_window_view(
    x: TensorLike, window_shape: int | Sequence[int], axis: Axis = None, step: int | Sequence[int] = 1
) -> Tensor:
    """Every window of ``x`` as a strided view; the adjoint of overlapping windows adds. Saves nothing.

    ``numpy.lib.stride_tricks.sliding_window_view`` with a step. With ``step == window_shape`` the windows are
    disjoint: the partition of Swin.

    Args:
        x: any shape.
        window_shape: sizes along ``axis``.
        axis: one axis or several, distinct (default: all).
        step: distance of consecutive windows, one number or one an axis.

    Returns:
        A view of shape ``x.shape`` with each ``axis`` counting windows, followed by ``window_shape``.

    Raises:
        ValueError: if a window is larger than its axis, or the numbers of sizes, steps and axes differ.
    """
    op = "sliding_window_view"
    axes = tuple(range(np.ndim(x))) if axis is None else as_ints(op, "axis", axis)
    axes = tuple(normalize_axis(op, a, np.ndim(x)) for a in axes)
    window, hops = as_ints(op, "window_shape", window_shape, len(axes)), as_ints(op, "step", step, len(axes))
    shape = np.shape(x)
    if not len(axes) == len(window) == len(hops) == len(set(axes)):
        raise ValueError(f"sliding_window_view: expected one size and step an axis; got {window}, {hops}, {axes}.")
    if any(not 1 <= size <= shape[a] for a, size in zip(axes, window, strict=True)) or min(hops, default=1) < 1:
        raise ValueError(
            f"sliding_window_view: expected windows of 1 to the size of their axis and steps of 1 or more; "
            f"got windows {window}, steps {hops} for axes {axes} of {shape}. Pad first."
        )
    return _sliding_window_view(x, window=window, axes=axes, step=hops)
