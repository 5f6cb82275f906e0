"""An op is written once in the package: its name stands in the module that holds it, and nowhere else."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import autograd as ag
from autograd import methods, ops
from autograd.ops import elementwise, logic
from autograd.ops.declare import op
from autograd.primitive import PRIMITIVES

PACKAGE = Path(ag.__file__).parent


def _decorated(module, decorators):
    """The functions of a module below one of these decorators."""
    tree = ast.parse(Path(module.__file__).read_text())
    for node in tree.body:
        for decorator in getattr(node, "decorator_list", ()):
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if isinstance(called, ast.Name) and called.id in decorators:
                yield node.name


UNARY = list(_decorated(elementwise, {"_unary"}))
DECLARED = [(m, n) for m in (elementwise, logic) for n in _decorated(m, {"op", "_unary", "_comparison"})]
each = pytest.mark.parametrize(("module", "name"), DECLARED, ids=[n for _, n in DECLARED])


def test_the_finder_finds_them():
    assert {"exp", "erf", "relu"} <= set(UNARY)
    assert len(DECLARED) == 8 + len(UNARY) + 7


@each
def test_public_function(module, name):
    function = getattr(ag, name)
    assert function is getattr(ops, name) is getattr(module, name)
    assert name in module.__all__, f"{name}: name it in {module.__name__}.__all__"
    assert (function.__name__, function.__qualname__, function.__module__) == (name, name, module.__name__)
    assert pickle.loads(pickle.dumps(function)) is function
    assert function.__doc__.endswith(".") or "\n" in function.__doc__
    parameters = inspect.signature(function).parameters
    assert list(parameters) in (["x"], ["x", "y"])
    assert all(p.annotation == "TensorLike" and p.default is p.empty for p in parameters.values())
    assert inspect.signature(function).return_annotation == "Tensor"
    numbers = dict.fromkeys(parameters, 0.5)
    assert function(**numbers).item() == function(*numbers.values()).item()


def _mentions(path):
    """(what, name) for each definition, assignment, import and string of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield "def", node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield "assignment", node.id.removeprefix("_")
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("autograd.kernels"):
            yield from (("import", alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield "string", node.value


def test_a_unary_op_stands_in_one_file():
    """As its definition, and in ``__all__``; kernels have names of their own. That an op is a method of Tensor, too, is
    said where all methods are.
    """
    found = {name: [] for name in UNARY}
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        for what, name in () if file.startswith("kernels/") else _mentions(path):
            if name in found and not (name in methods.METHODS and file in ("methods.py", "tensor.py")):
                found[name].append((file, what))
    once = [("ops/elementwise.py", "def"), ("ops/elementwise.py", "string")]
    assert {name: sorted(places) for name, places in found.items()} == dict.fromkeys(UNARY, once)


@pytest.mark.parametrize("name", UNARY)
def test_the_docstring_says_what_is_saved(name):
    x = ag.Tensor(np.array([0.3, 0.7]), requires_grad=True)
    y = getattr(ag, name)(x)
    (kept,) = y.edge[0].ctx.saved
    assert kept is (x.data if "Saves ``x``." in getattr(ag, name).__doc__ else y.data)


def test_every_module_of_ops_is_exported():
    """By its line in ``_all.py``."""
    named = set(re.findall(r"from autograd\.ops\.(\w+) import \*", (PACKAGE / "ops" / "_all.py").read_text()))
    assert named == {p.stem for p in (PACKAGE / "ops").glob("*.py")} - {"__init__", "_all", "declare"}


def test_a_new_op():
    @op(lambda ctx, g: g * 2, fresh=True)
    def test_twice(ctx, x):
        """``2 * x``."""
        return 2 * x

    try:
        x = ag.Tensor(np.array([1.0, 2.0]), requires_grad=True)
        test_twice(x=x).sum().backward()
        assert (test_twice.__name__, test_twice.__doc__) == ("test_twice", "``2 * x``.")
        np.testing.assert_array_equal(x.grad, [2, 2])
    finally:
        del PRIMITIVES["test_twice"]


def test_an_op_of_other_parameters_is_refused():
    with pytest.raises(
        TypeError, match=r"op: expected a forward of x, or of x and y; got test_scaled\('x', 'factor'\)"
    ):

        @op(None)
        def test_scaled(ctx, x, factor):
            return x * factor

    PRIMITIVES.pop("test_scaled", None)
