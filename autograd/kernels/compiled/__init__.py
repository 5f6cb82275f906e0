"""What compiled kernels share, and the decorator by which a room registers its Numba twins (extra ``fast``).

Some files import Numba at their top: ``cpu.py`` of a room, and the others of this folder. They are imported when a
kernel first runs. Only a room's loader, and such files themselves, may import them.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.dtypes import is_float
from autograd.kernels.registry import Implementation, register_implementation
from autograd.kernels.validate import arrays_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from autograd.kernels.registry import Kernel

__all__ = ["COMPILED_DTYPES", "compiled_dtype", "is_available", "register_compiled", "warmup"]

COMPILED_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))

_loaders: list[Callable[[], ModuleType]] = []


def warmup() -> None:
    """Import Numba and all compiled kernels now, which takes about a second, instead of when each first runs.

    Without Numba this does nothing. Code is still compiled, or read from the disk, at the first call with given types.
    """
    if is_available() is None:
        for load in _loaders:
            load()


@lru_cache(maxsize=1)
def is_available() -> str | None:
    """None if Numba is installed, else what to do about it."""
    return None if find_spec("numba") else "Numba is not installed (pip install 'swinpy[fast]')"


def compiled_dtype(*args: Any, **_: Any) -> str | None:
    """None if all float arrays and dtypes among the arguments are of one dtype that kernels are compiled for, else why
    not."""
    dtypes = {a.dtype for a in arrays_in(args) if isinstance(a, np.ndarray) and is_float(a.dtype)}
    dtypes |= {a for a in args if isinstance(a, np.dtype)}
    if len(dtypes) == 1 and dtypes <= set(COMPILED_DTYPES):
        return None
    found = ", ".join(sorted(map(str, dtypes))) or "none"
    return f"compiled kernels take float32 or float64 arrays of one dtype; got {found}"


def register_compiled(
    *kernels: Kernel[..., Any],
    accepts: Callable[..., str | None] = compiled_dtype,
    way: Callable[..., str] | None = None,
) -> Callable[[Callable[[], ModuleType]], Callable[[], ModuleType]]:
    """Give kernels compiled twins: decorates a function that imports and returns the module that has the twins.

    Args:
        *kernels: each has a twin of its name in the module.
        accepts: called with a kernel's arguments; None if the twins take them, else why not.
        way: called with a kernel's arguments; which of several algorithms the twins take.
    """

    def decorate(load: Callable[[], ModuleType]) -> Callable[[], ModuleType]:
        _loaders.append(load)
        for kernel in kernels:
            _late(kernel, load, accepts, way)
        return load

    return decorate


def _late(
    kernel: Kernel[..., Any],
    load: Callable[[], ModuleType],
    accepts: Callable[..., str | None],
    way: Callable[..., str] | None,
) -> None:
    """Put the twin behind the kernel; its module is imported by the first call, and later ones go to it directly."""

    def first(*args: Any, **kwargs: Any) -> Any:
        twin: Callable[..., Any] = getattr(load(), kernel.name)
        if kernel.cpu is late:
            kernel.cpu = Implementation(twin, can_run, way)
        return twin(*args, **kwargs)

    def can_run(*args: Any, **kwargs: Any) -> str | None:
        return is_available() or accepts(*args, **kwargs)

    late = Implementation(first, can_run, way)
    register_implementation(kernel, cpu=late)
