"""Who imports whom: no circles, arrows down only, nothing heavy on the way in."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from repo.sources import PACKAGES, ROOT, Module, importable, modules
from support.rows.table import KERNEL_ROWS

import autograd as ag
import swinpy  # noqa: F401 (registers its kernels)
from autograd.kernels import KERNELS
from autograd.primitive import PRIMITIVES

if TYPE_CHECKING:
    from collections.abc import Iterator

# What each part of swinpy may import of the others. A part that is not named yet must be added here.
MAY_IMPORT: dict[str, set[str]] = {
    "console": set(),
    "geometry": set(),
    "probe": set(),
    "preparation": set(),
    "nn": {"probe"},
    "targets": set(),
    "data": {"io", "preparation", "targets"},
    "detection": {"kernels", "nn", "ops"},
    "io": set(),
    "metrics": {"data"},
    "kernels": {"geometry"},
    "ops": {"geometry", "kernels", "probe"},
    "models": {"geometry", "nn", "ops", "preparation"},
    "weights": {"geometry", "io", "models", "nn", "preparation", "snapshots"},
    "snapshots": {"io"},
    "train": {"console", "data", "io", "models", "nn", "preparation", "snapshots", "weights"},
    "verify": {"geometry", "io", "models", "nn", "ops", "probe"},
    "cli": {"console", "data", "io", "models", "train", "verify", "weights"},
    "__main__": {"cli"},
    "_engine": set(),
    "__init__": {"_engine", "models", "verify", "weights"},
}
# The engine's doors: of these modules swinpy sees the names in __all__. The last ones are for compiled twins.
PUBLIC_ENGINE = {"autograd", "autograd.extend", "autograd.kernels", "autograd.kernels.adamw", "autograd.random"}
FOR_TWINS = {f"autograd.kernels.compiled.{tool}" for tool in ("pieces", "tiles", "toolkit")}
AUTOGRAD_NEEDS = {"numpy"}
AUTOGRAD_WHEN_ASKED = {"cupy", "cupyx", "llvmlite", "ml_dtypes", "numba", "scipy", "threadpoolctl"}
HEAVY = (
    "cupy",
    "llvmlite",
    "numba",
    "threadpoolctl",
    "scipy",
    "matplotlib",
    "mpi4py",
    "sklearn",
    "PIL",
    "pycocotools",
    "torch",
    "pandas",
    "tensorboardX",
)


def _graph(types: bool = False) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports while it runs; with ``types``, those that only its types name, too."""
    names = {m.name for m in modules()}
    return {
        m.name: {i.target for i in m.imports() if (types or not i.typing_only) and i.target in names} for m in modules()
    }


def _circle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for target in sorted(graph[node]):
            found = visit(target, [*path, node])
            if found:
                return found
        done.add(node)
        return None

    return next(filter(None, (visit(node, []) for node in sorted(graph))), None)


def test_the_circle_finder_finds_circles() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _circle({"a": {"a"}}) == ["a", "a"]
    assert _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_no_import_circles() -> None:
    """Late imports inside functions count: they hide a circle, they do not remove it."""
    circle = _circle(_graph())
    assert circle is None, " -> ".join(circle or [])


# Modules that name each other's types: a tensor, its graph and what makes it; a kernel and what runs it.
CORE = {
    f"autograd.{name}"
    for name in ("casts", "checkpoint", "context", "deferred", "graph", "primitive", "random", "tensor")
} | {f"autograd.kernels.{name}" for name in ("call", "registry", "validate")}


def test_circles_of_types_are_of_the_core() -> None:
    """Elsewhere a type does not point back either, so that each file can be read after those it imports."""
    graph = _graph(types=True)
    without = {name: targets - CORE for name, targets in graph.items() if name not in CORE}
    circle = _circle(without)
    assert circle is None, " -> ".join(circle or [])


def _part(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def _crossings() -> Iterator[tuple[str, str, str]]:
    for m in modules():
        for i in m.imports():
            yield f"{m.path.relative_to(ROOT)}:{i.line}", m.name, i.target


def test_autograd_knows_nothing_of_swinpy() -> None:
    assert [
        where for where, name, target in _crossings() if _top(name) == "autograd" and _top(target) == "swinpy"
    ] == []


def _top(name: str) -> str:
    return name.partition(".")[0]


def test_autograd_needs_numpy_alone() -> None:
    known = AUTOGRAD_NEEDS | AUTOGRAD_WHEN_ASKED | {"autograd"} | set(sys.stdlib_module_names)
    wrong = [(where, t) for where, name, t in _crossings() if _top(name) == "autograd" and _top(t) not in known]
    assert wrong == []


@pytest.mark.parametrize("part", sorted({_part(m.name) for m in modules() if _top(m.name) == "swinpy"}))
def test_arrows_point_down(part: str) -> None:
    assert part in MAY_IMPORT, f"swinpy/{part}: say in tests/repo/test_imports.py what it may import"
    allowed = MAY_IMPORT[part] | {part}
    wrong = [
        (where, target)
        for where, name, target in _crossings()
        if _top(name) == "swinpy" and _part(name) == part and _top(target) == "swinpy" and _part(target) not in allowed
    ]
    assert wrong == []


def test_io_stands_beside_the_engine() -> None:
    """It reads and writes arrays by name, and needs nothing of ours for that."""
    known = {"numpy", "safetensors"} | set(sys.stdlib_module_names)
    wrong = [
        (where, target)
        for where, name, target in _crossings()
        if name.startswith("swinpy.io") and not target.startswith("swinpy.io") and _top(target) not in known
    ]
    assert wrong == []


def test_data_stands_beside_the_engine() -> None:
    """Of the engine it takes the generator, and the registry for a kernel of its own; its compiled twin the toolkit."""
    compiled = {m.name for m in modules() if m.compiled}
    wrong = [
        (where, target)
        for where, name, target in _crossings()
        if name.startswith("swinpy.data")
        and name not in compiled
        and _top(target) == "autograd"
        and target not in ("autograd.random", "autograd.extend")
    ]
    assert wrong == []


def test_swinpy_uses_public_names_of_the_engine() -> None:
    wrong = []
    for m in importable():  # a compiled kernel's names are looked up where Numba is installed
        if _top(m.name) != "swinpy":
            continue
        for i in m.imports():
            if _top(i.target) != "autograd" or i.typing_only:
                continue
            if i.target not in (PUBLIC_ENGINE | FOR_TWINS if m.compiled else PUBLIC_ENGINE):
                wrong.append(f"{m.path.relative_to(ROOT)}:{i.line}: {i.target}")
                continue
            public = importlib.import_module(i.target).__all__
            wrong += [f"{m.path.relative_to(ROOT)}:{i.line}: {i.target}.{n}" for n in i.names if n not in public]
    assert wrong == []


# ---- in a fresh interpreter


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _names(package: str) -> list[str]:
    return [m.name for m in importable() if _top(m.name) == package]


def test_every_autograd_module_imports_without_swinpy() -> None:
    code = f"sys.modules['swinpy'] = None\nimport importlib\nfor n in {_names('autograd')}: importlib.import_module(n)"
    _python(code)


def test_every_module_imports_first() -> None:
    """Whatever module of a package is named first, no import order is needed."""
    code = (
        "import importlib\n"
        f"for n in {[m.name for m in importable() if m.name not in _scripts()]}:\n"
        "    for loaded in [m for m in sys.modules if m.partition('.')[0] in ('autograd', 'swinpy')]:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(n)\n"
    )
    _python(code)


def _scripts() -> set[str]:
    """Modules that run when imported."""
    return {m.name for m in modules() if m.name.endswith("__main__")}


@pytest.mark.parametrize("package", PACKAGES)
def test_import_is_light(package: str) -> None:
    code = f"import {package}\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}} & set({HEAVY})))"
    assert _python(code).split() == []


def test_models_need_no_files() -> None:
    """A model is made, and run, without a reader or writer of weight files."""
    code = (
        "import swinpy.models\nswinpy.create_model('swin_cifar_nano')\n"
        "print(*[m for m in sys.modules if m == 'safetensors' or m.startswith(('swinpy.io', 'swinpy.weights'))])"
    )
    assert _python(code).split() == []


@pytest.mark.parametrize("module", importable(), ids=repr)
def test_all_is_explicit_and_true(module: Module) -> None:
    if not module.public or module.empty or module.name in _scripts():
        return
    assert module.declared_all(), f"{module.name}: expected an explicit __all__"
    loaded = importlib.import_module(module.name)
    missing = [n for n in loaded.__all__ if not hasattr(loaded, n)]
    assert missing == []
    assert len(set(loaded.__all__)) == len(loaded.__all__)


def test_compiled_kernels_are_imported_by_their_rooms_loader_and_each_other() -> None:
    """They import Numba at their top, so a room imports its own when a kernel first runs, and nobody else does."""
    compiled = {m.name for m in modules() if m.compiled}
    assert compiled
    wrong = [
        (m.name, i.target)
        for m in modules()
        if not m.compiled
        for i in m.imports()
        if i.target in compiled and not i.typing_only and not (i.late and i.target.rpartition(".")[0] == m.name)
    ]
    assert wrong == []


def test_no_kernel_is_named_by_a_string() -> None:
    """A kernel is called by its name, so that readers and type checkers find it. Ops may bear a kernel's name, and so
    do an optimiser of the command line and a column of the metrics."""
    names = set(KERNEL_ROWS) - set(PRIMITIVES) - set(ag.__all__) - {"adamw", "grad_norm"}
    wrong = [
        (m.name, node.lineno, node.value)
        for m in modules()
        for node in _strings(m.tree)
        if node.value in names and not _in_its_room(m.name, node.value)
    ]
    for path in (*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        wrong += [(path.name, node.lineno, node.value) for node in _strings(tree) if node.value in names]
    assert wrong == []


def _strings(tree: ast.Module) -> Iterator[ast.Constant]:
    exported = {id(e) for node in ast.walk(tree) if isinstance(node, ast.Assign) for e in _exports(node)}
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in exported)


def _exports(node: ast.Assign) -> Iterator[ast.expr]:
    if any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets) and isinstance(node.value, ast.List):
        yield from node.value.elts


def _in_its_room(module: str, kernel: str) -> bool:
    room = KERNELS[kernel].reference.__module__.rpartition(".")[0]
    return module.startswith(room)
