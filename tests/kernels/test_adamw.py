"""AdamW's reference against the algorithm as the paper writes it, element by element in Python floats."""

import math

import numpy as np
import pytest

from autograd.kernels.reference.adamw import adamw
from autograd.kernels.reference.blocks import PIECE_BYTES

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
@pytest.mark.parametrize("shape", [(5,), (3, 4), (), (0, 3), (2, PIECE_BYTES // 8)])
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
