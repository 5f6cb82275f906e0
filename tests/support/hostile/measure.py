"""What reading a file costs, against its reader's promise: one exception, memory and time in proportion to the file.

Memory is what Python and NumPy hold at one time (tracemalloc). That is the same in every run, and every byte of it
shows, while a process's resident size hides some megabytes in its allocator. Time is the thread's own, taken without
the tracing, which would make it several times as long.

The allowances that do not depend on the file's size are cut: small files, which are quick to read, already strain the
rest.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from swinpy.cli.inspect import report
from swinpy.data import DatasetCorrupt
from swinpy.data.cifar.pickled import read_batch_pickle
from swinpy.io import WeightsFileError, read_checkpoint, read_weights, source
from swinpy.io.safetensors.read import decode_tensors
from swinpy.snapshots import plain_json
from swinpy.snapshots.manifest import MANIFEST, SnapshotError, read_manifest
from swinpy.snapshots.plain_json import decode_plain
from swinpy.verify import Trace, TraceFileError, trace_file
from swinpy.weights.dialects import detect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["READERS", "Cost", "Reader", "measure"]

_MIB = 1 << 20
_ALLOWANCE = _MIB // 4
_FREE, _META, _STATE = 2 * _MIB, _MIB // 16, 2 * _MIB
_CUT = (
    (source, "ALLOWANCE", _ALLOWANCE),
    (source, "_WINDOW", 1 << 13),
    (trace_file, "_FREE", _FREE),
    (trace_file, "_META_LIMIT", _META),
    (plain_json, "_MEMORY", _STATE),
)
# A file of a few bytes may use up the allowance, in opcodes and in steps that keys of dicts are searched.
_SECONDS, _SECONDS_A_BYTE = 0.3, 3e-6
_LONGEST_MESSAGE = 4000


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        read: reads a file of these bytes and does with it what a user would.
        refusals: the exceptions that it promises.
        memory: bytes that it may hold for a file of a size.
    """

    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    memory: Callable[[int], int]


@dataclass(frozen=True)
class Cost:
    """Of one file.

    Attributes:
        size: of the file in bytes.
        memory: bytes at the most.
        memory_share: of what is promised.
        seconds: of processor time.
        time_share: of what is promised.
        read: whether it was read, not refused.
    """

    size: int
    memory: int
    memory_share: float
    seconds: float
    time_share: float
    read: bool


def measure(reader: Reader, data: bytes) -> Cost:
    """Read a file at least twice: for the time, and for the memory.

    Raises:
        AssertionError: a promise is broken; whatever else the reader raised comes through.
    """
    size = len(data)
    limit = _SECONDS + _SECONDS_A_BYTE * size
    read, seconds = _timed(reader, data)
    for _ in range(2):
        if limit < seconds < 3 * limit:  # a busy machine adds half a second now and then
            seconds = min(seconds, _timed(reader, data)[1])
    time_share = seconds / limit
    assert time_share <= 1, f"{seconds:.2f} s for a file of {size} bytes: {time_share:.2f} times what is promised"
    with _cut():
        tracemalloc.start()
        try:
            _outcome(reader, data)
            memory = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    share = memory / reader.memory(size)
    assert share <= 1, f"{memory} bytes of memory for a file of {size}: {share:.2f} times what is promised"
    return Cost(size, memory, share, seconds, time_share, read)


def _timed(reader: Reader, data: bytes) -> tuple[bool, float]:
    start = time.thread_time()
    read = _outcome(reader, data)
    return read, time.thread_time() - start


@contextlib.contextmanager
def _cut() -> Iterator[None]:
    before = [(module, name, getattr(module, name)) for module, name, _ in _CUT]
    try:
        for module, name, value in _CUT:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _outcome(reader: Reader, data: bytes) -> bool:
    try:
        reader.read(data)
    except reader.refusals as error:
        _check_message(str(error))
        return False
    return True


def _check_message(message: str) -> None:
    assert len(message) <= _LONGEST_MESSAGE, f"a message of {len(message)} letters"
    assert all(line.isprintable() for line in message.split("\n")), ascii(message)


# ---- the readers


def _read_weights(data: bytes) -> None:
    """Read, list and recognise a file of weights."""
    found = read_checkpoint(data, load=False)
    letters = sum(map(len, report(found)))
    assert letters <= 5 * len(data) + 4 * _ALLOWANCE, f"{letters} letters in the report of a file of {len(data)} bytes"
    try:
        detect(found.stored)
    except ValueError as error:
        _check_message(str(error))
    del found
    read_weights(data)


def _read_header(data: bytes) -> None:
    """A file of weights, which a snapshot's group of arrays is as well."""
    try:
        decode_tensors(data)
    except WeightsFileError as error:
        _check_message(str(error))
    _read_weights(data)


_folder = Path(tempfile.mkdtemp(prefix="swinpy-measure-"))


def _through(name: str, read: Callable[[Path], object], data: bytes) -> None:
    """For readers that take a path."""
    path = _folder / name
    path.write_bytes(data)
    try:
        read(path)
    finally:
        path.unlink()


def _read_state(data: bytes) -> None:
    _through(MANIFEST, lambda path: _refused_or(read_manifest, path.parent), data)
    decode_plain(data, "read")


def _refused_or(read: Callable[[Path], object], path: Path) -> None:
    try:
        read(path)
    except SnapshotError as error:
        _check_message(str(error))


def _twice(size: int) -> int:
    return 2 * size + _ALLOWANCE


def _npz(size: int) -> int:
    """Arrays may be 16 times the file; the file and its directory lie beside them, and what JSON takes."""
    return 48 * size + _FREE + 48 * _META


WEIGHTS = Reader(_read_weights, (WeightsFileError,), _twice)
READERS: dict[str, Reader] = {
    "zip": WEIGHTS,
    "legacy": WEIGHTS,
    "tar": WEIGHTS,
    "safetensors": Reader(_read_header, (WeightsFileError,), _twice),
    "npz": Reader(partial(_through, "x.npz", Trace.load), (TraceFileError,), _npz),
    "cifar": Reader(partial(read_batch_pickle, where="batch"), (DatasetCorrupt,), _twice),
    "manifest": Reader(_read_state, (ValueError, TypeError), lambda size: 3 * size + _STATE + _ALLOWANCE),
}
