"""Compile CUDA programs for the CPU: the kernel's own text behind ``simt.h`` and a few generated lines that call it."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from autograd.kernels.cuda.source import TYPE_NAMES, Entry

from ... import skips

__all__ = ["HEADER", "build", "host_source", "library"]

HEADER = Path(__file__).parent / "simt.h"
HEADERS = sorted(HEADER.parent.glob("*.h"))
COMPILER = "g++"
FLAGS = ("-std=c++17", "-fno-strict-aliasing", "-ffp-contract=off", "-Wno-unknown-pragmas", f"-I{HEADER.parent}")


def _call(entry: Entry) -> str:
    def argument(i: int, dtype: str, pointer: bool) -> str:
        kind = TYPE_NAMES[dtype] + ("*" if pointer else "")
        return f"*({kind}*)args[{i}]"

    args = ", ".join(argument(i, p.dtype, p.pointer) for i, p in enumerate(entry.parameters))
    return (
        f'  if (!strcmp(kernel, "{entry.name}"))\n'
        f"    return sim::launch(grid, threads, shared, schedule, seed, [&] {{ {entry.name}({args}); }});\n"
    )


def host_source(text: str, entries: dict[str, Entry]) -> str:
    """C++ with ``swinpy_launch``, which runs any kernel of a program."""
    calls = "".join(map(_call, entries.values()))
    return (
        f'#include "{HEADER.name}"\n{text}\n'
        'extern "C" int swinpy_launch(const char* kernel, const unsigned* grid, unsigned threads, size_t shared,\n'
        "                             int schedule, u64 seed, void** args) {\n"
        f"{calls}  return 2;\n}}\n"
        'extern "C" const char* swinpy_error() { return sim::error; }\n'
    )


@cache
def _folder() -> Path:
    """Where compiled programs are kept while the tests run, shared by the workers of a run."""
    folder = Path(tempfile.gettempdir()) / f"swinpy-host-cuda-{Path.home().name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def build(source: str, *flags: str, suffix: str = ".so") -> Path:
    """Compile ``source``; what was compiled before from the same text, header and flags is used again.

    Without a compiler the test is skipped, or fails where SWINPY_REQUIRE_COMPILER is set.
    """
    skips.skip_unless(shutil.which(COMPILER) is not None, skips.NO_COMPILER, "SWINPY_REQUIRE_COMPILER")
    everything = "\0".join((source, *(p.read_text(encoding="utf-8") for p in HEADERS), *FLAGS, *flags))
    path = _folder() / (hashlib.sha256(everything.encode()).hexdigest()[:24] + suffix)
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as work:
            (Path(work) / "program.cpp").write_text(source, encoding="utf-8")
            made = Path(work) / "made"
            command = [COMPILER, *FLAGS, *flags, "program.cpp", "-o", str(made)]
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{COMPILER} does not compile this kernel:\n{done.stderr[:4000]}")
            made.replace(path)  # whole or not at all: another worker may look for it
    return path


@cache
def library(source: str) -> ctypes.CDLL:
    """The program as a shared library."""
    made = ctypes.CDLL(str(build(source, "-O2", "-shared", "-fPIC")))
    made.swinpy_error.restype = ctypes.c_char_p
    return made
