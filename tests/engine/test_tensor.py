"""The Tensor itself: what it is made from, shows, converts to; its operators and methods."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autograd as ag
from autograd import extend, methods, tensor
from autograd.extend import Primitive
from autograd.primitive import PRIMITIVES

X = np.arange(6.0).reshape(2, 3)


def leaf(array: Any = X) -> ag.Tensor:
    return ag.Tensor(np.array(array), requires_grad=True)


# ---- making one


def test_array_is_not_copied() -> None:
    assert ag.Tensor(X).data is X
    assert ag.Tensor([1, 2]).dtype == np.int64
    assert ag.Tensor(2.5).shape == ()
    assert ag.Tensor(True).dtype == bool


@pytest.mark.parametrize("array", ["text", np.array(["a"]), np.array([1j]), np.array([object()]), {}, None])
def test_what_is_no_array_of_numbers(array: Any) -> None:
    with pytest.raises(TypeError, match="Tensor: expected floats, integers or booleans; got dtype"):
        ag.Tensor(array)


def test_tensor_of_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"expected an array; got a Tensor. Use .detach\(\)"):
        ag.Tensor(leaf())


def test_requires_grad_switches() -> None:
    x = ag.Tensor(X.copy())
    x.requires_grad = True
    assert (x * 2).requires_grad
    x.requires_grad = False
    assert not (x * 2).requires_grad
    with pytest.raises(RuntimeError, match=r"requires_grad: expected a leaf; got the result of an op. Use .detach"):
        (leaf() * 2).requires_grad = False


# ---- looking at it


def test_properties() -> None:
    x = leaf()
    assert (x.shape, x.ndim, x.size, x.dtype, x.device, len(x)) == ((2, 3), 2, 6, np.float64, "cpu", 2)
    assert x.is_leaf
    assert not (x * 2).is_leaf
    assert (x * 2).detach().is_leaf
    np.testing.assert_array_equal(x.T.data, X.T)


def test_repr() -> None:
    assert repr(ag.Tensor(np.array([1, 2]))) == "Tensor([1, 2], dtype=int64)"
    assert repr(leaf([0.5])) == "Tensor([0.5], dtype=float64, requires_grad=True)"
    assert repr(ag.Tensor(np.float32(2))) == "Tensor(2., dtype=float32)"
    assert "..." in repr(ag.Tensor(np.zeros(1000)))
    assert repr(ag.Tensor(X)).splitlines()[1] == "        [3., 4., 5.]], dtype=float64)"


def test_0d() -> None:
    x = leaf(2.5)
    with pytest.raises(TypeError, match="len: expected at least one dimension; got a 0-d tensor"):
        len(x)
    with pytest.raises(TypeError, match="iter: expected at least one dimension; got a 0-d tensor"):
        list(x)
    assert (x.item(), float(x), int(x), bool(x)) == (2.5, 2.5, 2, True)
    assert isinstance(x.item(), float)


def test_truth_of_many() -> None:
    with pytest.raises(ValueError, match=r"bool: expected a tensor of size 1; got shape \(2, 3\). Say which is meant"):
        bool(leaf())


@pytest.mark.parametrize("convert", [ag.Tensor.item, float, int])
def test_one_number_of_many(convert: Any) -> None:
    with pytest.raises(ValueError, match=r"item: expected one element; got shape \(2, 3\)"):
        convert(leaf())


def test_iteration_and_unpacking() -> None:
    x = leaf()
    a, b = x
    (a * 10 + b).sum().backward()
    assert x.grad.tolist() == [[10] * 3, [1] * 3]
    assert [row.data.tolist() for row in x] == X.tolist()
    assert [float(v) for v in x[0]] == [0, 1, 2]
    assert list(ag.Tensor(np.ones((0, 2)))) == []


def test_membership() -> None:
    assert 2.0 in ag.Tensor(np.array([1.0, 2.0]))
    assert 3.0 not in ag.Tensor(np.array([1.0, 2.0]))


def test_to_numpy() -> None:
    x = ag.Tensor(X)
    assert x.numpy() is X
    assert leaf().numpy().tolist() == X.tolist()
    np.testing.assert_array_equal(np.asarray(x), X)
    assert np.asarray(x, dtype=np.float32).dtype == np.float32
    assert not np.shares_memory(np.array(x, copy=True), X)
    assert np.shares_memory(np.asarray(x), X)
    with pytest.raises(TypeError, match=r"np.asarray: expected a CPU tensor without requires_grad. Use .detach"):
        np.asarray(leaf())


def test_hash_is_by_identity() -> None:
    x, y = leaf(), leaf()
    assert len({x, y, x}) == 2
    assert {x: 1}[x] == 1


def test_leaf_can_be_copied_and_pickled() -> None:
    for clone in (copy.deepcopy(ag.Tensor(X)), pickle.loads(pickle.dumps(ag.Tensor(X)))):
        np.testing.assert_array_equal(clone.data, X)


# ---- operators

OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
OTHERS: dict[str, Any] = {
    "array": np.full((2, 3), 2.0),
    "row": np.array([1.0, 2.0, 3.0]),
    "0-d": np.array(2.0),
    "float": 2.0,
    "int": 2,
    "bool": True,
    "numpy scalar": np.float64(2.0),
    "tensor": ag.Tensor(np.full((2, 3), 2.0)),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_on_either_side(name: str, other: str) -> None:
    operator, b = OPERATORS[name], OTHERS[other]
    raw = b.data if isinstance(b, ag.Tensor) else b
    x = ag.Tensor(X + 1)
    for got, want in ((operator(x, b), operator(X + 1, raw)), (operator(b, x), operator(raw, X + 1))):
        assert type(got) is ag.Tensor
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got.data, want, rtol=1e-15)


@pytest.mark.parametrize("name", ["+", "-", "*", "/", "**"])
def test_operators_with_lists(name: str) -> None:
    x = ag.Tensor(X + 1)
    for got, want in (
        (OPERATORS[name](x, [1, 2, 3]), OPERATORS[name](X + 1, [1, 2, 3])),
        (OPERATORS[name]([1, 2, 3], x), OPERATORS[name]([1, 2, 3], X + 1)),
    ):
        np.testing.assert_array_equal(got.data, want)


def test_matmul_on_either_side() -> None:
    x = leaf()
    for y in (x @ X.T, X.T @ x, ag.Tensor(X.T) @ x):
        assert type(y) is ag.Tensor
        assert y.requires_grad
    np.testing.assert_array_equal((X.T @ x).data, X.T @ X)


def test_in_place_operators_make_new_tensors() -> None:
    x = leaf()
    y = x
    y += 1
    y *= 2
    assert y is not x
    np.testing.assert_array_equal(x.data, X)
    y.sum().backward()
    assert x.grad.tolist() == [[2] * 3] * 2


def test_array_does_not_swallow_a_tensor() -> None:
    array = X.copy()
    with pytest.raises(TypeError):
        array += ag.Tensor(X)
    with pytest.raises(TypeError):
        np.add(X, ag.Tensor(X))
    np.testing.assert_array_equal(array, X)


@pytest.mark.parametrize("other", ["text", b"b", 1j, np.complex128(1), {}, {1}, object(), np.datetime64("2020-01-01")])
@pytest.mark.parametrize("name", ["+", "*", "**", "<"])
def test_unsupported_operands(name: str, other: Any) -> None:
    for call in (lambda: OPERATORS[name](leaf(), other), lambda: OPERATORS[name](other, leaf())):
        with pytest.raises(TypeError):
            call()


def test_operand_none_is_refused() -> None:
    with pytest.raises(TypeError):
        leaf() + None
    with pytest.raises(TypeError, match="add: expected a Tensor, an array or a number; got None"):
        ag.add(None, None)


def test_ops_of_plain_numbers() -> None:
    assert ag.exp(0.0).item() == 1
    assert ag.add(1, 2).item() == 3
    assert type(ag.sum([1.0, 2.0])) is ag.Tensor


# ---- methods


def _declared() -> set[str]:
    tree = ast.parse(Path(tensor.__file__).read_text())
    (cls,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Tensor")
    (block,) = (n for n in cls.body if isinstance(n, ast.If))
    return {n.name for n in block.body if isinstance(n, ast.FunctionDef)}


def test_every_declared_method_is_bound_and_no_other() -> None:
    assert _declared() == set(methods.METHODS)
    for name in methods.METHODS:
        assert callable(getattr(ag.Tensor, name)) or isinstance(getattr(ag.Tensor, name), property)


def test_declared_signatures_are_those_of_the_functions() -> None:
    tree = ast.parse(Path(tensor.__file__).read_text())
    (cls,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Tensor")
    (block,) = (n for n in cls.body if isinstance(n, ast.If))
    for node in block.body:
        assert isinstance(node, ast.FunctionDef)
        if node.name.startswith("__") or node.name in ("T", "reshape", "transpose"):
            continue
        bound = list(inspect.signature(getattr(ag.Tensor, node.name)).parameters)[1:]
        assert [a.arg for a in node.args.args][1:] == bound, node.name


def test_methods_are_the_functions() -> None:
    x = leaf([[0.2, 0.7], [0.4, 0.9]])
    for name in ("exp", "log", "sqrt", "tanh", "sigmoid", "relu", "sum", "mean", "var", "max", "min", "softmax"):
        np.testing.assert_array_equal(getattr(x, name)().data, getattr(ag, name)(x).data)
    for shape in ((4,), (-1,), (1, 2, 2)):
        assert x.reshape(shape).shape == x.reshape(*shape).shape == ag.reshape(x, shape).shape
    assert x.transpose().shape == x.transpose(1, 0).shape == x.transpose((1, 0)).shape == (2, 2)
    assert x.squeeze().shape == (2, 2)
    assert (-x).data.max() < 0
    assert abs(-x).data.min() > 0


def test_public_names() -> None:
    for module in (ag, extend):
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            assert hasattr(module, name), name


# ---- a primitive from outside


def test_user_defined_primitive_broadcasts() -> None:
    def forward(ctx: Any, x: Any, y: Any, *, power: int) -> Any:
        ctx.save(x, y)
        ctx.power = power
        return x * y**power

    def vjp(ctx: Any, g: Any) -> Any:
        x, y = ctx.saved
        n = ctx.power
        return (
            g * y**n if ctx.needs[0] else None,
            g * x * n * y ** (n - 1) if ctx.needs[1] else None,
        )

    op = Primitive("test_user", forward, vjp, broadcasts=True, autocast="widest", fresh=True)
    try:
        assert ag.gradcheck(lambda x, y: op(x, y, power=3), [X + 1, np.array([1.0, 2.0, 3.0])])
        assert op(X, 2.0, power=2).data.tolist() == (X * 4).tolist()
        with pytest.raises(ValueError, match="Primitive: expected a new name; got 'test_user', which exists"):
            Primitive("test_user", forward, vjp)
    finally:
        del PRIMITIVES["test_user"]


def test_primitive_without_a_derivative() -> None:
    op = Primitive("test_sign", lambda ctx, x: np.sign(x), None)
    try:
        assert not op(leaf()).requires_grad
    finally:
        del PRIMITIVES["test_sign"]


def test_ctx_counts_its_bytes() -> None:
    x = leaf()
    assert (x * x).edge[0].ctx.nbytes() == 2 * X.nbytes
    assert (x + x).edge[0].ctx.nbytes() == 0


# ---- what assign_ takes


@pytest.mark.parametrize(
    "bad", [None, "1", b"1", 1j, [1j, 2], np.array([1, 2], object), object(), np.datetime64("2020")]
)
def test_assign_takes_real_numbers_only(bad: Any) -> None:
    x = leaf([1.0, 2.0])
    with pytest.raises(TypeError, match=r"^assign_: expected real numbers; got "):
        x.assign_(bad)
    assert x.data.tolist() == [1, 2]
    assert x.version.count == 0


@pytest.mark.parametrize("dtype", [np.int64, bool])
def test_assign_does_not_cut_floats_off(dtype: Any) -> None:
    x = ag.Tensor(np.ones(2, dtype))
    for bad in (1.5, [0.5, 2.5], np.array([1.5, 2.5]), ag.Tensor(np.ones(2))):
        with pytest.raises(TypeError, match=r"assign_: expected integers for a leaf of .*; got float64"):
            x.assign_(bad)
    assert x.assign_(np.array([1, 0])).data.tolist() == [1, 0]
    assert leaf([1.0, 2.0]).assign_([3, 4]).assign_(True).data.tolist() == [1, 1]


def test_assign_to_read_only_memory() -> None:
    x = ag.Tensor(np.broadcast_to(np.ones(1), (2,)))
    with pytest.raises(ValueError, match="assign_: expected memory that can be written to; got a read-only array"):
        x.assign_(np.zeros(2))
    assert x.version.count == 0


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">i2"])
def test_other_byte_orders_become_native(dtype: str) -> None:
    x = ag.Tensor(np.array([1, 2], dtype))
    assert x.dtype.isnative
    assert x.dtype == np.dtype(dtype).newbyteorder("=")
    assert x.data.tolist() == [1, 2]
    assert ag.Tensor(np.ones(2)).astype(dtype).dtype.isnative
