"""Numerical check of gradients: directional derivatives in float64 by Ridders' extrapolation.

Each check compares one number, the derivative of ``sum(outputs * g)`` along a random direction, with the same number
from backward. Extrapolation estimates its own error, so that no tolerance has to be guessed: analytic and numeric must
agree to ten times the estimate plus rounding. An estimate that is too large to tell a right gradient from
a wrong one is a failure ("inconclusive"), never a pass. Keep inputs away from kinks; nothing here retries.

Source: Ridders 1982, "Accurate computation of F'(x) and F'(x) F''(x)"; Press et al., Numerical Recipes, section 5.7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.context import no_grad
from autograd.graph import grad as graph_grad
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from autograd.backend import Array

__all__ = ["GradcheckError", "gradcheck", "ridders"]

_SHRINK = 1.6  # each step of the extrapolation is this much smaller than the one before
_STEPS = 9
_LEAST = 4  # rows before the extrapolation may stop: two early rows can agree by chance
_INCONCLUSIVE = 1e-6
_FIRST_STEP = 0.02  # of each component
_COMPONENTS = 64  # with more of them, the first step is reduced


class GradcheckError(AssertionError):
    """An analytic gradient and its numerical derivative differ, or the numerical one cannot tell."""


@dataclass(frozen=True)
class _Numeric:
    """A numerical derivative, the estimate of its error, and the rounding error of the differences."""

    value: float
    estimate: float
    rounding: float


def ridders(f: Callable[[float], float], scale: float, h: float = _FIRST_STEP) -> tuple[float, float, float]:
    """Derivative of ``f`` at 0 by central differences extrapolated to step 0.

    Args:
        f: a smooth function on [-h, h].
        scale: a bound on the terms that ``f`` sums up; what rounds is ``scale``, not the sum.
        h: the first and largest step.

    Returns:
        (derivative, error estimate of the extrapolation, rounding error of the differences).
    """
    eps = float(np.finfo(np.float64).eps)
    best, estimate, rounding = 0.0, float("inf"), 0.0
    previous: list[float] = []
    step = h
    for _ in range(_STEPS):
        row = [(f(step) - f(-step)) / (2 * step)]
        factor = _SHRINK**2
        for i, old in enumerate(previous):
            row.append((row[i] * factor - old) / (factor - 1))
            factor *= _SHRINK**2
            error = max(abs(row[i + 1] - row[i]), abs(row[i + 1] - old))
            if error <= estimate and len(previous) + 1 >= _LEAST:
                best, estimate, rounding = row[i + 1], error, 8 * eps * scale / step
        if len(previous) >= _LEAST and abs(row[-1] - previous[-1]) > 10 * estimate:
            break  # higher orders have begun to amplify rounding
        previous = row
        step /= _SHRINK
    return best, estimate, rounding


def _direction(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Random signs times magnitudes in [0.5, 1.5]: no component is small enough to hide an error."""
    direction: np.ndarray[Any, Any] = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
    return direction


def _first_step(directions: Iterable[Array], step: float) -> float:
    """The first step along a direction in all of these arrays, ``step`` for few components.

    For more than ``_COMPONENTS`` components it is reduced, so that the Euclidean length of the move stays the same: a
    function responds to the sum of all moves, and a step beyond its radius of convergence cannot be extrapolated.
    """
    n = sum(v.size for v in directions)
    return step / max(1.0, math.sqrt(n / _COMPONENTS))


def _outputs(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


class _Check:
    """The function, its leaves, and the fixed output gradients of one gradcheck."""

    def __init__(
        self, fn: Callable[..., Any], inputs: Sequence[Tensor], leaves: Sequence[Tensor], seed: int, step: float
    ) -> None:
        self.fn, self.inputs, self.leaves, self.step = fn, inputs, leaves, step
        self.rng = np.random.default_rng(seed)
        everything = _outputs(fn(*inputs))
        self.checked = [i for i, o in enumerate(everything) if o.requires_grad]
        outputs = [everything[i] for i in self.checked]
        if not outputs:
            raise GradcheckError("gradcheck: expected an output that depends on an input; got none.")
        self.cotangents = [self._like(o, _direction(self.rng, o.shape)) for o in outputs]
        self.analytic = graph_grad(outputs, leaves, self.cotangents)
        self.scale = sum(float(abs(o.data * g).sum()) for o, g in zip(outputs, self.cotangents, strict=True))

    @staticmethod
    def _like(tensor: Tensor, values: np.ndarray[Any, Any]) -> Array:
        return array_module(tensor.data).asarray(values)

    def _value(self) -> float:
        with no_grad():
            outputs = _outputs(self.fn(*self.inputs))
        return sum(float((outputs[i].data * g).sum()) for i, g in zip(self.checked, self.cotangents, strict=True))

    def along(self, chosen: Sequence[int]) -> None:
        """Compare the derivatives along one random direction in the leaves ``chosen``."""
        start = {i: self.leaves[i].data.copy() for i in chosen}
        v = {i: self._like(self.leaves[i], _direction(self.rng, self.leaves[i].shape)) for i in chosen}

        def f(t: float) -> float:
            for i in chosen:
                self.leaves[i].assign_(start[i] + t * v[i])
            return self._value()

        gradients = {i: g for i in chosen if (g := self.analytic[i]) is not None}
        # the inputs round too when they are moved, and what they round by goes through their gradients
        moved = sum(float(abs(g * start[i]).sum()) for i, g in gradients.items())
        try:
            numeric, estimate, rounding = ridders(f, self.scale + moved, _first_step(v.values(), self.step))
        finally:
            for i in chosen:
                self.leaves[i].assign_(start[i])
        analytic = 0.0
        for i, gradient in gradients.items():
            analytic += float((gradient * v[i]).sum())
            rounding += 8 * float(np.finfo(np.float64).eps) * float(abs(gradient * v[i]).sum())
        self._judge(chosen, analytic, _Numeric(numeric, estimate, rounding))

    def _judge(self, chosen: Sequence[int], analytic: float, numeric: _Numeric) -> None:
        where = f"input {chosen[0]}" if len(chosen) == 1 else f"inputs {list(chosen)} together"
        size = max(abs(numeric.value), self.scale)
        if not numeric.estimate <= _INCONCLUSIVE * size:
            raise GradcheckError(
                f"gradcheck: inconclusive for {where}: the numerical derivative {numeric.value:.6g} has an error "
                f"estimate of {numeric.estimate:.1e} at scale {size:.3g}. Is there a kink near the input?"
            )
        if not abs(analytic - numeric.value) <= 10 * numeric.estimate + numeric.rounding:
            raise GradcheckError(
                f"gradcheck: expected {where} to have derivative {numeric.value:.15g} along a random direction; "
                f"backward gives {analytic:.15g} (difference {abs(analytic - numeric.value):.2e}, "
                f"estimate {numeric.estimate:.1e}, rounding {numeric.rounding:.1e})."
            )


def gradcheck(
    fn: Callable[..., Any],
    inputs: Sequence[Any],
    parameters: Sequence[Tensor] = (),
    *,
    seed: int = 0,
    each: bool = True,
    step: float = _FIRST_STEP,
) -> bool:
    """Check the gradients of ``fn`` against numerical derivatives: along each input alone, then along all together.

    Args:
        fn: takes Tensors, returns a Tensor or a tuple; the same result on every call.
        inputs: float64 arrays or Tensors; integers and booleans are passed through unchecked.
        parameters: float64 leaves that ``fn`` reads without being handed them (a module's parameters).
        seed: of the directions.
        each: False checks along all inputs together only, in a time that does not grow with their number.
        step: the largest step of a component, in its units; a smaller one steps over fewer kinks and rounds more.

    Returns:
        True.

    Raises:
        GradcheckError: where they differ, or where the numerical derivative cannot tell.
        TypeError: for float inputs that are not float64.
        ValueError: if there is nothing to check.

    >>> import autograd as ag, numpy as np
    >>> ag.gradcheck(lambda x, y: ag.tanh(x) @ y, [np.ones((2, 3)), np.ones((3, 2))])
    True
    """
    tensors = [x if isinstance(x, Tensor) else Tensor(np.array(x)) for x in inputs]
    leaves = [t for t in tensors if t.dtype.kind == "f"] + list(parameters)
    for leaf in leaves:
        if leaf.dtype != np.float64:
            raise TypeError(f"gradcheck: expected float64; got {leaf.dtype}. Finite differences need it.")
    twins = [Tensor(t.data.copy(), requires_grad=t.dtype.kind == "f") for t in tensors]
    leaves = [t for t in twins if t.requires_grad] + [p for p in parameters if p.requires_grad]
    if not leaves:
        raise ValueError("gradcheck: expected a float64 input, or a parameter with requires_grad; got neither.")
    check = _Check(fn, twins, leaves, seed, step)
    for i in range(len(leaves)) if each else ():
        if leaves[i].size:
            check.along([i])
    check.along([i for i in range(len(leaves)) if leaves[i].size])
    return True
