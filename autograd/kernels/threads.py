"""The number of threads, and the one thread pool: it runs the pieces of references, BLAS products and compiled kernels.

A kernel divides its rows into pieces, and each piece computes rows of its own. NumPy, BLAS and compiled kernels release
Python's lock, so plain threads run pieces in parallel. BLAS has threads of its own, which would compete with the pool
(and spin for a while after each product). So BLAS is held to one thread while pieces run (``blas.py``).

The system takes tens of microseconds to wake a sleeping thread, as long as many kernels of a small model run. With
compiled kernels, the pool's threads therefore stay awake for a moment after their work: they watch a counter, the bell,
which is incremented when there is more to do (:mod:`autograd.kernels.compiled.pieces`).
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.kernels.blas import hold_this_thread, one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "bell",
    "cores",
    "from_the_end",
    "get_num_threads",
    "listen_with",
    "map_pieces",
    "on_threads",
    "set_num_threads",
    "threads_kept",
]

_count: int | None = None
_offers: SimpleQueue[_Offer | None] | None = None  # read by the helpers: the pool's own threads
_lock = threading.Lock()
bell = np.zeros(2, np.int64)  # how often work was announced, and how many helpers are listening
_listen: Callable[[int], Any] | None = None


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_num_threads() -> int:
    """The number of threads that the engine computes with: what was set, else the cores that the process may use."""
    return _count if _count is not None else cores()


def set_num_threads(n: int) -> None:
    """Compute with ``n`` threads from now on: references, matrix products and compiled kernels alike.

    Where BLAS can be held to one thread (``blas.py``), results do not depend on it, to the last bit.

    Args:
        n: 1 or more.

    Raises:
        ValueError: for less than 1.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"set_num_threads: expected a whole number of 1 or more; got {n!r}.")
    _set(n)


def _set(n: int | None) -> None:
    """``None``: as many as there are cores, as if nothing had been set."""
    global _count
    with _lock:
        if (cores() if n is None else n) != get_num_threads() and _offers is not None:
            _offers.put(None)
            _forget_helpers()
        _count = n


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """A block after which the number of threads is what it was before, also where that was not set."""
    before = _count
    try:
        yield
    finally:
        _set(before)


def _forget_helpers() -> None:
    """Leave the helpers to themselves; the next call that needs some starts new ones."""
    global _offers
    _offers = None


def _in_forked_child() -> None:
    """Start afresh: a forked child has no threads of its parent's, which may have held the lock or been listening."""
    global _lock
    _lock = threading.Lock()
    bell[:] = 0
    _forget_helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


class _Offer:
    """Work offered to the helpers. Either a helper accepts it or its owner takes it back, whoever is first.

    A training step makes hundreds of offers, most of them for some hundred microseconds of work. So an offer is two
    bare locks: a Future of the standard library costs several times as much.
    """

    def __init__(self, work: Callable[[int], Any]) -> None:
        self._work: Callable[[int], Any] | None = work
        self._taken, self._done, self._over = threading.Lock(), threading.Lock(), False
        self._done.acquire()
        self._error: BaseException | None = None

    def accept(self, number: int) -> None:
        """Called by the helper of this number: do the work, unless somebody else has it."""
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
        """Called by the owner, once it has nothing left to do: take the offer back, or wait until its helper is done.

        An offer that is taken back stays in the queue until a helper comes across it, but keeps no arrays alive.

        Returns:
            The error that the work raised, or None.
        """
        if self._taken.acquire(blocking=False):
            self._work, self._over = None, True
        while not self._over:
            self._done.acquire()
        return self._error


def listen_with(listen: Callable[[int], Any]) -> None:
    """Let helpers call ``listen`` before they fall asleep.

    Args:
        listen: takes how often the bell has rung so far; returns when it has rung again, or after a moment.
    """
    global _listen
    _listen = listen


def _help(offers: SimpleQueue[_Offer | None], number: int) -> None:
    """The loop of one helper, until it reads None."""
    hold_this_thread()
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


def _helpers() -> SimpleQueue[_Offer | None]:
    """The queue that the helpers read; starts them if there are none."""
    global _offers
    with _lock:
        if _offers is None:
            _offers = SimpleQueue()
            for i in range(1, get_num_threads()):
                threading.Thread(target=_help, args=(_offers, i), name=f"autograd-{i}", daemon=True).start()
        return _offers


_forwards = True


def from_the_end() -> bool:
    """Whether to take pieces from the last to the first: every other call, because the caches still hold what the
    previous call used last."""
    global _forwards
    _forwards = not _forwards
    return not _forwards


def _in_this_context(work: Callable[[int], Any]) -> Callable[[int], Any]:
    """``work`` for another thread, with the values that context variables have in this one."""
    context = contextvars.copy_context()
    return lambda number: context.run(work, number)


def _settled(offers: list[_Offer]) -> list[BaseException | None]:
    """The errors of all offers, once no helper works on one. Ctrl-C does not end the wait: helpers write to the
    caller's arrays."""
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
    """Call ``work`` on up to ``most`` threads at once, and return when all calls have returned.

    The calls divide the work among themselves: one that finds nothing left to do returns.

    Args:
        work: takes the number of its thread. This thread has number 0 and each helper always the same one, because
            its caches hold what it worked on before.
        most: how many threads can be of use, this one included.
    """
    threads = min(get_num_threads(), most)
    if threads < 2:
        work(0)
        return
    queue = _helpers()
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


def map_pieces(compute: Callable[..., Any], arguments: list[Any]) -> list[Any]:
    """``[compute(a) for a in arguments]`` on all threads, results in order.

    Each thread begins with a share of its own, a run of neighbouring pieces. Then it takes pieces of the others'
    shares.

    Args:
        compute: computes a piece. It writes to rows of its own alone, and may use BLAS.
        arguments: one for each piece.
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
                results[i] = compute(arguments[i])

    with one_blas_thread():
        on_threads(work, n)
    return results
