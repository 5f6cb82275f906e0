"""Weight gradients added up block by block while rows lie in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.implementations import needs_numba

from autograd.kernels import KERNELS, kernel_mode

pytestmark = needs_numba


def _normal(rng: np.random.Generator, *shape: int, dtype: Any = np.float32) -> Any:
    return rng.standard_normal(shape).astype(dtype)


@given(
    blocks=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    left=st.integers(1, 40),
    right=st.integers(1, 70),
    flipped=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
@example(blocks=[1], left=6, right=16, flipped=False, dtype=np.float32, seed=0)  # one whole tile at the arrays' end
@example(blocks=[3, 3], left=400, right=700, flipped=True, dtype=np.float32, seed=0)  # added up by all threads
def test_any_size(blocks: list[int], left: int, right: int, flipped: bool, dtype: Any, seed: int) -> None:
    """Every other block is a piece of its own; memory starts as NaN, and A's and B's rows do not start at 0."""
    from autograd.kernels.compiled.outer import add_outer, gradient, make_partials, scratch_size

    rng = np.random.default_rng(seed)
    n = sum(blocks)
    a, b = _normal(rng, n, left, dtype=dtype), _normal(rng, n, right, dtype=dtype)
    partials = make_partials(-(-len(blocks) // 2), left, right, np.dtype(dtype))
    partials[:] = 0
    start = 0
    for i, rows in enumerate(blocks):
        panels = (np.full(scratch_size(rows, width), np.nan, dtype) for width in (left, right))
        add_outer(a, start, b, start, rows, *panels, partials[i // 2])
        start += rows
    got = gradient(partials, left, right, flipped)
    wide = a.astype(np.longdouble), b.astype(np.longdouble)
    want, size = wide[0].T @ wide[1], abs(wide[0]).T @ abs(wide[1])
    assert got.shape == ((right, left) if flipped else (left, right))
    # each number is a sum of n products, rounded at most once a product and once a sum
    bound = (n + len(blocks) + 1) * np.finfo(dtype).eps / 2 * size
    assert (abs((got.T if flipped else got) - want) <= bound).all()


def test_sums_of_many_rows_round_like_sums_of_blocks() -> None:
    """One long sum would lose every number that is below half a unit in its last place."""
    rows = 1 << 15
    g, x = np.full((rows, 80), 2.0**-25, np.float32), np.ones((rows, 80), np.float32)
    g[0] = 1
    _, gw, gb = KERNELS["linear_bwd"](g, x, np.ones((80, 80), np.float32), (True,) * 3)
    want = 1 + (rows - 1) * 2.0**-25
    # blocks of up to 144 rows, 22 of them a piece, 16 pieces: so many roundings at most, where one piece has 2048 rows
    for got in (gw, gb):
        assert abs(got - want).max() <= (144 + 22 + 16) * 2.0**-24 * want


@pytest.mark.parametrize(("outputs", "inputs"), [(90, 70), (70, 90), (288, 96), (80, 80)])
@pytest.mark.parametrize("needs", [(True, True, True), (False, True, True), (True, True, False), (False, True, False)])
def test_linear_layers_of_tall_maps(outputs: int, inputs: int, needs: tuple[bool, ...]) -> None:
    rng = np.random.default_rng(0)
    g, x, weight = _normal(rng, 1300, outputs), _normal(rng, 1300, inputs), _normal(rng, outputs, inputs)
    with kernel_mode("validate"):
        grads = KERNELS["linear_bwd"](g, x, weight, needs)
    assert [grad is not None for grad in grads] == list(needs)
    everything = KERNELS["linear_bwd"](g, x, weight, (True,) * 3)
    for one, every, need in zip(grads, everything, needs, strict=True):
        assert not need or np.array_equal(one, every)


@pytest.mark.parametrize(
    "needs",
    [
        (True,) * 5,
        (True, False, False, False, False),
        (False, True, False, False, False),
        (False, False, True, True, True),
        (True, False, True, False, True),
    ],
)
def test_an_mlp_of_tall_maps(needs: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from autograd.kernels.mlp import cpu as mlp

    rng = np.random.default_rng(1)
    x, w1, b1, w2 = _normal(rng, 1300, 70), _normal(rng, 130, 70), _normal(rng, 130), _normal(rng, 90, 130)
    arguments = _normal(rng, 1300, 90), x, x @ w1.T, w1, b1, w2
    with kernel_mode("validate"):
        grads = KERNELS["mlp_bwd"](*arguments, needs)
    assert [grad is not None for grad in grads] == list(needs)
    monkeypatch.setattr(mlp, "product", None)  # whatever goes by BLAS fails
    everything = KERNELS["mlp_bwd"](*arguments, (True,) * 5)
    for one, every, need in zip(grads, everything, needs, strict=True):
        assert not need or np.array_equal(one, every)


def test_what_a_block_holds_stays_in_its_rows() -> None:
    """NaN and infinity in one row of one matrix reach the gradient's row or column and nothing else."""
    rng = np.random.default_rng(2)
    g, x, weight = _normal(rng, 900, 80), _normal(rng, 900, 64), _normal(rng, 80, 64)
    g[500, 3], x[7, 5] = np.nan, np.inf
    gx, gw, gb = KERNELS["linear_bwd"](g, x, weight, (True,) * 3)
    want = KERNELS["linear_bwd"].reference(g, x, weight, (True,) * 3)
    for got, expected in zip((gx, gw, gb), want, strict=True):
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
