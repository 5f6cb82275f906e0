"""Switches: grad mode, autocast, observers, the anomaly trap; nesting, errors, threads."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType
from typing import Any

import numpy as np
import pytest

import autograd as ag
from autograd import context
from autograd.context import STATE, OpEvent
from autograd.extend import Primitive
from autograd.primitive import PRIMITIVES


def leaf(*shape: int, dtype: Any = np.float64) -> ag.Tensor:
    return ag.Tensor(np.ones(shape, dtype), requires_grad=True)


def recording() -> bool:
    return (leaf(1) * 2).requires_grad


# ---- grad mode


def test_nesting() -> None:
    assert recording()
    with ag.no_grad():
        assert not recording()
        with ag.enable_grad():
            assert recording()
            with ag.no_grad():
                assert not recording()
            assert recording()
        assert not recording()
    assert recording()


def test_one_switch_entered_twice() -> None:
    off = ag.no_grad()
    with off, off:
        assert not recording()
    assert recording()


def test_decorator() -> None:
    @ag.no_grad()
    def inner(depth: int) -> bool:
        return recording() or (depth > 0 and inner(depth - 1))

    assert not inner(2)
    assert recording()


@pytest.mark.parametrize(
    "switch", [ag.no_grad, lambda: ag.autocast("float16"), lambda: ag.kernel_mode("reference"), ag.detect_anomaly]
)
def test_an_exception_restores(switch: Any) -> None:
    before = STATE.get()

    def fail() -> None:
        with switch():
            assert STATE.get() != before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert STATE.get() == before


def test_threads_have_their_own_switches() -> None:
    inside, leave = threading.Event(), threading.Event()
    seen: dict[str, bool] = {}

    def other() -> None:
        seen["before"] = recording()
        with ag.no_grad():
            inside.set()
            leave.wait(10)
            seen["within"] = recording()

    with ag.autocast("float16"):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10)
        assert recording()
        leave.set()
        thread.join(10)
    assert seen == {"before": True, "within": False}


def _seen(_: OpEvent) -> None:
    pass


# One object of each function of autograd.context that makes a context manager, and the fields it changes.
SWITCHES: dict[str, tuple[Any, dict[str, Any]]] = {
    "autocast": (ag.autocast("float16"), {"autocast": np.dtype("float16")}),
    "detect_anomaly": (ag.detect_anomaly(), {"observers": (context._trap,)}),
    "enable_grad": (ag.enable_grad(), {"grad": "on"}),
    "kernel_mode": (ag.kernel_mode("reference"), {"kernels": "reference"}),
    "no_grad": (ag.no_grad(), {"grad": "off"}),
    "observe": (ag.observe(_seen), {"observers": (_seen,)}),
}
every_switch = pytest.mark.parametrize("name", sorted(SWITCHES))


def _is_on(name: str, times: int = 1) -> bool:
    state = STATE.get()
    return all(getattr(state, k) == (v * times if k == "observers" else v) for k, v in SWITCHES[name][1].items())


def _is_off() -> bool:
    state = STATE.get()
    return (state.grad, state.autocast, state.kernels, state.observers) == ("on", None, "auto", ())


def test_every_switch_is_in_the_table() -> None:
    made = {name for name in context.__all__ if isinstance(getattr(context, name), FunctionType)}
    assert made - {"autocast_dtype", "notify"} == SWITCHES.keys()


@every_switch
def test_one_object_is_entered_again_and_within_itself(name: str) -> None:
    switch = SWITCHES[name][0]
    for _ in range(2):
        with switch:
            with switch:
                assert _is_on(name, 2)
            assert _is_on(name)
        assert _is_off()


@every_switch
def test_one_object_in_several_threads_at_once(name: str) -> None:
    """All are within it before the first leaves, and they leave in the order in which they came."""
    switch, seen = SWITCHES[name][0], []
    entered = threading.Barrier(3, timeout=60)
    turns = [threading.Event() for _ in range(4)]
    turns[0].set()

    def work(i: int) -> None:
        assert turns[i].wait(60)
        with switch:
            turns[i + 1].set()
            entered.wait()
            if i:
                left[i - 1].wait(60)
            seen.append(_is_on(name))
        seen.append(_is_off())
        left[i].set()

    left = [threading.Event() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert seen == [True] * 6
    assert _is_off()


@every_switch
def test_one_object_in_several_tasks_at_once(name: str) -> None:
    switch, seen = SWITCHES[name][0], []

    async def work(i: int) -> None:
        await asyncio.sleep(0)
        with switch:
            for _ in range(3 + i):  # the first to come is the first to leave
                await asyncio.sleep(0)
                seen.append(_is_on(name))
        await asyncio.sleep(0)
        seen.append(_is_off())

    async def together() -> None:
        await asyncio.gather(*map(work, range(3)))

    asyncio.run(together())
    assert len(seen) == 3 + 4 + 5 + 3
    assert all(seen)


@every_switch
def test_one_object_decorates_a_function_of_several_threads(name: str) -> None:
    both = threading.Barrier(2, timeout=60)

    @SWITCHES[name][0]
    def decorated(_: int) -> bool:
        both.wait()
        return _is_on(name)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(decorated, range(2))) == [True, True]


@every_switch
def test_leaving_without_entering_is_an_error(name: str) -> None:
    with pytest.raises(RuntimeError, match=r": expected to be left by the thread or task that entered it; got another"):
        SWITCHES[name][0].__exit__(None, None, None)


def test_backward_works_under_no_grad() -> None:
    x = leaf(2)
    loss = ag.checkpoint(lambda t: (t * t).sum(), x)
    with ag.no_grad():
        loss.backward()
    assert x.grad.tolist() == [2, 2]


# ---- autocast


def events_of(function: Any) -> list[OpEvent]:
    events: list[OpEvent] = []
    with ag.observe(events.append):
        function()
    return [e for e in events if e.phase == "forward"]


def test_low_and_f32() -> None:
    x, w = leaf(2, 2, dtype=np.float32), leaf(2, 2, dtype=np.float32)
    with ag.autocast("float16"):
        y = x @ w
        assert y.dtype == np.float16
        assert ag.softmax(y).dtype == np.float32
        assert (y + y).dtype == np.float16
        assert (y + x).dtype == np.float32
        assert ag.gelu(y).dtype == np.float16
        loss = (y @ w).sum()
        assert loss.dtype == np.float32
    loss.backward()
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad, np.full((2, 2), 4))


def test_the_cast_is_the_astype_primitive() -> None:
    x, w = leaf(2, 2, dtype=np.float32), leaf(2, 2, dtype=np.float16)
    with ag.autocast("float16"):
        events = events_of(lambda: x @ w)
    assert [e.name for e in events] == ["astype", "matmul"]
    assert events[0].static == {"dtype": np.float16}


def test_float64_is_left_alone() -> None:
    x = leaf(2, 2)
    with ag.autocast("float16"):
        assert [e.name for e in events_of(lambda: ag.softmax(x @ x).sum())] == ["matmul", "softmax", "sum"]
        assert (x @ x).dtype == np.float64
        with pytest.raises(TypeError, match="matmul: expected operands of one dtype; got float64, float16"):
            x @ leaf(2, 2, dtype=np.float16)


def test_policies_without_autocast() -> None:
    single, double = leaf(2, 2, dtype=np.float32), leaf(2, 2)
    assert (single * double).dtype == np.float64
    with pytest.raises(TypeError, match=r"matmul: expected operands of one dtype; got float32, float64. Cast with"):
        single @ double
    keep = Primitive("test_keep", lambda ctx, x, y: x * y, None, autocast="keep")
    try:
        assert keep(single, double).dtype == np.float64
        with ag.autocast():
            assert [e.name for e in events_of(lambda: keep(single, leaf(2, 2, dtype=np.float16)))] == ["test_keep"]
    finally:
        del PRIMITIVES["test_keep"]


def test_integers_are_never_cast_down() -> None:
    n = ag.Tensor(np.array([[40000, 70000]]))
    with ag.autocast("float16"):
        assert n.sum().dtype == np.int64
        assert n.sum().item() == 110000


def test_every_policy_is_a_known_one() -> None:
    policies = [p.autocast if isinstance(p.autocast, tuple) else (p.autocast,) for p in PRIMITIVES.values()]
    assert {own[0] for own in policies} <= {"low", "f32", "widest", "keep"}
    assert {policy for own in policies for policy in own[1:]} <= {"f32", "f32_or_low"}


def test_autocast_off_within() -> None:
    x = leaf(2, 2, dtype=np.float32)
    with ag.autocast("float16"):
        with ag.autocast(enabled=False):
            assert (x @ x).dtype == np.float32
        with ag.autocast(None):
            assert (x @ x).dtype == np.float32
        assert (x @ x).dtype == np.float16
    with ag.autocast("float16", enabled=False):
        assert (x @ x).dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "int16", "float64"])
def test_autocast_to_another_dtype(dtype: str) -> None:
    with pytest.raises(ValueError, match="autocast: expected a 16-bit float dtype; got"):
        ag.autocast(dtype)


# ---- observers


def test_observe_both_phases() -> None:
    x = leaf(2)
    events: list[OpEvent] = []
    with ag.observe(events.append):
        ag.exp(x).sum(axis=0).backward()
    assert [(e.name, e.phase) for e in events] == [
        ("exp", "forward"),
        ("sum", "forward"),
        ("sum", "backward"),
        ("exp", "backward"),
    ]
    assert events[0].inputs[0] is x.data
    assert events[1].static == {"axes": (0,), "keepdims": False}
    assert events[3].outputs[0].shape == (2,)


def test_observers_nest() -> None:
    outer: list[str] = []
    inner: list[str] = []
    x = leaf(1)
    with ag.observe(lambda e: outer.append(e.name)):
        with ag.observe(lambda e: inner.append(e.name)):
            ag.exp(x)
        ag.log(x)
    ag.tanh(x)
    assert (outer, inner) == (["exp", "log"], ["exp"])


def test_replay_tells_the_observers_of_backward() -> None:
    x = leaf(1)
    names: list[tuple[str, str]] = []
    loss = ag.checkpoint(ag.exp, x)
    with ag.observe(lambda e: names.append((e.name, e.phase))):
        loss.backward()
    assert names == [("exp", "forward"), ("exp", "backward"), ("checkpoint", "backward")]


# ---- the anomaly trap


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.filterwarnings("ignore:overflow")
class TestAnomaly:
    def test_first_op_of_forward_is_named(self) -> None:
        x = ag.Tensor(np.array([1.0, 0.0]), requires_grad=True)
        with (
            pytest.raises(FloatingPointError, match=r"log: .* got a result with NaN or inf .*\(forward\)"),
            ag.detect_anomaly(),
        ):
            ag.exp(ag.log(x) * 2)

    def test_first_op_of_backward_is_named(self) -> None:
        x = ag.Tensor(np.array([4.0, 0.0]), requires_grad=True)
        loss = (ag.sqrt(x) * 2).sum()
        with (
            pytest.raises(FloatingPointError, match=r"sqrt: .* got a gradient with NaN or inf .*\(backward\)"),
            ag.detect_anomaly(),
        ):
            loss.backward()
        assert x.grad is None

    def test_overflow_of_float16(self) -> None:
        x = ag.Tensor(np.array([300.0], np.float16))
        with pytest.raises(FloatingPointError, match="multiply"), ag.detect_anomaly():
            x * x

    def test_non_finite_inputs_are_not_blamed(self) -> None:
        with ag.detect_anomaly():
            ag.relu(ag.Tensor(np.array([np.nan, np.inf])))
            ag.Tensor(np.array([], np.float64)).sum()
            ag.Tensor(np.array([1, 2])).sum()


# ---- kernel mode


def test_kernel_mode() -> None:
    with ag.kernel_mode("reference"):
        assert STATE.get().kernels == "reference"
    assert STATE.get().kernels == "auto"
    with pytest.raises(ValueError, match="kernel_mode: expected one of auto, reference, cuda, cpu, validate; got 'x'"):
        ag.kernel_mode("x")  # type: ignore[arg-type]


def test_generator_and_coroutine_functions_are_not_decorated() -> None:
    """Their bodies run after the switch is off again."""

    def generator() -> Any:
        yield

    async def coroutine() -> None: ...

    async def both() -> Any:
        yield

    for switch in (ag.no_grad(), ag.enable_grad(), ag.autocast(), ag.kernel_mode("reference")):
        for function in (generator, coroutine, both):
            with pytest.raises(TypeError, match=r": expected a plain function to decorate; got '\w+'"):
                switch(function)
