"""Rows of autograd/ops/shaping.py: every one of them is linear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag

from . import references
from .opinfo import BadCall, OpInfo, Sample, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .opinfo import Source

X = np.ones((2, 3))


def _cases(
    static: Callable[[Source, tuple[int, ...]], dict[str, Any]], empty: dict[str, Any], ndim: int = 3
) -> dict[str, Callable[[Source], Sample]]:
    def drawn(s: Source) -> Sample:
        shape = s.shape(ndim)
        return Sample((s.normal(shape),), static(s, shape))

    return {
        "drawn": drawn,
        "drawn_again": lambda s: drawn(s),
        "empty": lambda s: Sample((s.normal((2, 0, 3)),), empty),
    }


def _scalar(**static: Any) -> Callable[[Source], Sample]:
    return lambda s: Sample((s.normal(()),), static)


def _order(s: Source, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"axes": tuple(int(a) for a in s.rng.permutation(len(shape)))}


def _inverse_order(x: Any, axes: Any = None) -> Any:
    """Transpose by single swaps."""
    wanted = list(range(x.ndim))[::-1] if axes is None else [a % x.ndim for a in axes]
    have = list(range(x.ndim))
    for place, axis in enumerate(wanted):
        other = have.index(axis)
        x = ag.swapaxes(x, place, other)
        have[place], have[other] = have[other], have[place]
    return x


register(
    OpInfo(
        "reshape",
        ag.reshape,
        {
            **_cases(lambda s, n: {"shape": (n[0] * n[1], n[2])}, {"shape": (0, 5)}),
            "wild": lambda s: Sample((s.normal((2, 6)),), {"shape": (3, -1)}),
            "flat": lambda s: Sample((s.normal(s.shape(3)),), {"shape": -1}),
            "to_scalar": lambda s: Sample((s.normal((1, 1)),), {"shape": ()}),
            "scalar": _scalar(shape=(1, 1)),
        },
        lambda x, shape: np.reshape(x, shape),
        linear=True,
        errors=(
            BadCall(lambda: ag.reshape(X, (4,)), ValueError, "6 elements"),
            BadCall(lambda: ag.reshape(X, (-1, -1)), ValueError, "(-1, -1)"),
            BadCall(lambda: ag.reshape(X, (4, -1)), ValueError, "(4, -1)"),
            BadCall(lambda: ag.reshape(X, (-2, -3)), ValueError, "(-2, -3)"),
        ),
    ),
    OpInfo(
        "transpose",
        ag.transpose,
        {
            **_cases(_order, {"axes": (1, 0, 2)}),
            "reversed": lambda s: Sample((s.normal(s.shape(4)),)),
            "negative_axes": lambda s: Sample((s.normal(s.shape(3)),), {"axes": (-1, 0, -2)}),
            "scalar": _scalar(),
        },
        np.transpose,
        composite=_inverse_order,
        linear=True,
        errors=(
            BadCall(lambda: ag.transpose(X, (0, 0)), ValueError, "permutation of 2 axes"),
            BadCall(lambda: ag.transpose(X, (0,)), ValueError, "permutation of 2 axes"),
            BadCall(lambda: ag.transpose(X, (0, 2)), IndexError, "got 2"),
        ),
    ),
    OpInfo(
        "swapaxes",
        ag.swapaxes,
        _cases(lambda s, n: {"axis1": s.axis(3), "axis2": s.axis(3)}, {"axis1": 0, "axis2": -1}),
        np.swapaxes,
        linear=True,
        exempt={"scalar": "needs axes"},
        errors=(BadCall(lambda: ag.swapaxes(X, 0, 2), IndexError, "got 2"),),
    ),
    OpInfo(
        "moveaxis",
        ag.moveaxis,
        {
            **_cases(lambda s, n: {"source": s.axis(3), "destination": s.axis(3)}, {"source": 0, "destination": -1}),
            "two": lambda s: Sample((s.normal((2, 3, 4, 5)),), {"source": (3, 0), "destination": (0, -2)}),
        },
        np.moveaxis,
        linear=True,
        exempt={"scalar": "needs axes"},
        errors=(
            BadCall(lambda: ag.moveaxis(X, -3, 0), IndexError, "got -3"),
            BadCall(lambda: ag.moveaxis(X, (0, 1), 0), ValueError, "got (0, 1), 0"),
            BadCall(lambda: ag.moveaxis(X, (0, 0), (0, 1)), ValueError, "each once"),
        ),
    ),
    OpInfo(
        "expand_dims",
        ag.expand_dims,
        {
            **_cases(lambda s, n: {"axis": s.axis(4)}, {"axis": 1}),
            "two": lambda s: Sample((s.normal((2, 3)),), {"axis": (-1, 0)}),
            "scalar": _scalar(axis=-1),
        },
        np.expand_dims,
        linear=True,
        errors=(
            BadCall(lambda: ag.expand_dims(X, 3), IndexError, "got 3"),
            BadCall(lambda: ag.expand_dims(X, (0, -4)), ValueError, "distinct axes"),
        ),
    ),
    OpInfo(
        "squeeze",
        ag.squeeze,
        {
            "all": lambda s: Sample((s.normal((1, 3, 1, 2)),)),
            "one": lambda s: Sample((s.normal((1, 3, 1)),), {"axis": -1}),
            "two": lambda s: Sample((s.normal((1, 3, 1)),), {"axis": (0, 2)}),
            "scalar": _scalar(),
            "empty": lambda s: Sample((s.normal((1, 0)),), {"axis": 0}),
        },
        np.squeeze,
        linear=True,
        errors=(
            BadCall(lambda: ag.squeeze(X, 0), ValueError, "axes of size 1"),
            BadCall(lambda: ag.squeeze(X, 5), IndexError, "got 5"),
        ),
    ),
    OpInfo(
        "broadcast_to",
        ag.broadcast_to,
        {
            "drawn": lambda s: _stretch(s, s.shape(3)),
            "kept": lambda s: Sample((s.normal((3, 1)),), {"shape": (3, 4)}),
            "new_axes": lambda s: Sample((s.normal((3,)),), {"shape": (2, 2, 3)}),
            "scalar": _scalar(shape=(2, 3)),
            "empty": lambda s: Sample((s.normal((1, 3)),), {"shape": (0, 3)}),
        },
        np.broadcast_to,
        composite=lambda x, shape: x + ag.Tensor(np.zeros(shape, x.dtype)),
        linear=True,
        errors=(
            BadCall(lambda: ag.broadcast_to(X, (3, 3)), ValueError, "(2, 3)"),
            BadCall(lambda: ag.broadcast_to(X, (3,)), ValueError, "(2, 3)"),
        ),
    ),
)


def _stretch(s: Source, shape: tuple[int, ...]) -> Sample:
    return Sample((s.normal(s.part_of(shape)),), {"shape": shape})


# ---- moving elements


def _rolled(x: Any, shift: Any, axis: Any = None) -> Any:
    """Cut and join, one axis at a time."""
    if axis is None:
        return ag.reshape(_rolled(ag.reshape(x, -1), shift, 0), x.shape)
    shifts, axes = (np.atleast_1d(v).tolist() for v in (shift, axis))
    for a, by in zip(*np.broadcast_arrays(axes, shifts), strict=True):
        cut = -by % x.shape[a] if x.shape[a] else 0
        head, tail = ag.split(x, [cut], a)
        x = ag.concatenate([tail, head], a)
    return x


def _shift(s: Source, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"shift": (s.integer(-5, 5), s.integer(-5, 5)), "axis": (0, -1)}


def _widths(s: Source, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"pad_width": tuple(s.shape(2, low=0, high=2) for _ in shape), "constant_values": s.choice((0.0, -1.5))}


register(
    OpInfo(
        "roll",
        ag.roll,
        {
            **_cases(_shift, {"shift": 1, "axis": 1}),
            "one_axis": lambda s: Sample((s.normal((2, 5)),), {"shift": 2, "axis": 1}),
            "one_shift_two_axes": lambda s: Sample((s.normal((3, 4)),), {"shift": -1, "axis": (0, 1)}),
            "axis_twice": lambda s: Sample((s.normal((3, 4)),), {"shift": (1, 1), "axis": (1, 1)}),
            "two_shifts_one_axis": lambda s: Sample((s.normal((3, 4)),), {"shift": (1, 2), "axis": 0}),
            "flat": lambda s: Sample((s.normal((3, 4)),), {"shift": 5}),
            "scalar": _scalar(shift=1),
        },
        np.roll,
        composite=_rolled,
        linear=True,
        errors=(
            BadCall(lambda: ag.roll(X, (1, 2), (0, 1, 0)), ValueError, "2 shifts for 3 axes"),
            BadCall(lambda: ag.roll(X, 1, 2), IndexError, "got 2"),
        ),
    ),
    OpInfo(
        "flip",
        ag.flip,
        {
            **_cases(lambda s, n: {"axis": s.choice((0, -1, (0, 2)))}, {"axis": 1}),
            "all": lambda s: Sample((s.normal(s.shape(3)),)),
            "scalar": _scalar(),
        },
        np.flip,
        linear=True,
        errors=(BadCall(lambda: ag.flip(X, 2), IndexError, "got 2"),),
    ),
    OpInfo(
        "pad",
        ag.pad,
        {
            **_cases(_widths, {"pad_width": 1}),
            "number": lambda s: Sample((s.normal((2, 3)),), {"pad_width": 1}),
            "pair": lambda s: Sample((s.normal((2, 3)),), {"pad_width": (0, 2), "constant_values": 3.0}),
            "nothing": lambda s: Sample((s.normal((2, 3)),), {"pad_width": 0}),
            "scalar": _scalar(pad_width=2),
        },
        lambda x, pad_width, constant_values=0.0: (
            np.pad(x, pad_width, constant_values=constant_values) if x.ndim else x.copy()
        ),
        linear=True,
        errors=(
            BadCall(lambda: ag.pad(X, 1, "edge"), ValueError, "got 'edge'"),
            BadCall(lambda: ag.pad(X, -1), ValueError, "widths of 0 or more"),
            BadCall(lambda: ag.pad(X, (1, 2, 3)), ValueError, "(1, 2, 3)"),
            BadCall(lambda: ag.pad(X, ((1, 1), (1, 1), (1, 1))), ValueError, "(2, 3)"),
        ),
    ),
)


# ---- joining, splitting, windows


def _joined(s: Source) -> Sample:
    shape = s.shape(2)
    return Sample(tuple(s.normal((n, *shape)) for n in s.shape(3, low=0, high=3)), {"axis": 0})


def _cut(s: Source, shape: tuple[int, ...]) -> dict[str, Any]:
    axis = s.axis(3)
    return {"indices_or_sections": sorted(s.shape(2, low=0, high=shape[axis])), "axis": axis}


def _windows(s: Source) -> Sample:
    window, step = s.shape(2, high=3), s.shape(2, high=3)
    shape = (*(w + s.integer(0, 3) for w in window), 2)
    return Sample((s.normal(shape),), {"window_shape": window, "axis": (0, 1), "step": step})


def _windows_composite(x: Any, window_shape: Any, axis: Any, step: Any) -> Any:
    """One axis at a time, stacking slices."""
    for a, size, hop in zip([a % x.ndim for a in axis], window_shape, step, strict=True):
        starts = range(0, x.shape[a] - size + 1, hop)
        lead = (slice(None),) * a
        x = ag.stack([ag.moveaxis(x[(*lead, slice(i, i + size))], a, -1) for i in starts], a)
    return x


register(
    OpInfo(
        "concatenate",
        lambda *xs, axis=0: ag.concatenate(xs, axis),
        {
            "drawn": _joined,
            "last_axis": lambda s: Sample((s.normal((2, 3)), s.normal((2, 1))), {"axis": -1}),
            "one": lambda s: Sample((s.normal((2, 3)),)),
            "empty": lambda s: Sample((s.normal((0, 3)), s.normal((0, 3)))),
            "flat": lambda s: Sample((s.normal((2, 3)), s.normal(4)), {"axis": None}),
        },
        lambda *xs, axis=0: np.concatenate(xs, axis),
        linear=True,
        exempt={"scalar": "needs an axis"},
        errors=(
            BadCall(lambda: ag.concatenate([]), ValueError, "at least one"),
            BadCall(lambda: ag.concatenate([X, np.ones((2, 4))]), ValueError, "agree off axis 0"),
            BadCall(lambda: ag.concatenate([X, np.ones(3)]), ValueError, "agree off axis 0"),
            BadCall(lambda: ag.concatenate([X, X], 2), IndexError, "got 2"),
        ),
    ),
    OpInfo(
        "stack",
        lambda *xs, axis=0: ag.stack(xs, axis),
        {
            "first": lambda s: Sample((s.normal((2, 3)), s.normal((2, 3)), s.normal((2, 3)))),
            "last": lambda s: Sample((s.normal((2, 3)), s.normal((2, 3))), {"axis": -1}),
            "scalar": lambda s: Sample((s.normal(()), s.normal(()))),
            "empty": lambda s: Sample((s.normal((0, 2)), s.normal((0, 2))), {"axis": 1}),
        },
        lambda *xs, axis=0: np.stack(xs, axis),
        linear=True,
        errors=(
            BadCall(lambda: ag.stack([]), ValueError, "at least one"),
            BadCall(lambda: ag.stack([X, np.ones((2, 4))]), ValueError, "(2, 4)"),
            BadCall(lambda: ag.stack([X, X], 3), IndexError, "got 3"),
        ),
    ),
    OpInfo(
        "split",
        ag.split,
        {
            **_cases(_cut, {"indices_or_sections": [1], "axis": 0}),
            "parts": lambda s: Sample((s.normal((2, 6)),), {"indices_or_sections": 3, "axis": 1}),
            "one_part": lambda s: Sample((s.normal((2, 3)),), {"indices_or_sections": 1}),
        },
        np.split,
        linear=True,
        exempt={"scalar": "needs an axis"},
        errors=(
            BadCall(lambda: ag.split(X, 2, 1), ValueError, "divisor of 3"),
            BadCall(lambda: ag.split(X, 0), ValueError, "0 sections"),
            BadCall(lambda: ag.split(X, [2, 1], 1), ValueError, "ascending"),
            BadCall(lambda: ag.split(X, [4], 1), ValueError, "[0, 3]"),
            BadCall(lambda: ag.split(X, 2, 2), IndexError, "got 2"),
        ),
    ),
    OpInfo(
        "sliding_window_view",
        ag.sliding_window_view,
        {
            "drawn": _windows,
            "drawn_again": lambda s: _windows(s),
            "partition": lambda s: Sample(
                (s.normal((4, 6, 2)),), {"window_shape": (2, 3), "axis": (0, 1), "step": (2, 3)}
            ),
            "overlap": lambda s: Sample((s.normal((5, 4)),), {"window_shape": (3, 2), "axis": (0, 1), "step": (1, 1)}),
            "ragged": lambda s: Sample((s.normal((7, 2)),), {"window_shape": (3,), "axis": (-2,), "step": (3,)}),
            "gaps": lambda s: Sample((s.normal((7, 2)),), {"window_shape": (2,), "axis": (0,), "step": (3,)}),
            "empty": lambda s: Sample((s.normal((4, 0)),), {"window_shape": (2,), "axis": (0,), "step": (1,)}),
        },
        references.windows,
        composite=_windows_composite,
        linear=True,
        exempt={"scalar": "needs an axis"},
        errors=(
            BadCall(lambda: ag.sliding_window_view(X, 3, 0), ValueError, "Pad first"),
            BadCall(lambda: ag.sliding_window_view(X, 0, 0), ValueError, "Pad first"),
            BadCall(lambda: ag.sliding_window_view(X, 1, 0, 0), ValueError, "steps of 1 or more"),
            BadCall(lambda: ag.sliding_window_view(X, (1, 1), (0, 0)), ValueError, "one size and step an axis"),
            BadCall(lambda: ag.sliding_window_view(X, (1, 1), 0), ValueError, "one size and step an axis"),
            BadCall(lambda: ag.sliding_window_view(X, 1, 2), IndexError, "got 2"),
        ),
    ),
)
