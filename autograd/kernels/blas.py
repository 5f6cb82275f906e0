"""The BLAS that NumPy multiplies with: which one it is, and how it is held to one thread.

The bits of a product depend on the number of threads that BLAS computes it with: a matrix times a vector in float32 is
another sum with two threads than with one. So every product of the engine runs while BLAS is held to one thread, and
the engine's own threads divide what is large. OpenBLAS, which NumPy's wheels bring, is asked for that by itself; others
take threadpoolctl (extra ``fast``).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OpenBlas", "blas_is_single", "blas_pools", "hold_this_thread", "one_blas_thread", "openblas"]

_LAYERS = ("disabled", "pthreads", "openmp")  # by the number that openblas_get_parallel gives
_VARIABLES = ("OPENBLAS", "MKL", "OMP")  # what sets the threads of a BLAS that cannot be asked


class Pool(Protocol):
    """The threads of one BLAS."""

    def get_num_threads(self) -> int: ...

    def set_num_threads(self, n: int) -> Any: ...


class OpenBlas:
    """The OpenBLAS that NumPy is linked to.

    Attributes:
        get_num_threads: how many threads it computes with.
        set_num_threads: has it compute with ``n``.
        threading_layer: whose threads they are: "pthreads", "openmp" or "disabled".
        config: its version and how it was built, in its own words.
        core: the processor whose kernels it runs.
    """

    def __init__(self, find: Callable[[str], Any]) -> None:
        """``find`` takes a function's plain name, as ``openblas_get_config``; an AttributeError is where it ends."""
        self.get_num_threads: Callable[[], int] = find("openblas_get_num_threads")
        self.set_num_threads: Callable[[int], Any] = find("openblas_set_num_threads")
        self.threading_layer = _LAYERS[find("openblas_get_parallel")()]
        self.config, self.core = _text(find("openblas_get_config")), _text(find("openblas_get_corename"))


def _text(function: Any) -> str:
    function.restype = ctypes.c_char_p
    return " ".join(bytes(function() or b"").decode("ascii", "replace").split())


@lru_cache(maxsize=1)
def openblas() -> OpenBlas | None:
    """NumPy's OpenBLAS; None where NumPy has another BLAS, or where its library cannot be asked."""
    name = next((n for n in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath") if n in sys.modules), "")
    try:
        library = ctypes.CDLL(sys.modules[name].__file__ or "")  # finds what the module is linked to as well
    except (KeyError, OSError):
        return None

    def find(function: str) -> Any:
        # Builds differ in the names: plain, for 64-bit integers, and as in NumPy's wheels.
        for prefix in ("", "scipy_"):
            for suffix in ("", "64_"):
                if hasattr(library, f"{prefix}{function}{suffix}"):
                    return getattr(library, f"{prefix}{function}{suffix}")
        raise AttributeError(function)

    try:
        return OpenBlas(find)
    except (AttributeError, IndexError):
        return None


@lru_cache(maxsize=1)
def blas_pools() -> tuple[Pool, ...]:
    """What can be held to one thread: NumPy's OpenBLAS, else any BLAS that threadpoolctl finds; empty without both."""
    ours = openblas()
    if ours is not None:
        return (ours,)
    if find_spec("threadpoolctl") is None:
        return ()
    from threadpoolctl import ThreadpoolController

    return tuple(c for c in ThreadpoolController().lib_controllers if c.user_api == "blas")


@lru_cache(maxsize=1)
def blas_is_single() -> bool:
    """Whether BLAS can be held to one thread; large products are then divided into pieces for the engine's threads."""
    return bool(blas_pools()) or any(os.environ.get(f"{name}_NUM_THREADS") == "1" for name in _VARIABLES)


class _Holds:
    """How many blocks hold BLAS at the moment, and how many threads it had before."""

    def __init__(self) -> None:
        self.depth = 0
        self.before: list[int] = []


class _OwnHolds(_Holds, threading.local):
    """Those of the thread that asks."""


def _of_each_thread(pools: tuple[Pool, ...]) -> bool:
    """Whether a number of threads is set for the calling thread alone, as OpenMP does."""
    return any(getattr(pool, "threading_layer", "") == "openmp" for pool in pools)


class _OneBlasThread:
    """The context manager; it has no generator, because a small product takes as long as one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared, self._own = _Holds(), _OwnHolds()

    def __enter__(self) -> None:
        pools = blas_pools()
        holds = self._own if _of_each_thread(pools) else self._shared
        with self._lock:
            if holds.depth == 0:
                holds.before = [pool.get_num_threads() for pool in pools]
                _set(pools, [1] * len(pools), holds.before)
            holds.depth += 1

    def __exit__(self, *_: object) -> None:
        pools = blas_pools()
        holds = self._own if _of_each_thread(pools) else self._shared
        with self._lock:
            holds.depth -= 1
            if holds.depth == 0:
                _set(pools, holds.before, [1] * len(pools))


def _set(pools: tuple[Pool, ...], numbers: list[int], now: list[int]) -> None:
    for pool, n, old in zip(pools, numbers, now, strict=True):
        if n != old:
            pool.set_num_threads(n)


_held = _OneBlasThread()


def one_blas_thread() -> _OneBlasThread:
    """Hold BLAS to one thread inside the ``with`` statement; afterwards it has as many as before.

    The statements may nest, and those of several threads may overlap.
    """
    return _held


def hold_this_thread() -> None:
    """For a thread of the pool, before its first piece: hold what is its own, for as long as it lives."""
    pools = blas_pools()
    if _of_each_thread(pools):
        for pool in pools:
            pool.set_num_threads(1)


def _in_forked_child() -> None:
    """Start afresh: a forked child has none of the threads that held BLAS, and one of them may have had the lock."""
    global _held
    _held = _OneBlasThread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
