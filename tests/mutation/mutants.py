"""Mutants of a source file: small faults, each one change of its syntax tree.

Left alone are words (docstrings, messages, ``__repr__``, ``__all__``), types, and what only type checkers read.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Mutant", "mutants_of"]

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.BitXor: ast.BitAnd,
}  # fmt: skip
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "maximum": "minimum", "minimum": "maximum",
          "floor": "ceil", "ceil": "floor", "zeros": "ones", "ones": "zeros"}  # fmt: skip
# Calls whose arguments are words for people.
_SPEECH = {"print", "warn", "warning", "note", "say", "TypeVar", "cast", "Path"}


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        path: the file, from the project's root.
        line: where the change begins, from 1.
        before: the source text that is replaced.
        after: what it becomes.
        kind: the operator's name.
        scope: the class and function that hold it.
        start, end: the replaced range, in bytes of the file.
        lines: the first and last line of the statement (of a compound one, its head).
        nth: which of the equal changes in that scope it is, from 0.
    """

    path: str
    line: int
    before: str
    after: str
    kind: str
    scope: str
    start: int
    end: int
    lines: tuple[int, int]
    nth: int = 0

    @property
    def key(self) -> str:
        """The same as long as this change is possible in this scope, wherever that moves to in the file."""
        text = "\0".join((self.path, self.scope, self.kind, self.before, self.after, str(self.nth)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def apply(self, source: bytes) -> bytes:
        """The mutated file."""
        return source[: self.start] + self.after.encode() + source[self.end :]

    def __str__(self) -> str:
        before, after = (" ".join(t.split()) for t in (self.before, self.after))
        return f"{self.path}:{self.line} {self.scope}: {before}  ->  {after}"


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """Every mutant of a file, in the order of the text."""
    source = (root / path).read_bytes()
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    tree = ast.parse(source)
    heads = dict(_statements(tree))
    found: list[Mutant] = []
    seen: Counter[tuple[str, ...]] = Counter()
    for scope, node, after, kind in _changes(tree, "module"):
        start, end = (lines[r - 1] + c for r, c in _span(node))
        before = source[start:end].decode()
        same = (scope, kind, before, after)
        found.append(Mutant(path, node.lineno, before, after, kind, scope, start, end, heads[node], seen[same]))
        seen[same] += 1
    return found


def _span(node: ast.expr | ast.stmt) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)


def _statements(tree: ast.AST, around: tuple[int, int] = (1, 1)) -> Iterator[tuple[ast.AST, tuple[int, int]]]:
    """(node, lines of the statement that holds it) for every node."""
    for node in ast.iter_child_nodes(tree):
        lines = around
        if isinstance(node, ast.stmt):
            inner: list[ast.stmt] = getattr(node, "body", [])
            lines = (node.lineno, inner[0].lineno - 1 if inner else node.end_lineno or node.lineno)
            lines = (lines[0], max(lines))
        yield node, lines
        yield from _statements(node, lines)


def _changes(node: ast.AST, scope: str) -> Iterator[tuple[str, ast.expr | ast.stmt, str, str]]:
    """(scope, the node that is replaced, its new text, operator) for everything under ``node``."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        scope = node.name if scope == "module" else f"{scope}.{node.name}"
    if isinstance(node, ast.expr):
        yield from ((scope, node, f"({ast.unparse(new)})", kind) for new, kind in _of_expression(node))
    elif isinstance(node, ast.stmt):
        yield from ((scope, at, text, kind) for at, text, kind in _of_statement(node))
    for child in _children(node):
        yield from _changes(child, scope)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    if _is_left_alone(node):
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params", "bases", "format_spec"):
            continue
        if isinstance(node, ast.ImportFrom | ast.Import):
            continue
        yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, ast.AST))


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return True
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return True
    if isinstance(node, ast.FunctionDef) and node.name in ("__repr__", "__str__"):
        return True
    if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
        return True
    return isinstance(node, ast.Call) and _called(node) in _SPEECH


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _with(node: ast.expr, **fields: object) -> ast.expr:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _of_expression(node: ast.expr) -> Iterator[tuple[ast.expr, str]]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARE:
            yield _with(node, ops=[_COMPARE[type(op)]()]), "comparison"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            if not (_is_text(left) or _is_text(right)):
                yield _with(node, op=_ARITHMETIC[type(op)]()), "arithmetic"
        case ast.BoolOp(op=op):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And()), "and / or"
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand, "not" if isinstance(node.op, ast.Not) else "sign"
        case ast.Constant(value=bool() as value):
            yield _with(node, value=not value), "constant"
        case ast.Constant(value=int() as value):
            yield _with(node, value=value + 1), "constant"
        case ast.Constant(value=float() as value):
            yield _with(node, value=value * 1.5 if value else 1.0), "constant"
        case ast.IfExp(body=body, orelse=orelse):
            yield _with(node, body=orelse, orelse=body), "condition"
        case ast.Call():
            yield from _of_call(node)


def _of_call(node: ast.Call) -> Iterator[tuple[ast.expr, str]]:
    match node.func:
        case ast.Name(id=name) if name in _NAMES:
            yield _with(node, func=_with(node.func, id=_NAMES[name])), "function"
        case ast.Attribute(attr=name) if name in _NAMES:
            yield _with(node, func=_with(node.func, attr=_NAMES[name])), "function"
    if _called(node) in _SPEECH or _called(node) in _NAMES or len(node.args) < 2:
        return
    first, second, *rest = node.args
    if isinstance(first, ast.Name) and isinstance(second, ast.Name) and first.id != second.id:
        yield _with(node, args=[second, first, *rest]), "arguments"


def _of_statement(node: ast.stmt) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    match node:
        case ast.If(test=test) | ast.While(test=test) if "TYPE_CHECKING" not in ast.dump(test):
            if not isinstance(test, ast.Compare | ast.UnaryOp | ast.Constant):
                yield test, f"({ast.unparse(ast.UnaryOp(ast.Not(), test))})", "condition"
        case ast.Expr(value=ast.Call() as call) if _called(call) not in _SPEECH:
            yield node, "pass", "statement"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, "pass", "statement"
        case ast.AugAssign(op=op) if type(op) in _ARITHMETIC and not _is_text(node.value):
            yield node, ast.unparse(_with(node, op=_ARITHMETIC[type(op)]())), "arithmetic"  # type: ignore[arg-type]
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield value, "(None)", "result"
        case ast.Continue():
            yield node, "break", "statement"
