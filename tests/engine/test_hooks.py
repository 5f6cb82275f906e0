"""Gradient hooks: when they run, what they see, what they may return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import autograd as ag
from autograd.extend import graph_nodes


def _raise(*_: Any) -> Any:
    raise FloatingPointError("planted")


def leaf(*values: float) -> ag.Tensor:
    return ag.Tensor(np.array(values, dtype=np.float64), requires_grad=True)


def test_leaf_hook_sees_the_complete_gradient_once() -> None:
    x = leaf(1.0)
    seen = []
    x.register_grad_hook(lambda g: seen.append(g.copy()))
    (x * 2 + x * 3 + x).backward()
    assert [s.tolist() for s in seen] == [[6]]


def test_interior_hook_sees_the_complete_gradient_once() -> None:
    x = leaf(2.0)
    seen = []
    y = x * x
    y.register_grad_hook(lambda g: seen.append(g.copy()))
    (y * 2 + y * y).backward()
    assert [s.tolist() for s in seen] == [[10]]


def test_hooks_replace_in_order() -> None:
    x = leaf(1.0)
    y = x * 1
    y.register_grad_hook(lambda g: g + 1)
    y.register_grad_hook(lambda g: g * 10)
    replacement = np.array([7.0])
    x.register_grad_hook(lambda g: replacement if g == 20 else None)
    y.backward()
    assert x.grad.tolist() == [7]
    assert not np.shares_memory(x.grad, replacement)


def test_hook_on_a_scalar_may_return_numpys_scalar() -> None:
    x = ag.Tensor(np.array(1.0), requires_grad=True)
    x.register_grad_hook(lambda g: g * 2)
    (x * 3).backward()
    assert isinstance(x.grad, np.ndarray)
    assert x.grad == 6


def test_hook_removed() -> None:
    for make in (lambda x: x, lambda x: x * 1):
        x = leaf(1.0)
        y = make(x)
        remove = y.register_grad_hook(_raise)
        remove()
        (y * 2).backward()
        assert x.grad.tolist() == [2]


def test_hook_runs_in_grad_too() -> None:
    x = leaf(1.0)
    x.register_grad_hook(lambda g: g * 2)
    assert ag.grad(x * 3, x)[0].tolist() == [6]


def test_hook_errors() -> None:
    x = leaf(1.0)
    x.register_grad_hook(lambda g: np.ones(2))
    with pytest.raises(ValueError, match=r"register_grad_hook: expected the hook to return None or an array of shape"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="expected requires_grad=True"):
        ag.Tensor(np.ones(1)).register_grad_hook(lambda g: None)


@pytest.mark.parametrize("replaces", [False, True])
def test_what_a_leaf_hook_keeps_is_not_the_gradient(replaces: bool) -> None:
    x = ag.Tensor(np.ones(2), requires_grad=True)
    kept = []

    def hook(g: Any) -> Any:
        kept.append(g * 2 if replaces else g)
        return kept[-1] if replaces else None

    x.register_grad_hook(hook)
    (x * 3).sum().backward()
    assert not np.shares_memory(kept[0], x.grad)
    before = kept[0].copy()
    (x * 3).sum().backward()
    np.testing.assert_array_equal(kept[0], before)


# ---- what an observer may hold on to


def test_an_observer_gets_the_tensors_and_may_watch_their_gradients() -> None:
    x = leaf(1.0, 2.0)
    seen: dict[str, Any] = {}

    def on_op(event: ag.OpEvent) -> None:
        if event.phase == "forward":
            assert len(event.results) == len(event.outputs)
            for tensor, array in zip(event.results, event.outputs, strict=True):
                assert tensor.data is array
            event.results[0].register_grad_hook(lambda g, name=event.name: seen.setdefault(name, g.copy()))
        else:
            assert event.results == ()

    with ag.observe(on_op):
        y = ag.exp(x * 3)
        y.sum().backward()
    np.testing.assert_array_equal(seen["multiply"], y.data)
    np.testing.assert_array_equal(seen["exp"], np.ones(2))
    np.testing.assert_array_equal(x.grad, 3 * y.data)


def test_an_observer_of_an_op_without_a_graph_gets_its_tensors_too() -> None:
    shapes = []
    with ag.no_grad(), ag.observe(lambda e: shapes.append([(t.shape, t.requires_grad) for t in e.results])):
        ag.split(ag.Tensor(np.ones((4, 2))), 2)
    assert shapes == [[((2, 2), False), ((2, 2), False)]]


def test_graph_nodes_are_those_of_backward_in_the_order_of_forward() -> None:
    x = leaf(2.0)
    a = x * 3
    b = ag.exp(a)
    unused = ag.tanh(a)
    total = a + b
    nodes = graph_nodes([total, b])
    assert [n.primitive.name for n in nodes] == ["multiply", "exp", "add"]
    assert nodes[1].ctx is not None
    assert nodes[1].ctx.nbytes() > 0
    assert graph_nodes([x, x.detach()]) == []
    assert [n.primitive.name for n in graph_nodes([unused])] == ["multiply", "tanh"]
    total.backward()
    assert [n.ctx for n in nodes] == [None] * 3


def test_graph_nodes_of_a_long_chain() -> None:
    x = leaf(1.0)
    for _ in range(20_000):
        x = -x
    assert len(graph_nodes([x])) == 20_000
