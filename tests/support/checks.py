"""The generic checks. Each takes a row and a sample (or a row and a case name) and raises AssertionError.

They are plain functions, so that a planted fault can be shown to make the very check fail that the tests run.
"""

from __future__ import annotations

import itertools
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from autograd.primitive import PRIMITIVES

from . import tolerances
from .layouts import LAYOUTS, relayout
from .opinfo import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .opinfo import BadCall, OpInfo

__all__ = ["CHECKS", "Check", "applies", "error_text", "gradients", "outputs"]

Array = np.ndarray[Any, Any]


# ---- running a row


def _tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _call(fn: Callable[..., Any], sample: Sample, needs: tuple[bool, ...]) -> tuple[list[Any], tuple[Any, ...]]:
    leaves = [
        ag.Tensor(a, requires_grad=need) if isinstance(a, np.ndarray) else a
        for a, need in zip(sample.args, needs, strict=True)
    ]
    if not any(isinstance(leaf, ag.Tensor) for leaf in leaves):
        raise AssertionError("a sample needs an array operand")
    return leaves, _tuple(fn(*leaves, **sample.kwargs))


def _all_needs(sample: Sample) -> tuple[bool, ...]:
    return tuple(isinstance(a, np.ndarray) for a in sample.args)


def outputs(fn: Callable[..., Any], sample: Sample) -> list[Array]:
    """What ``fn`` returns, as arrays."""
    return [t.data for t in _call(fn, sample, (False,) * len(sample.args))[1]]


def cotangents(info: OpInfo, sample: Sample, seed: int = 0) -> list[Array]:
    """Random output gradients."""
    rng = np.random.default_rng(seed + 17)
    return [np.asarray(rng.standard_normal(o.shape)).astype(o.dtype) for o in outputs(info.fn, sample)]


def gradients(
    fn: Callable[..., Any], sample: Sample, grads: list[Array], needs: tuple[bool, ...] | None = None
) -> list[Array | None]:
    """One gradient for each operand, None for those that want none."""
    needs = _all_needs(sample) if needs is None else needs
    leaves, outs = _call(fn, sample, needs)
    wanted = [leaf for leaf, need in zip(leaves, needs, strict=True) if need]
    pairs = [(o, g) for o, g in zip(outs, grads, strict=True) if o.requires_grad]
    found = iter(ag.grad([o for o, _ in pairs], wanted, [g for _, g in pairs]))
    return [next(found) if need else None for need in needs]


# ---- comparing


def _largest(*arrays: Array) -> float:
    return max((float(np.abs(a, dtype=np.float64).max(initial=0.0)) for a in arrays), default=0.0)


def _same_form(got: Array, want: Array, what: str) -> None:
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, expected {want.dtype}"


def _error(got: Array, want: Array) -> float:
    """Largest difference; equal infinities and NaNs in the same places count as equal."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0.0, np.abs(a - b)).max(initial=0.0))


def close(got: Array, want: Array, tolerance: float, what: str, largest: float | None = None) -> None:
    """Assert the same shape and dtype, and a difference of at most ``tolerance`` times the largest magnitude."""
    _same_form(got, want, what)
    finite = want[np.isfinite(want)] if want.dtype.kind == "f" else want
    limit = tolerance * (_largest(finite) if largest is None else largest)
    error = _error(got, want)
    assert error <= limit, f"{what}: off by {error:.3e}, allowed {limit:.3e}"


def identical(got: Array | None, want: Array | None, what: str) -> None:
    if want is None or got is None:
        assert got is want, f"{what}: one of them is None"
        return
    _same_form(got, want, what)
    np.testing.assert_array_equal(got, want, err_msg=what)


# ---- watching vjps


@dataclass
class VjpCall:
    """One vjp: what its ctx held, the output gradients it was given, and what it returned."""

    primitive: Any
    needs: tuple[bool, ...]
    held: list[Array]
    grads: tuple[Array, ...]
    results: tuple[Any, ...]


def _arrays_in(value: Any) -> Iterator[Array]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _arrays_in(item)


@contextmanager
def watched_vjps() -> Iterator[list[VjpCall]]:
    """Record every vjp that runs inside the block."""
    calls: list[VjpCall] = []
    originals = {name: p.vjp for name, p in PRIMITIVES.items()}

    def watch(primitive: Any, vjp: Callable[..., Any]) -> Callable[..., Any]:
        def run(ctx: Any, *grads: Array) -> Any:
            held = list(_arrays_in((ctx.saved, *vars(ctx).values())))
            result = vjp(ctx, *grads)
            calls.append(VjpCall(primitive, ctx.needs, held, grads, result if type(result) is tuple else (result,)))
            return result

        return run

    for name, vjp in originals.items():
        PRIMITIVES[name].vjp = watch(PRIMITIVES[name], vjp)
    try:
        yield calls
    finally:
        for name, vjp in originals.items():
            PRIMITIVES[name].vjp = vjp


# ---- the checks


def forward(info: OpInfo, sample: Sample) -> None:
    """Values against the float64 reference."""
    got = outputs(info.fn, sample)
    want = [np.asarray(w) for w in _tuple(info.reference(*sample.args, **sample.kwargs))]
    assert len(got) == len(want), f"{len(got)} outputs, expected {len(want)}"
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        close(g, w, tolerances.FORWARD, f"output {i}")
        if info.elementwise and w.dtype.kind == "f":
            ulps = np.abs(g - w) / np.spacing(np.abs(w))
            worst = float(ulps.max(initial=0.0))
            assert worst <= tolerances.ELEMENTWISE_ULPS, f"output {i}: off by {worst:.1f} ulp"


def _low(info: OpInfo, sample: Sample, dtype: Any) -> None:
    low = sample.cast(dtype)
    exact = low.cast(np.float64)
    got = outputs(info.fn, low)
    want = _tuple(info.reference(*exact.args, **exact.kwargs))
    naive = _tuple(info.reference(*low.args, **low.kwargs))
    for i, (g, w, n) in enumerate(zip(got, map(np.asarray, want), map(np.asarray, naive), strict=True)):
        if w.dtype.kind != "f":
            identical(g, w, f"output {i}")
            continue
        limit = tolerances.LOW_FACTOR * _error(n.astype(dtype), w) + tolerances.spacing(_largest(w), dtype)
        error = _error(g, w)
        assert error <= limit, f"output {i} in {np.dtype(dtype)}: off by {error:.3e}, allowed {limit:.3e}"


def forward_low(info: OpInfo, sample: Sample) -> None:
    """Values in lower precision against the naive computation in that precision."""
    for dtype in info.dtypes:
        if dtype is not np.float64:
            _low(info, sample, dtype)


def _rounded_gradients(info: OpInfo, sample: Sample, grads: list[Array], eps: float) -> list[list[Array | None]]:
    """float64 gradients with every operand and output gradient off by half an ulp of the lower precision.

    What that changes is what no computation in the lower precision can avoid: the naive error of an elementary op.
    """
    rng = np.random.default_rng(5)

    def off(a: Any) -> Any:
        return np.asarray(a * (1 + eps * rng.choice([-1.0, 1.0], a.shape))) if isinstance(a, np.ndarray) else a

    return [
        gradients(info.fn, replace(sample, args=tuple(map(off, sample.args))), [off(g) for g in grads])
        for _ in range(4)
    ]


def _low_gradients(info: OpInfo, sample: Sample, dtype: Any) -> None:
    low = sample.cast(dtype)
    exact = low.cast(np.float64)
    g_low = cotangents(info, low)
    g_exact = [g.astype(o.dtype) for g, o in zip(g_low, outputs(info.fn, exact), strict=True)]
    want = gradients(info.fn, exact, g_exact)
    got = gradients(info.fn, low, g_low)
    if info.composite:
        ulps, naive = 1, [gradients(info.composite, low, g_low)]
    else:
        ulps, naive = tolerances.ROUNDINGS, _rounded_gradients(info, exact, g_exact, float(np.finfo(dtype).eps) / 2)
    for i in sample.arrays():
        ulp = tolerances.spacing(_largest(want[i]), dtype)
        limit = tolerances.LOW_FACTOR * max(_error(n[i], want[i]) for n in naive) + ulps * ulp
        error = _error(got[i], want[i])
        assert error <= limit, f"gradient {i} in {np.dtype(dtype)}: off by {error:.3e}, allowed {limit:.3e}"


def gradients_low(info: OpInfo, sample: Sample) -> None:
    """Gradients in lower precision against the float64 vjp."""
    for dtype in info.dtypes:
        if dtype is not np.float64:
            _low_gradients(info, sample, dtype)


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
        close(got, want, tolerances.COMPOSITE, f"output {i}")
    grads = cotangents(info, sample)
    got_all, want_all = gradients(info.fn, sample, grads), gradients(info.composite, sample, grads)
    scale = _largest(*(w for w in want_all if w is not None))
    for i in sample.arrays():
        close(got_all[i], want_all[i], tolerances.COMPOSITE, f"gradient {i}", largest=scale)


def adjoint(info: OpInfo, sample: Sample) -> None:
    """<A x - A 0, g> = <x, A* g> for ops that are linear in all operands together (affine, for constants)."""
    arrays = sample.arrays()
    zero = replace(sample, args=tuple(a * 0 if isinstance(a, np.ndarray) else a for a in sample.args))
    grads = cotangents(info, sample)
    left = magnitude = right = 0.0
    for out, origin, g in zip(outputs(info.fn, sample), outputs(info.fn, zero), grads, strict=True):
        left += float(((out - origin) * g).sum())
        magnitude += float((np.abs(out - origin) * np.abs(g)).sum())
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
        scale = max(_largest(one[i]), _largest(two[i]))
        want = np.asarray(a * one[i] + b * two[i])
        close(mixed[i], want, tolerances.LINEARITY, f"gradient {i}", largest=scale)


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
    grads = cotangents(info, sample) if info.differentiable else []
    watched = [*_arrays_in(sample.args), *_arrays_in(tuple(sample.kwargs.values())), *grads]
    before = [a.tobytes() for a in watched]
    if info.differentiable:
        gradients(info.fn, sample, grads)
    else:
        outputs(info.fn, sample)
    for i, (array, old) in enumerate(zip(watched, before, strict=True)):
        assert array.tobytes() == old, f"array {i} of {len(watched)} (operands, static arrays, gradients) was written to"


def _overlaps_itself(x: Array) -> bool:
    return x.size > 0 and any(stride == 0 and n > 1 for stride, n in zip(x.strides, x.shape, strict=True))


def _check_fresh(call: VjpCall) -> None:
    name = call.primitive.name
    results = [r for r in call.results if isinstance(r, np.ndarray)]
    for i, result in enumerate(results):
        assert result.flags.writeable, f"{name} declares fresh and returns a read-only gradient {i}"
        assert not _overlaps_itself(result), f"{name} declares fresh; gradient {i} overlaps itself"
        for other in (*call.held, *call.grads, *results[:i]):
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
        for other in (*held, *grads, *_arrays_in(sample.args), *finished[:i]):
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
        close(g, w, tolerances.FORWARD, f"{what}: output {i}")
    if not info.differentiable:
        return
    grads = cotangents(info, plain)
    odd_grads = grads if layout is None else [relayout(g, layout) for g in grads]
    expected = gradients(info.fn, plain, [g.copy(order="C") for g in odd_grads])
    scale = _largest(*(e for e in expected if e is not None))
    for i, found in enumerate(gradients(info.fn, odd, odd_grads)):
        if found is not None:
            close(found, expected[i], tolerances.FORWARD, f"{what}: gradient {i}", largest=scale)


def layouts(info: OpInfo, sample: Sample) -> None:
    """Every layout of each operand alone, of all, of the static arrays, and of the output gradients."""
    for layout in LAYOUTS:
        whiches: list[int | str] = [*sample.arrays(), "all", "static"]
        for which in whiches:
            if layout in ("stretched", "constant") and which == "static":
                continue  # would change a mask or a target to one that the op may refuse
            _same_run(info, _with_layout(sample, layout, which), f"{layout} {which}")
        if info.differentiable:
            _same_run(info, sample, f"{layout} g", layout)
            _same_run(info, _with_layout(sample, layout, "all"), f"{layout} all and g", layout)


def dtype_and_device(info: OpInfo, sample: Sample) -> None:
    """Outputs have the operands' dtype, gradients their operand's; both stay on its device."""
    for dtype in info.dtypes:
        low = sample.cast(dtype)
        leaves, outs = _call(info.fn, low, _all_needs(low) if info.differentiable else (False,) * len(low.args))
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
                close(found, np.asarray(want, float), tolerances.FORWARD, f"gradient {i} at {kink.args}", largest=1.0)


_MESSAGE = re.compile(r"^[\w ':]+: expected .+; got .+", re.DOTALL)


def error_text(name: str, bad: BadCall) -> None:
    """The exception is of the stated type and says "{op}: expected {X}; got {Y}" and the stated words."""
    try:
        bad.call()
    except bad.error as error:
        text = str(error)
        assert type(error).__module__ in ("builtins", "autograd.backend"), type(error)
        assert text.startswith((f"{name}:", "device:", "device ")), text
        assert _MESSAGE.match(text), text
        assert bad.words in text, text
    else:
        raise AssertionError(f"{name}: no {bad.error.__name__}")


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
