"""What no file may be or do: too long, or unsafe."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from repo.sources import Module, modules

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_LINES = 600
FUNCTION_LINES = 50
UNSAFE_BUILTINS = {"eval", "exec", "compile", "__import__"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def _functions(module: Module) -> Iterator[tuple[str, int]]:
    """Every function with its number of lines, its docstring not counted."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            yield node.name, lines


@pytest.mark.parametrize("module", modules(), ids=repr)
def test_length(module: Module) -> None:
    lines = len(module.path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES, f"{module.name}: {lines} lines; split it"
    long = [f"{module.name}.{name}: {n} lines" for name, n in _functions(module) if n > FUNCTION_LINES]
    assert long == []


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _unsafe(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            yield from (f"{node.lineno}: import {n}" for n in names if n.partition(".")[0] in UNSAFE_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = _dotted(node.func)
        if name in UNSAFE_BUILTINS or name.rpartition(".")[2] == "Unpickler" or name == "os.system":
            yield f"{node.lineno}: {name}(...)"
        for keyword in node.keywords:
            value = keyword.value
            literal = value.value if isinstance(value, ast.Constant) else "?"
            if keyword.arg == "allow_pickle" and literal is not False:
                yield f"{node.lineno}: allow_pickle"
            if keyword.arg == "shell" and literal is not False:
                yield f"{node.lineno}: shell"
        if name in ("np.load", "numpy.load") and not any(k.arg == "allow_pickle" for k in node.keywords):
            yield f"{node.lineno}: {name} without allow_pickle=False"


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(x)",
        "np.load(f, allow_pickle=True)",
        "np.load(f)",
        "np.load(f, allow_pickle=flag)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_the_finder_finds(line: str) -> None:
    assert list(_unsafe(ast.parse(line)))


@pytest.mark.parametrize("module", modules(), ids=repr)
def test_nothing_unsafe(module: Module) -> None:
    assert list(_unsafe(module.tree)) == []


@pytest.mark.parametrize("module", modules(), ids=repr)
def test_every_file_says_what_it_is_for(module: Module) -> None:
    assert ast.get_docstring(module.tree)


def _documented(module: Module) -> dict[str, bool]:
    """The public functions of a module, and whether each has a docstring."""
    functions = [node for node in module.tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {f.name: ast.get_docstring(f) is not None for f in functions if not f.name.startswith("_")}


def _undocumented(module: Module, references: dict[str, Module]) -> list[str]:
    """Public functions without a docstring. A twin may do without one if its namesake in the reference has one."""
    room, _, file = module.name.rpartition(".")
    twins = file in ("cpu", "cuda") and f"{room}.reference" in references
    elsewhere = _documented(references[f"{room}.reference"]) if twins else {}
    return [name for name, has_one in _documented(module).items() if not has_one and not elsewhere.get(name)]


@pytest.mark.parametrize("module", [m for m in modules() if ".kernels" in m.name], ids=repr)
def test_every_kernel_has_a_docstring(module: Module) -> None:
    assert _undocumented(module, {m.name: m for m in modules()}) == []


def test_what_counts_as_documented() -> None:
    """A twin without a docstring needs a namesake that has one; other functions need their own."""

    def made(name: str, *lines: str) -> Module:
        return Module(name, Path(name), ast.parse("\n".join(lines)))

    silent, spoken, private = "def one(): pass", "def two(): 'It says what it does.'", "def _three(): pass"
    reference = made("room.reference", "def one(): 'What it does.'", silent.replace("one", "two"))
    twins = [made(f"room.{file}", silent, "def two(): pass", private) for file in ("cpu", "cuda")]
    references = {reference.name: reference}
    assert [_undocumented(twin, references) for twin in twins] == [["two"], ["two"]]
    assert _undocumented(reference, references) == ["two"]
    assert _undocumented(made("room.other", silent, spoken, private), references) == ["one"]


def _without_docstring(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Public functions, methods and classes that say nothing about themselves; setters and overloads may."""
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        decorators = {_dotted(d).rpartition(".")[2] for d in node.decorator_list}
        if ast.get_docstring(node) is None and not decorators & {"setter", "overload"}:
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _without_docstring(node.body, f"{node.name}.")


def test_the_finder_of_missing_docstrings_finds_them() -> None:
    text = "def f(): ...\nclass A:\n  'a'\n  def g(self): ...\n  def _h(self): ...\n  @g.setter\n  def g(self): ..."
    assert list(_without_docstring(ast.parse(text).body)) == ["f", "A.g"]


@pytest.mark.parametrize("module", [m for m in modules() if ".kernels" not in m.name], ids=repr)
def test_public_functions_say_what_they_do(module: Module) -> None:
    assert list(_without_docstring(module.tree.body)) == []
