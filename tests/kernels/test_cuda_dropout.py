"""CUDA's dropout, thread by thread: the bits of the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu import fake_cupy
from support.gpu.fake_cupy import to_device
from support.gpu.host_cuda.raw_module import SCHEDULES, scheduled

import autograd as ag
from autograd.dtypes import as_dtype
from autograd.kernels import KERNELS, explain, kernel_mode
from autograd.kernels.cuda.launch import counting
from autograd.kernels.dropout import reference

if TYPE_CHECKING:
    from collections.abc import Iterator

dropout, keep_scale = (reference.dropout.reference, reference.keep_scale.reference)
DTYPES = ["float32", "float16"]
OFFSETS = st.one_of(st.integers(0, 9), st.integers(2**32 - 3, 2**32), st.integers(2**64 - 300, 2**64 - 1))
DRAW = {"seed": 2**63 + 5, "offset": 2**32 - 2, "p": 0.3}


@pytest.fixture(autouse=True)
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module, kernel_mode("cuda"):
        yield module


def _values(shape: Any, dtype: Any, seed: int = 0) -> Any:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 5),
    together=st.integers(1, 40),
    alone=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**64 - 1),
    offset=OFFSETS,
    p=st.sampled_from([0.1, 0.5, 1 / 3, 0.999]),
)
def test_the_bits_are_the_cpus(
    rows: int, together: int, alone: bool, dtype: str, seed: int, offset: int, p: float
) -> None:
    x = _values((rows, together), dtype, seed % 99)
    draw = {"seed": seed, "offset": offset, "p": p}
    want = dropout(x, **draw, together=1 if alone else together)
    got = KERNELS["dropout"](to_device(x), **draw, together=1 if alone else together)
    assert got.dtype == dtype
    assert got.get().tobytes() == want.tobytes()
    scales = KERNELS["keep_scale"](to_device(x), **draw)
    assert scales.get().tobytes() == keep_scale(x, **draw).tobytes()


def test_keys_are_taken_modulo_two_to_the_64() -> None:
    x, beyond = np.ones((3, 5), np.float32), {"seed": -1, "offset": 2**64 + 7, "p": 0.5}
    want = dropout(x, seed=2**64 - 1, offset=7, p=0.5)
    np.testing.assert_array_equal(dropout(x, **beyond), want)
    np.testing.assert_array_equal(KERNELS["dropout"](to_device(x), **beyond).get(), want)


@pytest.mark.parametrize("element", [0, 7, 17])
def test_a_word_at_the_threshold_is_kept(element: int) -> None:
    """The kernel's wide path (0, 7) and its tail compare as the reference does: found by bisection, as p in 2^-24."""
    x, draw = np.ones((18, 1), np.float32), {"seed": 5, "offset": 3}
    low, high = 1, 2**24 - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if dropout(x, **draw, p=middle / 2**24)[element] else (low, middle)
    for p in (low / 2**24, high / 2**24):
        want = dropout(x, **draw, p=p)
        assert bool(want[element]) == (p == low / 2**24)
        np.testing.assert_array_equal(KERNELS["dropout"](to_device(x), **draw, p=p).get(), want)
        np.testing.assert_array_equal(KERNELS["keep_scale"](to_device(x), **draw, p=p).get(), want[:, 0])


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_many_blocks_and_any_order_of_threads(dtype: str) -> None:
    x = _values(4 * 256 * 8 + 5, as_dtype(dtype))
    mine = to_device(x)
    for name in SCHEDULES:
        with scheduled(name):
            assert KERNELS["dropout"](mine, **DRAW).get().tobytes() == dropout(x, **DRAW).tobytes()
    scales = KERNELS["keep_scale"](mine, **DRAW).get()
    assert scales.tobytes() == keep_scale(x, **DRAW).tobytes()
    assert mine.get().tobytes() == x.tobytes()


def test_infinite_and_missing_values_are_as_on_the_cpu() -> None:
    x = np.array([np.inf, -np.inf, np.nan, -0.0] * 5, np.float32)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(KERNELS["dropout"](to_device(x), **DRAW).get(), dropout(x, **DRAW))


def test_other_layouts_are_copied_and_counted(cupy: Any) -> None:
    x = _values((6, 4), "float32")
    around = cupy.zeros(25, np.float32)
    around[1:] = cupy.asarray(x.reshape(-1))
    with counting() as counts:
        for view in (cupy.asarray(np.ascontiguousarray(x.T)).T, around[1:].reshape(6, 4)):
            assert KERNELS["dropout"](view, **DRAW).get().tobytes() == dropout(x, **DRAW).tobytes()
    assert counts.copies == 2


def test_empty_arrays_launch_nothing(cupy: Any) -> None:
    with counting() as counts:
        assert KERNELS["dropout"](cupy.zeros((0, 3), np.float32), **DRAW).shape == (0, 3)
        assert KERNELS["keep_scale"](cupy.zeros((0, 3), np.float32), **DRAW).shape == (0,)
    assert counts.launches == {}


def test_float64_is_the_references(cupy: Any) -> None:
    with kernel_mode("auto"):
        assert explain("dropout", cupy.zeros(3), **DRAW).startswith("dropout: runs reference")


@pytest.mark.parametrize("op", [ag.dropout, ag.drop_path])
def test_ops_draw_the_same_on_both_devices(op: Any) -> None:
    """Forward and backward, from the same place of the generator; nothing but (seed, offset) is kept."""
    x, g = _values((5, 3, 4), "float32"), _values((5, 3, 4), "float32", 1)
    found = []
    for device in ("cpu", "cuda:0"):
        with ag.kernel_mode("auto"):
            t = ag.Tensor(x if device == "cpu" else to_device(x), requires_grad=True)
            y = op(t, 0.4, generator=ag.Generator(7, 2**32 - 1))
            y.backward(g if device == "cpu" else to_device(g))
        found.append([a if device == "cpu" else a.get() for a in (y.data, t.grad)])
    for a, b in zip(*found, strict=True):
        assert a.tobytes() == b.tobytes()
