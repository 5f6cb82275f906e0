"""The position bias on CUDA, thread by thread in the stand-in for CuPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu import fake_cupy
from support.gpu.kernel_checks import agrees_with_float64, dtype_named, every_schedule_gives_the_same_bits, run_cuda
from support.runner import largest
from support.tolerances import ONE32

import autograd as ag
from autograd.kernels import KERNELS, explain, kernel_mode
from autograd.kernels.cuda.launch import counting
from swinpy.geometry import PositionIndex, position_index
from swinpy.kernels.position_bias.reference import tables
from swinpy.ops import position_bias

if TYPE_CHECKING:
    from collections.abc import Iterator

Rng = np.random.Generator


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


def _check(cupy: Any, index: PositionIndex, rows: int, heads: int, dtype: Any) -> None:
    """Forward bit for bit, backward by the rule for low precision."""
    table = np.random.default_rng(0).standard_normal((rows, heads)).astype(dtype)
    (bias,) = run_cuda(cupy, "position_bias_fwd", table, index)
    assert bias.tobytes() == np.ascontiguousarray(np.moveaxis(table[index.index], 2, 0)).tobytes()

    def gradient(rng: Rng) -> tuple[Any, ...]:
        return rng.standard_normal((heads, *index.index.shape)).astype(dtype), index, rows

    agrees_with_float64(cupy, "position_bias_bwd", gradient)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("window", "table"), [((7, 7), (7, 7)), ((2, 5), (3, 5)), ((1, 1), (1, 1))])
def test_windows(cupy: Any, dtype: str, window: tuple[int, int], table: tuple[int, int]) -> None:
    rows = (2 * table[0] - 1) * (2 * table[1] - 1)
    _check(cupy, position_index(window, table), rows, 3, dtype_named(dtype))


@settings(max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    read=st.integers(1, 9),
    unread=st.integers(0, 3),
    heads=st.integers(1, 9),
    seed=st.integers(0, 2**16),
)
def test_any_index(shape: tuple[int, int], read: int, unread: int, heads: int, seed: int) -> None:
    """Rows that are read by none, in between or at the end, and by more places than a warp has lanes."""
    index = PositionIndex(np.random.default_rng(seed).integers(0, read, shape))
    with fake_cupy.installed() as cupy:
        _check(cupy, index, read + unread, heads, np.float32)


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
def test_16_bit_biases_of_a_float32_table_have_the_bits_of_casts(cupy: Any, low: str) -> None:
    dtype, index = dtype_named(low), position_index((3, 4), (3, 4))
    table = np.random.default_rng(0).standard_normal((35, 3)).astype(np.float32)
    g = np.random.default_rng(1).standard_normal((3, 12, 12)).astype(dtype)
    float32, wide_g = np.dtype(np.float32), g.astype(np.float32)
    for name, args, wide, allowed in (
        ("position_bias_fwd", (table, index, dtype), (table, index), 0),
        ("position_bias_bwd", (g, index, 35, float32), (wide_g, index, 35), 12 * ONE32 * largest(wide_g)),
    ):
        (got,), (want,) = run_cuda(cupy, name, *args), run_cuda(cupy, name, *wide)
        assert got.dtype == args[-1]
        np.testing.assert_array_equal(got, want.astype(got.dtype))
        with kernel_mode("reference"):
            reference = KERNELS[name](*args)
        assert reference.dtype == got.dtype
        assert abs(reference.astype(np.float64) - got).max() <= allowed


def test_other_pairs_of_dtypes_are_refused(cupy: Any) -> None:
    index, table = position_index((2, 2), (2, 2)), cupy.zeros((9, 1), np.float16)
    reason = "CUDA casts between float32 and 16-bit floats; got float16 to float64"
    assert reason in explain("position_bias_fwd", table, index, np.dtype(np.float64))
    assert reason in explain("position_bias_bwd", cupy.zeros((1, 4, 4), np.float16), index, 9, np.dtype(np.float64))


@pytest.mark.parametrize("put", ["numpy", "cupy"])
def test_the_op_rounds_to_autocasts_dtype_and_gives_a_float32_gradient(cupy: Any, put: str) -> None:
    """The same numbers as the cast that attention would do."""
    xp, index = (np if put == "numpy" else cupy), position_index((3, 3), (3, 3))
    values = np.random.default_rng(0).standard_normal((25, 2)).astype("f4")
    g = np.random.default_rng(1).standard_normal((2, 9, 9)).astype("f2")
    found = []
    for dtype in (None, np.dtype(np.float16)):
        table = ag.Tensor(xp.asarray(values), requires_grad=True)
        with ag.autocast("float16"):
            bias = position_bias(table, index, dtype)
        assert bias.dtype == (dtype or np.float32)
        low = bias.astype("float16")
        low.backward(xp.asarray(g))
        assert table.grad.dtype == np.float32
        found.append((low.numpy(), ag.Tensor(table.grad).numpy()))
    for before, after in zip(*found, strict=True):
        np.testing.assert_array_equal(before, after)
    assert position_bias(ag.Tensor(xp.asarray(values)), index).dtype == np.float32
    wide = ag.Tensor(xp.asarray(values.astype(np.float64)))
    assert position_bias(wide, index, np.dtype(np.float16)).dtype == np.float64


def test_gradients_that_are_not_finite_stay_in_their_row(cupy: Any) -> None:
    index = PositionIndex(np.array([[0, 0, 2], [2, 2, 0]]))
    g = np.ones((1, 2, 3), np.float32)
    g[0, 1, 0] = np.inf
    for found in (run_cuda(cupy, "position_bias_bwd", g, index, 3)[0], _reference(g, index, 3)):
        np.testing.assert_array_equal(found[:, 0], [3, 0, np.inf])


def _reference(g: Any, index: PositionIndex, rows: int) -> Any:
    with kernel_mode("reference"):
        return KERNELS["position_bias_bwd"](g, index, rows)


def test_bits_do_not_depend_on_the_order_of_threads(cupy: Any) -> None:
    rng, index = np.random.default_rng(0), position_index((4, 4), (4, 4))
    every_schedule_gives_the_same_bits(cupy, "position_bias_fwd", rng.standard_normal((49, 3)).astype("f4"), index)
    g = rng.standard_normal((3, 16, 16)).astype("f4")
    every_schedule_gives_the_same_bits(cupy, "position_bias_bwd", g, index, 49)


def test_nothing_gives_nothing(cupy: Any) -> None:
    some, none = position_index((2, 2), (2, 2)), PositionIndex(np.zeros((0, 2), int))
    empty = np.zeros((9, 0), np.float32)
    with counting() as counts:
        results = [
            *run_cuda(cupy, "position_bias_fwd", empty, some),
            *run_cuda(cupy, "position_bias_fwd", np.zeros((9, 3), "f4"), none),
            *run_cuda(cupy, "position_bias_bwd", np.zeros((0, 4, 4), "f4"), some, 9),
        ]
    assert counts.launches == {}
    assert [r.shape for r in results] == [(0, 4, 4), (3, 0, 2), (9, 0)]
    (zeros,) = run_cuda(cupy, "position_bias_bwd", np.zeros((3, 0, 2), "f4"), none, 9)
    np.testing.assert_array_equal(zeros, np.zeros((9, 3)))


def test_the_tables_are_on_each_device_once() -> None:
    index = position_index((2, 2), (2, 2))
    with fake_cupy.installed(devices=2) as cupy:
        for device in (0, 1):
            with cupy.cuda.Device(device):
                like = cupy.zeros(1)
            first = tables(index, like)
            assert all(a.device.id == device and a.dtype == np.int32 for a in first)
            assert all(a is b for a, b in zip(first, tables(index, like), strict=True))
    assert tables(index, np.zeros(1))[0] is index.index


def test_the_op_copies_nothing_and_looks_at_no_value(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, gradients as on the CPU; a value that the host reads would wait for the GPU."""
    index = position_index((3, 2), (3, 2))
    table = np.random.default_rng(0).standard_normal((15, 2)).astype("f4")
    g = np.random.default_rng(1).standard_normal((2, 6, 6)).astype("f4")
    tensors = [ag.Tensor(put(table), requires_grad=True) for put in (np.asarray, cupy.asarray)]
    position_bias(tensors[0], index).backward(g)

    def reads(self: Any, *_: Any) -> Any:
        raise AssertionError("the host read a value of the GPU")

    with monkeypatch.context() as patch, counting() as counts, kernel_mode("cuda"):
        for name in ("get", "__int__", "__float__", "__bool__"):
            patch.setattr(fake_cupy.ndarray, name, reads)
        position_bias(tensors[1], index).backward(cupy.asarray(g))
    assert counts.copies == 0
    assert counts.launches == {"position_bias_fwd": 1, "position_bias_bwd": 1}
    np.testing.assert_allclose(tensors[1].grad.get(), tensors[0].grad, rtol=0, atol=ONE32 * largest(g))


def test_what_is_refused_and_why(cupy: Any) -> None:
    index = position_index((2, 2), (2, 2))
    table, g = cupy.ones((9, 3), "float32"), cupy.ones((3, 4, 4), "float32")
    assert "got float64" in explain("position_bias_fwd", table.astype("float64"), index)
    assert "expected a table of 9 rows or more; got shape (8, 3)" in explain("position_bias_fwd", table[:8], index)
    assert "expected a gradient (heads, 4, 4) of 9 rows or more; got shape (3, 4, 3) and 9 rows" in explain(
        "position_bias_bwd", g[:, :, :3], index, 9
    )
    assert "got shape (3, 4, 4) and 8 rows" in explain("position_bias_bwd", g, index, 8)
