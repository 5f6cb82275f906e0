"""Signals: in training the first one lets the step finish and the run save, and a later one ends at once.

Elsewhere there is nothing to save, and the first one ends the program.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from swinpy.console import hurry, notice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["EXIT_CODES", "StopRequest", "Stopped"]

# Exit code of each: 128 + number as shells expect; SIGUSR1 is a batch system's "save now, time is up", no failure.
_CODES = {"SIGHUP": 129, "SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 0}
EXIT_CODES = {getattr(signal, name): code for name, code in _CODES.items() if hasattr(signal, name)}
# timeout(1), shells and batch systems ask once with several signals: to the process and to its group, SIGHUP after
# SIGTERM. What comes within so many seconds is the same request.
_SAME_REQUEST = 1.0


class Stopped(BaseException):
    """A signal came where nothing is to be saved.

    Attributes:
        code: the exit code asked for.
    """

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name}: stopped; there is nothing to save")
        self.code = code


class StopRequest:
    """While active, takes SIGHUP, SIGINT, SIGTERM and SIGUSR1: each raises :class:`Stopped`.

    Within :meth:`saving` the first one is remembered instead, and a SIGINT or SIGTERM that comes a second later, or
    after that, ends the process at once. A signal that the process was started to ignore (``nohup``, a shell's
    background) stays ignored. Only the main thread can be told; elsewhere nothing is taken.

    Attributes:
        code: the exit code asked for, or None.
        name: of the signal.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.name = ""
        self._asked = 0.0
        self._saves = False
        self._before: dict[signal.Signals, object] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        kind = signal.Signals(number)
        if self.code is None:
            self.code, self.name, self._asked = EXIT_CODES[kind], kind.name, time.monotonic()
            hurry()
            if not self._saves:
                raise Stopped(self.name, self.code)
            notice(f"\n{self.name}: finishing the step, then saving; SIGINT or SIGTERM once more to end at once")
        elif kind in (signal.SIGINT, signal.SIGTERM) and time.monotonic() - self._asked >= _SAME_REQUEST:
            os._exit(EXIT_CODES[kind])

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A block of work that looks at ``code`` often, and then saves and ends."""
        self._saves = True
        try:
            yield
        finally:
            self._saves = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that C code had installed, which Python cannot put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
