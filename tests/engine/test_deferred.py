"""DeferredBias: where it is made, and that what uses it cannot tell it from the sum."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import autograd as ag
from autograd import deferred
from autograd.extend import DeferredBias

if TYPE_CHECKING:
    from collections.abc import Callable

RNG = np.random.default_rng(0)
X, W, B = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((5, 4)), RNG.standard_normal(5)
C = np.ones(5)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred, "product_adds_bias", lambda x: False)


def _leaves() -> list[ag.Tensor]:
    return [ag.Tensor(a.copy(), requires_grad=True) for a in (X, W, B)]


def _linear(leaves: list[ag.Tensor], defer: bool = True) -> ag.Tensor:
    out = ag.linear(*leaves, defer_bias=defer)
    assert isinstance(out, DeferredBias) == defer
    return out


def _mlp(leaves: list[ag.Tensor], defer: bool = True) -> ag.Tensor:
    x, w, b = leaves
    out = ag.mlp(x, w, b, w.T @ w @ w.T, w.T @ b, defer_bias=defer)
    assert isinstance(out, DeferredBias) == defer
    return out


USES: dict[str, Callable[[ag.Tensor], ag.Tensor]] = {
    "op": ag.exp,
    "method": lambda y: y.reshape(-1) * 2,
    "twice": lambda y: y * y,
    "layer_norm": lambda y: ag.layer_norm(y, np.ones(y.shape[-1]), np.ones(y.shape[-1])),
    "residual_layer_norm": lambda y: ag.residual_layer_norm(y * 2, y, None, *[np.arange(y.shape[-1]) + 1.0] * 2)[1],
    "x_of_a_residual": lambda y: ag.residual_layer_norm(y, y, None, *[np.arange(y.shape[-1]) + 1.0] * 2)[1],
    "given_a_branch_bias": lambda y: ag.residual_layer_norm(
        y * 2, y, None, *[np.arange(y.shape[-1]) + 1.0] * 2, branch_bias=np.ones(y.shape[-1])
    )[1],
    "checkpoint": lambda y: ag.checkpoint(ag.exp, y),
    "checkpoint_to_a_norm": lambda y: ag.checkpoint(
        lambda t, u: ag.residual_layer_norm(t, u, None, *[np.arange(u.shape[-1]) + 1.0] * 2)[1], y * 2, y
    ),
    "read_by_a_checkpoint": lambda y: ag.checkpoint(lambda t: ag.exp(t) * y, ag.Tensor(np.ones(y.shape[-1]))),
    "nested_checkpoints": lambda y: ag.checkpoint(lambda t: ag.checkpoint(ag.exp, t) * t, y),
    "dropout_that_is_off": lambda y: ag.dropout(y, 0.5, training=False) * 3,
    "joined": lambda y: ag.concatenate([y, y]),
}


@pytest.mark.parametrize("layer", [_linear, _mlp])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_it_is_the_sum(layer: Any, use: Callable[[ag.Tensor], ag.Tensor]) -> None:
    found = []
    for defer in (False, True):
        leaves = _leaves()
        out = use(layer(leaves, defer))
        (out * ag.Tensor(np.cos(np.arange(out.size)).reshape(out.shape))).sum().backward()
        found.append([out.numpy(), *(leaf.grad for leaf in leaves)])
    for want, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())


def test_what_it_says_of_itself() -> None:
    leaves = _leaves()
    y, plain = _linear(leaves), _linear(leaves, False)
    assert (y.shape, y.ndim, y.dtype, y.device) == (plain.shape, plain.ndim, plain.dtype, plain.device)
    assert (y.requires_grad, y.is_leaf, y.version, y.grad) == (True, False, None, None)
    assert not y.detach().requires_grad
    np.testing.assert_allclose(y.numpy(), plain.numpy(), rtol=1e-15)
    seen: list[Any] = []
    y.register_grad_hook(seen.append)
    (y * 3).sum().backward()
    np.testing.assert_array_equal(seen[0], np.full(y.shape, 3.0))


def test_the_sum_is_made_once_and_only_if_it_is_asked_for() -> None:
    events: list[str] = []
    with ag.observe(lambda event: events.append(event.name)):
        y = _linear(_leaves())
        ag.residual_layer_norm(X @ W.T, y, None, C, C)
        assert events == ["linear", "residual_layer_norm"]
        y.numpy()
        ag.exp(y)
    assert events[2:] == ["add", "exp"]


def test_looking_at_it_later_gives_what_it_was_made_under() -> None:
    leaves = _leaves()
    y = _linear(leaves)
    with ag.no_grad():
        assert y.numpy().shape == (2, 3, 5)
        assert not _linear(leaves).requires_grad
    y.sum().backward()
    assert leaves[2].grad is not None
    np.testing.assert_array_equal(leaves[2].grad, np.full(5, 6.0))
    with ag.no_grad():
        y = _linear(leaves)
    assert (y.requires_grad, ag.exp(y).requires_grad) == (False, False)


def test_a_bias_that_is_written_to_is_noticed() -> None:
    leaves = _leaves()
    y, looked_at = _linear(leaves), _linear(leaves)
    before = looked_at.numpy().copy()
    leaves[2].assign_(0.0)
    for use in (y.numpy, lambda: ag.residual_layer_norm(X @ W.T, y, None, C, C)):
        with pytest.raises(RuntimeError, match="defer_bias: expected the bias as it was when the layer ran"):
            use()
    np.testing.assert_array_equal(looked_at.numpy(), before)


def test_what_is_not_deferred() -> None:
    x, w, _ = _leaves()
    assert type(ag.linear(x, w, defer_bias=True)) is ag.Tensor
    np.testing.assert_allclose(ag.linear(x, w, B, defer_bias=True).numpy(), X @ W.T + B, atol=1e-14)
    with pytest.raises(ValueError, match=r"defer_bias: expected bias \(5,\) for \(2, 3, 5\); got \(4,\)"):
        ag.linear(x, w, ag.Tensor(np.ones(4)), defer_bias=True)
    with pytest.raises(TypeError, match="defer_bias: expected operands of one dtype; got float64 and float32"):
        ag.linear(x, w, ag.Tensor(np.ones(5, np.float32)), defer_bias=True)


def _normed(branch: ag.Tensor) -> ag.Tensor:
    return ag.residual_layer_norm(ag.Tensor(np.ones((2, 3, 5)), True), branch, None, C, C)[1]


def _gradients(defer: bool, recording: bool, read: bool) -> list[Any]:
    """Of x, w and b, after a layer that ran with or without recording, and whose values were or were not read."""
    leaves = _leaves()
    with ag.enable_grad() if recording else ag.no_grad():
        out = _linear(leaves, defer)
    if read:
        _ = out.data
    _normed(out).sum().backward()
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("recording", [False, True])
def test_a_norm_sees_it_as_it_was_made(recording: bool, read: bool) -> None:
    """Made under no_grad it has no gradient, whoever reads it later."""
    for got, want in zip(_gradients(True, recording, read), _gradients(False, recording, read), strict=True):
        assert (got is None) == (want is None) == (not recording)
        if want is not None:
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_a_sum_that_was_read_outlives_a_write_to_the_bias() -> None:
    leaves = _leaves()
    out = _linear(leaves)
    want = _normed(ag.Tensor(out.numpy().copy())).numpy()
    leaves[2].assign_(0)
    np.testing.assert_array_equal(_normed(out).numpy(), want)


def test_a_copy_is_a_copy_of_the_sum() -> None:
    with ag.no_grad():
        out = _linear(_leaves())
    for twin in (copy.copy(out), copy.deepcopy(out)):
        assert type(twin) is ag.Tensor
        np.testing.assert_array_equal(twin.numpy(), out.numpy())
