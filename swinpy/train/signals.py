"""Signals: the first one lets the step finish and the run save; the second ends at once."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["StopRequest"]

# Exit code of each: 128 + number as shells expect; SIGUSR1 is a batch system's "save now, time is up", no failure.
_EXIT = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 0}


class StopRequest:
    """While active, remembers the first SIGINT, SIGTERM or SIGUSR1; a second one ends the process at once.

    Attributes:
        code: the exit code asked for, or None.
        name: of the signal.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.name = ""
        self._before: dict[signal.Signals, object] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None:
            os._exit(_EXIT[signal.Signals(number)] or 1)
        self.name = signal.Signals(number).name
        self.code = _EXIT[signal.Signals(number)]
        os.write(2, f"\n{self.name}: finishing the step, then saving; once more to end at once\n".encode())

    def __enter__(self) -> Self:
        for number in _EXIT:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
