"""What decides the last bits of a float result here, as plain text: libraries, processors, and which kernels run."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from autograd.backend import describe_device
from autograd.context import STATE
from autograd.kernels.blas import blas_is_single, openblas
from autograd.kernels.compiled import is_available
from autograd.kernels.threads import cores

__all__ = ["numerics"]

_UNKNOWN = "unknown"
_NUMBA_SETTINGS = (
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "NUMBA_OPT",
    "NUMBA_DISABLE_INTEL_SVML",
    "NUMBA_DISABLE_JIT",
)


def numerics(device: str = "cpu") -> dict[str, str]:
    """What results on ``device`` depend on to the last bit, besides the program and its input.

    The number of the engine's threads is not among it. Those of BLAS are where they cannot be held to one.

    Args:
        device: "cpu" or "cuda:N".

    Returns:
        Versions of NumPy and the C library; NumPy's BLAS, the processor it chose kernels for, and its threads; the
        vector extensions that NumPy found; the kernel mode in force with what compiles kernels; for a GPU CuPy, its
        driver and model. "unknown" where something does not say.
    """
    return {"numpy": np.__version__, "libc": _libc(), **_blas(), **_kernels(), **_gpu(device)}


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or _UNKNOWN
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN


def _blas() -> dict[str, str]:
    config: Any = np.show_config(mode="dicts") or {}
    built, simd = config.get("Build Dependencies", {}).get("blas", {}), config.get("SIMD Extensions", {})
    ours = openblas()
    core = ours.core if ours else os.environ.get("OPENBLAS_CORETYPE")
    name = ours.config if ours else f"{built.get('name', _UNKNOWN)} {built.get('version', _UNKNOWN)}"
    return {
        "blas": name,
        "blas_core": ", ".join([core or _UNKNOWN, *_set("OPENBLAS_L2_SIZE")]),
        "blas_threads": "1" if blas_is_single() else os.environ.get("OMP_NUM_THREADS") or f"those of {cores()} cores",
        "simd": " ".join([*simd.get("baseline", []), *simd.get("found", [])]) or _UNKNOWN,
    }


def _set(*names: str) -> list[str]:
    """Those of the environment's variables that are set."""
    return [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]


def _kernels() -> dict[str, str]:
    mode = STATE.get().kernels
    if mode == "reference":
        return {"kernels": mode}
    if is_available() is not None:
        return {"kernels": f"{mode}, without Numba"}
    from importlib.metadata import version

    from llvmlite.binding import get_host_cpu_name

    made = f"Numba {version('numba')}, llvmlite {version('llvmlite')}, {get_host_cpu_name()}"
    return {"kernels": ", ".join([mode, made, *_set(*_NUMBA_SETTINGS)])}


def _gpu(device: str) -> dict[str, str]:
    return {} if device == "cpu" else {"gpu": describe_device(device).partition(", ")[2]}  # whichever of equal ones
