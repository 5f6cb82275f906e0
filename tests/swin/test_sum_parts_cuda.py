"""Sums over blocks' parts, of several arrays in one launch, thread by thread in the stand-in for CuPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.gpu.host_cuda.raw_module import SCHEDULES, scheduled
from support.gpu.kernel_checks import dtype_named

from autograd.kernels.cuda.launch import counting
from swinpy.kernels.window_attention.sum_parts import sum_parts

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


def _sums(cupy: Any, counts: tuple[int, ...], shapes: tuple[Any, ...], dtype: Any) -> tuple[list[Any], list[Any]]:
    """What the kernel gives, and NumPy in float64."""
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((n, *s)).astype(np.float32) for n, s in zip(counts, shapes, strict=True)]
    found = sum_parts([cupy.asarray(p) for p in parts], [cupy.empty(s, dtype) for s in shapes])
    return [f.get() for f in found if f is not None], [p.astype(np.float64).sum(axis=0) for p in parts]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("counts", "shapes"),
    [
        ((1,), ((1,),)),
        ((3, 20), ((2, 5, 5), (96,))),
        ((17, 8, 1), ((33,), (7,), (2, 1, 1))),
        ((5, 9, 4), ((0,), (64,), (3,))),
    ],
)
def test_values(cupy: Any, counts: Any, shapes: Any, dtype: str) -> None:
    kind = dtype_named(dtype)
    with counting() as seen:
        got, want = _sums(cupy, counts, shapes, kind)
    assert seen.launches == {"sum_parts": 1}
    unit = {"float32": 2.0**-23, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    for a, b in zip(got, want, strict=True):
        assert (a.shape, a.dtype) == (b.shape, kind)
        # float32 sums of at most 20 numbers of about 1, rounded once to the type
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=unit, atol=32 * 2.0**-23)


def test_any_order_of_threads_gives_the_same_bits(cupy: Any) -> None:
    found = []
    for schedule in SCHEDULES:
        with scheduled(schedule):
            found.append([a.tobytes() for a in _sums(cupy, (9, 30), ((40,), (5,)), np.float32)[0]])
    assert all(f == found[0] for f in found)


def test_what_is_not_wanted_stays_none(cupy: Any) -> None:
    parts, like = cupy.ones((2, 3), np.float32), cupy.empty(3, np.float32)
    first, second, third = sum_parts((None, parts, None), (like, like, None))
    assert first is None
    assert third is None
    assert second is not None
    assert second.get().tolist() == [2, 2, 2]
    with counting() as seen:
        assert sum_parts((None, None), (None, None)) == [None, None]
    assert seen.launches == {}
