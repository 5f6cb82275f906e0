"""Devices: which array module owns an array, and how arrays get from one device to another.

CuPy is imported only when a GPU is asked for. Nothing here copies between devices but :func:`to_device`.
"""

from __future__ import annotations

import re
import sys
import threading
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

__all__ = [
    "Array",
    "DeviceError",
    "array_module",
    "describe_device",
    "device_memory",
    "device_of",
    "device_scope",
    "gpu_kept",
    "has_gpu",
    "is_array",
    "resolve_device",
    "to_device",
    "use_device",
]

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray: CuPy has no stubs, and a Protocol would repeat NumPy's


_CUPY = re.compile(r"cupy(-(cuda|rocm)[\w-]*)?")  # what brings the module itself, not what builds on it (cupy-xarray)


class DeviceError(RuntimeError):
    """The device asked for cannot be had; the message says what is missing and how to get it."""


def is_array(x: object) -> bool:
    """Whether ``x`` is a NumPy or CuPy array."""
    cupy = sys.modules.get("cupy")
    return isinstance(x, np.ndarray) or (cupy is not None and isinstance(x, cupy.ndarray))


def array_module(x: Array) -> Any:
    """numpy or cupy, whichever ``x`` belongs to."""
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy
    raise TypeError(f"array_module: expected a NumPy or CuPy array; got {type(x).__name__}.")


def device_of(x: Array) -> str:
    """The device of an array: "cpu" or "cuda:N"."""
    return "cpu" if isinstance(x, (np.ndarray, np.generic)) else f"cuda:{x.device.id}"


_NO_SCOPE: AbstractContextManager[None] = nullcontext()


class _Handles(threading.local):
    """The devices whose cuBLAS handle, of which every thread has its own, :func:`_wide_sums` has set."""

    def __init__(self) -> None:
        self.ready: set[int] = set()


_handles = _Handles()
_NO_SUMS_IN_16_BITS = 16  # CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION


def _wide_sums(device: Any) -> None:
    """Forbid cuBLAS to add up the parts of a split sum in 16 bits, which it may where the result has 16 bits.

    The handle is CuPy's, so that it holds for a program's own products on this thread and device as well.
    """
    import cupy

    with device:
        cublas, handle = cupy.cuda.cublas, cupy.cuda.device.get_cublas_handle()
    cublas.setMathMode(handle, cublas.getMathMode(handle) | _NO_SUMS_IN_16_BITS)
    _handles.ready.add(device.id)


def device_scope(x: Array) -> AbstractContextManager[Any]:
    """A block whose current device is that of ``x``: CuPy computes, and makes new arrays, on that one alone.

    All that the engine computes on a GPU, it computes in such a block; products add up in float32 or wider.
    """
    if isinstance(x, (np.ndarray, np.generic)):
        return _NO_SCOPE
    device: AbstractContextManager[Any] = x.device
    if device.id not in _handles.ready:  # type: ignore[attr-defined]
        _wide_sums(device)
    return device


@cache
def _cupy_distributions() -> list[str]:
    from importlib import metadata  # slow to import, and needed only when a GPU is asked for

    names = {dist.metadata["Name"] for dist in metadata.distributions()}
    return sorted(name for name in names if name and _CUPY.fullmatch(name.lower()))


def gpu_problem() -> str | None:
    """Why no GPU can be used, with the cure; None if one can."""
    installed = _cupy_distributions()
    if len(installed) > 1:
        return f"expected one CuPy package; got {', '.join(installed)}. pip uninstall all but one of them."
    try:
        import cupy
    except ImportError as error:
        why = f"CuPy {'cannot be imported (' + str(error) + ')' if installed else 'is not installed'}"
        return (
            f"expected CuPy; {why}. "
            'pip install "swinpy[gpu]" (CUDA 12) or pip install "swinpy[gpu13]" (CUDA 13), or run with --device cpu.'
        )
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CUDARuntimeError, or an OSError of a library that does not load
        return f"expected a CUDA device; the driver says: {error}. Check nvidia-smi, or run with --device cpu."
    if count == 0:
        return "expected a CUDA device; the driver reports none. Check nvidia-smi, or run with --device cpu."
    libraries: list[tuple[str, str, Callable[[], Any]]] = [
        ("NVRTC", "with which CuPy compiles every kernel", lambda: cupy.cuda.nvrtc.getVersion()),
        ("cuBLAS", "which makes every matrix product", lambda: cupy.cuda.cublas.setMathMode),
    ]
    for name, what, load in libraries:
        try:
            load()
        except Exception as error:  # RuntimeError, OSError or ImportError, by CuPy's version
            return (
                f"expected {name}, {what}; it does not load: {error}. "
                'pip install "swinpy[gpu]" (CUDA 12) or "swinpy[gpu13]" (CUDA 13) brings it, or run with --device cpu.'
            )
    return None


def describe_device(device: str) -> str:
    """A line about "cpu" or "cuda:N": of a GPU its name, memory, and the versions of CuPy, CUDA and the driver."""
    if device == "cpu":
        return device
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(int(device.partition(":")[2]))
    driver, cuda = (f"{v // 1000}.{v % 1000 // 10}" for v in (runtime.driverGetVersion(), runtime.runtimeGetVersion()))
    return (
        f"{device}, {properties['name'].decode()}, {properties['totalGlobalMem'] / 2**30:.0f} GiB, "
        f"CuPy {cupy.__version__}, CUDA {cuda}, driver for CUDA {driver}"
    )


def device_memory(device: str) -> int:
    """Bytes of memory of the GPU "cuda:N"."""
    import cupy

    return int(cupy.cuda.runtime.getDeviceProperties(int(device.partition(":")[2]))["totalGlobalMem"])


def has_gpu() -> bool:
    """Whether "gpu" can be used as a device."""
    return gpu_problem() is None


def resolve_device(device: str) -> str:
    """Turn "cpu", "gpu", "cuda", "cuda:N" or "auto" into "cpu" or "cuda:N".

    Raises:
        TypeError: for what is no string.
        ValueError: for an unknown name.
        DeviceError: if a GPU is asked for and cannot be used ("auto" takes the CPU then).
    """
    if not isinstance(device, str):
        raise TypeError(f"device: expected cpu, gpu, cuda, cuda:N or auto; got {device!r}.")
    kind, colon, number = device.partition(":")
    if device == "cpu":
        return "cpu"
    if not (kind in ("gpu", "cuda", "auto") and (not colon or (kind == "cuda" and number.isdecimal()))):
        raise ValueError(f"device: expected cpu, gpu, cuda, cuda:N or auto; got {device!r}.")
    problem = gpu_problem()
    if problem is None:
        import cupy

        index, count = int(number or 0), cupy.cuda.runtime.getDeviceCount()
        if index >= count:
            raise DeviceError(f"device: expected cuda:0 to cuda:{count - 1}; got {device!r}.")
        return f"cuda:{index}"
    if kind == "auto":
        return "cpu"
    raise DeviceError(f"device {device!r}: {problem}")


def use_device(device: str) -> str:
    """Make a GPU the current one of this thread: CuPy works, and makes new arrays, on that alone.

    Args:
        device: as for :func:`resolve_device`.

    Returns:
        "cpu" or "cuda:N".
    """
    target = resolve_device(device)
    if target != "cpu":
        import cupy

        cupy.cuda.Device(int(target.partition(":")[2])).use()
    return target


def _current_gpu() -> int | None:
    """The number of this thread's current GPU; None where CuPy is not imported, or works with no driver."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return None
    try:
        return int(cupy.cuda.Device().id)
    except Exception:  # CuPy's own have no base in common; without a driver there is nothing to put back
        return None


@contextmanager
def gpu_kept() -> Iterator[None]:
    """A block after which this thread's current GPU is the one before: CuPy's first, where CuPy was not imported."""
    before = _current_gpu() or 0
    try:
        yield
    finally:
        if _current_gpu() not in (None, before):
            sys.modules["cupy"].cuda.Device(before).use()


def to_device(x: Array, device: str) -> Array:
    """``x`` on ``device``: itself if it is there already, else a copy."""
    if device_of(x) == device:
        return x
    target = resolve_device(device)
    if device_of(x) == target:
        return x
    if target == "cpu":
        return x.get()
    import cupy

    with cupy.cuda.Device(int(target.partition(":")[2])):
        return cupy.asarray(x)
