"""The engine against a naive one: any order of building, writing, dropping, checkpointing and walking back."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from engine import naive_engine
from engine.naive_engine import FreedError, Naive, StaleError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import autograd as ag

if TYPE_CHECKING:
    from collections.abc import Callable

N = 3
EYE, ZERO = np.eye(N), np.zeros((N, N))
PICK = st.integers(0, 1000)
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, N)


def refused(words: str | tuple[str, ...], function: Callable[..., Any], *args: Any) -> None:
    """``pytest.raises`` would keep the frames, and the graph in them, alive until the next garbage collection."""
    said = "nothing"
    try:
        function(*args)
    except RuntimeError as error:
        said = str(error)
    assert any(w in said for w in ((words,) if isinstance(words, str) else words)), said


class Pair:
    """A tensor of the engine and its naive twin."""

    def __init__(self, real: ag.Tensor, naive: Naive) -> None:
        self.real, self.naive = real, naive
        self.captured = False  # by the function of a checkpoint


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        Naive.made.clear()
        self.pool: list[Pair] = []
        self.leaves: list[Pair] = []
        self.recording = True
        self.refused_before = False

    def teardown(self) -> None:
        """When the last references go, nothing is left for the cycle collector to find."""
        if sys.exc_info()[0] is not None:
            return  # the frames of a failure hold on to what they worked on
        refs = [weakref.ref(p.real) for p in self.pool]
        gc.disable()
        self.pool.clear()
        self.leaves.clear()
        alive = sum(r() is not None for r in refs)
        gc.enable()
        assert alive == 0

    # ---- helpers

    def at(self, i: int) -> Pair:
        return self.pool[i % len(self.pool)]

    def run(self, function: Callable[..., Any], *inputs: ag.Tensor) -> Any:
        if self.recording:
            return function(*inputs)
        with ag.no_grad():
            return function(*inputs)

    def add(self, real: Any, naive: list[Naive]) -> None:
        self.pool += map(Pair, real if isinstance(real, tuple) else (real,), naive)

    def both(self, i: int, j: int) -> tuple[Pair, Pair]:
        """Two operands small enough to be multiplied for ever."""
        pairs = []
        for k in (i, j):
            pair = self.at(k)
            if abs(pair.naive.values).max() > 4:
                self.tanh(k)
                pair = self.pool[-1]
            pairs.append(pair)
        return pairs[0], pairs[1]

    # ---- building

    @initialize(seed=SEEDS)
    def start(self, seed: int) -> None:
        self.leaf(seed, True)

    @rule(seed=SEEDS, needs=st.booleans())
    def leaf(self, seed: int, needs: bool) -> None:
        values = draw(seed)
        pair = Pair(ag.Tensor(values.copy(), requires_grad=needs), Naive(values, needs, [0]))
        self.pool.append(pair)
        self.leaves.append(pair)

    @rule(i=PICK, j=PICK)
    def plus(self, i: int, j: int) -> None:
        a, b = self.both(i, j)
        values = a.naive.values + b.naive.values
        inputs = [(a.naive, EYE), (b.naive, EYE)]
        self.add(self.run(ag.add, a.real, b.real), naive_engine.apply(self.recording, (values, inputs)))

    @rule(i=PICK, j=PICK)
    def times(self, i: int, j: int) -> None:
        a, b = self.both(i, j)
        inputs = [(a.naive, np.diag(b.naive.values)), (b.naive, np.diag(a.naive.values))]
        naive = naive_engine.apply(self.recording, (a.naive.values * b.naive.values, inputs))
        self.add(self.run(ag.multiply, a.real, b.real), naive)

    @rule(i=PICK)
    def tanh(self, i: int) -> None:
        a = self.at(i)
        y = np.tanh(a.naive.values)
        naive = naive_engine.apply(self.recording, (y, [(a.naive, np.diag(1 - y * y))]))
        self.add(self.run(ag.tanh, a.real), naive)

    @rule(i=PICK, j=PICK)
    def join_and_split(self, i: int, j: int) -> None:
        """Two outputs of one op; whichever gets no gradient counts as zero."""
        a, b = self.both(i, j)

        def function(x: ag.Tensor, y: ag.Tensor) -> tuple[ag.Tensor, ...]:
            first, second = ag.split(ag.concatenate([x, y]), 2)
            return first, second

        outputs = [
            (a.naive.values.copy(), [(a.naive, EYE), (b.naive, ZERO)]),
            (b.naive.values.copy(), [(a.naive, ZERO), (b.naive, EYE)]),
        ]
        self.add(self.run(function, a.real, b.real), naive_engine.apply(self.recording, *outputs))

    @rule(i=PICK)
    def reverse(self, i: int) -> None:
        """A view: it shows what is written to its leaf, and without a graph it is the leaf, as far as writing goes."""
        a = self.at(i)
        (naive,) = naive_engine.apply(self.recording, (a.naive.values[::-1], [(a.naive, EYE[::-1])]))
        naive.version = None if naive.inputs else a.naive.version
        self.add(self.run(ag.flip, a.real), [naive])

    @rule(i=PICK)
    def detach(self, i: int) -> None:
        a = self.at(i)
        self.add(a.real.detach(), [Naive(a.naive.values, False, a.naive.version)])

    @rule(i=PICK, j=PICK, nested=st.booleans())
    def checkpoint(self, i: int, j: int, nested: bool) -> None:
        """``tanh(x * w)``, w not handed over."""
        a, w = self.both(i, j)
        w.captured = True

        def function(x: ag.Tensor) -> ag.Tensor:
            return ag.checkpoint(lambda u: ag.tanh(u * w.real), x) if nested else ag.tanh(x * w.real)

        y = np.tanh(a.naive.values * w.naive.values)
        slope = 1 - y * y
        inputs = [(a.naive, np.diag(slope * w.naive.values)), (w.naive, np.diag(slope * a.naive.values))]
        real = self.run(lambda x: ag.checkpoint(function, x), a.real)
        self.add(real, naive_engine.apply(self.recording, (y, inputs)))

    # ---- everything else

    @rule()
    def switch_recording(self) -> None:
        self.recording = not self.recording

    @rule(i=PICK, seed=SEEDS)
    def assign(self, i: int, seed: int) -> None:
        a = self.at(i)
        if a.naive.version is None:
            refused("assign_: expected a leaf", a.real.assign_, draw(seed))
            return
        a.real.assign_(draw(seed))
        a.naive.values[...] = draw(seed)
        a.naive.version[0] += 1

    @rule(i=PICK, seed=SEEDS, retain=st.booleans())
    def backward(self, i: int, seed: int, retain: bool) -> None:
        a = self.at(i)
        gradient = draw(seed)
        if not a.naive.needs:
            refused("got one that does not", a.real.backward, gradient)
            return
        words: tuple[str, ...] = ()
        try:
            naive_engine.backward(a.naive, gradient, retain)
        except FreedError:
            words = ("already freed",)
        except StaleError:
            # A pass that is refused half-way has freed what it passed. The naive engine makes one node of what here
            # are two (concatenate and split), so only here can the second pass meet a freed one first.
            words = ("was written to",) + (("already freed",) if self.refused_before else ())
        if words:
            refused(words, a.real.backward, gradient, retain)
            self.refused_before = True
        else:
            a.real.backward(gradient, retain)

    @rule(i=PICK)
    def clear_gradient(self, i: int) -> None:
        pair = self.leaves[i % len(self.leaves)]
        pair.real.grad = pair.naive.grad = None

    @precondition(lambda self: len(self.pool) > 1)
    @rule(i=PICK)
    def drop(self, i: int) -> None:
        pair = self.pool.pop(i % len(self.pool))
        if pair.naive.inputs and not pair.captured:
            gone = weakref.ref(pair.real)
            del pair
            assert gone() is None  # no graph holds the result of an op

    @invariant()
    def equal(self) -> None:
        for pair in [*self.pool, *self.leaves]:
            assert pair.real.requires_grad == pair.naive.needs
            np.testing.assert_allclose(pair.real.data, pair.naive.values, rtol=1e-12, atol=1e-12)
        for pair in self.leaves:
            assert (pair.real.grad is None) == (pair.naive.grad is None)
            if pair.naive.grad is not None:
                scale = abs(pair.naive.grad).max()
                np.testing.assert_allclose(pair.real.grad, pair.naive.grad, rtol=1e-9, atol=1e-9 * max(1, scale))


EngineMachine.TestCase.settings = settings(stateful_step_count=40)
TestEngineMachine = EngineMachine.TestCase
