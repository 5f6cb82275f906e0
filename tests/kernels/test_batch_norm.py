"""Batch norm compiled, at sizes of several pieces: exact, whatever the threads and layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.implementations import IMPLEMENTATIONS, needs_numba, using

import autograd as ag
from autograd.kernels.batch_norm import batch_norm_bwd, batch_norm_fwd

SHAPE = (3, 50, 70, 32)
EPS32 = float(np.finfo(np.float32).eps)


def _arguments(offset: float = 0.0) -> tuple[Any, Any, Any, Any]:
    """g, x, weight, bias."""
    rng = np.random.default_rng(0)
    g, x = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    x = (x * np.linspace(0.5, 2, SHAPE[-1]) + offset).astype(np.float32)
    return g, x, rng.uniform(0.5, 1.5, SHAPE[-1]).astype(np.float32), rng.standard_normal(SHAPE[-1]).astype(np.float32)


def _both_ways(g: Any, x: Any, weight: Any, bias: Any) -> list[Any]:
    y, mean, rstd, var = batch_norm_fwd(x, weight, bias, 1e-5)
    zeros = np.zeros_like(mean)
    return [y, mean, rstd, var, *batch_norm_bwd(g, x, weight, mean, rstd, zeros, zeros)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_float32_is_near_float64(implementation: str, offset: float) -> None:
    """A mean of 1000 costs the values their digits, not the variance."""
    arguments = _arguments(offset)
    with using("reference"):
        exact = _both_ways(*(a.astype(np.float64) for a in arguments))
    with using(implementation):
        found = _both_ways(*arguments)
    # y: some roundings of y, and that of the mean (its sum's, too) relative to the deviation; sums: of 10,500 terms
    rounding = EPS32 * (4 + offset)
    for name, got, want, allowed in zip(
        ("y", "mean", "rstd", "var", "gx", "gweight", "gbias"),
        found,
        exact,
        (4 * rounding, EPS32 * 4, EPS32 * 40, EPS32 * 40, 4 * rounding, 4 * rounding, EPS32 * 40),
        strict=True,
    ):
        error = abs(got - want).max() / max(abs(want).max(), 1)
        assert error <= allowed, f"{name}: off by {error:.2e}, allowed {allowed:.2e}"


@needs_numba
def test_bits_do_not_depend_on_threads() -> None:
    before, results = ag.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            ag.set_num_threads(threads)
            results.append([a.tobytes() for a in _both_ways(*_arguments())])
    finally:
        ag.set_num_threads(before)
    assert results[0] == results[1] == results[2]


@needs_numba
def test_bits_do_not_depend_on_the_layout() -> None:
    g, x, weight, bias = _arguments()
    odd = _both_ways(
        np.asfortranarray(g), np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 1)), 1, -1), weight, bias
    )
    assert [a.tobytes() for a in odd] == [a.tobytes() for a in _both_ways(g, x, weight, bias)]
