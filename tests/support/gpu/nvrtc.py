"""Compiling CUDA programs with no GPU: NVRTC through ctypes, as CuPy calls it, and what its output says of each kernel.

The library comes from the wheel ``nvidia-cuda-nvrtc`` (CUDA 13) or ``nvidia-cuda-nvrtc-cu12``, the disassembler from
``nvidia-cuda-nvdisasm``: the extra ``cuda-check``.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from autograd.kernels.cuda.launch import OPTIONS

from . import cupy_api

__all__ = ["Compiled", "Usage", "compiled", "disassembly", "find_library", "find_nvdisasm", "version"]

_VERBOSE = "--ptxas-options=-v"  # fills the log, and changes no code


@dataclass(frozen=True)
class Usage:
    """What the assembler says of one kernel: registers of a thread, local memory of a thread (its stack, or what was
    spilled if that is more) and static shared memory of a block, in bytes."""

    registers: int
    local_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Compiled:
    """Machine code for one architecture, the usage of each kernel in it, and everything that the compiler printed."""

    cubin: bytes
    usage: dict[str, Usage]
    log: str


def _in_wheels(pattern: str) -> Path | None:
    """The first file that fits, in any of the packages that share the name ``nvidia``."""
    spec = find_spec("nvidia")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return next((path for folder in folders for path in sorted(Path(folder).glob(pattern), reverse=True)), None)


def find_library() -> Path | None:
    """NVRTC's shared library: in the folder that SWINPY_NVRTC names, else of a wheel, CUDA 13's if there are two; None
    if no wheel holds it.

    Raises:
        FileNotFoundError: if SWINPY_NVRTC names a folder without it.
    """
    folder = os.environ.get("SWINPY_NVRTC")
    if folder:
        named = sorted(Path(folder).glob("libnvrtc.so.1[0-9]"))
        if not named:
            raise FileNotFoundError(f"SWINPY_NVRTC: expected a folder with libnvrtc.so.12 or .13; got {folder}.")
        return named[-1]
    return _in_wheels("cu13/lib/libnvrtc.so.1[0-9]") or _in_wheels("cuda_nvrtc/lib/libnvrtc.so.1[0-9]")


def find_nvdisasm() -> Path | None:
    """The disassembler; None if no wheel holds it."""
    return _in_wheels("cu*/bin/nvdisasm")


@cache
def _library() -> ctypes.CDLL:
    path = find_library()
    if path is None:
        raise ImportError("nvrtc: expected a wheel with NVRTC; got none. pip install 'swinpy[cuda-check]'")
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins))  # loaded, it is found by name; older releases would not look beside themselves
    library = ctypes.CDLL(str(path))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


@cache
def version() -> tuple[int, int]:
    """Of the library: (13, 0)."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def _check(result: int, log: str = "") -> None:
    if result:
        raise RuntimeError(f"{_library().nvrtcGetErrorString(result).decode()}\n{log}")


def _output(program: ctypes.c_void_p, what: str) -> bytes:
    """``what`` ("ProgramLog" or "CUBIN") of a compiled program."""
    library, size = _library(), ctypes.c_size_t()
    _check(getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


_ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def _usage(log: str) -> dict[str, Usage]:
    found = {}
    for match in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        local = max(int(match[part]) for part in ("stack", "stores", "loads"))
        found[match["kernel"]] = Usage(int(match["registers"]), local, int(shared[1]) if shared else 0)
    return found


@cache
def compiled(text: str, architecture: int) -> Compiled:
    """``text`` for ``sm_<architecture>``, by the options that CuPy would compile a launcher's program with.

    Raises:
        RuntimeError: with the compiler's messages.
    """
    library, program = _library(), ctypes.c_void_p()
    _check(library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"program.cu", 0, None, None))
    words = (*OPTIONS, *cupy_api.load()["nvrtc_options"], f"-arch=sm_{architecture}", _VERBOSE)
    options = [word.encode() for word in words]
    try:
        result = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _output(program, "ProgramLog").rstrip(b"\0").decode()
        _check(result, log)
        return Compiled(_output(program, "CUBIN"), _usage(log), log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def disassembly(cubin: bytes) -> dict[str, list[str]]:
    """The machine instructions of each kernel, one line each ("LDG.E.128 R4, ..."), without addresses."""
    tool = find_nvdisasm()
    if tool is None:
        raise ImportError("nvdisasm: expected a wheel with it; got none. pip install 'swinpy[cuda-check]'")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([str(tool), "-c", file.name], capture_output=True, text=True, check=True)
    kernels: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in done.stdout.splitlines():
        if start := re.match(r"\.text\.(\w+):", line):
            lines = kernels.setdefault(start[1], [])
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            lines.append(instruction[1])
    return kernels
