"""Watching a model run from outside: module calls with their arguments, and inner values that the code names.

A watcher is put in force by :func:`watching` for one block of code. Where none is, a module call costs one look-up and
:func:`tap` returns its argument. What a watcher returns is ignored: it cannot change what a module returns.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Watcher", "tap", "watched_call", "watchers", "watching"]

T = TypeVar("T")


class Watcher(Protocol):
    """An object that is told of a run."""

    def entered(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module is about to run."""

    def returned(self, module: Any, result: Any) -> None:
        """The module returned; not called if it raised."""

    def left(self, module: Any) -> None:
        """The call is over, whether it returned or raised."""

    def tapped(self, name: str, value: Any) -> None:
        """The code of the module that runs calls ``value`` (a Tensor, an array or None) ``name``."""


_WATCHERS: ContextVar[tuple[Watcher, ...]] = ContextVar("swinpy_watchers", default=())


def watchers() -> tuple[Watcher, ...]:
    """The watchers in force."""
    return _WATCHERS.get()


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell ``watcher`` of every module call and tap in the block, in this thread or task only."""
    token = _WATCHERS.set((*_WATCHERS.get(), watcher))
    try:
        yield
    finally:
        _WATCHERS.reset(token)


def watched_call(active: tuple[Watcher, ...], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``module.forward(*args, **kwargs)``, told to ``active``."""
    for watcher in active:
        watcher.entered(module, args, kwargs)
    try:
        result = module.forward(*args, **kwargs)
        for watcher in active:
            watcher.returned(module, result)
    finally:
        for watcher in reversed(active):
            watcher.left(module)
    return result


def tap(name: str, value: T) -> T:
    """Give an inner value a name that watchers see; returns the value as it is.

    Args:
        name: short and lower-case; unique within the module whose forward it stands in.
        value: a Tensor, an array or None.

    >>> tap("scores", 3)
    3
    """
    for watcher in _WATCHERS.get():
        watcher.tapped(name, value)
    return value
