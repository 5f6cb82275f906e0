"""The numeric fingerprint and the comparison of configurations."""

from __future__ import annotations

import json
import platform
from typing import Any

import numpy as np
import pytest

from autograd.kernels import numerics
from swinpy.snapshots.fingerprint import compare, config_difference, numeric_fingerprint


def test_fingerprint_is_plain_and_stable() -> None:
    found = numeric_fingerprint()
    assert found == json.loads(json.dumps(found)) == numeric_fingerprint()
    assert found["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert platform.machine() in found["machine"]
    assert numerics().items() < found.items()
    assert all(type(value) is str and value for value in found.values())
    assert compare(found, numeric_fingerprint()) == []


def test_compare_names_each_difference() -> None:
    lines = compare({"numpy": "1", "blas": "a", "same": "x"}, {"numpy": "2", "simd": "b", "same": "x"})
    assert lines == ["blas: saved 'a', now nothing", "numpy: saved '1', now '2'", "simd: saved nothing, now 'b'"]


@pytest.mark.parametrize(
    ("saved", "now", "differs"),
    [
        (1, 1.0, False),
        ([1, [2]], (1, (2,)), False),
        (float("nan"), float("nan"), False),
        ({}, {}, False),
        ([{"a": [1]}], [{"a": (1,)}], False),
        (True, 1, True),
        (None, 0, True),
        (0.1, 0.1 + 1e-17 * 2, True),
        ([1], [1, 2], True),
        ("1", 1, True),
        ({}, {"x": 1}, True),
        ([{"a": 1}], [{"b": 1}], True),
        (float("nan"), 1.0, True),
    ],
)
def test_config_values(saved: Any, now: Any, differs: bool) -> None:
    assert bool(config_difference({"k": saved}, {"k": now})) is differs


def test_config_ignores_by_prefix() -> None:
    saved = {"data": {"root": "a", "name": "x"}, "database": 1, "lr": 1}
    now = {"data": {"root": "b", "name": "y"}, "database": 2, "lr": 1}
    assert config_difference(saved, now, {"data"}) == ["database: saved 1, now 2"]
    assert config_difference(saved, now, {"data.root", "database"}) == ["data.name: saved 'x', now 'y'"]
