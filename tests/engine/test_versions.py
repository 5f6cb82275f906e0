"""assign_ and versions: a write between forward and backward is noticed wherever the memory was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import autograd as ag

if TYPE_CHECKING:
    from collections.abc import Callable

WRITTEN = "expected its inputs as they were in forward; got one that was written to"


def leaf(*values: float, grad: bool = True) -> ag.Tensor:
    return ag.Tensor(np.array(values), requires_grad=grad)


def test_assign_writes_in_place() -> None:
    x = leaf(1.0, 2.0)
    memory = x.data
    assert x.assign_([3.0, 4.0]) is x
    assert x.data is memory
    assert memory.tolist() == [3, 4]
    x.assign_(ag.Tensor(np.array([5.0, 6.0])))
    x.assign_(7)
    assert memory.tolist() == [7, 7]
    assert x.version.count == 3


def test_a_write_past_assign_is_told_by_written() -> None:
    x = leaf(1.0)
    twin, y = x.detach(), ag.exp(x)
    np.multiply(x.data, 2, out=x.data)
    twin.written()
    assert x.version.count == 1
    with pytest.raises(RuntimeError, match=f"backward of 'exp': {WRITTEN} 1 time"):
        y.backward()
    ag.exp(x).backward()
    assert x.grad.tolist() == [np.exp(2)]


def test_a_write_that_nobody_tells_of_is_not_noticed() -> None:
    """As in torch: ``.data`` is the memory itself. The gradient of x * x is that of what x holds by now."""
    x = leaf(1.0)
    y = x * x
    x.data[:] = 5
    y.backward()
    assert x.grad.tolist() == [10]


def test_written_is_of_leaves() -> None:
    y = ag.exp(leaf(1.0))
    with pytest.raises(RuntimeError, match="written: expected a leaf; got the result of an op"):
        y.written()
    with pytest.raises(RuntimeError, match="written: expected a leaf"):
        y.detach().written()


def test_backward_after_assign_raises_and_names_the_op() -> None:
    x = leaf(1.0)
    y = ag.exp(x) * 2
    x.assign_(0.0)
    with pytest.raises(RuntimeError, match=f"backward of 'exp': {WRITTEN} 1 time"):
        y.backward()
    assert x.grad is None


def test_forward_again_after_assign() -> None:
    x = leaf(1.0)
    (x * x).backward()
    x.assign_(5.0)
    (x * x).backward()
    assert x.grad.tolist() == [12]


def test_operand_without_requires_grad_counts() -> None:
    x, c = leaf(1.0), leaf(2.0, grad=False)
    y = x * c
    c.assign_(9.0)
    with pytest.raises(RuntimeError, match=WRITTEN):
        y.backward()


def test_detached_twin_shares_the_version() -> None:
    x = leaf(1.0)
    twin = x.detach()
    assert twin.version is x.version
    assert not twin.requires_grad
    y = x * x
    twin.assign_(3.0)
    assert x.data.tolist() == [3]
    with pytest.raises(RuntimeError, match=WRITTEN):
        y.backward()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.reshape(1, 2),
        lambda x: x[:1],
        lambda x: x.reshape(2, 1).T,
        lambda x: ag.split(x, 2)[1],
        lambda x: ag.broadcast_to(x[1:], (3, 1)),
    ],
    ids=["reshape", "slice", "two steps", "split", "broadcast"],
)
def test_view_without_a_graph_shares_the_version(view: Callable[[ag.Tensor], ag.Tensor]) -> None:
    """No node stands between the view and the leaf, so nothing but the version can tell."""
    buffer, w = leaf(1.0, 2.0, grad=False), leaf(3.0)
    y = (view(buffer) * w).sum()
    buffer.assign_(100.0)
    with pytest.raises(RuntimeError, match=WRITTEN):
        y.backward()


def test_view_made_under_no_grad() -> None:
    x, w = leaf(1.0, 2.0), leaf(3.0)
    with ag.no_grad():
        view, copy = x[:1], x * 1
    assert view.version is x.version
    assert copy.version is None
    y = (copy * w).sum()
    x.assign_(100.0)
    y.backward()
    assert w.grad.tolist() == [3]


@pytest.mark.parametrize("make", [lambda x: x * 2, lambda x: (x * 2).detach(), lambda x: ag.exp(x).detach()])
def test_result_of_an_op_cannot_be_written_to(make: Callable[[ag.Tensor], ag.Tensor]) -> None:
    """Not through a detached twin either: exp keeps its result for backward."""
    with pytest.raises(RuntimeError, match="assign_: expected a leaf; got the result of an op"):
        make(leaf(1.0)).assign_(0.0)


@pytest.mark.parametrize("value", [np.ones(3), np.ones((2, 1)), [1.0]])
def test_assign_wrong_shape(value: Any) -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match=r"assign_: expected shape \(2,\); got"):
        x.assign_(value)
    assert x.version.count == 0


def test_assign_casts_to_the_leafs_dtype() -> None:
    x = ag.Tensor(np.zeros(2, np.float32))
    x.assign_(np.array([1.5, 2.5]))
    assert x.dtype == np.float32
    assert x.data.tolist() == [1.5, 2.5]


# ---- around a checkpoint


def test_parameter_written_between_forward_and_backward_of_a_checkpoint() -> None:
    w, x = leaf(2.0), leaf(3.0)
    y = ag.checkpoint(lambda t: t * w, x)
    w.assign_(5.0)
    with pytest.raises(RuntimeError, match=f"backward of 'checkpoint': {WRITTEN}"):
        y.backward()
    assert x.grad is None
    assert w.grad is None


def test_parameter_of_a_nested_checkpoint_written() -> None:
    w, x = leaf(2.0), leaf(3.0)
    y = ag.checkpoint(lambda t: ag.checkpoint(lambda u: u * w, t) * 2, x)
    w.assign_(5.0)
    with pytest.raises(RuntimeError, match=WRITTEN):
        y.backward()


@pytest.mark.parametrize("handed_over", [True, False])
def test_constant_of_a_nested_checkpoint_written(handed_over: bool) -> None:
    c, x = leaf(2.0, grad=False), leaf(3.0)
    if handed_over:
        y = ag.checkpoint(lambda t: t * ag.checkpoint(lambda u: u * 1, c), x)
    else:
        y = ag.checkpoint(lambda t: ag.checkpoint(lambda u: u * c, t), x)
    c.assign_(5.0)
    with pytest.raises(RuntimeError, match=WRITTEN):
        y.backward()


def test_input_of_a_checkpoint_written() -> None:
    x = leaf(3.0)
    y = ag.checkpoint(lambda t: t * t, x)
    x.assign_(5.0)
    with pytest.raises(RuntimeError, match=WRITTEN):
        y.backward()


def test_write_inside_a_checkpoint_after_reading() -> None:
    """The replay would read another value and write once more."""
    state, x = leaf(1.0, grad=False), leaf(3.0)

    def step(t: ag.Tensor) -> ag.Tensor:
        out = t * state
        state.assign_(state.data + 1)
        return out

    y = ag.checkpoint(step, x)
    with pytest.raises(RuntimeError, match=WRITTEN):
        y.backward()
    assert state.data.tolist() == [2]


def test_write_before_the_checkpoint_is_fine() -> None:
    w, x = leaf(2.0), leaf(3.0)
    w.assign_(5.0)
    ag.checkpoint(lambda t: t * w, x).backward()
    assert (x.grad.tolist(), w.grad.tolist()) == ([5], [3])
