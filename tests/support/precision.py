"""The checks in lower precision, by DESIGN's rule: err(op) <= 2 err(the same done naively) + 1 ulp of the largest.

Never finite differences: gradients are compared with the float64 vjp at the same (rounded) operands.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import tolerances
from .runner import Array, as_tuple, cotangents, error_of, gradients, identical, largest, outputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rows.opinfo import OpInfo, Sample

__all__ = ["FEW", "VARIANTS", "Errors", "forward_low", "gradients_low"]


VARIANTS = 12
# A result of fewer numbers than this is judged by the root mean square over twice as many variants: the largest of a
# dozen errors of a sum that cancels (the gradient of a logit scale) is luck, of the op's and of the naive one's.
FEW = 16


def _variants(sample: Sample, dtype: Any) -> Iterator[tuple[Sample, Sample]]:
    """The sample and some with values up to 0.1% away, rounded to ``dtype``, and each of these in float64 again.

    Errors of the op and of the naive computation are both taken as the largest over all of them, so that luck in the
    few roundings of a small array decides nothing.
    """
    rng = np.random.default_rng(11)
    few = any(isinstance(a, np.ndarray) and 0 < a.size < FEW for a in sample.args)
    for i in range(2 * VARIANTS if few else VARIANTS):
        args = tuple(
            np.asarray(a * rng.uniform(0.999, 1.001, a.shape)) if i and isinstance(a, np.ndarray) else a
            for a in sample.args
        )
        low = replace(sample, args=args).cast(dtype)
        yield low, low.cast(np.float64)


class Errors:
    """Errors seen of each result, by index: one a variant, the largest of its elements."""

    def __init__(self) -> None:
        self.op: dict[int, list[float]] = {}
        self.naive: dict[int, list[float]] = {}
        self.scale: dict[int, float] = {}
        self.few: dict[int, bool] = {}

    def add(self, i: int, got: Array, naive: list[Array], want: Array) -> None:
        self.op.setdefault(i, []).append(error_of(got, want))
        self.naive.setdefault(i, []).append(max(error_of(n, want) for n in naive))
        self.scale[i] = max(self.scale.get(i, 0.0), largest(want))
        self.few[i] = 0 < want.size < FEW

    def judge(self, what: str, dtype: Any, bound: float = 0.0) -> None:
        for i in self.op:
            error, naive = (
                float(np.sqrt(np.mean(np.square(e[i])))) if self.few[i] else max(e[i]) for e in (self.op, self.naive)
            )
            limit = tolerances.LOW_FACTOR * naive + tolerances.spacing(self.scale[i], dtype)
            limit = max(limit, bound)
            assert error <= limit, f"{what} {i} in {np.dtype(dtype)}: off by {error:.3e}, allowed {limit:.3e}"


def _low_dtypes(info: OpInfo) -> list[Any]:
    return [dtype for dtype in info.dtypes if dtype is not np.float64]


def forward_low(info: OpInfo, sample: Sample) -> None:
    """Values in lower precision; naive are the reference and the composite, both run in that precision."""
    for dtype in _low_dtypes(info):
        errors = Errors()
        for low, exact in _variants(sample, dtype):
            got = outputs(info.fn, low)
            want = [np.asarray(w) for w in as_tuple(info.reference(*exact.args, **exact.kwargs))]
            naive = [[np.asarray(n) for n in as_tuple(info.reference(*low.args, **low.kwargs))]]
            if info.composite:
                naive.append(outputs(info.composite, low))
            for i, (g, w) in enumerate(zip(got, want, strict=True)):
                if w.dtype.kind == "f":
                    errors.add(i, g, [n[i].astype(dtype) for n in naive], w)
                else:
                    identical(g, w, f"output {i}")
        errors.judge("output", dtype, info.low_bound)


def _rounded_gradients(info: OpInfo, sample: Sample, grads: list[Array], dtype: Any) -> list[list[Array | None]]:
    """float64 gradients with each operand, and each contribution to a gradient, off by roundings of lower precision.

    A vjp is linear in the output gradient, so that an error in one of its elements is one in all that it contributes.
    """
    rng = np.random.default_rng(5)
    half_ulp = float(np.finfo(dtype).eps) / 2

    def off(a: Any, roundings: int) -> Any:
        if not isinstance(a, np.ndarray):
            return a
        return np.asarray(a * (1 + roundings * half_ulp * rng.choice([-1.0, 1.0], a.shape)))

    return [
        gradients(
            info.fn,
            replace(sample, args=tuple(off(a, 1) for a in sample.args)),
            [off(g, tolerances.ROUNDINGS) for g in grads],
        )
        for _ in range(2)
    ]


def _naive_gradients(info: OpInfo, low: Sample, exact: Sample, grads: list[Array]) -> list[list[Array | None]]:
    if info.naive_slope:
        return [[np.asarray(grads[0] * info.naive_slope(low.args[0]))]]
    naive = [gradients(info.composite, low, grads)] if info.composite else []
    if info.linear or not naive:  # sums, whose order is free
        wide = [g.astype(o.dtype) for g, o in zip(grads, outputs(info.fn, exact), strict=True)]
        naive += _rounded_gradients(info, exact, wide, low.args[low.arrays()[0]].dtype)
    return naive


def gradients_low(info: OpInfo, sample: Sample) -> None:
    """Gradients in lower precision against the float64 vjp.

    Naive is the composite or the row's own slope in that precision; else see :func:`_rounded_gradients`.
    """
    for dtype in _low_dtypes(info):
        errors = Errors()
        for low, exact in _variants(sample, dtype):
            grads = cotangents(info, low)
            wide = [g.astype(o.dtype) for g, o in zip(grads, outputs(info.fn, exact), strict=True)]
            want, got = gradients(info.fn, exact, wide), gradients(info.fn, low, grads)
            naive = _naive_gradients(info, low, exact, grads)
            for i in sample.arrays():
                errors.add(i, got[i], [n[i] for n in naive], want[i])
        errors.judge("gradient", dtype)
