"""AdamW against its definition, the no-decay groups, and clipping."""

import math

import numpy as np
import pytest

import swinpy
from swinpy.nn import Parameter
from swinpy.train.optim import AdamW, grad_norm


def _textbook(p, grads, lr, betas, eps, decay):
    """Loshchilov & Hutter 2019, algorithm 2, one element at a time."""
    m = v = 0.0
    for t, g in enumerate(grads, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        p = p - lr * decay * p - lr * m_hat / (math.sqrt(v_hat) + eps)
    return p


def _named(rng, *shapes):
    return {f"p{i}": Parameter(rng.standard_normal(s)) for i, s in enumerate(shapes)}


def test_follows_the_definition():
    rng = np.random.default_rng(0)
    parameters = _named(rng, (3, 2), (4,))
    start = {k: p.data.copy() for k, p in parameters.items()}
    optimizer = AdamW(parameters.items(), no_decay=["p1"], betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    history = []
    for _ in range(5):
        for p in parameters.values():
            p.grad = rng.standard_normal(p.shape)
        history.append({k: p.grad.copy() for k, p in parameters.items()})
        optimizer.step(0.01)
    for name, decay in (("p0", 0.1), ("p1", 0.0)):
        for index in np.ndindex(start[name].shape):
            grads = [h[name][index] for h in history]
            want = _textbook(start[name][index], grads, 0.01, (0.8, 0.95), 1e-6, decay)
            assert parameters[name].data[index] == pytest.approx(want, rel=1e-13)


def test_gradients_are_clipped_together_and_left_as_they_were():
    rng = np.random.default_rng(1)
    free, clipped = _named(rng, (5,), (2, 2)), _named(np.random.default_rng(1), (5,), (2, 2))
    grads = {k: 10 * rng.standard_normal(p.shape) for k, p in free.items()}
    norm = math.sqrt(sum(float((g**2).sum()) for g in grads.values()))
    for k in grads:
        free[k].grad = grads[k] * (3.0 / (norm + 1e-6))
        clipped[k].grad = grads[k].copy()
    a, b = AdamW(free.items()), AdamW(clipped.items())
    a.step(0.1)
    assert b.step(0.1, clip_grad=3.0) == pytest.approx(norm, rel=1e-14)
    for k in grads:
        np.testing.assert_allclose(free[k].data, clipped[k].data, rtol=1e-13)
        np.testing.assert_array_equal(clipped[k].grad, grads[k])


def test_a_small_gradient_is_not_scaled_up():
    p = Parameter(np.ones(2))
    q = Parameter(np.ones(2))
    p.grad = q.grad = np.array([0.1, 0.2])
    AdamW({"p": p}.items()).step(0.1, clip_grad=100.0)
    AdamW({"p": q}.items()).step(0.1)
    np.testing.assert_array_equal(p.data, q.data)


def test_a_gradient_that_is_not_finite_changes_nothing():
    p = Parameter(np.ones(2))
    p.grad = np.array([np.nan, 1.0])
    optimizer = AdamW({"p": p}.items())
    assert math.isnan(optimizer.step(0.1))
    np.testing.assert_array_equal(p.data, 1.0)
    assert optimizer.steps == 0


def test_a_parameter_without_a_gradient_stays():
    p = Parameter(np.ones(2))
    AdamW({"p": p}.items()).step(0.1)
    np.testing.assert_array_equal(p.data, 1.0)
    assert grad_norm([p]) == 0.0


def test_norm_of_float16_gradients_is_summed_in_float32():
    p = Parameter(np.ones(4096, np.float16))
    p.grad = np.full(4096, 4.0, np.float16)
    assert grad_norm([p]) == 256.0


def test_norms_biases_and_position_tables_are_not_decayed():
    model = swinpy.create_model("swin_cifar_nano", position="both", depths=(1, 1, 1))
    undecayed = model.no_weight_decay()
    for name, p in model.named_parameters():
        exempt = p.ndim == 1 or "relative_position_bias_table" in name or name == "absolute_pos_embed"
        assert (name in undecayed) == exempt, name


def test_state_round_trips_and_refuses_another_models():
    rng = np.random.default_rng(2)
    parameters = _named(rng, (3,), (2, 2))
    optimizer = AdamW(parameters.items())
    for p in parameters.values():
        p.grad = rng.standard_normal(p.shape)
    optimizer.step(0.1)
    state = {k: v.copy() for k, v in optimizer.state_arrays().items()}
    other = AdamW(_named(rng, (3,), (2, 2)).items())
    other.load_state(state, optimizer.steps)
    assert all(np.array_equal(other.state_arrays()[k], v) for k, v in state.items())
    assert other.steps == 1
    with pytest.raises(ValueError, match=r"exp_avg.p1"):
        AdamW(_named(rng, (3,)).items()).load_state(state, 1)


@pytest.mark.parametrize("kwargs", [{"betas": (1.0, 0.9)}, {"eps": 0.0}, {"weight_decay": -1.0}])
def test_refuses_settings_that_cannot_be(kwargs):
    with pytest.raises(ValueError, match="AdamW: expected"):
        AdamW({}.items(), **kwargs)


def test_refuses_unknown_names():
    with pytest.raises(ValueError, match="among the parameters; got q"):
        AdamW({"p": Parameter(np.ones(1))}.items(), no_decay=["q"])
