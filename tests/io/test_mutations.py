"""Sound files bent at random, by number: each is refused by the one exception or read, and nothing else happens."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.hostile import corpus as hostile
from support.hostile.mutations import mutations

from swinpy.io import WeightsFileError, read_weights

if TYPE_CHECKING:
    from collections.abc import Callable

_RANGES = tuple[tuple[int, int], ...]


def _pickle_of_zip(data: bytes) -> _RANGES:
    start = data.index(b"\x80\x02}(")
    return (start, data.index(b"PK\3\4", start)), (data.index(b"PK\1\2"), len(data))


def _pickles_of_legacy(data: bytes) -> _RANGES:
    return ((data.index(b"\x80\x02}(X\5\0\0\0model"), len(data)),)


def _members_of_tar(data: bytes) -> _RANGES:
    # All of it that is not padding: in headers nearly every change shows in the checksum.
    starts = list(range(512, len(data) - 1024, 1024))
    return tuple((at, at + len(data[at : at + 512].rstrip(b"\0")) + 1) for at in starts)


def _header_of_safetensors(data: bytes) -> _RANGES:
    return ((0, 8 + int.from_bytes(data[:8], "little")),)


# The base, and where to bend it most.
BASES: dict[str, tuple[Callable[[], bytes], Callable[[bytes], _RANGES]]] = {
    "zip": (hostile.sound_zip, _pickle_of_zip),
    "legacy": (hostile.sound_legacy, _pickles_of_legacy),
    "tar": (hostile.sound_tar, _members_of_tar),
    "safetensors": (hostile.sound_safetensors, _header_of_safetensors),
}


def _outcomes(form: str, count: int, key: int) -> Counter[str]:
    make, hot = BASES[form]
    base = make()
    read_weights(base)
    outcomes: Counter[str] = Counter()
    for data in mutations(base, count, key, hot(base)):
        try:
            found = read_weights(data)
        except WeightsFileError as error:
            outcomes[re.sub(r"\d+", "#", str(error).partition("; got ")[0])] += 1
        else:
            outcomes["read"] += 1
            _use(found)
    return outcomes


def _use(found: dict[str, Any]) -> None:
    """Touch every element: a view that reached outside its memory would show here."""
    for name, array in found.items():
        assert isinstance(name, str)
        assert isinstance(array, np.ndarray)
        array.tobytes()


@pytest.mark.parametrize("form", BASES)
def test_mutations(form: str) -> None:
    outcomes = _outcomes(form, 20_000, key=1)
    assert outcomes.total() == 20_000
    # The loop would be worthless if nearly all of them failed at the first byte, or if nothing were noticed.
    assert outcomes["read"] > 500
    assert len(outcomes) > 20
    assert outcomes.total() - outcomes["read"] > 5_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", BASES)
def test_many_mutations(form: str) -> None:
    assert _outcomes(form, 1_000_000, key=2).total() == 1_000_000


def test_mutations_are_numbered() -> None:
    base = hostile.sound_zip()
    first = list(mutations(base, 50, 3))
    assert first == list(mutations(base, 5000, 3))[:50]
    assert first != list(mutations(base, 50, 4))
    assert len(set(first)) > 45
