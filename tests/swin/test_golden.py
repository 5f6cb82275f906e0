"""Refactoring changes no result: stored logits of models whose parameters come from a closed formula."""

from __future__ import annotations

import pytest
from support.swin import checks as swin_checks
from support.swin import golden as swin_golden


@pytest.mark.parametrize("name", swin_golden.names())
def test_golden(name: str) -> None:
    swin_checks.golden(name)


def test_cases_differ() -> None:
    """No two cases of a file have the same logits by accident, but the two attention paths."""
    for name in swin_golden.names():
        cases = [c for c in swin_golden.load(name)["cases"] if c["options"].get("attention") != "composite"]
        assert len({tuple(c["logits"]) for c in cases}) == len(cases)
