"""Where the bytes come from, and how much memory reading them may take."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from swinpy.io import atomic
from swinpy.io.errors import Fault

if TYPE_CHECKING:
    import mmap
    import os
    from collections.abc import Iterator

__all__ = ["ALLOWANCE", "BEYOND", "Budget", "ByteStream", "BytesSource", "FileSource", "Source", "open_source"]

ALLOWANCE = 8 << 20
BEYOND = ("memory",)  # the rule of a `Fault` about a file that needs more than its size warrants
_WINDOW = 1 << 16
_STEPS = 8  # a byte of memory that may be claimed


class Budget:
    """What reading one file may still claim: bytes of memory, and steps of searches whose length the file decides.

    Everything whose size a file decides is charged here before it is made: arrays exactly, Python objects by an upper
    estimate (`swinpy.io.costs`). A file that describes more than it holds therefore fails before memory does. At the
    start there are twice the file's size and `ALLOWANCE`.

    Args:
        size: of the file in bytes.
    """

    __slots__ = ("_limit", "_steps", "left")

    def __init__(self, size: int) -> None:
        self._limit = 2 * size + ALLOWANCE
        self.left = self._limit - 2 * _WINDOW  # a stream keeps one window while it reads the next
        self._steps = _STEPS * self._limit

    def take(self, count: int) -> None:
        """Claim `count` bytes.

        Raises:
            Fault: the file wants more than its size warrants.
        """
        self.left -= count
        if self.left < 0:
            raise Fault(
                f"contents that need at most {self._limit} bytes of memory (twice the file and {ALLOWANCE >> 20} MiB)",
                "contents that need more",
                "Such a file is damaged or made to exhaust memory; get it from where it was published.",
                rule=BEYOND,
            )

    def walk(self, steps: int) -> None:
        """Claim time, in steps of some nanoseconds.

        Raises:
            Fault: the file wants more than its size warrants.
        """
        self._steps -= steps
        if self._steps < 0:
            raise Fault(
                "dicts whose keys can be found in little time",
                "so many keys that are no text in one dict",
                "Such a file is made to exhaust time; get it from where it was published.",
            )


class Source(Protocol):
    """A file's bytes by position."""

    name: str
    size: int

    def read(self, position: int, count: int) -> bytes:
        """Exactly `count` bytes from `position`; a `Fault` where the file is shorter."""
        ...

    def read_into(self, position: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `position`; a `Fault` where the file is shorter."""
        ...

    def mapped(self) -> mmap.mmap | None:
        """All of the file as memory that can be written to without changing the file; None where that cannot be."""
        ...


def _beyond(source: Source, position: int, count: int) -> Fault:
    return Fault(f"{count} bytes at byte {position}", f"a file of {source.size} bytes (truncated, or a wrong offset)")


class BytesSource:
    """A file that is already in memory."""

    def __init__(self, data: bytes | bytearray | memoryview, name: str = "memory") -> None:
        self._data = memoryview(data).cast("B")
        self.name = name
        self.size = len(self._data)

    def read(self, position: int, count: int) -> bytes:
        """See :meth:`Source.read`."""
        if position < 0 or count < 0 or position + count > self.size:
            raise _beyond(self, position, count)
        return bytes(self._data[position : position + count])

    def read_into(self, position: int, target: memoryview) -> None:
        """See :meth:`Source.read_into`."""
        if position < 0 or position + len(target) > self.size:
            raise _beyond(self, position, len(target))
        target[:] = self._data[position : position + len(target)]

    def mapped(self) -> None:
        """See :meth:`Source.mapped`."""
        return


class FileSource:
    """An open file, read by position: what another process does to the file's offset or length cannot mislead it."""

    def __init__(self, fd: int, size: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self.size = size

    def read(self, position: int, count: int) -> bytes:
        """See :meth:`Source.read`."""
        if position < 0 or count < 0 or position + count > self.size:
            raise _beyond(self, position, count)
        data = atomic.read_at(self._fd, count, position)
        while len(data) < count:
            piece = atomic.read_at(self._fd, count - len(data), position + len(data))
            if not piece:
                raise self._shortened()
            data += piece
        return data

    def read_into(self, position: int, target: memoryview) -> None:
        """See :meth:`Source.read_into`."""
        if position < 0 or position + len(target) > self.size:
            raise _beyond(self, position, len(target))
        done = 0
        while done < len(target):
            count = atomic.read_into(self._fd, target[done:], position + done)
            if count <= 0:
                raise self._shortened()
            done += count

    def mapped(self) -> mmap.mmap:
        """See :meth:`Source.mapped`."""
        try:
            return atomic.map_file(self._fd, self.size)
        except ValueError as error:
            raise self._shortened() from error

    def _shortened(self) -> Fault:
        return Fault(f"{self.size} bytes, as when it was opened,", "fewer (it was cut while being read)")


@contextlib.contextmanager
def open_source(file: str | os.PathLike[str] | bytes | bytearray | memoryview) -> Iterator[Source]:
    """The bytes of a regular file, or of a buffer.

    Args:
        file: a path, or a file's content.

    Raises:
        Fault: the path leads to no readable regular file.
    """
    if isinstance(file, (bytes, bytearray, memoryview)):
        yield BytesSource(file)
        return
    path = Path(file)
    with contextlib.ExitStack() as stack:
        try:
            fd, size = stack.enter_context(atomic.open_regular(path))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or str(error)
            raise Fault("a readable file", reason, "Check the path and its permissions.") from error
        yield FileSource(fd, size, str(path))


class ByteStream:
    """A stretch of a source, read in order, a window at a time.

    Attributes:
        position: of the next byte, counted from the start of the source.
    """

    __slots__ = ("_at", "_source", "_start", "_stop", "_window")

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self._source = source
        self._start = start
        self._stop = stop
        self._window = b""
        self._at = 0

    @property
    def position(self) -> int:
        """Of the next byte, counted from the start of the source."""
        return self._start + self._at

    @property
    def left(self) -> int:
        """Bytes between here and the end of the stretch."""
        return self._stop - self.position

    def byte(self) -> int:
        """The next byte."""
        at = self._at
        if at >= len(self._window):
            self._refill(1)
            at = 0
        self._at = at + 1
        return self._window[at]

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        at = self._at
        if at + count > len(self._window):
            self._refill(count)
            at = 0
        self._at = at + count
        return self._window[at : at + count]

    def peek(self, count: int) -> bytes:
        """The next `count` bytes, which are read again by what comes next."""
        data = self.take(count)
        self._at -= count
        return data

    def line(self, limit: int) -> bytes:
        """The bytes up to a newline, which is read and left out, and which must come within `limit` bytes."""
        if self._at + limit > len(self._window):
            self._refill(0)
        end = self._window.find(b"\n", self._at, self._at + limit)
        if end < 0:
            expected = f"a line of at most {limit} bytes at byte {self.position}"
            raise Fault(expected, "a longer one, or none", rule=("line",))
        line = self._window[self._at : end]
        self._at = end + 1
        return line

    def skip(self, count: int) -> None:
        """Go past `count` bytes without reading them."""
        if count > self.left:
            raise self._short(count)
        self._at += count  # the window is read anew where what comes next lies beyond it

    def _short(self, count: int) -> Fault:
        got = f"an end after {max(self.left, 0)} (truncated)"
        return Fault(f"{count} bytes more at byte {self.position}", got, rule=("truncated",))

    def _refill(self, count: int) -> None:
        if count > self.left:
            raise self._short(count)
        self._start += self._at
        self._at = 0
        self._window = self._source.read(self._start, min(max(count, _WINDOW), self._stop - self._start))
