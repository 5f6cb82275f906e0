"""Products by our own tiles: every edge, against float64; bits that depend neither on the cut nor on the threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.implementations import needs_numba

import autograd as ag
from autograd.kernels import KERNELS, kernel_mode

pytestmark = needs_numba

ROWS = 1000  # enough to be computed by tiles, and no multiple of a tile's rows


def _normal(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def _bound(*factors: Any) -> Any:
    """Rounding of sums of so many products: n eps |A| |B|, n the inner size."""
    a, b = (abs(f.astype(np.float64)) for f in factors)
    return (2 + a.shape[1]) * 2.0**-24 * (a @ b + 1)


@given(
    rows=st.integers(0, 40),
    depth=st.integers(0, 40),
    columns=st.integers(1, 40),
    transposed=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_size(rows: int, depth: int, columns: int, transposed: bool, biased: bool, seed: int) -> None:
    from autograd.kernels.compiled.gemm import pack, product_rows

    rng = np.random.default_rng(seed)
    a, b = _normal(rng, rows, depth), _normal(rng, depth, columns)
    bias = _normal(rng, columns) if biased else None
    got = product_rows(a, pack(np.ascontiguousarray(b.T) if transposed else b, transposed, bias))
    want = a.astype(np.float64) @ b.astype(np.float64) + (0 if bias is None else bias)
    assert (abs(got - want) <= _bound(a, b) + 2.0**-23 * abs(want)).all()


@given(start=st.integers(0, 99), rows=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_a_row_does_not_depend_on_the_rows_around_it(start: int, rows: int, seed: int) -> None:
    from autograd.kernels.compiled.gemm import multiply_rows, pack

    rng = np.random.default_rng(seed)
    a, packed = _normal(rng, 300, 13), pack(_normal(rng, 13, 21), False, _normal(rng, 21))
    whole, part = np.zeros((300, 21), np.float32), np.zeros((300, 21), np.float32)
    multiply_rows(a, packed.panels, packed.bias, whole, 0, 300)
    multiply_rows(a, packed.panels, packed.bias, part, start, start + rows)
    np.testing.assert_array_equal(part[start : start + rows], whole[start : start + rows])
    assert not part[:start].any()
    assert not part[start + rows :].any()


def _linear(rng: np.random.Generator) -> tuple[Any, ...]:
    return _normal(rng, ROWS, 37), _normal(rng, 50, 37), _normal(rng, 50)


def test_rows_of_many_rows_run_by_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from autograd.kernels.compiled import gemm
    from autograd.kernels.linear import cpu as linear

    assert gemm.is_tall(ROWS, np.empty((50, 37), np.float32))
    assert not gemm.is_tall(ROWS, np.empty((50, 37), np.float64))
    monkeypatch.setattr(linear, "reference", None)  # whatever goes there fails
    x, weight, bias = _linear(np.random.default_rng(0))
    linear.linear_fwd(x, weight, bias)


@pytest.mark.parametrize("needs", [(True, True, True), (True, False, False), (True, True, False), (False, True, True)])
def test_linear(needs: tuple[bool, ...]) -> None:
    rng = np.random.default_rng(1)
    x, weight, bias = _linear(rng)
    g = _normal(rng, ROWS, 50)
    with kernel_mode("validate"):
        KERNELS["linear_fwd"](x, weight, bias)
        grads = KERNELS["linear_bwd"](g, x, weight, needs)
    assert [grad is not None for grad in grads] == list(needs)


def _mlp(rng: np.random.Generator) -> tuple[Any, ...]:
    return _normal(rng, ROWS, 12), _normal(rng, 44, 12), _normal(rng, 44), _normal(rng, 9, 44), _normal(rng, 9)


@pytest.mark.parametrize("keep", [True, False])
def test_mlp_forward(keep: bool) -> None:
    with kernel_mode("validate"):
        _, hidden = KERNELS["mlp_fwd"](*_mlp(np.random.default_rng(2)), keep)
    assert (hidden is not None) == keep


@pytest.mark.parametrize("needs", [(True,) * 5, (True, False, False, False, False), (False, True, True, True, True)])
def test_mlp_backward(needs: tuple[bool, ...]) -> None:
    rng = np.random.default_rng(3)
    x, w1, b1, w2, _ = _mlp(rng)
    with kernel_mode("validate"):
        KERNELS["mlp_bwd"](_normal(rng, ROWS, 9), x, x @ w1.T, w1, b1, w2, needs)


def test_operands_of_other_layouts() -> None:
    rng = np.random.default_rng(4)
    x, weight, bias = _linear(rng)
    wanted = KERNELS["linear_fwd"](x, weight, bias)
    odd = KERNELS["linear_fwd"](np.asfortranarray(x), np.asfortranarray(weight), np.repeat(bias, 2)[::2])
    np.testing.assert_array_equal(odd, wanted)


@pytest.mark.parametrize("rows", [ROWS, 5000])
def test_bits_do_not_depend_on_threads(rows: int) -> None:
    rng = np.random.default_rng(5)
    x, w1, b1, w2, b2 = (_normal(rng, *s) for s in ((rows, 24), (96, 24), (96,), (24, 96), (24,)))
    g, found, before = _normal(rng, rows, 24), [], ag.get_num_threads()
    try:
        for threads in (1, 2, 3):
            ag.set_num_threads(threads)
            out, hidden = KERNELS["mlp_fwd"](x, w1, b1, w2, b2, True)
            grads = KERNELS["mlp_bwd"](g, x, hidden, w1, b1, w2, (True,) * 5)
            more = KERNELS["linear_bwd"](g, x, w1[:24], (True,) * 3)
            found.append([a.tobytes() for a in (out, hidden, *grads, *more, KERNELS["linear_fwd"](x, w1, b1))])
    finally:
        ag.set_num_threads(before)
    assert found[0] == found[1] == found[2]
