"""What hypothesis draws: structure (shapes, axes, options), a layout, a scale and a seed; never elements.

Drawn elements are mostly equal values and hide faults; values come from a NumPy generator with the drawn seed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from .layouts import LAYOUTS
from .rows.opinfo import OpInfo, Sample, Source

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject

__all__ = ["choose_profile", "layouts", "register_profiles", "sample_of", "scales", "seeds"]


def register_profiles() -> None:
    """dev for work at the desk, ci (the same examples in every run), nightly for long searches."""
    slow_data = [HealthCheck.too_slow, HealthCheck.data_too_large]
    # The explain phase traces every line of every example before Python 3.12, at a high cost.
    phases = [phase for phase in Phase if phase is not Phase.explain]
    common: dict[str, Any] = {"deadline": None, "suppress_health_check": slow_data, "phases": phases}
    settings.register_profile("dev", max_examples=15, **common)
    settings.register_profile("ci", max_examples=15, derandomize=True, database=None, print_blob=True, **common)
    settings.register_profile("nightly", max_examples=1000, print_blob=True, **common)


def choose_profile() -> str:
    """HYPOTHESIS_PROFILE, else ci where CI=true, else dev."""
    default = "ci" if os.environ.get("CI", "").lower() == "true" else "dev"
    return os.environ.get("HYPOTHESIS_PROFILE", default)


seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.25, 1.0, 3.0])
layouts = st.sampled_from(sorted(LAYOUTS))


class _Drawn(Source):
    """A source whose structure hypothesis chooses and shrinks."""

    def __init__(self, data: DataObject, seed: int, scale: float) -> None:
        super().__init__(seed, scale)
        self._data = data

    def integer(self, low: int, high: int) -> int:
        return int(self._data.draw(st.integers(low, high)))


def sample_of(data: DataObject, info: OpInfo) -> tuple[str, Sample]:
    """A case of the row, with its sample."""
    case = data.draw(st.sampled_from(sorted(info.samples)), label="case")
    source = _Drawn(data, data.draw(seeds, label="seed"), data.draw(scales, label="scale"))
    return case, info.samples[case](source)
