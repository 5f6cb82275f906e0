"""A pytest plugin (``-p mutation.lines``) that notes which test runs which line of the packages.

It needs the package coverage and writes ``.coverage.*`` files, one a process, into the folder SWINPY_LINES.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
_coverage = coverage.Coverage(
    data_file=str(Path(os.environ["SWINPY_LINES"]) / ".coverage"),
    data_suffix=True,
    config_file=False,
    source=[str(ROOT / "autograd"), str(ROOT / "swinpy")],
)
_coverage.start()  # when the plugin is imported: before the packages are


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _coverage.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        _coverage.switch_context("")


def pytest_sessionfinish() -> None:
    _coverage.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the process that only hands tests out: it ran none
        _coverage.save()
