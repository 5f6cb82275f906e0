"""The graph: order, accumulation, freeing, aliasing, hooks, and what backward refuses."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import autograd as ag
from autograd.extend import Primitive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def leaf(*values: float, shape: tuple[int, ...] | None = None) -> ag.Tensor:
    array = np.array(values, dtype=np.float64)
    return ag.Tensor(array if shape is None else np.resize(array, shape), requires_grad=True)


def _raise(*_: Any) -> Any:
    raise FloatingPointError("planted")


# Ops whose vjp the tests steer. `alias` hands on the very array it received, as `add` does.
failing = Primitive("test_failing", lambda ctx, x: x * 1, _raise)
alias = Primitive("test_alias", lambda ctx, x: x * 1, lambda ctx, g: g)
pair = Primitive(
    "test_pair",
    lambda ctx, x: (ctx.save(x), (x * 2, x * 3))[1],
    lambda ctx, a, b: 2 * a + 3 * b,
    fresh=True,
)


# ---- shapes of graphs


def test_one_tensor_used_many_times() -> None:
    x = leaf(1.0, 2.0)
    y = x
    for _ in range(9):
        y = y + x
    y.sum().backward()
    assert x.grad.tolist() == [10, 10]


def test_scalar_used_many_times() -> None:
    """0-d sums of NumPy are scalars, which += does not change in place."""
    for total, derivative in ((lambda x: x + x + x + x + x, 5), (lambda x: x + x + x * x, 6)):
        x = ag.Tensor(np.array(2.0), requires_grad=True)
        total(x).backward()
        assert isinstance(x.grad, np.ndarray)
        assert x.grad == derivative


def test_diamond_is_walked_once_per_node() -> None:
    x = leaf(3.0)
    top = x * 2
    calls: list[str] = []
    with ag.observe(lambda e: calls.append(e.name) if e.phase == "backward" else None):
        (top * top + top).sum().backward()
    assert x.grad.tolist() == [2 * (2 * 6 + 1)]
    assert sorted(calls) == ["add", "multiply", "multiply", "sum"]


def test_outputs_of_one_op_meet_again() -> None:
    x = leaf(1, 2, 3, 4)
    a, b = ag.split(x, 2)
    (a * b + a).sum().backward()
    assert x.grad.tolist() == [4, 5, 1, 2]


def test_missing_outputs_are_zero() -> None:
    x = leaf(1, 2, 3, 4, 5, 6)
    a, _, c = ag.split(x, 3)
    (a.sum() * 2 + c.sum()).backward()
    assert x.grad.tolist() == [2, 2, 0, 0, 1, 1]
    y = leaf(1.0)
    seen = []
    first, second = pair(y)
    second.register_grad_hook(lambda g: seen.append(g.copy()))
    first.backward()
    assert seen[0].tolist() == [0]
    assert y.grad.tolist() == [2]


@pytest.mark.timeout(120)
def test_chain_of_100_000_ops() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1
    y.backward()
    assert x.grad.tolist() == [1]


@pytest.mark.timeout(120)
def test_dropping_a_long_chain_does_not_overflow_the_stack() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y * x
    gone = weakref.ref(y.edge[0])
    del y
    assert gone() is None


def test_independent_branch_gets_no_gradient() -> None:
    x, y, z = leaf(1.0), leaf(2.0), leaf(3.0)
    (x * y).backward()
    assert z.grad is None
    assert ag.grad(x * y, [x, z])[1] is None


# ---- freeing


def test_second_backward_names_the_op() -> None:
    x = leaf(1.0)
    y = ag.exp(x)
    y.backward()
    with pytest.raises(RuntimeError, match="graph through 'exp' was already freed; pass retain_graph=True"):
        y.backward()
    assert x.grad.tolist() == [np.e]


def test_shared_part_that_was_freed_is_noticed() -> None:
    x = leaf(1.0)
    shared = ag.tanh(x)
    (shared * 2).backward()
    before = x.grad.copy()
    with pytest.raises(RuntimeError, match="through 'tanh' was already freed"):
        (shared * 3).backward()
    assert np.array_equal(x.grad, before)


def test_retain_graph_adds_up() -> None:
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    assert x.grad.tolist() == [4, 8]
    y.backward()
    assert x.grad.tolist() == [6, 12]
    with pytest.raises(RuntimeError, match="freed"):
        y.backward()


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _graph(x: ag.Tensor) -> tuple[ag.Tensor, list[weakref.ref[Any]]]:
    """A loss, and weak references to the nodes, tensors and saved arrays between ``x`` and it."""
    a = ag.exp(x)
    b, c = ag.split(a * a, 2)
    d = b * c
    refs: list[weakref.ref[Any]] = [weakref.ref(t) for t in (a, b, c, d)]
    refs += [weakref.ref(t.edge[0]) for t in (a, b, d)]
    refs += [weakref.ref(t.data) for t in (a, d)]
    return d.sum(), refs


@pytest.mark.usefixtures("_no_collector")
def test_everything_dies_when_backward_has_passed() -> None:
    x = leaf(1, 2, 3, 4)
    loss, refs = _graph(x)
    assert [r() is not None for r in refs] == [False] * 4 + [True] * 4 + [False]  # nodes, and what they saved
    loss.backward()
    assert [r() for r in refs] == [None] * len(refs)
    assert loss.edge[0].ctx is None


@pytest.mark.usefixtures("_no_collector")
def test_everything_dies_with_the_last_reference() -> None:
    x = leaf(1, 2, 3, 4)
    loss, refs = _graph(x)
    del loss
    assert [r() for r in refs] == [None] * len(refs)
    assert x.grad is None


@pytest.mark.usefixtures("_no_collector")
def test_retained_graph_lives_until_it_is_dropped() -> None:
    x = leaf(1, 2, 3, 4)
    loss, refs = _graph(x)
    loss.backward(retain_graph=True)
    assert any(r() is not None for r in refs)
    del loss
    assert [r() for r in refs] == [None] * len(refs)


@pytest.mark.usefixtures("_no_collector")
def test_everything_dies_after_an_error() -> None:
    x = leaf(1, 2, 3, 4)
    loss, refs = _graph(failing(x))
    with pytest.raises(FloatingPointError):
        loss.backward()
    del loss
    assert [r() for r in refs] == [None] * len(refs)


@pytest.mark.usefixtures("_no_collector")
def test_no_grad_keeps_nothing() -> None:
    x = leaf(1, 2, 3, 4)
    with ag.no_grad():
        a = ag.exp(x)
        gone = weakref.ref(a)
        b = a * 2
    del a
    assert gone() is None
    assert b.edge is None


# ---- where backward starts


def test_backward_of_many_elements_needs_a_gradient() -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"backward: expected a tensor of size 1; got shape \(2,\). Pass gradient="):
        (x * 2).backward()
    (x * 2).backward(np.array([1.0, 10.0]))
    assert x.grad.tolist() == [2, 20]


@pytest.mark.parametrize(
    "gradient",
    [np.ones(3), np.ones((2, 1)), np.ones(2, np.float32), 1.0, [1.0, 1.0]],
    ids=["shape", "ndim", "dtype", "number", "list"],
)
def test_wrong_gradient(gradient: Any) -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"expected a gradient of shape \(2,\) and dtype float64; got"):
        (x * 2).backward(gradient)
    assert x.grad is None


def test_gradient_may_be_a_tensor() -> None:
    x = leaf(1.0, 2.0)
    (x * 2).backward(ag.Tensor(np.array([1.0, 2.0])))
    assert x.grad.tolist() == [2, 4]


@pytest.mark.parametrize("make", [lambda x: x.detach() * 2, lambda x: ag.no_grad()(lambda: x * 2)(), lambda x: x > 0])
def test_backward_without_a_graph(make: Callable[[ag.Tensor], ag.Tensor]) -> None:
    with pytest.raises(RuntimeError, match="depends on one with requires_grad=True; got one that does not"):
        make(leaf(1.0)).backward()


def test_backward_of_a_leaf() -> None:
    x = leaf(5.0)
    gradient = np.array([3.0])
    x.backward(gradient)
    assert x.grad.tolist() == [3]
    assert not np.shares_memory(x.grad, gradient)


# ---- errors leave the leaves as they were


def test_leaf_gradients_all_or_none() -> None:
    x, y = leaf(1.0), leaf(2.0)
    x.grad = np.array([5.0])
    out = failing(x) * 1 + y * 2
    with pytest.raises(FloatingPointError):
        out.backward()
    assert x.grad.tolist() == [5]
    assert y.grad is None


def test_hook_that_raises_leaves_every_leaf() -> None:
    x, y = leaf(1.0), leaf(2.0)
    x.register_grad_hook(_raise)
    for out in (x + y, y + x):
        with pytest.raises(FloatingPointError):
            out.backward()
    assert x.grad is None
    assert y.grad is None


@pytest.mark.parametrize(
    ("vjp", "words"),
    [
        (lambda ctx, g: g[:1], r"expected a gradient of shape \(2,\) and dtype float64; got \(1,\)"),
        (lambda ctx, g: g.astype("f4"), "got .* and float32"),
        (lambda ctx, g: (g, g), "expected 1 gradients; got 2"),
    ],
)
def test_faulty_primitive_is_named(vjp: Any, words: str) -> None:
    faulty = Primitive("test_faulty", lambda ctx, x: x * 1, vjp)
    try:
        with pytest.raises(AssertionError, match=f"vjp of 'test_faulty'.*{words}"):
            faulty(leaf(1.0, 2.0)).sum().backward()
    finally:
        from autograd.primitive import PRIMITIVES

        del PRIMITIVES["test_faulty"]


# ---- aliasing


def test_first_interior_gradient_is_taken_as_it_is_and_never_written_to() -> None:
    x = leaf(1.0, 2.0)
    seen: list[Any] = []
    middle = alias(x)
    middle.register_grad_hook(lambda g: seen.append(g))
    seed = np.array([1.0, 1.0])
    alias(middle).backward(seed)
    assert seen[0] is seed
    assert not np.shares_memory(x.grad, seed)


@pytest.mark.parametrize("uses", [2, 3, 4])
def test_several_interior_gradients_leave_the_incoming_one_alone(uses: int) -> None:
    x = leaf(1.0, 2.0)
    middle = alias(x)
    total = alias(middle)
    for _ in range(uses - 1):
        total = total + alias(middle)
    seed = np.array([1.0, 10.0])
    total.backward(seed)
    assert seed.tolist() == [1, 10]
    assert x.grad.tolist() == [uses, 10 * uses]


def test_leaf_gradients_share_memory_with_nothing() -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    seed = np.array([1.0, 1.0])
    out = x + y  # add hands the same array to both
    out.backward(seed)
    arrays = [x.grad, y.grad, seed, x.data, y.data]
    for i, a in enumerate(arrays):
        for b in arrays[i + 1 :]:
            assert not np.shares_memory(a, b)


def test_leaf_gradient_is_no_view_of_anything_saved() -> None:
    x = leaf(1.0, 2.0)
    product = x * 3.0
    loss = product.sum()
    loss.backward(retain_graph=True)
    saved = [a for node in (product.edge[0], loss.edge[0]) for a in node.ctx.saved if isinstance(a, np.ndarray)]
    x.grad[...] = 100
    assert x.grad.flags.writeable
    assert all(not np.shares_memory(x.grad, a) for a in saved)
    x.grad = None
    loss.backward()
    assert x.grad.tolist() == [3, 3]


def test_two_backwards_accumulate_in_place() -> None:
    x = leaf(1.0)
    (x * 2).backward()
    first = x.grad
    (x * 3).backward()
    assert x.grad is first
    assert first.tolist() == [5]


def test_grad_function_leaves_grad_alone() -> None:
    x, y = leaf(1.0), leaf(2.0)
    gx, gy = ag.grad([x * y, x * 3], [x, y])
    assert (gx.tolist(), gy.tolist()) == ([5], [1])
    assert x.grad is None
    assert y.grad is None
    with pytest.raises(ValueError, match="expected leaves with requires_grad as inputs; got the result of an op"):
        ag.grad(x * y, [x * 1])
    with pytest.raises(ValueError, match="got one without it"):
        ag.grad(x * y, ag.Tensor(np.ones(1)))
    assert ag.grad(x * y, x, np.array([4.0]))[0].tolist() == [8]


def test_gradients_for_one_leaf_named_twice_are_two_arrays() -> None:
    x = ag.Tensor(np.ones(2), requires_grad=True)
    first, second = ag.grad((x * 3).sum(), [x, x])
    np.testing.assert_array_equal(first, second)
    assert not np.shares_memory(first, second)
