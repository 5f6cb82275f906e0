"""``cupy.RawModule`` of the stand-in for CuPy: kernels run thread by thread on the CPU.

As strict as the hardware: a scalar must have the very type of the parameter, a pointer the alignment that CuPy's memory
has, shared memory over 48 KiB must have been asked for.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autograd.kernels.cuda.source import entries_of

from .. import launches
from .build import host_source, library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autograd.kernels.cuda.source import Entry, Parameter

__all__ = ["SCHEDULES", "KernelFault", "Launch", "Pointee", "RawModule", "recording", "scheduled"]

SCHEDULES = ("forward", "reverse", "random", "greedy")
_SHARED_LIMIT = 227 * 1024  # of a block on sm_90

_schedule: ContextVar[tuple[int, int]] = ContextVar("host_cuda_schedule", default=(0, 1))
_record: ContextVar[list[Launch] | None] = ContextVar("host_cuda_record", default=None)


class KernelFault(RuntimeError):
    """What a kernel did that the hardware punishes."""


@dataclass(frozen=True)
class Pointee:
    """An array that a kernel finds by an address in another: ``places`` are (argument, word in it) with its address."""

    places: tuple[tuple[int, int], ...]
    values: Any


@dataclass(frozen=True)
class Launch:
    """One launch as it was made, arrays copied before it ran, so that a sanitizer can run it again."""

    source: str
    entry: Entry
    grid: tuple[int, int, int]
    threads: int
    shared: int
    args: tuple[Any, ...]
    pointees: tuple[Pointee, ...] = ()

    def run(self) -> list[Any]:
        """The arguments after the launch, in the schedule in force, and then the pointees; its own stay as they are.

        Raises:
            KernelFault: for what the host reports.
        """
        args = [a.copy() if isinstance(a, np.ndarray) else a for a in self.args]
        behind = [p.values.copy() for p in self.pointees]
        for pointee, copy in zip(self.pointees, behind, strict=True):
            for argument, word in pointee.places:
                args[argument].reshape(-1)[word] = copy.ctypes.data
        execute(replace(self, args=tuple(args)))
        return args + behind


def _recorded(launch: Launch) -> Launch:
    """The launch with copies of its arrays, and of the arrays whose addresses stand in a table of 64-bit words."""
    words = [(i, a) for i, a in enumerate(launch.args) if isinstance(a, np.ndarray) and a.dtype == np.uint64]
    places: dict[int, list[tuple[int, int]]] = {}
    for i, table in words:
        for word, value in enumerate(table.reshape(-1).tolist()):
            places.setdefault(value, []).append((i, word))
    found: dict[int, Any] = {}
    for thing in gc.get_objects() if words else ():
        values = thing._values if type(thing).__name__ == "ndarray" and hasattr(thing, "_values") else None
        if values is None:
            continue
        address = values.ctypes.data
        if address in places and (address not in found or values.nbytes > found[address].nbytes):
            found[address] = values
    pointees = tuple(Pointee(tuple(places[a]), v.copy()) for a, v in found.items())
    args = tuple(a.copy() if isinstance(a, np.ndarray) else a for a in launch.args)
    return replace(launch, args=args, pointees=pointees)


@contextmanager
def scheduled(name: str, seed: int = 1) -> Iterator[None]:
    """Run the threads of a block in another order."""
    token = _schedule.set((SCHEDULES.index(name), seed))
    try:
        yield
    finally:
        _schedule.reset(token)


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collect the launches within a block."""
    launches: list[Launch] = []
    token = _record.set(launches)
    try:
        yield launches
    finally:
        _record.reset(token)


def _host_value(parameter: Parameter, value: Any) -> Any:
    """A NumPy array or scalar of what was passed, or None for a null pointer."""
    if parameter.pointer:
        if isinstance(value, np.uint64) and value == 0:
            return None
        values = value._values  # a fake array; anything else is a fault of the launcher
        if values.ctypes.data % 16:
            raise KernelFault(f"{parameter.name}: the pointer is not aligned to 16 bytes")
        return values
    if type(value) is not parameter.numpy.type:
        raise TypeError(f"{parameter.name}: CUDA reads a {parameter.dtype}; it was handed a {type(value).__name__}")
    return value


def _cell(value: Any) -> Any:
    """Where the called function finds the argument: memory that holds the pointer, or the scalar."""
    if value is None:
        return ctypes.c_uint64(0)
    if isinstance(value, np.ndarray):
        return ctypes.c_uint64(value.ctypes.data)
    return ctypes.create_string_buffer(np.asarray(value).tobytes())


def execute(launch: Launch) -> None:
    """Run a launch in the schedule in force; it writes into its own arguments.

    Raises:
        KernelFault: for what the host reports.
    """
    cells = [_cell(v) for v in launch.args]
    made = library(launch.source)
    failed = made.swinpy_launch(
        launch.entry.name.encode(),
        (ctypes.c_uint * 3)(*launch.grid),
        ctypes.c_uint(launch.threads),
        ctypes.c_size_t(launch.shared),
        _schedule.get()[0],
        ctypes.c_ulonglong(_schedule.get()[1]),
        (ctypes.c_void_p * len(cells))(*(ctypes.addressof(c) for c in cells)),
    )
    if failed:
        raise KernelFault(f"{launch.entry.name}: {made.swinpy_error().decode()}")


class _Function:
    """What ``RawModule.get_function`` gives."""

    _asked: ClassVar[dict[tuple[str, str], int]] = {}  # CuPy keeps a module a text: all functions of a name share it

    def __init__(self, source: str, entry: Entry) -> None:
        self._source, self._entry = source, entry

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._asked.get((self._source, self._entry.name), 48 * 1024)

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self._asked[self._source, self._entry.name] = size

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        if len(args) != len(self._entry.parameters):
            raise TypeError(f"{self._entry.name}: {len(args)} arguments")
        if shared_mem > min(self.max_dynamic_shared_size_bytes, _SHARED_LIMIT):
            raise KernelFault(f"{self._entry.name}: {shared_mem} bytes of shared memory were not asked for")
        size = (*grid, 1, 1)[:3]
        values = [_host_value(p, a) for p, a in zip(self._entry.parameters, args, strict=True)]
        launch = Launch(self._source, self._entry, size, block[0], shared_mem, tuple(values))
        record = _record.get()
        if record is not None:
            record.append(_recorded(launch))
        launches.note("handwritten", self._entry.name)
        if launches.wants_values():
            execute(launch)


class RawModule:
    """The part of ``cupy.RawModule`` that the launcher uses."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        self._entries = entries_of(code)
        self._source = host_source(code, self._entries)

    def get_function(self, name: str) -> Callable[..., None]:
        return _Function(self._source, self._entries[name])
