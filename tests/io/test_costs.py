"""The estimates by which files are charged are never below what is taken, and never far above."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.hostile.safetensors import PIECES

from swinpy.io.arrays import load_arrays
from swinpy.io.costs import json_cost, text_cost
from swinpy.io.records import DTYPES, Storage, StoredTensor
from swinpy.io.source import Budget, BytesSource

if TYPE_CHECKING:
    from collections.abc import Callable

_N = 100_000


def _peak(make: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        made = make()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        del made


_TEXTS = {
    "ascii": "a" * _N,
    "latin": "\xe9" * _N,
    "latin-late": "a" * _N + "\xe9",
    "wide": "\u4e00" * _N,
    "wide-late": "a" * _N + "\xe9\u4e00",
    "astral": "\U0001f600" * _N,
    "astral-late": "a" * _N + "\xe9\u4e00\U0001f600",
    "surrogate-late": "a" * _N + "\xe9\u4e00\ud800\U0001f600",
}


@pytest.mark.parametrize("text", _TEXTS)
def test_text(text: str) -> None:
    data = _TEXTS[text].encode("utf-8", "surrogatepass")
    peak = _peak(lambda: data.decode("utf-8", "surrogatepass"))
    assert peak - 2000 <= text_cost(data) <= 7 * peak


@pytest.mark.parametrize(
    "piece", [*PIECES, '"\\n",', '"\\ud83d\\ude00",', "123456789012345678901,", "[[[[],[]],[]],[]],"]
)
def test_json(piece: str) -> None:
    data = ("[" + piece * (_N // len(piece)) + "0]").encode()
    peak = _peak(lambda: json.loads(data.decode(), object_pairs_hook=dict))
    assert peak + len(data) <= json_cost(data) <= 8 * (peak + len(data))


@pytest.mark.parametrize("text", [text for text in _TEXTS if "surrogate" not in text])
@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("count", [1, 40])
def test_json_of_long_texts(text: str, escaped: bool, count: int) -> None:
    data = json.dumps([_TEXTS[text]] * count, ensure_ascii=escaped).encode()
    peak = _peak(lambda: json.loads(data.decode()))
    assert peak + len(data) - 2000 <= json_cost(data)


@pytest.mark.parametrize("count", [683, 5462, 10_923, 21_846])
def test_json_of_one_dict_that_has_just_grown(count: int) -> None:
    data = json.dumps({f"{i:x}": 0 for i in range(count)}).encode()
    peak = _peak(lambda: json.loads(data.decode(), object_pairs_hook=dict))
    assert peak + len(data) <= json_cost(data)


@pytest.mark.parametrize("dims", [0, 1, 64])
@pytest.mark.parametrize("shared", [False, True], ids=["own-storages", "one-storage"])
def test_arrays(dims: int, shared: bool) -> None:
    """Many tensors of one element."""
    count, shape = 5000, (1,) * dims
    storages = [Storage("0", DTYPES["float32"], 1, True, 0) for _ in range(1 if shared else count)]
    tensors = {
        str(i): StoredTensor(storages[i % len(storages)], DTYPES["float32"], 0, shape, shape) for i in range(count)
    }
    source, budget = BytesSource(np.ones(1, "<f4").tobytes()), Budget(1 << 30)
    left = budget.left
    peak = _peak(lambda: load_arrays(tensors, source, "<", budget, mmap=False))
    assert peak <= left - budget.left <= 4 * peak
