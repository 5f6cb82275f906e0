"""The division of rows into pieces, and the compiled loop in which a thread takes one piece after another.

The pieces depend on sizes alone, and partial sums are added up in order afterwards. So the bits of a result do not
depend on the number of threads.

A thread enters compiled code once per kernel, and takes all its pieces there. To hand over a compiled function's
arguments takes some ten microseconds of Python, during which no other thread can run Python. That is as long as a small
piece itself takes.
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

__all__ = ["add_up", "even_pieces", "pieces_between", "row_pieces", "run_pieces"]

_AWAKE = (
    200e-6  # seconds that a helper listens before it falls asleep; the Python between two kernels mostly takes less
)


def pieces_between(bounds: Sequence[int]) -> Any:
    """The pieces between neighbouring bounds: (n, 2), the start and stop of each, from n + 1 bounds."""
    pieces = np.array(list(pairwise(bounds)), np.int64).reshape(-1, 2)
    pieces.flags.writeable = False
    return pieces


@lru_cache(maxsize=512)
def even_pieces(rows: int, count: int) -> Any:
    """``count`` pieces of nearly equal sizes, as :func:`pieces_between`."""
    return pieces_between([rows * i // count for i in range(count + 1)])


def row_pieces(rows: int, row_bytes: int) -> Any:
    """Pieces of nearly equal sizes, as :func:`pieces_between`: each of at least 128 KiB, up to 16 of them, but more
    where they would be larger than 2 MiB.

    Args:
        rows: in all.
        row_bytes: bytes of a row, over all arrays that are read or written.
    """
    size = rows * row_bytes
    return even_pieces(rows, max(1, min(max(16, size >> 21), rows, size >> 17)))


# ---- counters that threads share: they are read and changed atomically

# Of a call: threads that entered, threads that left, and from _NEXT on the next piece of each thread's share.
_ENTERED, _LEFT, _NEXT = 0, 1, 2
_RINGS, _LISTENERS = 0, 1  # of the bell


@instruction
def _fetch_add(context: Any, counters: Any, index: Any, n: Any) -> Any:
    """Add ``n`` to a counter atomically; returns what it was before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "seq_cst")

    return types.int64(counters, types.int64, types.int64), generate


@instruction
def _spin(context: Any, counters: Any, index: Any) -> Any:
    """One turn of a loop that waits: read a counter atomically, after the processor was told that this thread spins."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if builder.module.triple.startswith(("x86_64", "i686")):
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), nothing), [])
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "seq_cst", 8)

    return types.int64(counters, types.int64), generate


@jit
def _listen(bell: Any, heard: int, turns: int) -> None:
    """Spin until the bell has rung more often than ``heard`` times, but for at most ``turns`` turns."""
    _fetch_add(bell, _LISTENERS, 1)
    while turns > 0 and _spin(bell, _RINGS) == heard:
        turns -= 1
    _fetch_add(bell, _LISTENERS, -1)


@jit
def _enter(shared: Any, bell: Any) -> Any:
    """Whether this thread is the first of a call. The first one rings the bell. It does so here, in compiled code,
    which does not hold Python's lock: the helpers that it wakes need that."""
    first = _fetch_add(shared, _ENTERED, 1) == 0
    if first:
        _fetch_add(bell, _RINGS, 1)
    return first


@jit
def _leave(shared: Any, bell: Any, first: Any, turns: int) -> None:
    """Leave a call. The first thread waits here until the others have left, and a little longer until they listen
    again: if it went back to Python at once, they would compete for Python's lock, and who waits for that falls
    asleep."""
    _fetch_add(shared, _LEFT, 1)
    if first:
        left = turns
        while left > 0 and _spin(shared, _LEFT) != _spin(shared, _ENTERED):
            left -= 1
        others, left = _spin(shared, _ENTERED) - 1, turns // 16
        while left > 0 and _spin(bell, _LISTENERS) < others:
            left -= 1


def _turns() -> int:
    """The turns for which a thread spins. With more threads than cores none: others need the core."""
    if get_num_threads() > cores():
        return 0
    return _turns_awake()


@lru_cache(maxsize=1)
def _turns_awake() -> int:
    """The turns that take _AWAKE seconds, as measured."""
    quiet, sample, seconds = np.zeros(2, np.int64), 1000, []
    for _ in range(4):  # the first compiles
        started = time.perf_counter()
        _listen(quiet, 0, sample)
        seconds.append(time.perf_counter() - started)
    return int(sample * _AWAKE / min(seconds))


listen_with(lambda heard: _listen(bell, heard, _turns()))


# ---- the loop


def _take_pieces(number, threads, pieces, backwards, shared, bell, turns, args):  # type: ignore[no-untyped-def]
    first = enter(shared, bell)  # type: ignore[name-defined]  # noqa: F821
    for i in range(threads):  # its own share, then the others'
        share = (number + i) % threads
        begin, end = len(pieces) * share // threads, len(pieces) * (share + 1) // threads
        piece = begin + fetch_add(shared, NEXT + share, 1)  # type: ignore[name-defined]  # noqa: F821
        while piece < end:
            at = begin + end - 1 - piece if backwards else piece
            kernel(*args, at, pieces[at, 0], pieces[at, 1])  # type: ignore[name-defined]  # noqa: F821
            piece = begin + fetch_add(shared, NEXT + share, 1)  # type: ignore[name-defined]  # noqa: F821
    leave(shared, bell, first, turns)  # type: ignore[name-defined]  # noqa: F821


@cache
def _loop_over(kernel: Any) -> Any:
    """The compiled loop that calls a kernel.

    Numba keeps compiled code on disk by file, name and line, so that it would not find a closure again. So the loop
    gets a name of its own, and the file and line of the kernel.
    """
    function = kernel.py_func
    name, place = f"{function.__name__}_of_pieces", function.__code__
    code = _take_pieces.__code__.replace(
        co_name=name, co_qualname=name, co_filename=place.co_filename, co_firstlineno=place.co_firstlineno
    )
    names = {"kernel": kernel, "enter": _enter, "leave": _leave, "fetch_add": _fetch_add, "NEXT": _NEXT}
    return jit(FunctionType(code, {**names, "len": len, "range": range, "__name__": function.__module__}, name))


def run_pieces(kernel: Callable[..., None], pieces: Any, *args: Any) -> None:
    """Call a compiled ``kernel(*args, number, start, stop)`` for every piece, on all threads.

    A thread begins with a share of its own, a run of neighbouring pieces. They are the same rows in every call, so that
    its caches hold them. Every other call takes pieces from the last to the first, because the caches still hold what
    the previous call used last. Then the thread takes pieces of the others' shares.

    Args:
        kernel: computes rows [start, stop); ``number`` is the index of the piece.
        pieces: as :func:`pieces_between`.
        *args: arrays, numbers, and named tuples of them.
    """
    loop, threads, backwards, turns = _loop_over(kernel), get_num_threads(), from_the_end(), _turns()
    shared = np.zeros(_NEXT + threads, np.int64)
    on_threads(lambda number: loop(number, threads, pieces, backwards, shared, bell, turns, args), len(pieces))


def add_up(partials: Any) -> Any:
    """The total of partial sums (pieces, ...), added in an order that depends on their sizes alone."""
    return np.add.reduce(partials, axis=0)
