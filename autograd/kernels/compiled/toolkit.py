"""What compiled kernels are made with: the decorator, functions that vectorise, contiguous arguments.

A kernel is compiled without parallelism of its own, and it releases Python's lock. It computes rows [start, stop), a
piece, and the engine's threads take the pieces (:mod:`autograd.kernels.compiled.pieces`).

Compiled code is kept on disk beside the sources, or in the user's cache directory if that folder is read-only.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import Linkage
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.extending import intrinsic, overload

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "cdf",
    "compiled",
    "difference",
    "exp",
    "instruction",
    "jit",
    "larger",
    "nearest",
    "plain",
    "power_of_two",
    "product",
    "quotient",
    "read",
    "rows_of",
    "will_write",
    "write",
]

_F = TypeVar("_F", bound="Callable[..., Any]")

# What LLVM may assume. Sums may be taken in any order (that of SIMD lanes; it is fixed once compiled), and a * b + c
# may be one instruction. NaN and infinities keep their meaning, unlike with full fast-math.
_FLAGS = {"reassoc", "contract", "arcp", "nsz"}
_EXACT_ORDER = _FLAGS - {"reassoc"}  # for polynomials, whose order of operations was chosen for small rounding errors
_ALONE = (
    "nsz",
)  # for an instruction that is to stay as it is; Numba would give one without any flag the function's flags


def instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a function for compiled code that is written in LLVM's language; called without the ``context``."""
    return cast("Callable[..., Any]", intrinsic(function))


# ---- the cache on disk

_SHIPPED = Path(__file__).resolve().parents[3]


def _sources() -> str:
    """A hash of the sources of all compiled kernels.

    Numba by itself compares the time of a kernel's own file, and would not notice a change of the functions that were
    inlined into it.
    """
    rooms = {twin.parent for package in ("autograd", "swinpy") for twin in (_SHIPPED / package).rglob("cpu.py")}
    files = sorted({f for room in (Path(__file__).parent, *rooms) for f in room.glob("*.py")})
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


_STAMP = _sources()
_said = False


def _say(kept: Path | None) -> None:
    """Print one line if no compiled code of these sources has been kept yet in the folder ``kept``."""
    global _said
    mark = kept and kept / "swinpy-kernels.txt"
    with contextlib.suppress(OSError):
        if mark and mark.exists() and mark.read_text() == _STAMP:
            _said = True
    if not _said:
        where = "once (a few seconds each; kept on disk)" if kept else (
            "in every process: no directory to keep them in can be written to. NUMBA_CACHE_DIR may name one"
        )  # fmt: skip
        with contextlib.suppress(OSError, ValueError):  # nobody reads it
            print(f"swinpy: compiling CPU kernels, {where}", file=sys.stderr, flush=True)
    _said = True
    if mark:
        with contextlib.suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(_STAMP)


# ---- a function is called as it was compiled into its caller
#
# The object code of a caller holds copies of those functions that LLVM has not inlined, optimised once more. To Numba
# they are weak symbols: of all functions of one name the process takes the first that is loaded. Where the caller has
# just been compiled, that is the function's own code; where the caller was loaded from disk, its copy. The two sum in
# other orders, so the process that compiles had other bits than those after it. Here each caller keeps to its copy.


class _Library(JITCodeLibrary):  # type: ignore[misc]  # Numba has no types
    def _optimize_final_module(self) -> None:
        super()._optimize_final_module()
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == Linkage.linkonce_odr:
                function.linkage = Linkage.internal


class _Compiler(Compiler):  # type: ignore[misc]
    def compile_extra(self, func: Any) -> Any:
        if self.state.library is None:
            self.state.library = _Library(self.state.targetctx.codegen(), func.__qualname__)
            self.state.library.enable_object_caching()
        return super().compile_extra(func)


def jit(function: _F) -> _F:
    """Compile a function of arrays and numbers at its first call with given types."""
    compile_with = numba.njit(nogil=True, fastmath=_FLAGS, error_model="numpy", pipeline_class=_Compiler)
    dispatcher = compile_with(function)
    kept = None
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # Numba finds no folder that can be written to
        pass
    else:
        dispatcher._cache._cache_file._source_stamp = _STAMP
        kept = Path(dispatcher._cache.cache_path)
    if not _said:
        _say(kept)
    return cast("_F", dispatcher)


# ---- functions that vectorise
#
# LLVM vectorises polynomials but not calls into libm. So float32 has polynomials here, while float64, the dtype for
# checks, keeps libm's accuracy. Constants have the argument's dtype: a Python float would widen everything to float64.


@instruction
def nearest(context: Any, x: Any) -> Any:
    """The nearest integer, as a float."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FloatType() if x == types.float32 else ir.DoubleType()
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [kind]), args)

    return x(x), generate


@instruction
def larger(context: Any, x: Any, y: Any) -> Any:
    """The larger of two numbers that are not NaN. A running maximum vectorises only if NaN is ruled out."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        function = builder.module.declare_intrinsic("llvm.maxnum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, args, fastmath=("nnan", "nsz"))

    return x(x, x), generate


@instruction
def product(context: Any, x: Any, y: Any) -> Any:
    """x * y, rounded, never fused into a multiply-add: in h - mean(h), unrounded products h would not cancel where they
    must."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(*args, flags=_ALONE)

    return x(x, x), generate


@instruction
def difference(context: Any, x: Any, y: Any) -> Any:
    """x - y, never reordered. For x - y - z use it twice: LLVM may turn that into x - (y + z), in which a small z is
    lost beside a large y."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fsub(*args, flags=_ALONE)

    return x(x, x), generate


@instruction
def quotient(context: Any, x: Any, y: Any) -> Any:
    """x / y, rounded, never made x * (1 / y): where a threshold decides."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fdiv(*args, flags=_ALONE)

    return x(x, y), generate


@instruction
def power_of_two(context: Any, n: Any) -> Any:
    """2**n for an integral float32 n in [-126, 127]: n + 127 becomes the exponent's bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32)
        exponent = builder.add(builder.fptosi(args[0], word), ir.Constant(word, 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.float32), generate


@instruction
def read(context: Any, array: Any, place: Any) -> Any:
    """The element at ``place`` of a C-ordered array's memory, without bounds check or wrapping of negative indices.

    It needs no view of a row. To make one changes the array's reference count, which the threads share.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(data, [args[1]]))

    return array.dtype(array, types.intp), generate


@instruction
def write(context: Any, array: Any, place: Any, value: Any) -> Any:
    """Store ``value`` at ``place`` of a C-ordered array's memory, as :func:`read` loads."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        builder.store(args[2], builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@instruction
def _prefetch(context: Any, array: Any, place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        address = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        to_write, keep, data_cache = (ir.Constant(word, n) for n in (1, 3, 1))
        builder.call(function, [address, to_write, keep, data_cache])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@jit
def will_write(array: Any, start: int, stop: int) -> None:
    """Prefetch the cache lines of places [start, stop), which are written soon.

    A store waits for a line that is not in the cache, and hardware prefetches for loads better than for stores. Places
    past the array's end do no harm.
    """
    for place in range(start, stop, 64 // array.itemsize):
        _prefetch(array, place)


_LOG2E, _LN2_HIGH, _LN2_LOW = (np.float32(c) for c in (1.44269504088896341, 0.693359375, -2.12194440e-4))
_E0, _E1, _E2, _E3, _E4, _E5 = (
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_EXP_LOW, _LEAST, _MOST = np.float32(-87), np.float32(-126), np.float32(127)


def compiled(stub: Callable[..., Any]) -> Callable[[_F], _F]:
    """Decorator of a function that takes Numba's type of x and returns the function to compile for ``stub(x)``."""

    def decorate(choose: _F) -> _F:
        def template(x):  # type: ignore[no-untyped-def]  # Numba compares signatures, annotations and all
            chosen = choose(x)
            chosen.__annotations__ = {}
            return chosen

        overload(stub, jit_options={"fastmath": _EXACT_ORDER})(template)
        return choose

    return decorate


def exp(x: Any) -> Any:
    """exp(x) for x up to 88, in compiled code. In float32 it is 0 for x < -87, where results are denormal and slow."""
    raise NotImplementedError("exp: expected to be called from compiled code.")


@compiled(exp)
def _exp(x: Any) -> Any:
    """float32: with n = rint(x log2 e) and r = x - n ln 2 in two parts, 2**n (1 + r + r**2 P(r)), as Cephes' expf."""
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp32(x: Any) -> Any:
        n = nearest(min(max(x * _LOG2E, _LEAST), _MOST))
        r = x - n * _LN2_HIGH
        r = r - n * _LN2_LOW
        p = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
        value = (p * (r * r) + r + _ONE) * power_of_two(n)
        return _ZERO if x < _EXP_LOW else value

    return exp32


# erf(t) = t P(t^2) / Q(t^2) on [-4, 4], error below 3e-7: as in autograd.kernels.gelu.erf
_P0, _P1, _P2, _P3, _P4, _P5, _P6 = (
    np.float32(c)
    for c in (
        -2.72614225801306e-10,
        2.77068142495902e-08,
        -2.10102402082508e-06,
        -5.69250639462346e-05,
        -7.34990630326855e-04,
        -2.95459980854025e-03,
        -1.60960333262415e-02,
    )
)
_Q0, _Q1, _Q2, _Q3, _Q4 = (
    np.float32(c)
    for c in (
        -1.45660718464996e-05,
        -2.13374055278905e-04,
        -1.68282697438203e-03,
        -7.37332916720468e-03,
        -1.42647390514189e-02,
    )
)
_SQRT_HALF, _FOUR = np.float32(math.sqrt(0.5)), np.float32(4)


def cdf(x: Any) -> Any:
    """Phi(x), the distribution function of the standard normal, in compiled code."""
    raise NotImplementedError("cdf: expected to be called from compiled code.")


@compiled(cdf)
def _cdf(x: Any) -> Any:
    if x != types.float32:
        return lambda x: 0.5 + 0.5 * math.erf(x * math.sqrt(0.5))

    def cdf32(x: Any) -> Any:
        t = min(max(x * _SQRT_HALF, -_FOUR), _FOUR)
        s = t * t
        p = (((((_P0 * s + _P1) * s + _P2) * s + _P3) * s + _P4) * s + _P5) * s + _P6
        q = (((_Q0 * s + _Q1) * s + _Q2) * s + _Q3) * s + _Q4
        return _HALF + _HALF * (t * p / q)

    return cdf32


# ---- on the Python side


def plain(x: Any) -> Any:
    """``x`` C-ordered, aligned and writable, copied if need be. Kernels would be compiled anew for every other
    layout."""
    return x if x.flags.carray else np.array(x, order="C")


def rows_of(x: Any) -> Any:
    """``x`` (..., C) as (rows, C), made contiguous by :func:`plain`."""
    return plain(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])
