"""One setting for threads, and the one pool that runs pieces of work: references, BLAS products and compiled kernels.

Work is cut into pieces that each compute their own rows. NumPy, BLAS and the compiled kernels all let go of Python's
lock, so pieces run side by side in plain threads. BLAS has threads of its own, which would compete with the pool (and
spin for a while after each product): while pieces run, it is held to one. For that, threadpoolctl must be installed
(extra ``fast``), or the environment must say so before NumPy is imported (OPENBLAS_NUM_THREADS=1).

To wake a thread that sleeps takes the system tens of microseconds, as long as much of the work of a small model. With
compiled kernels, threads that have worked stay awake for a moment: they listen for the bell that announces more
(:mod:`autograd.kernels.compiled.pieces`).
"""

from __future__ import annotations

import contextvars
import os
import threading
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "bell",
    "blas_is_single",
    "cores",
    "from_the_end",
    "get_num_threads",
    "listen_with",
    "map_pieces",
    "on_threads",
    "one_blas_thread",
    "set_num_threads",
]

_count: int | None = None
_offers: SimpleQueue[_Offer | None] | None = None  # to the helpers, threads that wait for work
_lock = threading.Lock()
bell = np.zeros(2, np.int64)  # how often work was announced, and how many helpers listen
_listen: Callable[[int], Any] | None = None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_num_threads() -> int:
    """How many threads the engine computes with: what was set, else the cores that the process may use."""
    return _count if _count is not None else cores()


def set_num_threads(n: int) -> None:
    """Compute with ``n`` threads from now on: references, matrix products and compiled kernels alike.

    Results do not depend on it, to the last bit, where BLAS can be held to one thread (see :func:`blas_is_single`).

    Args:
        n: 1 or more.

    Raises:
        ValueError: for less than 1.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"set_num_threads: expected a whole number of 1 or more; got {n!r}.")
    global _count
    with _lock:
        if n != get_num_threads() and _offers is not None:
            _offers.put(None)
            _forget_helpers()
        _count = n


def _forget_helpers() -> None:
    """The next call starts new ones."""
    global _offers
    _offers = None


def _in_forked_child() -> None:
    """It has none of its parent's threads, which may have held the lock, listened or been at work."""
    global _lock, _depth
    _lock, _depth = threading.Lock(), 0
    bell[:] = 0
    _forget_helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


class _Offer:
    """Work for a helper; whoever comes first takes it: a helper, or its owner back.

    A step of training makes hundreds of these, most of them for some hundred microseconds of work, so it is two bare
    locks: a Future of the standard library costs several times as much.
    """

    def __init__(self, work: Callable[[int], Any]) -> None:
        self._work: Callable[[int], Any] | None = work
        self._taken, self._done, self._over = threading.Lock(), threading.Lock(), False
        self._done.acquire()
        self._error: BaseException | None = None

    def accept(self, number: int) -> None:
        """By the helper of this number."""
        if self._taken.acquire(blocking=False):
            try:
                assert self._work is not None
                self._work(number)
            except BaseException as error:  # for the owner, whatever it is
                self._error = error
            finally:
                self._over = True
                self._done.release()

    def settle(self) -> BaseException | None:
        """By the owner, who has nothing left to do: take it back, or wait for the helper that is at it; its error.

        What is taken back stays in the queue until a helper comes by, but keeps no arrays alive.
        """
        if self._taken.acquire(blocking=False):
            self._work, self._over = None, True
        while not self._over:
            self._done.acquire()
        return self._error


def listen_with(listen: Callable[[int], Any]) -> None:
    """Helpers call ``listen`` before they fall asleep, with how often they heard the bell: it comes back when the bell
    has rung again, or after a moment."""
    global _listen
    _listen = listen


def _help(offers: SimpleQueue[_Offer | None], number: int) -> None:
    while True:
        heard = int(bell[0])
        if _listen is not None and offers.empty():
            _listen(heard)
        offer = offers.get()
        if offer is None:
            break
        offer.accept(number)
        del offer  # or the thread would keep arrays alive while it waits
    offers.put(None)  # for the next helper


def _to_helpers() -> SimpleQueue[_Offer | None]:
    global _offers
    with _lock:
        if _offers is None:
            _offers = SimpleQueue()
            for i in range(1, get_num_threads()):
                threading.Thread(target=_help, args=(_offers, i), name=f"autograd-{i}", daemon=True).start()
        return _offers


_forwards = True


def from_the_end() -> bool:
    """Every other time: what the call before read and wrote last is still in the caches."""
    global _forwards
    _forwards = not _forwards
    return not _forwards


def _in_this_context(work: Callable[[int], Any]) -> Callable[[int], Any]:
    """``work`` under what context variables say here, in another thread."""
    context = contextvars.copy_context()
    return lambda number: context.run(work, number)


def _settled(offers: list[_Offer]) -> list[BaseException | None]:
    """The errors of all offers, once nobody is at them, Ctrl-C or not: helpers write to the caller's arrays."""
    errors: list[BaseException | None] = []
    left = list(offers)
    while left:
        try:
            errors.append(left[-1].settle())
            left.pop()
        except KeyboardInterrupt as interrupt:
            errors.append(interrupt)
    return errors


def on_threads(work: Callable[[int], Any], most: int) -> None:
    """Call ``work`` with numbers from 0 on, on up to ``most`` threads at once, until all of them have come back.

    The calls share the work out among themselves: one that finds nothing left to do returns. This thread has number 0,
    every other one always the same: its caches hold what it worked on before.
    """
    threads = min(get_num_threads(), most)
    if threads < 2:
        work(0)
        return
    queue = _to_helpers()
    offers = [_Offer(_in_this_context(work)) for _ in range(threads - 1)]
    for offer in offers:
        queue.put(offer)
    try:
        work(0)
    finally:
        errors = _settled(offers)
    for error in errors:
        if error is not None:
            raise error


def map_pieces(piece: Callable[..., Any], arguments: list[Any]) -> list[Any]:
    """``[piece(a) for a in arguments]`` on all threads; each call works on its part alone, and may use BLAS.

    Each thread has a share of its own and helps others when it has done that; the results come back in order.
    """
    n, threads, backwards = len(arguments), get_num_threads(), from_the_end()
    results: list[Any] = [None] * n
    ranges = [range(n * i // threads, n * (i + 1) // threads) for i in range(threads)]
    shares = [iter(reversed(share) if backwards else share) for share in ranges]

    def work(number: int) -> None:
        if number == 0:
            bell[0] += 1
        for share in (*shares[number:], *shares[:number]):
            for i in share:
                results[i] = piece(arguments[i])

    with one_blas_thread():
        on_threads(work, n)
    return results


# ---- BLAS


def _single_by_environment() -> bool:
    return any(os.environ.get(name) == "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))


@lru_cache(maxsize=1)
def _blas_pools() -> tuple[Any, ...]:
    """NumPy's BLAS as threadpoolctl sees it; none where it is not installed or finds none that it can set."""
    if find_spec("threadpoolctl") is None:
        return ()
    from threadpoolctl import ThreadpoolController

    return tuple(c for c in ThreadpoolController().lib_controllers if c.user_api == "blas")


@lru_cache(maxsize=1)
def blas_is_single() -> bool:
    """Whether BLAS can be held to one thread, so that large products are cut here and share the engine's pool."""
    return _single_by_environment() or bool(_blas_pools())


_depth = 0
_before: list[int] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS uses one thread inside the block; then as many as before. Blocks may nest and overlap across threads."""
    global _depth
    if _single_by_environment() or not _blas_pools():
        yield
        return
    with _lock:
        if _depth == 0:
            _before[:] = [pool.get_num_threads() for pool in _blas_pools()]
            for pool in _blas_pools():
                pool.set_num_threads(1)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                for pool, n in zip(_blas_pools(), _before, strict=True):
                    pool.set_num_threads(n)
