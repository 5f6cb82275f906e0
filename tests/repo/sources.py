"""The project's own source files as syntax trees, and the imports among them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["ROOT", "Import", "Module", "importable", "modules"]

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("autograd", "swinpy")


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        target: the module, resolved as far as it is ours ("autograd.ops.nn", but "numpy").
        names: what is taken from it by name.
        line: where.
        typing_only: under ``if TYPE_CHECKING``, so that it never runs.
        late: inside a function.
    """

    target: str
    names: tuple[str, ...]
    line: int
    typing_only: bool
    late: bool


@dataclass(frozen=True)
class Module:
    """One file."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))

    def __repr__(self) -> str:
        return self.name

    @property
    def compiled(self) -> bool:
        """Made for Numba, which it imports at its top."""
        return any(
            not i.late and (i.target.partition(".")[0] in ("numba", "llvmlite") or "kernels.compiled." in i.target)
            for i in self.imports()
        )

    @property
    def empty(self) -> bool:
        """Nothing but a docstring."""
        return len(self.tree.body) <= 1

    def declared_all(self) -> bool:
        """Whether the module assigns ``__all__`` at its top level."""
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                return True
        return False

    def imports(self) -> list[Import]:
        """Every import of the file, those inside functions included."""
        found: list[Import] = []
        _collect(self, self.tree, (False, False), found)
        return found


def _is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _collect(module: Module, node: ast.AST, where: tuple[bool, bool], found: list[Import]) -> None:
    """``where``: whether the node is for type checking only, and whether it is inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            found += [Import(alias.name, (), child.lineno, *where) for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            found += _from(module, child, where)
        elif _is_typing_block(child):
            assert isinstance(child, ast.If)
            for part in child.body:
                _collect(module, ast.Module([part], []), (True, where[1]), found)
            for part in child.orelse:
                _collect(module, ast.Module([part], []), where, found)
        else:
            inside = where[1] or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            _collect(module, child, (where[0], inside), found)


def _from(module: Module, node: ast.ImportFrom, where: tuple[bool, bool]) -> list[Import]:
    base = node.module or ""
    if node.level:
        package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, base] if base else parents)
    submodules = [a.name for a in node.names if _exists(f"{base}.{a.name}")]
    names = tuple(a.name for a in node.names if a.name not in submodules)
    found = [Import(f"{base}.{name}", (), node.lineno, *where) for name in submodules]
    return [*found, Import(base, names, node.lineno, *where)] if names else found


def _exists(name: str) -> bool:
    if name.partition(".")[0] not in PACKAGES:
        return False
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@cache
def modules() -> tuple[Module, ...]:
    """Every file of both packages."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, path, ast.parse(path.read_text(encoding="utf-8"))))
    return tuple(found)


def importable() -> tuple[Module, ...]:
    """All of them but, where Numba is not installed, the compiled kernels."""
    return tuple(m for m in modules() if not m.compiled or find_spec("numba"))
