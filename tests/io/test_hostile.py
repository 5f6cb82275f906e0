"""The hostile corpus: each file is refused by the one exception, or read right where it is legal; nothing else happens.

Every case is read from a file on disk under an audit hook and with its memory traced.
"""

from __future__ import annotations

import re
import sys
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.hostile.pickles import PICKLES
from support.hostile.safetensors import OTHERS, SAFETENSORS
from support.hostile.streams import LEGACY, TARS
from support.hostile.tensors import TENSORS
from support.hostile.zips import ZIPS

from swinpy.io import WeightsFileError, read_checkpoint, read_weights
from swinpy.io.source import ALLOWANCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.hostile.corpus import Case

CASES: list[Case] = [*PICKLES, *TENSORS, *ZIPS, *LEGACY, *TARS, *SAFETENSORS, *OTHERS]


class _Audit:
    """Collects what the interpreter reports while it is switched on. A hook cannot be taken off again."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.events is not None:
            self.events.append((event, arguments[0] if arguments else None))


_audit = _Audit()


@pytest.fixture
def heard() -> Iterator[list[tuple[str, Any]]]:
    """The audit events of the test so far."""
    _audit.events = events = []
    yield events
    _audit.events = None


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(CASES) >= 150
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []


def test_the_hook_hears(heard: list[tuple[str, Any]], tmp_path: Path) -> None:
    """The hook would notice what the files ask for."""
    (tmp_path / "x").write_bytes(b"")
    compile("1", "x", "eval")
    assert {"open", "compile"} <= {event for event, _ in heard}


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_case(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(case.make())
    size = path.stat().st_size
    found: dict[str, Any] | None = None
    message = ""
    _audit.events = events = []
    tracemalloc.start()
    try:
        found = read_weights(path)
    except WeightsFileError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        _audit.events = None
    # Besides opening the file: id() is an event, too, and shows no more than an address.
    assert {(event, str(what)) for event, what in events if event != "builtins.id"} <= {("open", str(path))}
    assert peak <= 2 * size + ALLOWANCE, f"{peak} bytes for a file of {size}"
    if case.expected is None:
        assert found is None, "read, but should have been refused"
        assert re.search(case.match, message), message
        assert message.startswith("read_weights: expected ")
        assert str(path) in message
        assert "; got " in message
        assert message.isprintable()
        assert len(message) < 600
    else:
        assert found is not None, message
        assert found.keys() == case.expected.keys()
        for name, expected in case.expected.items():
            np.testing.assert_array_equal(found[name], expected, strict=True)
    _check_mapped(path, found, message)


def _check_mapped(path: Path, found: dict[str, Any] | None, message: str) -> None:
    """Mapping the file into memory instead makes no difference to what is read and what is refused."""
    try:
        mapped = read_weights(path, mmap=True)
    except WeightsFileError as error:
        assert str(error) == message  # noqa: PT017 (either outcome is right)
    else:
        assert found is not None
        assert mapped.keys() == found.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(mapped[name], array, strict=True)


@pytest.mark.parametrize("case", [case for case in CASES if case.expected is None], ids=repr)
def test_listing_refuses_too_or_says_why(case: Case) -> None:
    """Reading for a list keeps what can be read; damage is refused all the same."""
    try:
        found = read_checkpoint(case.make())
    except WeightsFileError as error:
        assert str(error).startswith("read_checkpoint: expected ")  # noqa: PT017 (either outcome is right)
    else:
        assert found.unreadable
        assert all(found.skipped[name] for name in found.unreadable)
