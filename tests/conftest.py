"""Hypothesis profiles, and the policy on skips: counted, printed, and in CI refused unless their reason is known."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite("support")

from hypothesis import settings  # noqa: E402 (after the line above, which must come before support is imported)
from support import skips, strategies  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

strategies.register_profiles()
settings.load_profile(strategies.choose_profile())

_SKIPS = pytest.StashKey[Counter[str]]()


class _SkipCounter:
    """Collects the reasons of skipped tests and modules."""

    def __init__(self, config: pytest.Config) -> None:
        self.reasons = config.stash[_SKIPS] = Counter()

    def _count(self, report: Any) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.reasons[text.removeprefix("Skipped: ")] += 1

    pytest_runtest_logreport = _count
    pytest_collectreport = _count


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_SkipCounter(config))


def _unknown(config: pytest.Config) -> list[str]:
    return [reason for reason in config.stash[_SKIPS] if not skips.is_allowed(reason)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI", "").lower() == "true" and _unknown(session.config) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reasons = config.stash[_SKIPS]
    terminalreporter.write_line(f"skipped: {sum(reasons.values())}")
    for reason, count in sorted(reasons.items()):
        known = "" if skips.is_allowed(reason) else "  (not on the list in tests/support/skips.py: fails in CI)"
        terminalreporter.write_line(f"  {count} x {reason}{known}")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The default generator starts at the same place in every test, and none leaves it moved."""
    import autograd

    with autograd.fork_rng({"seed": 0, "offset": 0}):
        yield
