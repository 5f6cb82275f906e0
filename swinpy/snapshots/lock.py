"""One writer to a run's folder: a lock that ends with its process, whatever ends that."""

from __future__ import annotations

import contextlib
import os
import platform
from typing import TYPE_CHECKING

from swinpy.io import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["RunInUseError", "only_writer"]

_LOCK = ".lock"


class RunInUseError(ValueError):
    """Another process writes to the folder of a run; the message says which."""


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[str | None]:
    """A block in which no other process, and no other block of this one, writes to a run's folder.

    The lock is flock's on the file ``.lock``. On Linux NFS carries it to other machines; some other network file
    systems keep it to one machine, or have none. Windows has none.

    Args:
        folder: of the run, made if need be.

    Yields:
        None; or, where there are no locks, a line that says so.

    Raises:
        RunInUseError: another process has the folder.
        OSError: the folder cannot be made or written to.
    """
    atomic.make_folder(folder)
    path = folder / _LOCK
    with contextlib.ExitStack() as stack:
        try:
            without = stack.enter_context(atomic.locked_file(path, f"{os.getpid()} on {platform.node()}\n".encode()))
        except BlockingIOError:
            raise RunInUseError(
                f"--output: expected a folder that no other run writes to; got {folder}, in use by {_holder(path)}. "
                "Wait for it, stop it, or choose another --experiment."
            ) from None
        if without is None:
            yield None
        else:
            yield (
                f"{folder}: no lock could be had ({without.strerror}). Nothing keeps a second run from writing to this "
                "folder: see to it that there is none."
            )


def _holder(path: Path) -> str:
    """Who wrote the lock file, as far as it can be read."""
    try:
        text = atomic.read_regular(path, limit=1024).decode("utf-8", "replace").strip()
    except OSError:
        text = ""
    return f"process {text}" if text else "another process"
