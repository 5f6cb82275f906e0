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

    from .opinfo import OpInfo, Sample

__all__ = ["forward_low", "gradients_low"]


VARIANTS = 4


def _variants(sample: Sample, dtype: Any) -> Iterator[tuple[Sample, Sample]]:
    """The sample and some with values up to 0.1% away, rounded to ``dtype``, and each of these in float64 again.

    Errors of the op and of the naive computation are both taken as the largest over all of them, so that luck in the
    few roundings of a small array decides nothing.
    """
    rng = np.random.default_rng(11)
    for i in range(VARIANTS):
        args = tuple(
            np.asarray(a * rng.uniform(0.999, 1.001, a.shape)) if i and isinstance(a, np.ndarray) else a
            for a in sample.args
        )
        low = replace(sample, args=args).cast(dtype)
        yield low, low.cast(np.float64)


class _Errors:
    """Largest errors seen of each result, by index."""

    def __init__(self) -> None:
        self.op: dict[int, float] = {}
        self.naive: dict[int, float] = {}
        self.scale: dict[int, float] = {}

    def add(self, i: int, got: Array, naive: list[Array], want: Array) -> None:
        self.op[i] = max(self.op.get(i, 0.0), error_of(got, want))
        self.naive[i] = max(self.naive.get(i, 0.0), *(error_of(n, want) for n in naive))
        self.scale[i] = max(self.scale.get(i, 0.0), largest(want))

    def judge(self, what: str, dtype: Any, ulps: int) -> None:
        for i, error in self.op.items():
            limit = tolerances.LOW_FACTOR * self.naive[i] + ulps * tolerances.spacing(self.scale[i], dtype)
            assert error <= limit, f"{what} {i} in {np.dtype(dtype)}: off by {error:.3e}, allowed {limit:.3e}"


def _low_dtypes(info: OpInfo) -> list[Any]:
    return [dtype for dtype in info.dtypes if dtype is not np.float64]


def forward_low(info: OpInfo, sample: Sample) -> None:
    """Values in lower precision; naive is the reference run in that precision."""
    for dtype in _low_dtypes(info):
        errors = _Errors()
        for low, exact in _variants(sample, dtype):
            got = outputs(info.fn, low)
            want = [np.asarray(w) for w in as_tuple(info.reference(*exact.args, **exact.kwargs))]
            naive = [np.asarray(n) for n in as_tuple(info.reference(*low.args, **low.kwargs))]
            for i, (g, w, n) in enumerate(zip(got, want, naive, strict=True)):
                if w.dtype.kind == "f":
                    errors.add(i, g, [n.astype(dtype)], w)
                else:
                    identical(g, w, f"output {i}")
        errors.judge("output", dtype, 1)


def _rounded_gradients(info: OpInfo, sample: Sample, grads: list[Array], eps: float) -> list[list[Array | None]]:
    """float64 gradients with every operand and output gradient off by half an ulp of the lower precision.

    What that changes is what no computation in the lower precision can avoid: the naive error of an elementary op.
    """
    rng = np.random.default_rng(5)

    def off(a: Any) -> Any:
        return np.asarray(a * (1 + eps * rng.choice([-1.0, 1.0], a.shape))) if isinstance(a, np.ndarray) else a

    return [
        gradients(info.fn, replace(sample, args=tuple(map(off, sample.args))), [off(g) for g in grads])
        for _ in range(VARIANTS)
    ]


def gradients_low(info: OpInfo, sample: Sample) -> None:
    """Gradients in lower precision; naive is the composite in that precision, or see :func:`_rounded_gradients`."""
    for dtype in _low_dtypes(info):
        errors, half_ulp = _Errors(), float(np.finfo(dtype).eps) / 2
        for low, exact in _variants(sample, dtype):
            g_low = cotangents(info, low)
            g_exact = [g.astype(o.dtype) for g, o in zip(g_low, outputs(info.fn, exact), strict=True)]
            want = gradients(info.fn, exact, g_exact)
            got = gradients(info.fn, low, g_low)
            if info.composite:
                naive = [gradients(info.composite, low, g_low)]
            else:
                naive = _rounded_gradients(info, exact, g_exact, half_ulp)
            for i in sample.arrays():
                errors.add(i, got[i], [n[i] for n in naive], want[i])
        errors.judge("gradient", dtype, 1 if info.composite else tolerances.ROUNDINGS)
