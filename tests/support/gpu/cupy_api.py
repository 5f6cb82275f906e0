"""The public names and signatures of real CuPy, in cupy_api.json; run this file where CuPy is installed to renew it.

    python tests/support/gpu/cupy_api.py        (no GPU needed)

Parameters are written as in a ``def``, with a bare ``=`` for "has a default": ``(a, axis=, *, keepdims=)``.
"""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any

__all__ = ["load", "signature"]

_FILE = Path(__file__).with_name("cupy_api.json")


def load() -> dict[str, Any]:
    """{"version", "nvrtc_options": [option], "module": {name: what}, "ndarray": {name: what}}.

    ``nvrtc_options``: what CuPy adds to a module's own options, but for the architecture. ``what`` is parameters, or
    "module", "type", "ufunc", "constant", "attribute", or "callable" where CuPy does not say what the parameters are.
    """
    return json.loads(_FILE.read_text())  # type: ignore[no-any-return]


def signature(what: str) -> inspect.Signature | None:
    """Something to ``bind`` arguments to; None where the parameters are unknown."""
    if not what.startswith("("):
        return None
    kind, parameters = inspect.Parameter.POSITIONAL_OR_KEYWORD, []
    for word in filter(None, what[1:-1].split(", ")):
        name = word.strip("*=")
        if word.startswith("**"):
            parameters.append(inspect.Parameter(name, inspect.Parameter.VAR_KEYWORD))
        elif word.startswith("*"):
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters += [inspect.Parameter(name, inspect.Parameter.VAR_POSITIONAL)] if name else []
        else:
            default = None if word.endswith("=") else inspect.Parameter.empty
            parameters.append(inspect.Parameter(name, kind, default=default))
    return inspect.Signature(parameters)


def _written(args: ast.arguments) -> str:
    plain = [*args.posonlyargs, *args.args]
    required = len(plain) - len(args.defaults)
    words = [a.arg + ("=" if i >= required else "") for i, a in enumerate(plain)]
    if args.vararg or args.kwonlyargs:
        words.append("*" + (args.vararg.arg if args.vararg else ""))
    words += [a.arg + ("=" if d else "") for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    words += [f"**{args.kwarg.arg}"] if args.kwarg else []
    return f"({', '.join(words)})"


def _parameters(function: Any) -> str:
    try:
        found = inspect.signature(function)
        bare = [p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else None)
                for p in found.parameters.values()]  # fmt: skip
        text = str(inspect.Signature(bare))
    except (TypeError, ValueError):  # Cython writes the signature into the first line of the docstring
        head = (getattr(function, "__doc__", None) or "").partition("\n")[0]
        text = "(" + head.partition("(")[2].partition(" -> ")[0]
    try:
        (definition,) = ast.parse(f"def f{text}: pass").body
    except SyntaxError:
        return "callable"
    assert isinstance(definition, ast.FunctionDef)
    return _written(definition.args)


def _what(value: Any, ufunc: type) -> str:
    if inspect.ismodule(value):
        return "module"
    if isinstance(value, ufunc):
        return "ufunc"
    if isinstance(value, type):
        return "type"
    return _parameters(value) if callable(value) else "constant"


class _SeenError(Exception):
    """Carries the options that NVRTC would have got."""


def _nvrtc_options() -> list[str]:
    """What CuPy adds to the options of a RawModule, read off at its last step before NVRTC."""
    from unittest import mock

    from cupy.cuda import compiler

    class Program:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def compile(self, options: tuple[str, ...], *_: Any) -> None:
            raise _SeenError(options)

    changes: dict[str, Any] = {"_nvrtc_version": (13, 0), "_NVRTCProgram": Program}
    answers = {"_preprocess": "", "_get_arch_for_options_for_nvrtc": ("-arch=sm_90", "cubin")}
    changes |= {name: mock.Mock(return_value=answer) for name, answer in answers.items()}
    with mock.patch.multiple(compiler, **changes):
        try:
            compiler._compile_module_with_cache("", ("-std=c++17",), arch="90")
        except _SeenError as seen:
            return [option for option in seen.args[0] if option not in ("-std=c++17", "-arch=sm_90")]
    raise AssertionError("CuPy has compiled without NVRTC")


def _renew() -> None:
    import cupy

    module = {n: _what(getattr(cupy, n), cupy.ufunc) for n in dir(cupy) if not n.startswith("_")}
    ndarray = {}
    for n in dir(cupy.ndarray):
        if n.startswith("__") or not n.startswith("_"):
            attribute = inspect.isgetsetdescriptor(inspect.getattr_static(cupy.ndarray, n))
            ndarray[n] = "attribute" if attribute else _parameters(getattr(cupy.ndarray, n))
    found = {"version": cupy.__version__, "nvrtc_options": _nvrtc_options(), "module": module, "ndarray": ndarray}
    _FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    _renew()
