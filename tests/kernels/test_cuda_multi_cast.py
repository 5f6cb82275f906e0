"""CUDA's cast of many arrays, thread by thread: every bit is NumPy's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu import fake_cupy, launches
from support.gpu.fake_cupy import to_device
from support.gpu.host_cuda.raw_module import SCHEDULES, scheduled
from support.gpu.kernel_checks import dtype_named

from autograd.kernels import KERNELS, explain, kernel_mode
from autograd.kernels.cuda.launch import counting

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPES = [(), (1,), (3,), (4, 4), (0,), (2, 0), (257,), (8193,)]


@pytest.fixture(autouse=True)
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module, kernel_mode("cuda"):
        yield module


def _arrays(shapes: Any, dtype: Any, seed: int = 0) -> list[Any]:
    """Of all sizes a float16 knows, and beyond."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        return [np.asarray(np.exp(rng.uniform(-20, 14, s)) * rng.choice([-1, 1], s)).astype(dtype) for s in shapes]


def _check(arrays: list[Any], dtype: Any) -> None:
    with np.errstate(over="ignore"):
        want = [a.astype(dtype) for a in arrays]
    for got, right in zip(KERNELS["multi_cast"](to_device(arrays), np.dtype(dtype)), want, strict=True):
        assert (got.shape, got.dtype) == (right.shape, right.dtype)
        assert got.get().tobytes() == right.tobytes()


@settings(max_examples=15, deadline=None)
@given(
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=5),
    dtypes=st.sampled_from([("float32", "float16"), ("float16", "float32")]),
    seed=st.integers(0, 2**32),
)
def test_bits_are_numpys(shapes: Any, dtypes: Any, seed: int) -> None:
    _check(_arrays(shapes, dtypes[0], seed), dtypes[1])


def test_bfloat16() -> None:
    low = dtype_named("bfloat16")
    _check(_arrays(SHAPES, np.float32), low)
    _check(_arrays(SHAPES, low), np.float32)


def test_specials() -> None:
    specials = np.array([0.0, -0.0, np.inf, -np.inf, 65504, 65520, 1e-8, 6e-8, -7e4], np.float32)
    _check([specials, specials[:5].copy()], np.float16)
    (got,) = KERNELS["multi_cast"](to_device([np.array([np.nan], np.float32)]), np.dtype(np.float16))
    assert np.isnan(got.get()).all()


def test_any_order_of_threads_gives_the_same_bits() -> None:
    found = []
    for name in SCHEDULES:
        with scheduled(name):
            results = KERNELS["multi_cast"](to_device(_arrays(SHAPES, np.float32)), np.dtype(np.float16))
        found.append([a.get().tobytes() for a in results])
    assert all(f == found[0] for f in found)


def test_other_layouts_are_copied_and_counted(cupy: Any) -> None:
    square, row = _arrays([(4, 4), (9,)], np.float32)
    arrays = [cupy.asarray(square).T, cupy.asarray(row)[1:]]
    with counting() as counts:
        got = KERNELS["multi_cast"](arrays, np.dtype(np.float16))
    assert (counts.copies, counts.launches) == (2, {"multi_cast": 1})
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got[0].get(), square.T.astype(np.float16))
        np.testing.assert_array_equal(got[1].get(), row[1:].astype(np.float16))


def test_nothing_but_empty_arrays_launch_nothing() -> None:
    with counting() as counts:
        (got,) = KERNELS["multi_cast"](to_device(_arrays([(2, 0)], np.float32)), np.dtype(np.float16))
    assert (got.shape, got.dtype, counts.launches) == ((2, 0), np.float16, {})


def test_the_table_is_uploaded_once_for_the_same_arrays() -> None:
    arrays = to_device(_arrays(SHAPES, np.float32))
    uploads = []
    for _ in range(2):
        with launches.counted() as counts:
            KERNELS["multi_cast"](arrays, np.dtype(np.float16))
        uploads.append(counts.of("upload"))
    assert uploads[0] > 0
    assert uploads[1] == 0


@pytest.mark.parametrize(("dtype", "to"), [("float64", "float16"), ("float32", "float64"), ("float32", "float32")])
def test_refuses_other_types(dtype: str, to: str) -> None:
    with kernel_mode("auto"):
        told = explain("multi_cast", to_device(_arrays([(3,)], dtype)), np.dtype(to))
    assert told.startswith("multi_cast: runs reference\n  cuda: CUDA ")


def test_refuses_bfloat16_on_old_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    low = dtype_named("bfloat16")
    monkeypatch.setattr("autograd.kernels.cuda.checks.capability", lambda x: 75)
    with kernel_mode("auto"):
        told = explain("multi_cast", to_device(_arrays([(3,)], np.float32)), low)
    assert "bfloat16 needs compute capability 8.0; got 7.5" in told
