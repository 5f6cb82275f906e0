"""Rows cut into pieces, and the compiled loop in which threads take one piece after another.

How work is cut depends on sizes alone, and partial sums are added up afterwards: the same bits with any number of
threads. A thread enters compiled code once for all pieces that it takes: to hand a kernel its arguments is some ten
microseconds of Python, which one thread at a time runs, as long as a small piece itself.
"""

from __future__ import annotations

import time
from functools import cache, lru_cache
from itertools import pairwise
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba.core import types

from autograd.kernels.compiled.toolkit import instruction, jit
from autograd.kernels.threads import bell, cores, from_the_end, get_num_threads, listen_with, on_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["add_up", "cut_at", "even_pieces", "pieces", "run_pieces"]

_AWAKE = 200e-6  # seconds that a helper listens before it falls asleep; Python between two kernels mostly takes less


def cut_at(ends: Sequence[int]) -> Any:
    """(pieces, 2): (start, stop) of each, from the places where one ends and the next begins."""
    cut = np.array(list(pairwise(ends)), np.int64).reshape(-1, 2)
    cut.flags.writeable = False
    return cut


@lru_cache(maxsize=512)
def even_pieces(rows: int, count: int) -> Any:
    """As :func:`cut_at`, so many pieces of about equal size."""
    return cut_at([rows * i // count for i in range(count + 1)])


def pieces(rows: int, row_bytes: int) -> Any:
    """As :func:`cut_at`, equal pieces of rows, each of at least 128 KiB: up to 16, or more where they would be larger
    than 2 MiB."""
    size = rows * row_bytes
    return even_pieces(rows, max(1, min(max(16, size >> 21), rows, size >> 17)))


# ---- what threads share: numbers that one of them changes in one step for all

_NEXT = 2  # of a call: threads that came, threads that went, and for each share the next piece
_CAME, _WENT = 0, 1
_RINGS, _LISTENERS = 0, 1  # of the bell


@instruction
def _count(context: Any, numbers: Any, place: Any, n: Any) -> Any:
    """The number at a place, to which ``n`` is added."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "seq_cst")

    return types.int64(numbers, types.int64, types.int64), generate


@instruction
def _look(context: Any, numbers: Any, place: Any) -> Any:
    """The number at a place as other threads have left it, a moment later: the processor is told that this thread only
    waits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if builder.module.triple.startswith(("x86_64", "i686")):
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), nothing), [])
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "seq_cst", 8)

    return types.int64(numbers, types.int64), generate


@jit
def _listen(bell: Any, heard: int, looks: int) -> None:
    """Until the bell has rung more often than was ``heard``, but no longer than so many looks."""
    _count(bell, _LISTENERS, 1)
    while looks > 0 and _look(bell, _RINGS) == heard:
        looks -= 1
    _count(bell, _LISTENERS, -1)


@jit
def _come(shared: Any, bell: Any) -> Any:
    """Whether this thread is the first. It rings the bell here, in compiled code, where those who come need not wait
    for Python's lock."""
    first = _count(shared, _CAME, 1) == 0
    if first:
        _count(bell, _RINGS, 1)
    return first


@jit
def _go(shared: Any, bell: Any, first: Any, looks: int) -> None:
    """The first to come waits for the others to go, and a little for them to be through with Python: a thread that has
    to wait for Python's lock falls asleep."""
    _count(shared, _WENT, 1)
    if first:
        left = looks
        while left > 0 and _look(shared, _WENT) != _look(shared, _CAME):
            left -= 1
        others, left = _look(shared, _CAME) - 1, looks // 16
        while left > 0 and _look(bell, _LISTENERS) < others:
            left -= 1


def _looks() -> int:
    """How often to look while one stays awake, measured. With more threads than cores nobody has time to listen."""
    if get_num_threads() > cores():
        return 0
    return _looks_awake()


@lru_cache(maxsize=1)
def _looks_awake() -> int:
    quiet, sample, seconds = np.zeros(2, np.int64), 1000, []
    for _ in range(4):  # the first compiles
        started = time.perf_counter()
        _listen(quiet, 0, sample)
        seconds.append(time.perf_counter() - started)
    return int(sample * _AWAKE / min(seconds))


listen_with(lambda heard: _listen(bell, heard, _looks()))


# ---- the loop


def _take_pieces(number, threads, cut, backwards, shared, bell, looks, args):  # type: ignore[no-untyped-def]
    first = come(shared, bell)  # type: ignore[name-defined]  # noqa: F821
    for i in range(threads):  # a share of its own, then the others'
        share = (number + i) % threads
        begin, end = len(cut) * share // threads, len(cut) * (share + 1) // threads
        piece = begin + count(shared, NEXT + share, 1)  # type: ignore[name-defined]  # noqa: F821
        while piece < end:
            at = begin + end - 1 - piece if backwards else piece
            kernel(*args, at, cut[at, 0], cut[at, 1])  # type: ignore[name-defined]  # noqa: F821
            piece = begin + count(shared, NEXT + share, 1)  # type: ignore[name-defined]  # noqa: F821
    go(shared, bell, first, looks)  # type: ignore[name-defined]  # noqa: F821


@cache
def _loop_over(kernel: Any) -> Any:
    """The compiled loop that calls a kernel. It looks as if it were written beside it, with a name of its own: compiled
    code is kept on disk by file, name and line, and a closure would not be found again."""
    function = kernel.py_func
    name, place = f"{function.__name__}_of_pieces", function.__code__
    code = _take_pieces.__code__.replace(
        co_name=name, co_qualname=name, co_filename=place.co_filename, co_firstlineno=place.co_firstlineno
    )
    names = {"kernel": kernel, "come": _come, "go": _go, "count": _count, "NEXT": _NEXT}
    return jit(FunctionType(code, {**names, "len": len, "range": range, "__name__": function.__module__}, name))


def run_pieces(kernel: Callable[..., None], cut: Any, *args: Any) -> None:
    """Call a compiled ``kernel(*args, number, start, stop)`` for every piece of ``cut``, on all threads.

    A thread has a share of neighbouring pieces of its own, the same rows in every call: they are in its caches. Every
    other time it takes them from the end: what the call before used last is there still.
    """
    loop, threads, backwards, looks = _loop_over(kernel), get_num_threads(), from_the_end(), _looks()
    shared = np.zeros(_NEXT + threads, np.int64)
    on_threads(lambda number: loop(number, threads, cut, backwards, shared, bell, looks, args), len(cut))


def add_up(partials: Any) -> Any:
    """Partial sums (pieces, ...) added up in an order that their sizes alone decide."""
    return np.add.reduce(partials, axis=0)
