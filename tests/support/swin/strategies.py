"""Calls of window attention: drawn by hypothesis, and run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from .. import runner, strategies
from ..rows.opinfo import Sample, Source, find
from ..rows.swin import Case, drawn_case, make

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["INFO", "at_least", "cotangent", "gradients", "output", "samples"]

INFO = find("window_attention")


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


def output(sample: Sample, fn: Any = INFO.fn) -> Any:
    """What window attention (or ``fn``) returns."""
    return runner.outputs(fn, sample)[0]


def gradients(sample: Sample, g: Any, fn: Any = INFO.fn) -> list[Any]:
    """One gradient an argument, None for those that are None."""
    return runner.gradients(fn, sample, [g])


def cotangent(sample: Sample, seed: int = 0) -> Any:
    """A random gradient of the output."""
    qkv = sample.args[0]
    return np.random.default_rng(seed).standard_normal((*qkv.shape[:3], qkv.shape[3] // 3)).astype(qkv.dtype)
