"""The only way to launch a kernel: every argument is checked against the source, every launch and copy is counted.

CuPy itself checks nothing: a RawKernel ignores strides, passes a Python float as a double and an int as an int64, and
reads whatever memory it is given.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import device_of, is_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autograd.backend import Array
    from autograd.kernels.cuda.source import Entry, Parameter, Program

__all__ = ["OPTIONS", "Counts", "capability", "contiguous", "counting", "launch", "multiprocessors"]

OPTIONS = ("-std=c++17",)  # of NVRTC, to which CuPy adds its own
_MOST_YZ = 65535
_ALIGNMENT = 16  # bytes, of the widest load; CuPy aligns arrays to 512, but a view may begin anywhere
_STATIC_SHARED = 48 * 1024  # bytes; more has to be requested of the driver


@dataclass
class Counts:
    """What :func:`counting` counts.

    Attributes:
        launches: the number of launches, by kernel.
        copies: the number of arrays that were copied because a kernel cannot read their layout.
    """

    launches: dict[str, int] = field(default_factory=dict)
    copies: int = 0


_COUNTS: ContextVar[Counts | None] = ContextVar("autograd_cuda_counts", default=None)


@contextmanager
def counting() -> Iterator[Counts]:
    """Count launches, and copies for the sake of layouts, inside the ``with`` statement."""
    counts = Counts()
    token = _COUNTS.set(counts)
    try:
        yield counts
    finally:
        _COUNTS.reset(token)


def contiguous(x: Array) -> Array:
    """``x`` itself if it is C-ordered and aligned to 16 bytes, else a copy, which is counted."""
    if x.flags.c_contiguous and x.data.ptr % _ALIGNMENT == 0:
        return x
    counts = _COUNTS.get()
    if counts is not None:
        counts.copies += 1
    return x.copy(order="C")


@lru_cache(maxsize=16)
def _properties(device: int) -> tuple[int, int, int]:
    """Compute capability, number of multiprocessors, device."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(device)
    return 10 * properties["major"] + properties["minor"], properties["multiProcessorCount"], device


def capability(x: Array) -> int:
    """The compute capability of the device that ``x`` is on: 80 for sm_80."""
    return _properties(x.device.id)[0]


def multiprocessors(x: Array) -> int:
    """The number of multiprocessors of the device that ``x`` is on."""
    return _properties(x.device.id)[1]


@dataclass
class _Compiled:
    """A compiled kernel, and the most shared memory requested for it so far: the driver keeps one limit per kernel."""

    function: Any
    shared: int = _STATIC_SHARED

    def run(self, grid: tuple[int, ...], block: int, args: tuple[Any, ...], shared: int) -> None:
        if shared > self.shared:
            self.function.max_dynamic_shared_size_bytes = self.shared = shared
        self.function(grid, (block,), args, shared_mem=shared)


@lru_cache(maxsize=1024)
def _compiled(program: Program, kernel: str, device: int) -> _Compiled:
    """The kernel. CuPy compiles it for the current device and keeps the result on disk, by the program's text."""
    import cupy

    module = cupy.RawModule(code=program.text, options=OPTIONS, backend="nvrtc")
    return _Compiled(module.get_function(kernel))


def _argument(kernel: str, parameter: Parameter, value: Any, device: str) -> Any:
    """``value`` as the kernel takes it. Raises an error that names the parameter if it is wrong."""
    where = f"{kernel}: expected {parameter.name} to be"
    if not parameter.pointer:
        if is_array(value):
            raise TypeError(f"{where} a number; got an array of shape {value.shape}.")
        return parameter.numpy.type(value)
    if value is None:
        return np.uint64(0)  # a null pointer, which the kernel tests for
    if not is_array(value):
        raise TypeError(f"{where} an array on {device}; got {type(value).__name__}.")
    if device_of(value) != device:
        raise ValueError(f"{where} on {device}; got one on {device_of(value)}.")
    if value.dtype != parameter.numpy:
        raise TypeError(f"{where} {parameter.dtype}; got {value.dtype}.")
    if not value.flags.c_contiguous:
        raise ValueError(f"{where} C-ordered; got other strides. Use contiguous().")
    if value.data.ptr % _ALIGNMENT:
        raise ValueError(f"{where} aligned to {_ALIGNMENT} bytes; got a view that is not. Use contiguous().")
    return value


def _check_size(entry: Entry, grid: Sequence[int], block: int) -> None:
    if not 0 < block <= 1024 or min(grid) < 1 or max(grid[1:], default=1) > _MOST_YZ or grid[0] >= 2**31:
        raise ValueError(
            f"{entry.name}: expected 1 to 1024 threads a block and a grid within 2**31 x {_MOST_YZ} x {_MOST_YZ}; "
            f"got {block} and {tuple(grid)}."
        )


def launch(
    program: Program, kernel: str, grid: int | Sequence[int], block: int, args: Sequence[Any], shared: int = 0
) -> None:
    """Run ``kernel`` of ``program``.

    Args:
        program: from :func:`autograd.kernels.cuda.source.program`.
        kernel: its name in the source.
        grid: blocks in x, or in x, y and z.
        block: threads in a block.
        args: one value per parameter: C-ordered arrays of one device (None for a null pointer), and numbers, which are
            cast to the types in the source.
        shared: bytes of dynamic shared memory.

    Raises:
        KeyError: if the program has no such kernel.
        TypeError: for a wrong number of arguments, or one of the wrong kind or dtype.
        ValueError: for arrays that are not C-ordered or lie on several devices, or a size beyond CUDA's limits.
    """
    entry = program.entries[kernel]
    if len(args) != len(entry.parameters):
        names = ", ".join(p.name for p in entry.parameters)
        raise TypeError(f"{kernel}: expected {len(entry.parameters)} arguments ({names}); got {len(args)}.")
    grid = (grid,) if isinstance(grid, int) else tuple(grid)
    _check_size(entry, grid, block)
    first = next((a for a in args if is_array(a)), None)
    if first is None or device_of(first) == "cpu":
        raise TypeError(f"{kernel}: expected arrays on a GPU; got {'none' if first is None else 'NumPy arrays'}.")
    device = device_of(first)
    values = [_argument(kernel, p, a, device) for p, a in zip(entry.parameters, args, strict=True)]
    with first.device:
        _compiled(program, kernel, first.device.id).run(grid, block, tuple(values), shared)
    counts = _COUNTS.get()
    if counts is not None:
        counts.launches[kernel] = counts.launches.get(kernel, 0) + 1
