"""The bound on what a state may take when it is read: the same for writing and reading."""

from __future__ import annotations

import tracemalloc

import pytest

from swinpy.io.costs import json_cost
from swinpy.snapshots import plain_json
from swinpy.snapshots.plain_json import decode_plain, encode_plain


def test_the_bound_is_met_and_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_plain([1, "a", {"b": None}], "save")
    cost = json_cost(data)
    monkeypatch.setattr(plain_json, "_MEMORY", cost)
    assert encode_plain([1, "a", {"b": None}], "save") == data
    assert decode_plain(data, "load") == [1, "a", {"b": None}]
    monkeypatch.setattr(plain_json, "_MEMORY", cost - 1)
    with pytest.raises(ValueError, match="save: expected state to take at most 0 MiB of memory"):
        encode_plain([1, "a", {"b": None}], "save")
    with pytest.raises(ValueError, match=r"load: expected x\.json to take at most"):
        decode_plain(data, "load", "x.json")


@pytest.mark.parametrize("piece", [b"[]", b'{"":0}', b'"a"', b"1"])
def test_too_much_is_refused_before_it_is_parsed(piece: bytes) -> None:
    count = (1 << 28) // json_cost(piece + b",") + 10
    data = b"[" + b",".join([piece] * count) + b"]"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"at most 256 MiB of memory when it is read; got \d+ bytes of JSON"):
            decode_plain(data, "load")
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()
