"""Lines for people, on standard output and standard error, whatever these are.

A run may outlive its terminal: the reader of a pipe ends, a terminal hangs up, the disk behind a log is full, a stream
was closed before the start. And a terminal may lack the letters of a name. Inside :func:`steady` nothing of that ends a
program: what cannot be encoded is written with escapes, and a stream that cannot be written to is left alone from then
on, with one note on the other stream.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import re
import select
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["hurry", "notice", "printable", "say", "steady", "tell"]

# Control characters, line separators, what turns the direction of text around, and halves of surrogate pairs, which
# stand for the bytes of a file name that is not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# So many letters are at most 4096 bytes, escapes included: a pipe that takes anything takes as much without blocking.
_PIECE = 400
_PATIENCE = 2.0  # seconds that a stream which takes nothing is given, once the program has been asked to end
_hurried = False


def _escape(letter: re.Match[str]) -> str:
    return letter[0].encode("unicode_escape").decode("ascii")


def printable(text: object) -> str:
    r"""A name or path as one line: letters that would garble a terminal, or cannot be encoded, are escaped.

    >>> printable("naïve") + printable("a\nb")
    'naïvea\\nb'
    """
    return _UNPRINTABLE.sub(_escape, str(text))


def _lines(text: object) -> str:
    return "\n".join(map(printable, str(text).split("\n")))


def say(text: object = "") -> None:
    """A line (or several) on standard output, at once; see :func:`printable` for what it may hold."""
    print(_lines(text), flush=True)


def tell(text: object) -> None:
    """A line (or several) on standard error, at once."""
    print(_lines(text), file=sys.stderr or _Outlet(None, ""), flush=True)


def notice(text: str) -> None:
    """A line on standard error from a signal handler: past all buffers, and not at all where it would block or fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no such stream, or one without a descriptor
        descriptor = sys.stderr.fileno()
        if _takes(descriptor, 0):
            os.write(descriptor, f"{text}\n".encode("ascii", "backslashreplace"))


def hurry() -> None:
    """Called where the program has been asked to end: from now on no stream is waited for longer than a moment."""
    global _hurried
    _hurried = True


def _takes(descriptor: int, seconds: float) -> bool:
    """Whether a descriptor can be written to without blocking, at the latest after some seconds."""
    if os.name != "posix" or not 0 <= descriptor < 1024:
        return True  # what select cannot tell: on Windows it knows only sockets
    return bool(select.select([], [descriptor], [], seconds)[1])


class _Outlet:
    """A stream around another one, which may be missing; whatever it lacks is the other one's.

    Args:
        stream: where the text goes; None for nowhere.
        name: of the stream, for messages.
        strict: raise where the stream cannot be written to, because what is written is what the program is for.
    """

    def __init__(self, stream: TextIO | None, name: str, strict: bool = False) -> None:
        self._stream, self._name, self._strict = stream, name, strict
        self._lost = stream is None
        self.other: _Outlet | None = None
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        with contextlib.suppress(LookupError):
            self.encoding = codecs.lookup(self.encoding).name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return not self._lost and bool(cast("TextIO", self._stream).isatty())

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError(errno.EBADF, f"{self._name} is closed")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        if not self._lost:
            known = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
            try:
                self._put(known)
            except (OSError, ValueError) as error:  # ValueError: a stream that was closed
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if not self._lost:
            try:
                self._put("")
            except (OSError, ValueError) as error:
                self._lose(error)

    def _put(self, text: str) -> None:
        stream = cast("TextIO", self._stream)
        if self._strict:
            stream.write(text) if text else stream.flush()
            return
        for start in range(0, max(1, len(text)), _PIECE):
            stream.write(text[start : start + _PIECE])
            if "\n" in text or not text or len(text) > _PIECE:
                self._wait()
                stream.flush()

    def _wait(self) -> None:
        """Wait until the stream takes something: a reader may have stopped. A program that is to end does not wait."""
        try:
            descriptor = self.fileno()
        except (OSError, ValueError, AttributeError):
            return
        waited = 0.0
        while not _takes(descriptor, 0.5):
            waited += 0.5 if _hurried else 0.0
            if waited >= _PATIENCE:
                raise OSError(errno.ETIMEDOUT, "nobody reads it")

    def _lose(self, error: Exception) -> None:
        self._lost = True
        # What is still buffered goes nowhere: the interpreter would try again when it ends, and fail.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self.fileno())
            finally:
                os.close(nowhere)
        if self._strict:
            raise error
        reason = "was closed" if isinstance(error, (BrokenPipeError, ValueError)) else f"failed ({error})"
        if self.other is not None:
            self.other.write(f"note: {self._name} {reason}; going on without it\n")


@contextlib.contextmanager
def steady(strict: bool = False) -> Iterator[None]:
    """A block in which standard output and standard error do not end the program; see the top of this file.

    Args:
        strict: standard output raises the OSError of a write that fails. Letters are escaped all the same.
    """
    global _hurried
    _hurried = False
    _fill_descriptors()
    before = sys.stdout, sys.stderr
    out, err = _Outlet(sys.stdout, "standard output", strict), _Outlet(sys.stderr, "standard error")
    if not strict:
        out.other, err.other = err, out
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield
    finally:
        try:
            err.flush()
            out.flush()
        finally:
            sys.stdout, sys.stderr = before
            _hurried = False


def _fill_descriptors() -> None:
    """Open what was closed before the start: else the next file would get its number, and what C code prints."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
