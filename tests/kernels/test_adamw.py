"""AdamW's reference against the algorithm as the paper writes it, element by element in Python floats."""

import math

import numpy as np
import pytest
from support.implementations import needs_numba

from autograd.kernels import KERNELS, kernel_mode
from autograd.kernels.adamw.reference import adamw, grad_norm, multi_adamw
from autograd.kernels.blocks import BLOCK_BYTES

OPTIONS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.05}


def _by_hand(p, g, m, v, *, lr, beta1, beta2, eps, weight_decay, step, grad_scale=1.0):
    """Loshchilov & Hutter 2019, algorithm 2, for one number."""
    g *= grad_scale
    p -= lr * weight_decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return p - lr * m_hat / (math.sqrt(v_hat) + eps), m, v


@pytest.mark.parametrize("grad_scale", [1.0, 0.25])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (), (0, 3), (2, BLOCK_BYTES // 8)])
def test_ten_steps_by_hand(shape, grad_scale):
    rng = np.random.default_rng(4)
    param = np.asarray(rng.standard_normal(shape))
    m, v = np.zeros(shape), np.zeros(shape)
    watched = range(0, param.size, max(1, param.size // 50))
    state = {i: (param.reshape(-1)[i], 0.0, 0.0) for i in watched}
    for step in range(1, 11):
        grad = np.asarray(rng.standard_normal(shape))
        kept = grad.copy()
        adamw(param, grad, m, v, step=step, grad_scale=grad_scale, **OPTIONS)
        np.testing.assert_array_equal(grad, kept)
        for i in watched:
            state[i] = _by_hand(
                *state[i][:1], grad.reshape(-1)[i], *state[i][1:], step=step, grad_scale=grad_scale, **OPTIONS
            )
    for i in watched:
        np.testing.assert_allclose([a.reshape(-1)[i] for a in (param, m, v)], state[i], rtol=1e-12, atol=1e-15)


def test_float32_stays_float32_and_near():
    rng = np.random.default_rng(5)
    wide = [rng.standard_normal(100) for _ in range(3)] + [rng.uniform(0.1, 1, 100)]
    low = [a.astype(np.float32) for a in wide]
    adamw(*wide, step=7, **OPTIONS)
    adamw(*low, step=7, **OPTIONS)
    for a, b in zip(wide, low, strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_writes_through_views_of_one_flat_buffer():
    flat = np.arange(12.0)
    part = flat[3:9].reshape(2, 3)
    adamw(part, np.ones((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)), step=1, **OPTIONS)
    np.testing.assert_array_equal(flat[[0, 1, 2, 9, 10, 11]], [0, 1, 2, 9, 10, 11])
    assert (flat[3:9] != np.arange(3.0, 9.0)).all()


def test_zero_gradient_only_decays():
    param = np.array([2.0, -4.0])
    adamw(param, np.zeros(2), np.zeros(2), np.zeros(2), step=1, **OPTIONS)
    np.testing.assert_allclose(param, np.array([2.0, -4.0]) * (1 - 0.01 * 0.05), rtol=1e-15)


def test_step_zero_is_refused():
    with pytest.raises(ValueError, match=r"^adamw: expected step of 1 or more; got 0"):
        adamw(np.ones(1), np.ones(1), np.ones(1), np.ones(1), step=0, **OPTIONS)


def test_arrays_that_cannot_be_updated_in_place_are_refused():
    """reshape(-1) of such an array is a copy, and the update would be lost without a word."""
    param = np.ones((3, 4)).T
    with pytest.raises(ValueError, match=r"^adamw: expected C-ordered arrays"):
        adamw(param, np.ones((4, 3)), np.zeros((4, 3)), np.zeros((4, 3)), step=1, **OPTIONS)


# ---- all arrays of a model

MULTI = {key: value for key, value in OPTIONS.items() if key != "weight_decay"}


def _lists(seed=6, shapes=((3, 4), (5,), (), (0, 2)), dtype=np.float64):
    rng = np.random.default_rng(seed)
    params, grads, firsts = ([np.asarray(rng.standard_normal(s)).astype(dtype) for s in shapes] for _ in range(3))
    return params, grads, firsts, [np.asarray(rng.uniform(0.1, 1, s)).astype(dtype) for s in shapes]


def _copies(lists):
    return tuple([a.copy() for a in arrays] for arrays in lists)


def test_the_norm_is_that_of_all_gradients_together():
    _, grads, _, _ = _lists()
    want = math.sqrt(math.fsum(float(x) ** 2 for g in grads for x in g.reshape(-1)))
    assert float(grad_norm(grads)) == pytest.approx(want, rel=1e-15)
    assert float(grad_norm([])) == 0
    assert grad_norm(grads).dtype == np.float64
    assert grad_norm(grads).shape == ()


@pytest.mark.parametrize("clip_grad", [None, 0.5, 1e6])
@pytest.mark.parametrize("divisor", [1.0, 8.0])
def test_all_arrays_are_updated_as_each_alone(clip_grad, divisor):
    decays = [0.1, 0.0, 0.2, 0.1]
    lists = _lists()
    alone = _copies(lists)
    norm = multi_adamw(*lists, decays, step=3, clip_grad=clip_grad, grad_divisor=divisor, **MULTI)
    assert norm == grad_norm(alone[1]) / divisor
    scale = 1.0 if clip_grad is None else min(1.0, clip_grad / (float(norm) + 1e-6))
    for i, decay in enumerate(decays):
        options = {**OPTIONS, "weight_decay": decay}
        adamw(*(arrays[i] for arrays in alone), step=3, grad_scale=scale / divisor, **options)
    for got, want in zip(lists, alone, strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_writes_nothing(bad):
    lists = _lists()
    lists[1][1][2] = bad
    before = _copies(lists)
    norm = multi_adamw(*lists, [0.1] * 4, step=1, **MULTI)
    assert not math.isfinite(norm)
    for got, want in zip(lists, before, strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_lists_that_do_not_belong_together_are_refused():
    params, grads, firsts, seconds = _lists()
    with pytest.raises(ValueError, match=r"^multi_adamw: expected lists of one length; got 4, 3, 4, 4 arrays and 4"):
        multi_adamw(params, grads[:3], firsts, seconds, [0.0] * 4, step=1, **MULTI)
    with pytest.raises(ValueError, match=r"^multi_adamw: expected param, grad and moments of one shape; got \(3, 4\)"):
        multi_adamw(params, grads[::-1], firsts, seconds, [0.0] * 4, step=1, **MULTI)


@needs_numba
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_pieces_that_end_within_arrays(dtype):
    """Enough numbers for several pieces, and a gradient that is not C-ordered."""
    lists = _lists(shapes=((3, 5), (40_001,), (), (0, 2), (150, 333), (7,)), dtype=dtype)
    lists[1][4] = np.asfortranarray(lists[1][4])
    with kernel_mode("validate"):
        KERNELS["multi_adamw"](*lists, [0.1] * 6, step=3, clip_grad=0.5, grad_divisor=2.0, **MULTI)


@needs_numba
def test_compiled_norm_that_is_not_finite_writes_nothing():
    lists = _lists(dtype=np.float32)
    lists[1][0][1, 1] = np.nan
    before = _copies(lists)
    with kernel_mode("cpu"):
        assert math.isnan(KERNELS["multi_adamw"](*lists, [0.1] * 4, step=1, **MULTI))
    for got, want in zip(lists, before, strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
