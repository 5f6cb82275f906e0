"""GELU with and without a bias, and sums over columns, on CUDA, thread by thread in the stand-in for CuPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu import fake_cupy
from support.gpu.kernel_checks import (
    agrees_with_float64,
    dtype_named,
    every_schedule_gives_the_same_bits,
    run_cuda,
    same_specials,
    to_gpu,
)

from autograd.kernels import KERNELS, explain, kernel_mode
from autograd.kernels.cuda.column_sum import column_sum, column_sums
from autograd.kernels.cuda.launch import counting
from autograd.kernels.cuda.layout import tile_layout

if TYPE_CHECKING:
    from collections.abc import Iterator

Rng = np.random.Generator
CASES = [("float32", 96), ("float32", 7), ("float32", 1), ("float16", 96), ("float16", 7), ("bfloat16", 96)]
NAMES = ("gelu_fwd", "gelu_bwd", "bias_gelu_fwd", "bias_gelu_bwd")


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


def _arguments(name: str, rng: Rng, shape: tuple[int, ...], dtype: Any) -> tuple[Any, ...]:
    x, g = ((2 * rng.standard_normal(shape)).astype(dtype) for _ in range(2))
    bias = rng.standard_normal(shape[-1]).astype(dtype)
    both = {"gelu_fwd": (x,), "gelu_bwd": (g, x), "bias_gelu_fwd": (x, bias), "bias_gelu_bwd": (g, x, bias)}
    return both[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "width"), CASES)
def test_values(cupy: Any, name: str, dtype: str, width: int) -> None:
    kind = dtype_named(dtype)
    agrees_with_float64(cupy, name, lambda rng: _arguments(name, rng, (5, 3, width), kind))


@settings(max_examples=12)
@given(
    lead=st.lists(st.integers(1, 7), max_size=3).map(tuple),
    width=st.sampled_from([1, 3, 7, 96, 100, 384]),
    name=st.sampled_from(NAMES),
)
def test_any_shape(lead: tuple[int, ...], width: int, name: str) -> None:
    with fake_cupy.installed() as cupy:
        agrees_with_float64(cupy, name, lambda rng: _arguments(name, rng, (*lead, width), np.float32), variants=4)


def test_a_number_alone(cupy: Any) -> None:
    for x in (np.float32(0.7), np.float32(-3)):
        agrees_with_float64(cupy, "gelu_fwd", lambda _, x=x: (np.asarray(x),))
        agrees_with_float64(cupy, "gelu_bwd", lambda _, x=x: (np.asarray(x), np.asarray(x)))


def test_more_rows_than_a_chunk(cupy: Any) -> None:
    """The gradient of the bias is then summed in two launches."""
    args = _arguments("bias_gelu_bwd", np.random.default_rng(0), (1100, 3), np.float32)
    assert tile_layout(1100, 3, 4).grid[1] > 1
    with counting() as counts:
        _, got = run_cuda(cupy, "bias_gelu_bwd", *args)
    assert counts.launches == {"bias_gelu_bwd": 1, "column_sum": 1}
    wide = [a.astype(np.float64) for a in args]
    with kernel_mode("reference"):
        _, want = KERNELS["bias_gelu_bwd"](*wide)
        _, naive = KERNELS["bias_gelu_bwd"](*args)
    assert abs(got - want).max() <= 2 * abs(naive - want).max() + np.spacing(np.float32(abs(want).max()))


@pytest.mark.parametrize("name", NAMES)
def test_bits_do_not_depend_on_the_order_of_threads(cupy: Any, name: str) -> None:
    for shape in ((9, 7), (3, 96)):
        every_schedule_gives_the_same_bits(cupy, name, *_arguments(name, np.random.default_rng(0), shape, np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_nan_and_infinity_as_in_the_reference(cupy: Any, name: str) -> None:
    args = [a.copy() for a in _arguments(name, np.random.default_rng(0), (4, 7), np.float32)]
    for i, special in enumerate((np.nan, np.inf, -np.inf)):
        for a in args[:2]:
            a.flat[2 * i] = special
    same_specials(cupy, name, *args)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_gives_nothing(cupy: Any, name: str) -> None:
    args = _arguments(name, np.random.default_rng(0), (0, 7), np.float32)
    with counting() as counts:
        results = run_cuda(cupy, name, *args)
    assert counts.launches == {}
    assert results[0].shape == (0, 7)
    if name == "bias_gelu_bwd":
        np.testing.assert_array_equal(results[1], np.zeros(7, np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_other_layouts_are_copied_and_counted(cupy: Any, name: str) -> None:
    args = _arguments(name, np.random.default_rng(0), (4, 7), np.float32)
    want = run_cuda(cupy, name, *args)
    x = cupy.asarray(args[0])
    flat = cupy.empty(x.size + 1, "float32")
    flat[1:] = x.reshape(-1)
    for odd in (flat[1:].reshape(x.shape), cupy.ascontiguousarray(x.T).T):
        with counting() as counts, kernel_mode("cuda"):
            got = KERNELS[name](odd, *to_gpu(cupy, args[1:]))
        assert counts.copies == 1
        for g, w in zip(got if isinstance(got, tuple) else (got,), want, strict=True):
            np.testing.assert_array_equal(g.get(), w)


def test_what_is_refused_and_why(cupy: Any) -> None:
    g, x, bias = to_gpu(cupy, _arguments("bias_gelu_bwd", np.random.default_rng(0), (4, 7), np.float32))
    assert "got float64" in explain("gelu_fwd", x.astype("float64"))
    assert "got float16, float32" in explain("bias_gelu_fwd", x, bias.astype("float16"))
    assert "expected bias of shape (7,); got (3,)" in explain("bias_gelu_bwd", g, x, bias[:3])
    assert "expected g of shape (4, 7); got (3, 7)" in explain("gelu_bwd", g[:3], x)


# ---- sums over columns


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 96), (300, 6), (1100, 3), (2000, 20), (0, 4), (4, 0)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_column_sum(cupy: Any, shape: tuple[int, int], dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    got = column_sum(cupy.asarray(x)).get()
    assert (got.shape, got.dtype) == (shape[1:], np.float32)
    want, naive = x.sum(axis=0, dtype=np.float64), x.sum(axis=0, dtype=np.float32)
    if x.size:
        assert abs(got - want).max() <= 2 * abs(naive - want).max() + np.spacing(np.float32(abs(want).max()))


def test_column_sums_in_two_parts(cupy: Any) -> None:
    x = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    first, second = column_sums(cupy.asarray(x), 2, np.float16)
    np.testing.assert_array_equal(first.get(), x.sum(axis=0)[:3].astype(np.float16))
    np.testing.assert_array_equal(second.get(), x.sum(axis=0)[3:].astype(np.float16))


def test_a_strided_matrix_is_copied(cupy: Any) -> None:
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    with counting() as counts:
        got = column_sum(cupy.asarray(x)[:, ::2])
    assert counts.copies == 1
    np.testing.assert_allclose(got.get(), x[:, ::2].sum(axis=0), rtol=1e-6)


def test_tiles_and_chunks_cover_every_matrix() -> None:
    for rows in (1, 2, 1023, 1024, 1025, 12_544, 802_816, 2**31 - 1):
        for columns in (1, 3, 7, 96, 288, 384, 3072):
            layout = tile_layout(rows, columns, 2)
            tiles, chunks = layout.grid
            assert (tiles - 1) * layout.lanes * layout.width < columns <= tiles * layout.lanes * layout.width
            assert (chunks - 1) * layout.chunk < rows <= chunks * layout.chunk
            assert chunks <= 1024
            assert layout.threads % layout.lanes == 0


@pytest.mark.parametrize(
    ("columns", "lanes"), [(32, 32), (30, 32), (17, 8), (48, 16), (80, 16), (8, 8), (40, 8), (1, 8), (33, 8)]
)
def test_lanes_leave_the_fewest_threads_idle(columns, lanes):
    assert tile_layout(100, 4 * columns, 4).width == 4
    assert tile_layout(100, 4 * columns, 4).lanes == lanes
