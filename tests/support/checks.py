"""The generic checks. Each takes a row and a sample (or a row and a case name) and raises AssertionError.

They are plain functions, so that a planted fault can be shown to make the very check fail that the tests run.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import autograd as ag

from . import tolerances
from .layouts import LAYOUTS, relayout
from .precision import forward_low, gradients_low
from .rows.opinfo import Sample
from .runner import (
    Array,
    VjpCall,
    all_needs,
    arrays_in,
    as_tuple,
    call_row,
    close,
    cotangents,
    gradients,
    identical,
    largest,
    outputs,
    watched_vjps,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .rows.opinfo import BadCall, OpInfo

__all__ = ["CHECKS", "Check", "applies", "close", "error_text", "gradients", "identical", "layout_of_all", "outputs"]


def forward(info: OpInfo, sample: Sample) -> None:
    """Values against the float64 reference."""
    got = outputs(info.fn, sample)
    want = [np.asarray(w) for w in as_tuple(info.reference(*sample.args, **sample.kwargs))]
    assert len(got) == len(want), f"{len(got)} outputs, expected {len(want)}"
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        close(g, w, tolerances.FORWARD, f"output {i}", scale=largest(w, *arrays_in(sample.args)))
        if info.elementwise and w.dtype.kind == "f":
            ulps = np.abs(g - w) / np.spacing(np.abs(w))
            worst = float(ulps.max(initial=0.0))
            assert worst <= tolerances.ELEMENTWISE_ULPS, f"output {i}: off by {worst:.1f} ulp"


def gradcheck(info: OpInfo, sample: Sample) -> None:
    """Gradients against numerical derivatives."""
    arrays = sample.arrays()

    def fn(*tensors: Any) -> Any:
        args = list(sample.args)
        for i, tensor in zip(arrays, tensors, strict=True):
            args[i] = tensor
        result = info.fn(*args, **sample.kwargs)
        return tuple(result) if isinstance(result, list) else result

    ag.gradcheck(fn, [sample.args[i] for i in arrays])


def composite(info: OpInfo, sample: Sample) -> None:
    """Outputs and gradients against the same from simpler ops."""
    assert info.composite is not None
    pairs = zip(outputs(info.fn, sample), outputs(info.composite, sample), strict=True)
    for i, (got, want) in enumerate(pairs):
        close(got, want, tolerances.COMPOSITE, f"output {i}", scale=largest(want, *arrays_in(sample.args)))
    grads = cotangents(info, sample)
    got_all, want_all = gradients(info.fn, sample, grads), gradients(info.composite, sample, grads)
    scale = largest(*grads, *(w for w in want_all if w is not None))
    for i in sample.arrays():
        close(got_all[i], want_all[i], tolerances.COMPOSITE, f"gradient {i}", scale=scale)


def adjoint(info: OpInfo, sample: Sample) -> None:
    """<A x - A 0, g> = <x, A* g> for ops that are linear in all operands together (affine, for constants)."""
    arrays = sample.arrays()
    zero = replace(sample, args=tuple(a * 0 if isinstance(a, np.ndarray) else a for a in sample.args))
    grads = cotangents(info, sample)
    left = magnitude = right = 0.0
    for out, origin, g in zip(outputs(info.fn, sample), outputs(info.fn, zero), grads, strict=True):
        left += float(((out - origin) * g).sum())
        magnitude += float(((np.abs(out) + np.abs(origin)) * np.abs(g)).sum())
    found = gradients(info.fn, sample, grads)
    for i in arrays:
        right += float((sample.args[i] * found[i]).sum())
        magnitude += float(np.abs(sample.args[i] * found[i]).sum())
    assert abs(left - right) <= tolerances.ADJOINT * magnitude, f"<Ax, g> = {left!r}, <x, A*g> = {right!r}"


def linearity(info: OpInfo, sample: Sample) -> None:
    """g = 0 gives 0 exactly, and the vjp is linear in g."""
    first, second = cotangents(info, sample, 0), cotangents(info, sample, 1)
    for i, found in enumerate(gradients(info.fn, sample, [np.zeros_like(g) for g in first])):
        assert found is None or not found.any(), f"gradient {i} of g = 0 is not 0"
    a, b = 0.75, -1.5
    mixed = gradients(info.fn, sample, [np.asarray(a * g + b * h) for g, h in zip(first, second, strict=True)])
    one, two = gradients(info.fn, sample, first), gradients(info.fn, sample, second)
    for i in sample.arrays():
        scale = largest(one[i], two[i], *first, *second)
        want = np.asarray(a * one[i] + b * two[i])
        close(mixed[i], want, tolerances.LINEARITY, f"gradient {i}", scale=scale)


def repeatable(info: OpInfo, sample: Sample) -> None:
    """Two runs are bitwise equal."""
    for i, (x, y) in enumerate(zip(outputs(info.fn, sample), outputs(info.fn, sample), strict=True)):
        assert x.tobytes() == y.tobytes(), f"output {i} differs between two runs"
    if info.differentiable:
        grads = cotangents(info, sample)
        for i, (x, y) in enumerate(
            zip(gradients(info.fn, sample, grads), gradients(info.fn, sample, grads), strict=True)
        ):
            assert x is y is None or x.tobytes() == y.tobytes(), f"gradient {i} differs between two runs"


def unmutated(info: OpInfo, sample: Sample) -> None:
    """Neither forward nor backward writes to operands, static arrays or output gradients."""
    watched = [*arrays_in(sample.args), *arrays_in(tuple(sample.kwargs.values()))]
    before = [a.tobytes() for a in watched]
    outputs(info.fn, sample)
    if info.differentiable:
        grads = cotangents(info, sample)
        watched += grads
        before += [g.tobytes() for g in grads]
        gradients(info.fn, sample, grads)
    for i, (array, old) in enumerate(zip(watched, before, strict=True)):
        assert array.tobytes() == old, f"array {i} (operands, static arrays, output gradients) was written to"


def _overlaps_itself(x: Array) -> bool:
    return x.size > 0 and any(stride == 0 and n > 1 for stride, n in zip(x.strides, x.shape, strict=True))


def _check_fresh(call: VjpCall) -> None:
    name, fresh = call.primitive.name, call.primitive.fresh
    promised = fresh if isinstance(fresh, tuple) else (bool(fresh),) * len(call.results)
    results = [(i, r) for i, r in enumerate(call.results) if isinstance(r, np.ndarray)]
    for i, result in results:
        if promised[i]:
            assert result.flags.writeable, f"{name} declares fresh and returns a read-only gradient {i}"
            assert not _overlaps_itself(result), f"{name} declares fresh; gradient {i} overlaps itself"
            for other in (*call.held, *call.grads, *(r for j, r in results if j != i)):
                assert not np.shares_memory(result, other), f"{name} declares fresh and shares memory in gradient {i}"


def unaliased(info: OpInfo, sample: Sample) -> None:
    """Finished gradients share memory with nothing; neither does what a fresh primitive's vjp returns."""
    grads = cotangents(info, sample)
    with watched_vjps() as calls:
        found = gradients(info.fn, sample, grads)
    for call in calls:
        if call.primitive.fresh:
            _check_fresh(call)
    held = [a for call in calls for a in call.held]
    finished = [f for f in found if f is not None]
    for i, one in enumerate(finished):
        assert one.flags.writeable, f"gradient {i} is read-only"
        for other in (*held, *grads, *arrays_in(sample.args), *finished[:i]):
            assert not np.shares_memory(one, other), f"gradient {i} shares memory with another array"


def _with_layout(sample: Sample, layout: str, which: int | str) -> Sample:
    args = tuple(
        relayout(a, layout) if isinstance(a, np.ndarray) and which in (i, "all") else a
        for i, a in enumerate(sample.args)
    )
    static = {
        k: relayout(v, layout) if isinstance(v, np.ndarray) and which == "static" else v
        for k, v in sample.kwargs.items()
    }
    return replace(sample, args=args, kwargs=static)


def _contiguous(sample: Sample) -> Sample:
    args = tuple(a.copy(order="C") if isinstance(a, np.ndarray) else a for a in sample.args)
    static = {k: v.copy(order="C") if isinstance(v, np.ndarray) else v for k, v in sample.kwargs.items()}
    return replace(sample, args=args, kwargs=static)


def _same_run(info: OpInfo, odd: Sample, what: str, layout: str | None = None) -> None:
    """``odd`` (and with ``layout`` its output gradients) against a contiguous copy of the same values."""
    plain = _contiguous(odd)
    want = outputs(info.fn, plain)
    for i, (g, w) in enumerate(zip(outputs(info.fn, odd), want, strict=True)):
        close(g, w, tolerances.FORWARD, f"{what}: output {i}", scale=largest(w, *arrays_in(plain.args)))
    if not info.differentiable:
        return
    grads = cotangents(info, plain)
    odd_grads = grads if layout is None else [relayout(g, layout) for g in grads]
    expected = gradients(info.fn, plain, [g.copy(order="C") for g in odd_grads])
    scale = largest(*grads, *(e for e in expected if e is not None))
    for i, found in enumerate(gradients(info.fn, odd, odd_grads)):
        if found is not None:
            close(found, expected[i], tolerances.FORWARD, f"{what}: gradient {i}", scale=scale)


def layout_of_all(info: OpInfo, sample: Sample, layout: str) -> None:
    """One layout of all operands and output gradients at once."""
    if layout not in info.exempt:
        _same_run(info, _with_layout(sample, layout, "all"), f"{layout} all and g", layout)


def layouts(info: OpInfo, sample: Sample) -> None:
    """Every layout of each operand alone, of all, of the static arrays, and of the output gradients."""
    for layout in set(LAYOUTS) - set(info.exempt):
        whiches: list[int | str] = [*sample.arrays(), "all", "static"]
        for which in whiches:
            if layout in ("stretched", "constant") and which == "static":
                continue  # would change a mask or a target to one that the op may refuse
            _same_run(info, _with_layout(sample, layout, which), f"{layout} {which}")
        if info.differentiable:
            _same_run(info, sample, f"{layout} g", layout)
            layout_of_all(info, sample, layout)


def dtype_and_device(info: OpInfo, sample: Sample) -> None:
    """Outputs have the operands' dtype, gradients their operand's; both stay on its device."""
    for dtype in info.dtypes:
        low = sample.cast(dtype)
        leaves, outs = call_row(info.fn, low, all_needs(low) if info.differentiable else (False,) * len(low.args))
        for i, out in enumerate(outs):
            assert out.dtype == info.result_dtype(dtype), f"output {i} of {np.dtype(dtype)} is {out.dtype}"
            assert out.device == "cpu", f"output {i} is on {out.device}"
        if not info.differentiable:
            continue
        grads = [np.ones(o.shape, o.dtype) for o in outs]
        tensors = [leaf for leaf in leaves if isinstance(leaf, ag.Tensor)]
        for leaf, found in zip(tensors, ag.grad(list(outs), tensors, grads), strict=True):
            assert found is not None
            assert (found.dtype, found.shape) == (leaf.dtype, leaf.shape), f"{found.dtype} {found.shape}"
            assert isinstance(found, np.ndarray)


def needs(info: OpInfo, sample: Sample) -> None:
    """Whatever subset of operands wants gradients, they are the same; unless joint, nothing else is computed."""
    arrays = sample.arrays()
    grads = cotangents(info, sample)
    full = gradients(info.fn, sample, grads)
    for count in range(1, len(arrays)):
        for subset in itertools.combinations(arrays, count):
            mask = tuple(i in subset for i in range(len(sample.args)))
            with watched_vjps() as calls:
                found = gradients(info.fn, sample, grads, mask)
            for i in range(len(mask)):
                identical(found[i], full[i] if mask[i] else None, f"gradient {i} with needs {mask}")
            for call in calls:
                extra = [r for r, need in zip(call.results, call.needs, strict=True) if r is not None and not need]
                assert info.joint or not extra, f"{call.primitive.name} computes gradients that nobody needs"


def kinks(info: OpInfo, sample: Sample | None = None) -> None:
    """The stated conventions where there is no derivative."""
    for kink in info.kinks:
        point = Sample(kink.args, kink.kwargs)
        ones = [np.ones(o.shape) for o in outputs(info.fn, point)]
        for i, (found, want) in enumerate(zip(gradients(info.fn, point, ones), kink.grads, strict=True)):
            assert (found is None) == (want is None), f"gradient {i} at {kink.args}"
            if found is not None:
                close(found, np.asarray(want, float), tolerances.FORWARD, f"gradient {i} at {kink.args}", scale=1.0)


_MESSAGE = re.compile(r"^[\w ':]+: expected .+; got .+", re.DOTALL)


def error_text(name: str, bad: BadCall) -> None:
    """The exception is of the stated type and says "{op}: expected {X}; got {Y}" and the stated words."""
    with pytest.raises(bad.error) as caught:
        bad.call()
    text = caught.value.args[0]
    assert issubclass(bad.error, (ValueError, TypeError, LookupError, RuntimeError))
    assert text.startswith((f"{name}:", "device:")), text
    assert _MESSAGE.match(text), text
    assert bad.words in text, text


@dataclass(frozen=True)
class Check:
    """A generic check, and the rows that it is for."""

    run: Callable[[OpInfo, Sample], None]
    wanted: Callable[[OpInfo], Any] = lambda info: info.differentiable


CHECKS = {
    "forward": Check(forward, lambda info: True),
    "forward_low": Check(forward_low, lambda info: len(info.dtypes) > 1),
    "gradients_low": Check(gradients_low, lambda info: info.differentiable and len(info.dtypes) > 1),
    "gradcheck": Check(gradcheck),
    "composite": Check(composite, lambda info: info.composite),
    "adjoint": Check(adjoint, lambda info: info.linear),
    "linearity": Check(linearity),
    "repeatable": Check(repeatable, lambda info: True),
    "unmutated": Check(unmutated, lambda info: True),
    "unaliased": Check(unaliased),
    "layouts": Check(layouts, lambda info: True),
    "dtype_and_device": Check(dtype_and_device, lambda info: True),
    "needs": Check(needs),
    "kinks": Check(kinks, lambda info: info.kinks),
}


def applies(name: str, info: OpInfo) -> bool:
    return bool(CHECKS[name].wanted(info)) and name not in info.exempt
