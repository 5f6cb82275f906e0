"""What hypothesis draws for Swin: cases of window attention, with arguments from a seed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st

from . import strategies
from .opinfo import Sample, Source
from .ops_swin import Case, drawn_case, make

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["at_least", "samples"]


class _Drawn(Source):
    """A source whose structure hypothesis chooses and shrinks."""

    def __init__(self, draw: Callable[..., Any]) -> None:
        super().__init__(draw(strategies.seeds), draw(strategies.scales))
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))


@st.composite
def samples(draw: st.DrawFn, largest: int = 11, **fixed: Any) -> tuple[Case, Sample]:
    """A case of any size with its arguments; switches may be fixed."""
    source = _Drawn(draw)
    case = replace(drawn_case(source, largest), **fixed)
    return case, make(case, source)


def at_least(examples: int) -> settings:
    """The profile's number of examples, or more."""
    return settings(max_examples=max(examples, settings().max_examples))
