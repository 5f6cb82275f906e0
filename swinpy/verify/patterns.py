"""Guessing what was done to an array: the kinds of mistake that ports make, tried one after another.

Each guess is verified on the whole array. Where none holds there is no guess.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

__all__ = ["describe_permutation", "guess_complex", "guess_function", "guess_pattern", "guess_windows"]

Array = np.ndarray[Any, Any]

_MAX_PERMUTED_AXES = 5


def _close(a: Array, b: Array, tolerance: float) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        return a.shape == b.shape and bool(((a == b) | (abs(a - b) <= tolerance)).all())


def guess_pattern(want: Array, got: Array, tolerance: float) -> str | None:
    """In words, what makes ``got`` of ``want``; None if nothing tried does.

    Args:
        want: the expected array.
        got: the other one, possibly of another shape.
        tolerance: absolute, within which two numbers are equal.
    """
    want, got = want.astype(np.float64), got.astype(np.float64)
    if not want.size or not got.size:
        return None
    if want.shape != got.shape:
        return _axes(want, got, tolerance) or _shape_only(want, got, tolerance)
    if not got.any():
        return "all zeros"
    if not (np.isfinite(want).all() and np.isfinite(got).all()):  # nothing can be summed or sorted
        found = next((words for t in (_infinite, _axes, _token_order) if (words := t(want, got, tolerance))), None)
        return _non_finite(got) if found is None and not np.isfinite(got).all() else found
    tries = (_axes, _scaled, _moved, _token_order, _channel_offset, _normed, _small)
    with np.errstate(over="ignore", invalid="ignore"):  # squares of huge values: a guess that fails
        return next((words for t in tries if (words := t(want, got, tolerance))), None)


def guess_complex(want: Array, got: Array, tolerance: float) -> str | None:
    """As :func:`guess_pattern` for complex arrays: conjugates, lost parts and axes."""
    for words, made in (
        ("the complex conjugate", want.conj()),
        ("its real part alone", want.real + 0j),
        ("its imaginary part alone", want.imag * 1j),
    ):
        if _close(made, got, tolerance):
            return words
    return _axes(want, got, tolerance)


def _infinite(want: Array, got: Array, tolerance: float) -> str | None:
    """One number in place of an infinite one, or the other way round: masks of -100 and of -inf."""
    differ = want != got
    with np.errstate(invalid="ignore"):
        differ &= ~(abs(want - got) <= tolerance)
    a, b = want[differ], got[differ]
    if not a.size or (a != a[0]).any() or (b != b[0]).any() or np.isfinite([a[0], b[0]]).all():  # NaN is not itself
        return None
    return f"{b[0]:.6g} wherever {a[0]:.6g} is expected: another value of the mask?"


def _non_finite(got: Array) -> str:
    nan = np.isnan(got)
    kind = "NaN" if nan.any() else "inf"
    share = f"{int((~np.isfinite(got)).sum())} of {got.size} values are {kind}"
    rows = ~np.isfinite(got).any(axis=-1) if got.ndim > 1 else np.array(False)
    whole = got.ndim > 1 and bool((np.isfinite(got).any(axis=-1) | ~np.isfinite(got).any(axis=-1)).all())
    bad = ~np.isfinite(got)
    if whole and rows.any() and bool((bad.any(axis=-1) == bad.all(axis=-1)).all()):
        share += f", in {int(bad.all(axis=-1).sum())} whole rows: a division by a norm or range of zero?"
    return share


# ---- axes


def _axes(want: Array, got: Array, tolerance: float) -> str | None:
    """A permutation of axes."""
    if not 2 <= want.ndim <= _MAX_PERMUTED_AXES or sorted(want.shape) != sorted(got.shape):
        return None
    for order in itertools.permutations(range(want.ndim)):
        if list(order) == list(range(want.ndim)):
            continue
        if tuple(want.shape[i] for i in order) == got.shape and _close(want.transpose(order), got, tolerance):
            names = {"0312": ", NHWC to NCHW", "0231": ", NCHW to NHWC"}.get("".join(map(str, order)), "")
            swapped = [i for i, o in enumerate(order) if i != o]
            if len(swapped) == 2:
                return f"axes {swapped[0]} and {swapped[1]} are swapped"
            return f"axes permuted: transpose{order}{names}"
    return None


def _shape_only(want: Array, got: Array, tolerance: float) -> str | None:
    if want.size == got.size and _close(want.reshape(-1), got.reshape(-1), tolerance):
        return "the same values in C order: reshaped only"
    if want.ndim == got.ndim and all(a <= b for a, b in zip(want.shape, got.shape, strict=True)):
        return _crop(want, got, tolerance, "the expected array is a corner of it: padding was not cropped")
    if want.ndim == got.ndim and all(a >= b for a, b in zip(want.shape, got.shape, strict=True)):
        return _crop(got, want, tolerance, "it is a corner of the expected array")
    return None


def _crop(small: Array, large: Array, tolerance: float, words: str) -> str | None:
    return words if _close(small, large[tuple(slice(n) for n in small.shape)], tolerance) else None


# ---- values


def _scaled(want: Array, got: Array, tolerance: float) -> str | None:
    """One factor, or sign."""
    norm = float((want * want).sum())
    if not norm:
        return None
    factor = float((want * got).sum()) / norm
    if not _close(want * factor, got, tolerance) or abs(factor) < 1e-300:
        return None
    if abs(factor + 1) < 1e-9:
        return "the sign is flipped"
    return f"scaled by {factor:.6g}{_known_factor(factor)}"


def _known_factor(factor: float) -> str:
    if abs(factor) < 1e-12:
        return ""
    n = round(1 / factor)
    if abs(n) > 1 and abs(1 / factor - n) < 1e-6 * abs(n):
        return f" (1 / {n})"
    for words, value in (("sqrt", factor**2), ("1 / sqrt", factor**-2)):
        n = round(value)
        if 2 <= n <= 4096 and abs(value - n) < 1e-6 * n and abs(factor - round(factor)) > 1e-9:
            return f" ({words} {n})"
    return ""


def _channel_offset(want: Array, got: Array, tolerance: float) -> str | None:
    """The same vector added everywhere: a bias too few or too many."""
    delta = got - want
    if delta.size > 1 and _close(delta, np.full_like(delta, delta.flat[0]), tolerance):
        return f"{delta.flat[0]:.6g} is added to every value"
    if want.ndim < 2:
        return None
    for axis, words in ((want.ndim - 1, "last axis"), (1, "axis 1")):
        others = tuple(i for i in range(want.ndim) if i != axis)
        vector = delta.mean(axis=others, keepdims=True)
        if math.prod(want.shape[i] for i in others) > 1 and _close(delta, vector + 0 * delta, tolerance):
            return f"a vector along the {words} is added: is a bias missing, or added twice?"
    return None


def _normed(want: Array, got: Array, tolerance: float) -> str | None:
    """Layer norm on one side only."""
    axes = [a for a in (want.ndim - 1, 1) if want.ndim > 1 and want.shape[a] > 2]
    for axis in axes:
        if _is_norm_of(want, got, axis, tolerance):
            return f"it is a layer norm (axis {axis}) of the expected array: normed here, not there"
        if _is_norm_of(got, want, axis, tolerance):
            return f"the expected array is a layer norm (axis {axis}) of it: not normed"
    return None


def _is_norm_of(x: Array, y: Array, axis: int, tolerance: float) -> bool:
    """Whether y = w * (x - mean) / std + b with some w, b along ``axis``."""
    x, y = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]), np.moveaxis(y, axis, -1).reshape(-1, y.shape[axis])
    if len(x) < 4:  # two unknowns a channel fit anything
        return False
    unit = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    centred, target = unit - unit.mean(axis=0), y - y.mean(axis=0)
    weight = (centred * target).sum(axis=0) / np.maximum((centred * centred).sum(axis=0), 1e-30)
    # eps of the norm is not known: allow for it
    return bool((abs(centred * weight - target) <= tolerance + 1e-4 * abs(y).max()).all())


def _small(want: Array, got: Array, tolerance: float) -> str | None:
    """Rounded: every value is a number of a lower precision, and the expected ones are not."""
    for name, dtype in (("float16", np.float16), ("float32", np.float32)):
        with np.errstate(over="ignore"):
            rounded = bool((got.astype(dtype) == got).all()) and not bool((want.astype(dtype) == want).all())
        if rounded and got.size > 4:
            return f"every value is a {name} number: was {name} used here?"
    return None


_FUNCTIONS: dict[str, Any] = {
    "equal to it: the step was skipped": lambda x: x,
    "the tanh approximation of GELU": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "x * sigmoid(1.702 x), the quick GELU": lambda x: x / (1 + np.exp(-1.702 * x)),
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "ReLU": lambda x: np.maximum(x, 0),
}


def guess_function(before: Array, got: Array, tolerance: float) -> str | None:
    """In words, which common function makes ``got`` of a value computed before it; None for none that was tried."""
    if before.shape != got.shape or not np.isfinite(before).all():
        return None
    x, y = before.astype(np.float64), got.astype(np.float64)
    with np.errstate(over="ignore"):
        return next((words for words, f in _FUNCTIONS.items() if _close(f(x), y, tolerance)), None)


# ---- order


def _signature(x: Array, axis: int) -> Array:
    """Numbers of each slice along ``axis`` that do not depend on the order within the slice."""
    rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    size = max(float(abs(rows).max()), 1e-300)
    rows = np.sort(rows / size, axis=1)
    weights = np.cos(np.arange(rows.shape[1]) * 0.37) + 1.5
    signature: Array = rows @ weights
    return signature


def _matching(want: Array, got: Array, axis: int) -> Array | None:
    """p such that the i-th slice of ``got`` is the p[i]-th of ``want``, guessed from signatures; None if one is not."""
    a, b = _signature(want, axis), _signature(got, axis)
    order = np.argsort(a, kind="stable")
    right = np.clip(np.searchsorted(a[order], b), 0, len(a) - 1)
    left = np.maximum(right - 1, 0)
    near = np.where(abs(a[order][left] - b) < abs(a[order][right] - b), left, right)
    p: Array = order[near]
    own = np.isclose(a, b, rtol=1e-6, atol=1e-9)  # of slices that are alike, the one in place
    p = np.where(own, np.arange(len(a)), p)
    return p if np.allclose(a[p], b, rtol=1e-6, atol=1e-9) else None


def _moved(want: Array, got: Array, tolerance: float) -> str | None:
    """Slices along one or several axes in another order: rolled, reversed, blocks exchanged, permuted."""
    found: dict[int, Array] = {}
    for axis in range(want.ndim):
        if want.shape[axis] < 2:
            continue
        p = _matching(want, got, axis)
        if p is not None and (p != np.arange(len(p))).any():
            found[axis] = p
    for axes in [*((a,) for a in found), *itertools.combinations(found, 2), *itertools.combinations(found, 3)]:
        moved = want
        for axis in axes:
            moved = moved.take(found[axis], axis=axis)
        if _close(moved, got, tolerance):
            return "; ".join(f"axis {a}: {describe_permutation(found[a])}" for a in axes)
    return None


def _token_order(want: Array, got: Array, tolerance: float) -> str | None:
    """An axis of h * w tokens read column by column, or two axes (H, W) filled in the other's order."""
    for axis, n in enumerate(want.shape):
        for h in range(2, n // 2 + 1):
            if n % h == 0:
                p = np.arange(n).reshape(h, n // h).T.reshape(-1)
                if _close(want.take(p, axis=axis), got, tolerance):
                    return f"axis {axis}: read as {h} x {n // h} and transposed (rows and columns exchanged)"
    for axis in range(want.ndim - 1):
        h, w = want.shape[axis : axis + 2]
        swapped = np.swapaxes(want, axis, axis + 1).reshape(want.shape)
        if h > 1 and w > 1 and h != w and _close(swapped, got, tolerance):
            return f"axes {axis} and {axis + 1}: exchanged in a reshape (columns written as rows)"
    return None


def guess_windows(want: Array, got: Array, window: tuple[int, int], tolerance: float) -> str | None:
    """Whether the windows of a map (B, H, W, C), a whole number of them, came back in another order."""
    (batch, height, width), (wh, ww) = want.shape[:3], window
    if want.ndim != 4 or got.shape != want.shape or height % wh or width % ww:
        return None
    if not (np.isfinite(want).all() and np.isfinite(got).all()):
        return None

    def partitioned(x: Array) -> Array:
        blocks = x.astype(np.float64).reshape(batch, height // wh, wh, width // ww, ww, -1)
        return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, wh * ww, x.shape[3])

    words = _moved(partitioned(want), partitioned(got), tolerance)
    return None if words is None else words.replace("axis 1:", "windows:").replace("axis 2:", "tokens in each window:")


def describe_permutation(p: Array) -> str:
    """Words for ``got = want.take(p)``.

    >>> describe_permutation(np.array([3, 4, 0, 1, 2]))
    'rolled by 2'
    >>> describe_permutation(np.array([0, 1, 4, 5, 2, 3, 6, 7]))
    'blocks of 2 in the order 0, 2, 1, 3'
    """
    p = np.asarray(p)
    n = len(p)
    if len(set(p.tolist())) < n:
        lost = sorted(set(range(n)) - set(p.tolist()))
        shown = ", ".join(map(str, p[:12])) + (", ..." if n > 12 else "")
        return f"taken as {shown}; {len(lost)} of {n} are lost"
    if (p == np.arange(n)[::-1]).all():
        return "reversed"
    shift = int(-p[0] % n)
    if (p == (np.arange(n) - shift) % n).all():
        return f"rolled by {shift if shift <= n // 2 else shift - n}"
    for h in range(2, n // 2 + 1):
        if n % h == 0 and (p == np.arange(n).reshape(h, -1).T.reshape(-1)).all():
            return f"interleaved: {h} blocks of {n // h}, one of each in turn"
    for size in range(n // 2, 1, -1):
        blocks = p.reshape(-1, size) if n % size == 0 else None
        if blocks is not None and (blocks == blocks[:, :1] + np.arange(size)).all() and not (blocks[:, 0] % size).any():
            return f"blocks of {size} in the order {', '.join(str(b) for b in blocks[:, 0] // size)}"
    changed = int((p != np.arange(n)).sum())
    shown = ", ".join(map(str, p[:12])) + (", ..." if n > 12 else "")
    return f"permuted at {changed} of {n} places: {shown}"
