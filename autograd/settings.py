"""What is set for a whole process or thread, and a block that puts all of it back."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from autograd.backend import gpu_kept
from autograd.kernels.threads import threads_kept
from autograd.random import fork_rng

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["settings_kept"]


@contextmanager
def settings_kept() -> Iterator[None]:
    """A block after which threads, this thread's current GPU and the default generator are as they were before.

    For programs that are called from another one.

    >>> import autograd as ag
    >>> before = ag.get_num_threads()
    >>> with ag.settings_kept():
    ...     ag.set_num_threads(before + 1)
    >>> ag.get_num_threads() == before
    True
    """
    with threads_kept(), gpu_kept(), fork_rng():
        yield
