"""A recorded launch run again under AddressSanitizer and UndefinedBehaviorSanitizer, or under ThreadSanitizer.

The kernel's text becomes a program of its own (a sanitizer cannot be loaded into Python), its arguments go through
files, each array into a heap block of exactly its size, and the launch runs in all four schedules.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .build import build
from .raw_module import SCHEDULES, scheduled

if TYPE_CHECKING:
    from .raw_module import Launch

__all__ = ["SANITIZERS", "SanitizerFault", "check"]

SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-fsanitize=thread",),
}
_SEED = 1
_ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0",  # a fault leaves the stacks of other threads behind
    "TSAN_OPTIONS": "halt_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
_UNLUCKY_ADDRESSES = "unexpected memory mapping"  # ThreadSanitizer, where the system spreads addresses too widely


class SanitizerFault(AssertionError):
    """What a sanitizer reports of a kernel, or a result that differs from the plain run's."""


def _write_arguments(launch: Launch, path: Path) -> None:
    with path.open("wb") as file:
        for value in launch.args:
            data = b"" if value is None else np.asarray(value).tobytes()
            kind = 2 if value is None else int(isinstance(value, np.ndarray))
            file.write(struct.pack("=QQ", kind, len(data)) + data)
        for pointee in launch.pointees:
            data, places = pointee.values.tobytes(), [word for place in pointee.places for word in place]
            file.write(struct.pack("=QQ", 3, len(data)) + data)
            file.write(struct.pack(f"={1 + len(places)}Q", len(pointee.places), *places))


def _tables(launch: Launch) -> set[int]:
    """Arguments that hold addresses: these differ from run to run."""
    return {argument for pointee in launch.pointees for argument, _ in pointee.places}


def _run(program: Path, launch: Launch, folder: Path) -> subprocess.CompletedProcess[str]:
    sizes = map(str, (*launch.grid, launch.threads, launch.shared, _SEED))
    command = [str(program), launch.entry.name, *sizes, "arguments", "results"]
    environment = {**os.environ, **_ENVIRONMENT}

    def start(*prefix: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    done = start()
    if _UNLUCKY_ADDRESSES in done.stderr and shutil.which("setarch"):
        done = start("setarch", platform.machine(), "--addr-no-randomize")
    return done


def _expected(launch: Launch) -> bytes:
    results, tables = b"", _tables(launch)
    for schedule in SCHEDULES:
        with scheduled(schedule, _SEED):
            arrays = [a for i, a in enumerate(launch.run()) if isinstance(a, np.ndarray) and i not in tables]
            results += b"".join(a.tobytes() for a in arrays)
    return results


def check(launch: Launch, sanitizer: str) -> None:
    """Run ``launch`` in all schedules under ``sanitizer``, a key of :data:`SANITIZERS`.

    Raises:
        SanitizerFault: with the sanitizer's report, or if a result is not bitwise that of the plain run.
    """
    source = f'{launch.source}\n#include "run_files.h"\n'
    program = build(source, "-O1", "-g", *SANITIZERS[sanitizer], suffix=f".{sanitizer}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _write_arguments(launch, folder / "arguments")
        done = _run(program, launch, folder)
        if done.returncode:
            raise SanitizerFault(f"{launch.entry.name} under {sanitizer}: exit {done.returncode}\n{done.stderr[:6000]}")
        if (folder / "results").read_bytes() != _expected(launch):
            raise SanitizerFault(f"{launch.entry.name} under {sanitizer}: results differ from those of the plain run")
