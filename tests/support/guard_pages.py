"""Run as a program: calls compiled kernels on arrays that begin or end at memory that may not be touched.

A read or a write beyond an array ends the process by a signal; the last line printed names the call. Linux.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.kernels import KERNELS, kernel_mode

from .rows.opinfo import Source
from .rows.swin import Case, make
from .rows.table import KERNEL_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIBC = ctypes.CDLL(None, use_errno=True)
_PAGE = mmap.PAGESIZE
_NO_ACCESS = 0


def _bytes(count: int, edge: str) -> Any:
    room = -(-max(count, 1) // _PAGE) * _PAGE
    memory = mmap.mmap(-1, room + _PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    guard, first = (0, _PAGE) if edge == "begin" else (room, room - count)
    if _LIBC.mprotect(ctypes.c_void_p(start + guard), ctypes.c_size_t(_PAGE), _NO_ACCESS):
        raise OSError(ctypes.get_errno(), "mprotect")
    return np.frombuffer(memory, np.uint8, count, first)


def _guarded(value: Any, edge: str) -> Any:
    """The value with its arrays copied beside guard pages: those in lists and tuples, too."""
    if isinstance(value, np.ndarray):
        array = _bytes(value.nbytes, edge).view(value.dtype).reshape(value.shape)
        array[...] = value
        return array
    return type(value)(_guarded(v, edge) for v in value) if type(value) in (list, tuple) else value


def _large(rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """Calls large enough for our own tiles, and attention's fast ones, at sizes that fill no tile."""

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    for rows, inputs, outputs in ((785, 70, 90), (800, 96, 64), (779, 81, 81)):
        g, x, weight = normal(rows, outputs), normal(rows, inputs), normal(outputs, inputs)
        yield "linear_fwd", (x, weight, normal(outputs))
        yield "linear_bwd", (g, x, weight, (True,) * 3)
        w1, b1, w2 = normal(outputs, inputs), normal(outputs), normal(inputs, outputs)
        yield "mlp_fwd", (x, w1, b1, w2, normal(inputs), True)
        yield "mlp_bwd", (x, x, g, w1, b1, w2, (True,) * 5)
    for window, heads, head_dim in ((7, 3, 32), (7, 1, 20), (4, 2, 32), (8, 2, 24)):
        for cosine in (False, True):
            case = Case((window, 2 * window), (window,) * 2, (window // 2,) * 2, heads, head_dim, cosine=cosine)
            sample = make(case, Source(int(rng.integers(2**31)))).cast(np.float32)
            arguments = (*sample.args, sample.kwargs["spec"])
            yield "window_attention_fwd", arguments
            yield "window_attention_bwd", (normal(case.batch, *case.size, heads * head_dim), *arguments)


def _calls() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    rng = np.random.default_rng(0)
    for (name, row), dtype in itertools.product(sorted(KERNEL_ROWS.items()), (np.float32, np.float64)):
        if KERNELS[name].cpu is not None:
            yield name, *row.arguments(rng, dtype)
    for name, arguments in _large(rng):
        yield name, arguments, {}


def _outer(rows: int, left: int, right: int, dtype: Any, edge: str) -> None:
    """What a block gives to a weight's gradient, scratch guarded, too."""
    from autograd.kernels.compiled.outer import add_outer, make_partials, scratch_size

    first = 2
    a, b = (np.ones((first + rows, width), dtype) for width in (left, right))
    panels = [np.full(scratch_size(rows, width), np.nan, dtype) for width in (left, right)]
    a, b, panels, (sums,) = _guarded(
        (a, b, panels, [np.zeros(make_partials(1, left, right, a.dtype).size, dtype)]), edge
    )
    add_outer(a, first, b, first, rows, *panels, sums)


def main() -> None:
    with kernel_mode("cpu"):
        for edge in ("begin", "end"):
            for name, arguments, options in _calls():
                print(edge, name, *[a.shape for a in arguments if isinstance(a, np.ndarray)], flush=True)
                KERNELS[name](*_guarded(arguments, edge), **options)
            for rows, left, right in itertools.product((1, 2, 7, 96), (*range(1, 25), 70), (1, 16, 17, 33)):
                for dtype in (np.float32, np.float64):
                    print(edge, "outer", rows, left, right, np.dtype(dtype), flush=True)
                    _outer(rows, left, right, dtype, edge)
    print("done")


if __name__ == "__main__":
    main()
