"""What reading costs, over files that are grown to be costly: within what is promised, and all refusals of one kind.

By hand, longer and led by coverage: `support.hostile.fuzz`.
"""

from __future__ import annotations

import pytest
from support.hostile.fuzz import Worst, files
from support.hostile.measure import READERS, Reader, measure

from swinpy.io import WeightsFileError


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


def test_the_measure_sees_memory_time_and_messages() -> None:
    """Each promise, broken on purpose."""

    def reader(read: object) -> Reader:
        return Reader(read, (WeightsFileError,), lambda size: 2 * size)  # type: ignore[arg-type]

    def refuse(data: bytes) -> None:
        raise WeightsFileError("a\x1b[2J")

    def wait(data: bytes) -> None:
        for _ in range(1 << 40):
            hash(data)
            if time.thread_time() > stop:
                return

    import time

    with pytest.raises(AssertionError, match="times what is promised"):
        measure(reader(lambda data: bytearray(3 * len(data))), bytes(10_000))
    stop = time.thread_time() + 1.2
    with pytest.raises(AssertionError, match="s for a file of"):
        measure(reader(wait), b"a" * 10)
    with pytest.raises(AssertionError, match="x1b"):
        measure(reader(refuse), b"a" * 10)
    with pytest.raises(ZeroDivisionError):
        measure(reader(lambda data: 1 // 0), b"a" * 10)
