"""CUDA programs: the text that is compiled, and the parameters of its kernels.

A program is the headers, a few ``#define``s and a ``*.cu`` file, as one text. ``#include "name.cuh"`` inserts a file
from the same folder, or from this one. The kernels' signatures are parsed from the text. So the launcher checks every
call against the code itself, and nothing is declared twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograd.dtypes import as_dtype

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FLOAT_NAMES", "TYPE_NAMES", "Entry", "Parameter", "Program", "entries_of", "program"]

_HERE = Path(__file__).parent
HEADERS = (_HERE / "device.cuh", _HERE / "common.cuh")

_BOUNDS = r"(?:__launch_bounds__\([^()]*(?:\([^()]*\)[^()]*)*\)\s*)?"
_KERNEL = re.compile(rf"^[ \t]*KERNEL\s+void\s+{_BOUNDS}(\w+)\s*\(([^()]*)\)", re.MULTILINE)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_ANY_KERNEL = re.compile(r"^[ \t]*KERNEL\b", re.MULTILINE)
_PARAMETER = re.compile(r"(const )?([\w ]+?) ?(\*)? ?(?:__restrict__ )?(\w+)")
_INCLUDE = re.compile(r'#include "([\w.]+)"')
_DEFINE = re.compile(r"^#define (\w+) ([\w ]+)$", re.M)
_TYPES = {
    "float": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "double": "float64",
    "int": "int32",
    "u32": "uint32",
    "i64": "int64",
    "u64": "uint64",
    "u8": "uint8",
    "signed char": "int8",
    "bool": "bool",
}
TYPE_NAMES = {dtype: name for name, dtype in _TYPES.items()}
FLOAT_NAMES = {dtype: TYPE_NAMES[dtype] for dtype in ("float32", "float16", "bfloat16")}  # that kernels compute with


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel.

    Attributes:
        name: as in the source.
        dtype: name of the scalar's dtype, or of that of the array that a pointer points to.
        pointer: whether it is an array, else a scalar.
        const: whether the kernel only reads it.
    """

    name: str
    dtype: str
    pointer: bool
    const: bool

    @property
    def numpy(self) -> np.dtype[Any]:
        """``dtype`` as NumPy's."""
        return as_dtype(self.dtype)


@dataclass(frozen=True)
class Entry:
    """A kernel of a program."""

    name: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class Program:
    """A source file and what it is compiled with.

    Attributes:
        path: the ``*.cu`` file.
        defines: (name, value) of each macro, in order; types are given by name ("f16").
    """

    path: Path
    defines: tuple[tuple[str, str | int], ...]

    @property
    def text(self) -> str:
        """The whole source as one text, so that a cache of compiled code by its text notices every change."""
        return _text(self)

    @property
    def entries(self) -> dict[str, Entry]:
        """The kernels by name."""
        return entries_of(self.text)


def program(path: Path, **defines: str | int) -> Program:
    """The program of the file at ``path`` with macros ``defines``."""
    return Program(path, tuple(sorted(defines.items())))


@lru_cache(maxsize=256)
def _text(wanted: Program) -> str:
    macros = "".join(f"#define {name} {value}\n" for name, value in wanted.defines)
    return "\n".join((*map(_source, HEADERS), f'#line 1 "defines"\n{macros}', _source(wanted.path)))


def _source(path: Path) -> str:
    """A file's text with included files inserted. A run-time compiler knows no folders, so ``#line`` says where lines
    are from."""
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        include = _INCLUDE.fullmatch(line)
        lines += [_source(_included(path, include[1])), f'#line {number + 1} "{path.name}"'] if include else [line]
    return "\n".join(lines) + "\n"


def _included(path: Path, name: str) -> Path:
    beside = path.parent / name
    return beside if beside.exists() else _HERE / name


def _parameter(text: str, types: dict[str, str]) -> Parameter:
    match = _PARAMETER.fullmatch(" ".join(text.split()))
    spelled = types.get(match[2], match[2]) if match else None
    if match is None or spelled not in _TYPES:
        raise ValueError(f"{text.strip()!r}: expected a scalar, or a pointer to one, of a known type; got {spelled!r}.")
    return Parameter(match[4], _TYPES[spelled], match[3] is not None, match[1] is not None)


@lru_cache(maxsize=256)
def entries_of(text: str) -> dict[str, Entry]:
    """The kernels of a whole source text, by name.

    Raises:
        ValueError: for a kernel that is not declared as expected, or a parameter of a type that cannot be checked.
    """
    types = dict(_DEFINE.findall(text))
    text = _COMMENT.sub(" ", text)
    found = {}
    for name, parameters in _KERNEL.findall(text):
        listed = [p for p in parameters.split(",") if p.strip()]
        found[name] = Entry(name, tuple(_parameter(p, types) for p in listed))
    if len(found) != len(_ANY_KERNEL.findall(text)):
        raise ValueError(
            f"kernels: expected each as 'KERNEL void [__launch_bounds__(...)] name(...)'; got {list(found)}."
        )
    return found
