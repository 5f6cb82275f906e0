"""diff: where two traces part first, and what the difference looks like there."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from swinpy.verify.layouts import joined, renamer, windows_to_map
from swinpy.verify.patterns import guess_complex, guess_function, guess_pattern, guess_windows
from swinpy.verify.trace_file import Trace, as_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from swinpy.verify.layouts import Renaming

__all__ = ["Diff", "Difference", "diff"]

Array = np.ndarray[Any, Any]
Layout: TypeAlias = "str | Callable[[Array, tuple[int, ...]], Array]"

# Relative to the largest expected value: a few hundred ops of up to some thousand terms, in the lower of both dtypes.
_RTOL = {"float64": 1e-9, "float32": 1e-4, "float16": 2**-6, "complex128": 1e-9, "complex64": 1e-4}
_FLOOR = 1e-6  # gradients smaller than this part of the median gradient are compared with that instead


@dataclass(frozen=True)
class Difference:
    """One name at which two traces differ.

    Attributes:
        name: in the first trace.
        phase: "forward" or "backward".
        error: largest absolute difference (inf for NaN against a number, NaN where shapes differ).
        relative: the same over the scale, the largest expected value.
        index: of the largest difference; () where shapes differ.
        expected: the value there in the first trace.
        got: in the second.
        share: of elements that differ.
        where: which part of the array differs, in words; "" for all of it.
        pattern: what it looks like, or None.
        after: the last name that agreed before it.
    """

    name: str
    phase: Literal["forward", "backward"]
    error: float
    relative: float
    index: tuple[int, ...]
    expected: float | complex
    got: float | complex
    share: float
    where: str
    pattern: str | None
    after: str | None

    def __str__(self) -> str:
        what = "gradient of " if self.phase == "backward" else ""
        lines = [f"{self.phase}: parts at {what}{self.name}" + (f" (agrees up to {self.after})" if self.after else "")]
        if self.index or self.error == self.error:
            place = f"[{', '.join(map(str, self.index))}]"
            lines.append(
                f"  max abs error {self.error:.3e}, {self.relative:.1e} of the scale, at {place}: "
                f"expected {self.expected:.6g}, got {self.got:.6g}"
            )
            lines.append(f"  {self.share:.0%} of the values differ" + (f": {self.where}" if self.where else ""))
        else:
            lines.append(f"  {self.where}")
        return "\n".join([*lines, f"  looks like: {self.pattern}"] if self.pattern else lines)


@dataclass(frozen=True)
class Diff:
    """The result of :func:`diff`; prints as a short report.

    Attributes:
        forward: the first place in the order of execution where values part, or None.
        backward: the first gradient that parts on the way back from the loss, or None.
        compared: names whose values were compared.
        compared_gradients: names whose gradients were.
        differing: every name whose value differs, with the error relative to its scale.
        differing_gradients: the same of gradients.
        only_first: names without a partner in the second trace.
        only_second: names of the second trace without a partner in the first.
        no_gradient: names whose value both traces have and whose gradient only the first has, if the second has any
            gradients: nothing flows there, or it was not recorded.
        both_nan: names at which both hold NaN in the same place, which is no difference; ``grad:`` and the name for
            gradients.
    """

    forward: Difference | None
    backward: Difference | None
    compared: tuple[str, ...]
    compared_gradients: tuple[str, ...]
    differing: dict[str, float]
    differing_gradients: dict[str, float]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    no_gradient: tuple[str, ...]
    both_nan: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether something was compared and nothing differs."""
        return self.forward is None and self.backward is None and bool(self.compared)

    def __str__(self) -> str:
        lines = []
        for phase, found, names, differing in (
            ("forward", self.forward, self.compared, self.differing),
            ("backward", self.backward, self.compared_gradients, self.differing_gradients),
        ):
            if found is None:
                lines.append(f"{phase}: {len(names)} compared, none differs")
                continue
            if phase == "backward" and self.forward is not None:
                lines.append(f"backward: {len(differing)} of {len(names)} differ, as they must after forward")
                continue
            lines.append(str(found))
            lines.append(f"  {len(differing)} of {len(names)} differ in all")
        for names, words in (
            (self.both_nan, "NaN in both, at the same places"),
            (self.no_gradient, "no gradient in the second"),
            (self.only_first, "not compared, only in the first"),
            (self.only_second, "not compared, only in the second"),
        ):
            if names:
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                lines.append(f"{words}: {len(names)} ({shown})")
        return "\n".join(lines)


def diff(
    first: Trace | Mapping[str, Any] | str | Path,
    second: Trace | Mapping[str, Any] | str | Path,
    *,
    names: Renaming | None = None,
    layouts: Mapping[str, Layout] | None = None,
    rtol: float | None = None,
    gradients: bool = True,
) -> Diff:
    """Compare two traces name by name, in the first one's order of execution.

    Args:
        first: what is believed right: a Trace, an .npz (see :class:`Trace`) or arrays by name.
        second: what is questioned.
        names: the first's names to the second's: a function, or a mapping in which ``*`` stands for the same text on
            both sides (``{"layers.*.blocks.*.norm1": "encoder.*.layer.*.layernorm_before"}``; the first that fits
            counts). Names that nothing maps are the same in both.
        layouts: how to read the second's arrays, by shell pattern of the first's names: "NCHW" (against NHWC), "NHWC",
            "windows" (B * nW, N, C in windows of a shifted map, against a map; the windows are those of the first
            trace's nearest attention), or a function of (array, expected shape). Arrays that differ only in how
            neighbouring axes are joined (B, H * W, C) need no hint.
        rtol: largest difference allowed, relative to the largest expected value of an array; default 1e-9 for float64,
            1e-4 for float32, 1.6e-2 for 16-bit floats.
        gradients: whether to compare them, walking back from the loss.

    Returns:
        A :class:`Diff`. Names that only one side has are skipped and listed.

    Raises:
        ValueError: for a layout that is not known, or arrays that are no numbers.
        TraceFileError: for a file that is no trace.

    >>> a = {"q": np.ones((2, 3)), "k": np.arange(6.0).reshape(2, 3)}
    >>> print(diff(a, a | {"k": a["k"][::-1]}))
    forward: parts at k (agrees up to q)
      max abs error 3.000e+00, 6.0e-01 of the scale, at [0, 0]: expected 0, got 3
      100% of the values differ
      looks like: axis 0: reversed
      1 of 2 differ in all
    backward: 0 compared, none differs
    """
    a, b = as_trace(first), as_trace(second)
    _require_numbers("the first", a)
    _require_numbers("the second", b)
    rename = renamer(names)
    partners = {name: rename(name) for name in a.values}
    shared = [n for n in a.values if partners[n] in b.values]
    judge = _Judge(a, b, partners, dict(layouts or {}), rtol)
    forward = judge.walk("forward", shared)
    back = [n for n in reversed(shared) if n in a.gradients and partners[n] in b.gradients] if gradients else []
    backward = judge.walk("backward", back)
    used = set(partners.values())
    gradless = [n for n in shared if n in a.gradients and partners[n] not in b.gradients] if b.gradients else []
    return Diff(
        forward[0],
        backward[0],
        tuple(shared),
        tuple(back),
        forward[1],
        backward[1],
        tuple(n for n in a.values if partners[n] not in b.values),
        tuple(n for n in b.values if n not in used),
        tuple(gradless) if gradients else (),
        tuple(judge.both_nan),
    )


def _require_numbers(which: str, source: Trace) -> None:
    for prefix, arrays in (("", source.values), ("grad:", source.gradients)):
        for name, array in arrays.items():
            # kind V without fields: the small floats of ml_dtypes
            if array.dtype.kind not in "fiubc" and (array.dtype.kind != "V" or array.dtype.type is np.void):
                raise ValueError(
                    f"diff: expected arrays of numbers; got dtype {array.dtype} as {prefix}{name} in {which}. "
                    "Leave it out."
                )


def _wide(*arrays: Array) -> list[Array]:
    """In one dtype in which differences lose nothing: float64, or complex128 if one is complex."""
    kind = np.complex128 if any(a.dtype.kind == "c" for a in arrays) else np.float64
    return [a.astype(kind) for a in arrays]


class _Judge:
    """Compares the arrays of one pair of traces."""

    def __init__(
        self, a: Trace, b: Trace, partners: dict[str, str], layouts: dict[str, Layout], rtol: float | None
    ) -> None:
        self.a, self.b, self.partners, self.layouts, self.rtol = a, b, partners, layouts, rtol
        sizes = [float(abs(g).max()) for g in a.gradients.values() if g.size and np.isfinite(g).all()]
        self.both_nan: list[str] = []
        self.floor = _FLOOR * float(np.median(sizes)) if sizes else 0.0

    def walk(
        self, phase: Literal["forward", "backward"], names: list[str]
    ) -> tuple[Difference | None, dict[str, float]]:
        """The first difference, and the relative error of all."""
        first, differing, after = None, {}, None
        for name in names:
            source = ("values", "gradients")[phase == "backward"]
            want = getattr(self.a, source)[name]
            got = self._laid_out(name, getattr(self.b, source)[self.partners[name]], want.shape)
            found = self._judge(name, phase, want, got, after)
            if found is not None:
                if first is None:
                    guess = self._guess(name, phase, want, got, after)
                    first = replace(found, pattern=guess)
                differing[name] = found.relative
            elif first is None:
                after = name
        return first, differing

    def _guess(self, name: str, phase: str, want: Array, got: Array, after: str | None) -> str | None:
        """What the first difference looks like."""
        tolerance, _ = self._tolerance(phase, want, got)
        if "c" in (want.dtype.kind, got.dtype.kind):
            wide = _wide(want, got)
            return guess_complex(wide[0], wide[1], tolerance)
        guess = guess_pattern(want, got, tolerance)
        cut = self._cut(name)
        if guess is None and cut is not None and want.shape == got.shape and list(want.shape[1:-1]) == cut["size"]:
            back = tuple(-s for s in cut["shift"])
            window = (int(cut["window"][0]), int(cut["window"][1]))
            guess = guess_windows(np.roll(want, back, (1, 2)), np.roll(got, back, (1, 2)), window, tolerance)
        if guess is None and phase == "forward" and after is not None:
            words = guess_function(self.a.values[after], got, tolerance)
            guess = None if words is None else f"{words} (of {after})"
        return guess

    def _laid_out(self, name: str, got: Array, shape: tuple[int, ...]) -> Array:
        hint = next((h for p, h in self.layouts.items() if fnmatch.fnmatchcase(name, p)), None)
        if callable(hint):
            got = hint(got, shape)
        elif hint in ("NCHW", "NHWC") and got.ndim == 4:
            got = got.transpose(0, 2, 3, 1) if hint == "NCHW" else got.transpose(0, 3, 1, 2)
        elif hint == "windows":
            got = got if got.shape == shape else self._unwindowed(name, got)
        elif hint is not None:
            raise ValueError(f"diff: expected a layout NCHW, NHWC, windows or a function; got {hint!r} for {name}.")
        return got.reshape(shape) if joined(got.shape, shape) else got

    def _unwindowed(self, name: str, got: Array) -> Array:
        cut = self._windows(name)
        try:
            return windows_to_map(got, **cut)
        except ValueError:  # other windows than expected: a difference, and one to report
            return got

    def _windows(self, name: str) -> dict[str, Any]:
        cut = self._cut(name)
        if cut is None:
            raise ValueError(
                f"diff: expected the first trace to know the windows of {name}; got none in its meta. Give the "
                "second's layout as lambda array, shape: windows_to_map(array, size, window, shift)."
            )
        return cut

    def _cut(self, name: str) -> dict[str, Any] | None:
        """The windows of the attention that ``name`` belongs to, where the first trace knows them."""
        cuts: dict[str, dict[str, Any]] = self.a.meta.get("windows", {})
        owner = max((p for p in cuts if name.startswith(f"{p}.")), key=len, default=None)
        return None if owner is None else cuts[owner]

    def _judge(
        self,
        name: str,
        phase: Literal["forward", "backward"],
        want: Array,
        got: Array,
        after: str | None,
    ) -> Difference | None:
        tolerance, scale = self._tolerance(phase, want, got)
        if want.shape != got.shape:
            where = f"expected shape {want.shape}; got {got.shape}"
            none = float("nan")
            return Difference(name, phase, none, float("inf"), (), none, none, 1.0, where, None, after)
        if not want.size:
            return None
        a, b = _wide(want, got)
        nan = np.isnan(a) & np.isnan(b)
        if nan.any():
            self.both_nan.append(name if phase == "forward" else f"grad:{name}")
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.where((a == b) | nan, 0.0, abs(a - b))
        error = np.where(np.isnan(error), np.inf, error)
        wrong = error > tolerance
        if not wrong.any():
            return None
        index = np.unravel_index(int(error.argmax()), error.shape)
        largest = float(error[index])
        return Difference(
            name,
            phase,
            largest,
            largest / scale if scale else float("inf"),
            tuple(int(i) for i in index),
            a[index].item(),
            b[index].item(),
            float(wrong.mean()),
            _where(wrong),
            None,
            after,
        )

    def _tolerance(self, phase: str, want: Array, got: Array) -> tuple[float, float]:
        (wide,) = _wide(want)
        finite = abs(wide[np.isfinite(wide)])
        scale = float(finite.max()) if finite.size else 0.0
        if phase == "backward":
            scale = max(scale, self.floor)
        rtol = self.rtol
        if rtol is None:
            rtol = max(_RTOL.get(x.dtype.name, 0.0) for x in (want, got))
        return rtol * scale, scale


def _where(wrong: Array) -> str:
    """The axes along which only some indices are touched."""
    if wrong.all():
        return ""
    parts = []
    for axis, n in enumerate(wrong.shape):
        others = tuple(i for i in range(wrong.ndim) if i != axis)
        touched = np.flatnonzero(wrong.any(axis=others))
        if len(touched) < n:
            parts.append(f"axis {axis} only at {_ranges(touched)} of {n}")
    return "; ".join(parts) or "scattered"


def _ranges(indices: Array) -> str:
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    shown = [f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs[:6]]
    return ", ".join(shown) + (", ..." if len(runs) > 6 else "")
