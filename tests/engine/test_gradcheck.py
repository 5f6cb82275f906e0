"""The checker checked: it passes what is right, catches one part in a million, and says when it cannot tell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import autograd as ag
from autograd.extend import Primitive
from autograd.gradcheck import ridders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

X = np.random.default_rng(0).uniform(0.5, 2.0, (3, 4))


@pytest.fixture
def scaled() -> Iterator[Callable[[float], Primitive]]:
    """tanh with a gradient that is wrong by a factor."""
    from autograd.primitive import PRIMITIVES

    def make(factor: float) -> Primitive:
        def forward(ctx: Any, x: Any) -> Any:
            y = np.tanh(x)
            ctx.save(y)
            return y

        return Primitive("test_scaled", forward, lambda ctx, g: factor * g * (1 - ctx.saved[0] ** 2))

    yield make
    PRIMITIVES.pop("test_scaled", None)


@pytest.mark.parametrize("seed", range(20))
def test_right_passes(scaled: Any, seed: int) -> None:
    assert ag.gradcheck(scaled(1.0), [X], seed=seed)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("error", [1e-6, -1e-6, 1e-3, -2.0])
def test_wrong_by_a_factor_fails(scaled: Any, error: float, seed: int) -> None:
    with pytest.raises(ag.GradcheckError, match=r"gradcheck: expected input 0 to have derivative .*; backward gives"):
        ag.gradcheck(scaled(1 + error), [X], seed=seed)


@pytest.mark.parametrize("element", [(0, 0), (2, 3)])
def test_one_wrong_element_fails(element: tuple[int, int]) -> None:
    from autograd.primitive import PRIMITIVES

    def vjp(ctx: Any, g: Any) -> Any:
        out = 2 * g * ctx.saved[0]
        out[element] = 0
        return out

    broken = Primitive("test_element", lambda ctx, x: (ctx.save(x), x * x)[1], vjp)
    try:
        with pytest.raises(ag.GradcheckError):
            ag.gradcheck(broken, [X])
    finally:
        del PRIMITIVES["test_element"]


def test_kink_is_inconclusive() -> None:
    """A kink nearer than the smallest step: the difference quotients do not settle, and the estimate says so."""
    with pytest.raises(ag.GradcheckError, match=r"gradcheck: inconclusive for input 0: .* Is there a kink near"):
        ag.gradcheck(ag.relu, [np.array([1e-4, 1.0])])
    with pytest.raises(ag.GradcheckError, match="inconclusive"):
        ag.gradcheck(ag.absolute, [np.array([-1e-6])])


def test_noise_is_inconclusive() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ag.GradcheckError, match="inconclusive"):
        ag.gradcheck(lambda x: x * float(1 + 1e-4 * rng.standard_normal()), [X])


def test_several_inputs_each_and_jointly() -> None:
    assert ag.gradcheck(lambda x, y: ag.exp(x) / y, [X, X + 1])
    with pytest.raises(ag.GradcheckError, match="input 1"):
        ag.gradcheck(lambda x, y: x * y.detach() + y * 0, [X, X])
    assert ag.gradcheck(lambda x, n: ag.take(x, n, axis=0), [X, np.array([0, 2, 2])])


def test_several_outputs_some_without_a_gradient() -> None:
    assert ag.gradcheck(lambda x: (ag.Tensor(np.ones(7)), ag.exp(x), x > 1, x * 2), [X])


def test_parameters() -> None:
    w = ag.Tensor(np.ones((4, 2)), requires_grad=True)
    frozen = ag.Tensor(np.ones(2))
    before = w.data.copy()
    assert ag.gradcheck(lambda x: x @ w + frozen, [X], parameters=[w, frozen])
    np.testing.assert_array_equal(w.data, before)
    assert w.grad is None
    with pytest.raises(ag.GradcheckError, match="input 1"):
        ag.gradcheck(lambda x: x @ w.detach() + (w * 0).sum(), [X], parameters=[w])
    np.testing.assert_array_equal(w.data, before)


def test_inputs_are_left_alone() -> None:
    x = ag.Tensor(X.copy(), requires_grad=True)
    assert ag.gradcheck(ag.exp, [x])
    np.testing.assert_array_equal(x.data, X)
    assert x.grad is None
    assert x.version.count == 0


def test_empty_input() -> None:
    assert ag.gradcheck(lambda x, y: x.sum() + y, [np.ones((0, 3)), np.array(2.0)])


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"gradcheck: expected float64; got float32. Finite differences need it"):
        ag.gradcheck(ag.exp, [X.astype(np.float32)])
    with pytest.raises(ag.GradcheckError, match="expected an output that depends on an input; got none"):
        ag.gradcheck(lambda x: x.detach(), [X])


@pytest.mark.parametrize(
    ("f", "derivative"),
    [
        (math.sin, 1.0),
        (lambda t: math.exp(3 * t), 3.0),
        (lambda t: 1 / (1 + t), -1.0),
        (lambda t: t**3 - 5 * t + 2, -5.0),
        (lambda t: math.tanh(1 + t), 1 - math.tanh(1) ** 2),
        (lambda t: math.log(0.5 + t), 2.0),
        (lambda t: math.sin(50 * t), 50.0),
        (lambda t: 7.0, 0.0),
    ],
)
def test_ridders(f: Callable[[float], float], derivative: float) -> None:
    value, estimate, rounding = ridders(f, scale=max(abs(f(0.0)), 1.0))
    assert abs(value - derivative) <= 10 * estimate + rounding
    assert abs(value - derivative) <= 1e-9 * max(1, abs(derivative))
    assert estimate < 1e-7 * max(1, abs(derivative))


@pytest.mark.parametrize("distance", [5e-4, 1e-4, 1e-5, 1e-6])
def test_ridders_at_a_kink(distance: float) -> None:
    assert ridders(lambda t: abs(t + distance), 1.0)[1] > 1e-6


def test_ridders_looks_past_a_kink_that_only_the_large_steps_cross() -> None:
    value, estimate, _ = ridders(lambda t: abs(t + 1e-3), 1.0)
    assert abs(value - 1) <= 1e-12
    assert estimate <= 1e-12


def test_ridders_is_not_fooled_by_early_rows_that_agree_by_chance() -> None:
    """A slope with a ripple too fine for the first steps; stopping at the second row was wrong for one in twenty."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        height, rate = 10 ** rng.uniform(-6, -3), rng.uniform(60, 400)

        def f(t: float, height: float = height, rate: float = rate) -> float:
            return math.sin(3 * t) + height * math.sin(rate * t)

        value, estimate, rounding = ridders(f, 1.0)
        assert abs(value - (3 + height * rate)) <= 10 * estimate + rounding, (height, rate)


@pytest.mark.parametrize("inputs", [[], [np.arange(3)], [np.array([True])]])
def test_nothing_to_check(inputs: list[Any]) -> None:
    w = ag.Tensor(X.copy(), requires_grad=True)
    for parameters in ([], [ag.Tensor(X.copy())]):
        with pytest.raises(ValueError, match=r"gradcheck: expected a float64 input, or a parameter .*; got neither"):
            ag.gradcheck(lambda *args: ag.exp(w), inputs, parameters)
    assert ag.gradcheck(lambda *args: ag.exp(w), inputs, [w])


def test_many_components() -> None:
    """100,000 moves of 0.02 would add up to far beyond the radius of convergence of tanh."""
    rng = np.random.default_rng(0)
    a, b = (10 * rng.standard_normal((1000, 50)) for _ in range(2))
    start = [np.zeros(a.shape), np.zeros(a.shape)]
    assert ag.gradcheck(lambda x, y: ag.tanh((x * a).sum() + (y * b).sum() + 0.3), start)
    with pytest.raises(ag.GradcheckError, match="expected input 1 to have derivative"):
        ag.gradcheck(lambda x, y: ag.tanh((x * a).sum() + (y.detach() * b).sum() + 0.3) + 0 * y.sum(), start)


def test_all_together_only() -> None:
    """One direction in everything finds one wrong input among many, in a time that does not grow with them."""
    calls = []

    def fn(*xs: ag.Tensor) -> ag.Tensor:
        calls.append(len(xs))
        return sum((ag.sin(x) for x in xs[1:]), ag.sin(xs[0]))  # type: ignore[arg-type,return-value]

    inputs = [X] * 20
    assert ag.gradcheck(fn, inputs, each=False)
    together = len(calls)
    assert ag.gradcheck(fn, inputs)
    assert len(calls) - together > 10 * together
    with pytest.raises(ag.GradcheckError, match=r"expected inputs \[0, 1, .* together to have derivative"):
        ag.gradcheck(lambda *xs: fn(*xs[:-1]) + ag.sin(xs[-1].detach()), inputs, each=False)


def test_a_smaller_step_stays_clear_of_a_kink() -> None:
    near = np.array([1e-4, -1e-4, 0.5])
    with pytest.raises(ag.GradcheckError, match="inconclusive"):
        ag.gradcheck(lambda x: ag.relu(x) * ag.exp(x), [near], seed=1)
    assert ag.gradcheck(lambda x: ag.relu(x) * ag.exp(x), [near], seed=1, step=1e-4)
