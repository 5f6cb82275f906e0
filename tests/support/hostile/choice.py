"""Where the decisions of a file that is grown come from: a seed, or the bytes of a fuzzer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LIMIT", "Choice", "Guided", "Seeded", "one", "text", "times"]

LIMIT = 30_000  # bytes of a piece


class Choice(Protocol):
    """Where decisions come from."""

    def below(self, count: int) -> int:
        """A number from 0 to ``count - 1``."""
        ...


class Seeded:
    """By a seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def below(self, count: int) -> int:
        return self._random.randrange(count)


class Guided:
    """By the bytes that a fuzzer gives; the first alternative where they have run out."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def below(self, count: int) -> int:
        number: int = self._provider.ConsumeIntInRange(0, count - 1)
        return number


def one(choice: Choice, things: Sequence[Any]) -> Any:
    return things[choice.below(len(things))]


def times(choice: Choice, size: int) -> int:
    """How often a piece of ``size`` bytes is repeated: few times or as often as the limit lets it be."""
    most = max(1, LIMIT // max(1, size))
    return min(most, one(choice, (1, 2, 3, 5, 8, 30, 300, 1000, 3000, 9000, 30_000)))


def text(choice: Choice) -> str:
    letter = one(choice, ("a", "\x1b", "\xe9", "\u4e00", "\U0001f600", "module.", "a.", "/", "9", "\ud800"))
    return letter * one(choice, (0, 1, 2, 60, 500, 1024, 1025, 9000, 20_000)) + one(choice, ("", "b", "\U0001f600"))
