"""What reading costs, over files that are grown to be costly: within what is promised, and all refusals of one kind.

By hand, longer and led by coverage: `support.hostile.fuzz`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from support.hostile.fuzz import Worst, files
from support.hostile.measure import READERS, Reader, measure

from swinpy.io import WeightsFileError

if TYPE_CHECKING:
    from collections.abc import Callable


def _run(form: str, count: int, seed: int) -> Worst:
    worst = Worst()
    for data in files(form, count, seed):
        worst.add(measure(READERS[form], data))
    return worst


@pytest.mark.parametrize("form", READERS)
def test_costs(form: str) -> None:
    worst = _run(form, 40, seed=0)
    assert worst.count == 40
    # The files would be worthless if all of them failed at the first byte.
    assert 0 < worst.read < 40


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", READERS)
def test_many_costs(form: str) -> None:
    assert _run(form, 1000, seed=1).count == 1000


def test_files_are_numbered() -> None:
    first = list(files("zip", 12, 3))
    assert first == list(files("zip", 12, 3))
    assert first != list(files("zip", 12, 4))


def _reader(read: Callable[[bytes], object], memory: int = 1 << 20) -> Reader:
    return Reader(read, (WeightsFileError,), lambda size: memory)


def test_the_measure_sees_memory() -> None:
    with pytest.raises(AssertionError, match="times what is promised"):
        measure(_reader(lambda data: bytearray(3 * len(data)), 20_000), bytes(10_000))


def test_the_measure_sees_time() -> None:
    def wait(data: bytes) -> None:
        stop = time.thread_time() + 0.4
        while time.thread_time() < stop:
            pass

    with pytest.raises(AssertionError, match="s for a file of 10 bytes"):
        measure(_reader(wait), bytes(10))


def test_the_measure_bears_one_interruption() -> None:
    left = [0.4]

    def wait(data: bytes) -> None:
        stop = time.thread_time() + (left.pop() if left else 0)
        while time.thread_time() < stop:
            pass

    assert measure(_reader(wait), bytes(10)).time_share < 0.5


def test_the_measure_sees_messages_and_other_exceptions() -> None:
    def refuse(data: bytes) -> None:
        raise WeightsFileError("a\x1b[2J")

    with pytest.raises(AssertionError, match="x1b"):
        measure(_reader(refuse), bytes(10))
    with pytest.raises(ZeroDivisionError):
        measure(_reader(lambda data: 1 // 0), bytes(10))
