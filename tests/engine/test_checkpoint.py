"""Checkpointing: the same gradients to the last bit, from less memory."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import autograd as ag
from autograd.extend import Primitive

if TYPE_CHECKING:
    from collections.abc import Callable

# Two of the engine's ops, one of them random, and two parameters that nobody hands over.
RNG = np.random.default_rng(0)
W1 = RNG.standard_normal((6, 8))
W2 = RNG.standard_normal((8, 6))
X = RNG.standard_normal((4, 6))


class Block:
    def __init__(self, dtype: Any = np.float64) -> None:
        self.w1, self.w2 = (ag.Tensor(w.astype(dtype), requires_grad=True) for w in (W1, W2))

    def __call__(self, x: ag.Tensor) -> ag.Tensor:
        hidden = ag.dropout(ag.gelu(x @ self.w1), 0.3)
        return x + ag.dropout(hidden @ self.w2, 0.3)

    def parameters(self) -> list[ag.Tensor]:
        return [self.w1, self.w2]


def plain(fn: Callable[..., Any], *inputs: ag.Tensor) -> Any:
    return fn(*inputs)


def run(way: Callable[..., Any], x_needs: bool = True, dtype: Any = np.float64) -> tuple[list[Any], dict[str, int]]:
    """Output and all gradients of two blocks, with the generator's state afterwards."""
    ag.manual_seed(5)
    blocks = [Block(dtype), Block(dtype)]
    x = ag.Tensor(X.astype(dtype), requires_grad=x_needs)
    y = x
    for block in blocks:
        y = way(block, y)
    state = ag.default_generator.state()
    (y * y).sum().backward()
    assert ag.default_generator.state() == state
    leaves = [x, *blocks[0].parameters(), *blocks[1].parameters()]
    return [y.data, *(leaf.grad for leaf in leaves)], state


def same(a: list[Any], b: list[Any]) -> None:
    for left, right in zip(a, b, strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            assert left.dtype == right.dtype
            assert left.tobytes() == right.tobytes()


def nested(fn: Callable[..., Any], *inputs: ag.Tensor) -> Any:
    return ag.checkpoint(lambda *a: ag.checkpoint(fn, *a), *inputs)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("x_needs", [True, False])
@pytest.mark.parametrize("way", [ag.checkpoint, nested])
def test_bitwise_equal_dropout_on(way: Any, x_needs: bool, dtype: Any) -> None:
    expected, state = run(plain, x_needs, dtype)
    got, state_after = run(way, x_needs, dtype)
    same(got, expected)
    assert state_after == state
    assert (got[1] is None) == (not x_needs)


def test_under_autocast_backward_outside() -> None:
    """The replay has the dtype policy of forward."""

    def cast(way: Any) -> list[Any]:
        block, x = Block(np.float32), ag.Tensor(X.astype(np.float32), requires_grad=True)
        ag.manual_seed(5)
        with ag.autocast("float16"):
            y = way(block, x)
        y.sum().backward()
        return [y.data, x.grad, *(p.grad for p in block.parameters())]

    same(cast(ag.checkpoint), cast(plain))


def test_several_outputs_one_unused_one_constant() -> None:
    def fn(x: ag.Tensor, y: ag.Tensor) -> tuple[ag.Tensor, ...]:
        return x * y, ag.exp(x), ag.Tensor(np.ones(2)), x * 3

    def grads(way: Any) -> list[Any]:
        x, y = (ag.Tensor(np.array(v), requires_grad=True) for v in ([1.0, 2.0], [3.0, 4.0]))
        a, _, c, d = way(fn, x, y)
        assert not c.requires_grad
        (a * d + c).sum().backward()
        return [x.grad, y.grad]

    same(grads(ag.checkpoint), grads(plain))


def test_result_that_is_an_input_or_a_parameter() -> None:
    def grads(way: Any) -> list[Any]:
        x, w = (ag.Tensor(np.array([v]), requires_grad=True) for v in (2.0, 3.0))
        a, b, c = way(lambda t: (t, w, t * 3), x)
        (a * 2 + b * 5 + c).backward()
        return [x.grad, w.grad]

    same(grads(ag.checkpoint), grads(plain))


def test_input_used_twice_and_read_past_the_argument() -> None:
    def grads(way: Any) -> list[Any]:
        x = ag.Tensor(np.array([2.0]), requires_grad=True)
        y = way(lambda t, u: t * u * x, x, x)
        (y + x).backward()
        return [x.grad]

    same(grads(ag.checkpoint), grads(plain))
    assert grads(plain)[0].tolist() == [13]


def test_result_of_an_op_outside_is_read() -> None:
    """Backward of the replay stops at what was recorded outside, and the outer walk goes on from there."""

    def grads(way: Any) -> list[Any]:
        x, w = (ag.Tensor(np.array([v]), requires_grad=True) for v in (2.0, 3.0))
        outside = ag.exp(x) * w
        y = way(lambda t: way(lambda u: u * outside * w, t) + outside, x)
        (y * outside).backward()
        return [x.grad, w.grad]

    for got, want in zip(grads(ag.checkpoint), grads(plain), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-14)


def test_parameter_inside_and_outside_has_one_complete_gradient() -> None:
    w = ag.Tensor(np.array([3.0]), requires_grad=True)
    x = ag.Tensor(np.array([2.0]))
    seen: list[Any] = []
    w.register_grad_hook(lambda g: seen.append(g.tolist()))
    (ag.checkpoint(lambda t: t * w, x) + w * 10).backward()
    assert seen == [[12]]
    assert w.grad.tolist() == [12]


def test_parameters_are_all_or_none() -> None:
    def fail(*_: Any) -> Any:
        raise FloatingPointError

    broken = Primitive("test_checkpoint_broken", lambda ctx, x: x * 1, fail)
    w, x = (ag.Tensor(np.array([v]), requires_grad=True) for v in (3.0, 2.0))
    y = ag.checkpoint(lambda t: t * w, broken(x))
    with pytest.raises(FloatingPointError):
        y.backward()
    assert w.grad is None


def test_grad_function_sees_through() -> None:
    w, x = (ag.Tensor(np.array([v]), requires_grad=True) for v in (3.0, 2.0))
    gw, gx = ag.grad(ag.checkpoint(lambda t: t * w, x), [w, x])
    assert (gw.tolist(), gx.tolist()) == ([2], [3])
    assert w.grad is None
    assert x.grad is None


def test_gradcheck_of_parameters_inside() -> None:
    w = ag.Tensor(W1.copy(), requires_grad=True)
    assert ag.gradcheck(lambda x: ag.checkpoint(lambda t: ag.tanh(t @ w), x), [X], parameters=[w])
    assert w.grad is None


def test_under_no_grad() -> None:
    with ag.no_grad():
        y = ag.checkpoint(lambda t: t * 2, ag.Tensor(X, requires_grad=True))
    assert not y.requires_grad
    assert y.edge is None


def test_nothing_needs_a_gradient() -> None:
    y = ag.checkpoint(lambda t: (t * 2, t), ag.Tensor(X))
    assert [o.requires_grad for o in y] == [False, False]


def test_no_grad_within() -> None:
    def fn(x: ag.Tensor) -> ag.Tensor:
        with ag.no_grad():
            scale = x * 2
        return x * scale

    x = ag.Tensor(np.array([3.0]), requires_grad=True)
    ag.checkpoint(fn, x).backward()
    assert x.grad.tolist() == [6]


def test_retain_graph_replays_again() -> None:
    ag.manual_seed(2)
    x = ag.Tensor(X, requires_grad=True)
    loss = ag.checkpoint(lambda t: ag.dropout(t * t, 0.5), x).sum()
    loss.backward(retain_graph=True)
    first = x.grad.copy()
    loss.backward()
    np.testing.assert_array_equal(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="freed"):
        loss.backward()


def test_hook_inside() -> None:
    calls: list[Any] = []

    def fn(x: ag.Tensor) -> ag.Tensor:
        y = x * 2
        y.register_grad_hook(lambda g: calls.append(g.tolist()))
        return y * 5

    x = ag.Tensor(np.array([3.0]), requires_grad=True)
    ag.checkpoint(fn, x).backward()
    assert calls == [[5]]
    assert x.grad.tolist() == [10]


def test_gradients_share_memory_with_nothing() -> None:
    w, x = (ag.Tensor(np.array([v]), requires_grad=True) for v in (3.0, 2.0))
    seed = np.ones(1)
    ag.checkpoint(lambda t: t + w, x).backward(seed)
    for a, b in ((w.grad, x.grad), (w.grad, seed), (x.grad, seed)):
        assert not np.shares_memory(a, b)


def _saved_bytes(loss: ag.Tensor) -> int:
    """Bytes of the distinct arrays that the graph behind ``loss`` keeps."""
    arrays, seen, todo = {}, set(), [loss.edge[0]]
    while todo:
        node = todo.pop()
        if node in seen or isinstance(node, ag.Tensor):
            continue
        seen.add(node)
        arrays |= {id(a): a.nbytes for a in node.ctx.saved if isinstance(a, np.ndarray)}
        todo += [edge[0] for edge in node.edges if edge is not None]
    return sum(arrays.values())


def test_saves_only_the_inputs() -> None:
    def deep(x: ag.Tensor) -> ag.Tensor:
        for _ in range(10):
            x = ag.tanh(x)
        return x

    x = ag.Tensor(np.ones((100, 10)), requires_grad=True)
    assert _saved_bytes(deep(x)) == 10 * x.data.nbytes
    assert _saved_bytes(ag.checkpoint(deep, x)) == x.data.nbytes


def test_what_is_made_inside_dies() -> None:
    made: list[weakref.ref[Any]] = []

    def fn(x: ag.Tensor) -> ag.Tensor:
        y = ag.exp(x)
        made.append(weakref.ref(y.data))
        return y * y

    x = ag.Tensor(X, requires_grad=True)
    gc.disable()
    try:
        loss = ag.checkpoint(fn, x).sum()
        assert made[0]() is None
        loss.backward()
        assert len(made) == 2
        assert made[1]() is None
    finally:
        gc.enable()


def test_generator_goes_back_after_an_error_in_the_replay() -> None:
    calls: list[int] = []

    def fn(x: ag.Tensor) -> ag.Tensor:
        calls.append(1)
        out = ag.dropout(x, 0.5)
        if len(calls) == 2:
            raise KeyError
        return out

    x = ag.Tensor(X, requires_grad=True)
    loss = ag.checkpoint(fn, x).sum()
    state = ag.default_generator.state()
    with pytest.raises(KeyError):
        loss.backward()
    assert ag.default_generator.state() == state
    assert (x * 2).requires_grad


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"checkpoint: expected Tensors as inputs; got ndarray. Wrap it in ag.Tensor"):
        ag.checkpoint(lambda t: t, X)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="checkpoint: expected fn to return a Tensor or a tuple of them; got list"):
        ag.checkpoint(lambda t: [t], ag.Tensor(X, requires_grad=True))


def _with_dropout(g: ag.Generator) -> Callable[[ag.Tensor], ag.Tensor]:
    return lambda x: ag.dropout(x, 0.5, generator=g) * x


def _with_drop_path(g: ag.Generator) -> Callable[[ag.Tensor], ag.Tensor]:
    return lambda x: ag.drop_path(x, 0.5, generator=g) * x


def _with_keep(g: ag.Generator) -> Callable[[ag.Tensor], ag.Tensor]:
    return lambda x: x * ag.drop_path_keep(x, 0.5, generator=g)[:, None] * x


def _set_inside(g: ag.Generator) -> Callable[[ag.Tensor], ag.Tensor]:
    def fn(x: ag.Tensor) -> ag.Tensor:
        before = g.state()
        g.set_state({"seed": 8, "offset": 0})
        x = ag.dropout(x, 0.5, generator=g) * x
        g.set_state(before)
        return ag.dropout(x, 0.5, generator=g)

    return fn


@pytest.mark.parametrize("way", [ag.checkpoint, nested])
@pytest.mark.parametrize("make", [_with_dropout, _with_drop_path, _with_keep, _set_inside])
def test_explicit_generator_draws_the_same_again(make: Any, way: Any) -> None:
    """Two checkpoints share one generator, which is left where it would be without them."""

    def grads(way: Any) -> tuple[list[Any], dict[str, int]]:
        g = ag.Generator(3, 5)
        x = ag.Tensor(np.ones((64, 2)) + np.arange(64)[:, None], requires_grad=True)
        y = way(make(g), way(make(g), x))
        state = g.state()
        y.sum().backward()
        assert g.state() == state
        return [y.data, x.grad], state

    (expected, state), (got, state_after) = grads(plain), grads(way)
    same(got, expected)
    assert state_after == state


def test_generators_are_put_back_when_the_replay_fails() -> None:
    g = ag.Generator(3)
    calls = []

    def fn(x: ag.Tensor) -> ag.Tensor:
        calls.append(0)
        x = ag.dropout(x, 0.5, generator=g)
        if len(calls) > 1:
            raise ZeroDivisionError
        return x

    y = ag.checkpoint(fn, ag.Tensor(np.ones(8), requires_grad=True))
    state = g.state()
    with pytest.raises(ZeroDivisionError):
        y.backward(np.ones(8))
    assert g.state() == state
