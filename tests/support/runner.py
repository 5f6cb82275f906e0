"""Running a row of the table: outputs, gradients, comparisons, and what its vjps were given and gave."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from autograd.primitive import PRIMITIVES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .rows.opinfo import OpInfo, Sample

__all__ = [
    "Array",
    "VjpCall",
    "all_needs",
    "arrays_in",
    "as_tuple",
    "call_row",
    "close",
    "cotangents",
    "error_of",
    "gradients",
    "identical",
    "largest",
    "outputs",
    "watched_vjps",
]

Array = np.ndarray[Any, Any]


# ---- running a row


def as_tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def call_row(fn: Callable[..., Any], sample: Sample, needs: tuple[bool, ...]) -> tuple[list[Any], tuple[Any, ...]]:
    leaves = [
        ag.Tensor(a, requires_grad=need) if isinstance(a, np.ndarray) else a
        for a, need in zip(sample.args, needs, strict=True)
    ]
    if not any(isinstance(leaf, ag.Tensor) for leaf in leaves):
        raise AssertionError("a sample needs an array operand")
    return leaves, as_tuple(fn(*leaves, **sample.kwargs))


def all_needs(sample: Sample) -> tuple[bool, ...]:
    return tuple(isinstance(a, np.ndarray) for a in sample.args)


def outputs(fn: Callable[..., Any], sample: Sample) -> list[Array]:
    """What ``fn`` returns, as arrays."""
    return [t.data for t in call_row(fn, sample, (False,) * len(sample.args))[1]]


def cotangents(info: OpInfo, sample: Sample, seed: int = 0) -> list[Array]:
    """Random output gradients."""
    rng = np.random.default_rng(seed + 17)
    return [np.asarray(rng.standard_normal(o.shape)).astype(o.dtype) for o in outputs(info.fn, sample)]


def gradients(
    fn: Callable[..., Any], sample: Sample, grads: list[Array], needs: tuple[bool, ...] | None = None
) -> list[Array | None]:
    """One gradient for each operand, None for those that want none."""
    needs = all_needs(sample) if needs is None else needs
    leaves, outs = call_row(fn, sample, needs)
    wanted = [leaf for leaf, need in zip(leaves, needs, strict=True) if need]
    pairs = [(o, g) for o, g in zip(outs, grads, strict=True) if o.requires_grad]
    found = iter(ag.grad([o for o, _ in pairs], wanted, [g for _, g in pairs]))
    return [next(found) if need else None for need in needs]


# ---- comparing


def largest(*arrays: Array) -> float:
    """The largest finite magnitude."""
    magnitudes = [np.abs(a, dtype=np.float64) for a in arrays]
    return max((float(m[np.isfinite(m)].max(initial=0.0)) for m in magnitudes), default=0.0)


def _same_form(got: Array, want: Array, what: str) -> None:
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, expected {want.dtype}"


def error_of(got: Array, want: Array) -> float:
    """Largest difference; equal infinities and NaNs in the same places count as equal."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0.0, np.abs(a - b)).max(initial=0.0))


def close(got: Array, want: Array, tolerance: float, what: str, scale: float | None = None) -> None:
    """Assert the same shape and dtype, and a difference of at most ``tolerance`` times the largest magnitude."""
    _same_form(got, want, what)
    limit = tolerance * (largest(want) if scale is None else scale)
    error = error_of(got, want)
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


def arrays_in(value: Any) -> Iterator[Array]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from arrays_in(item)


@contextmanager
def watched_vjps() -> Iterator[list[VjpCall]]:
    """Record every vjp that runs inside the block."""
    calls: list[VjpCall] = []
    originals = {name: p.vjp for name, p in PRIMITIVES.items()}

    def watch(primitive: Any, vjp: Callable[..., Any]) -> Callable[..., Any]:
        def run(ctx: Any, *grads: Array) -> Any:
            held, needs = list(arrays_in((ctx.saved, *vars(ctx).values()))), ctx.needs
            result = vjp(ctx, *grads)
            calls.append(VjpCall(primitive, needs, held, grads, result if type(result) is tuple else (result,)))
            return result

        return run

    for name, vjp in originals.items():
        PRIMITIVES[name].vjp = watch(PRIMITIVES[name], vjp)
    try:
        yield calls
    finally:
        for name, vjp in originals.items():
            PRIMITIVES[name].vjp = vjp
