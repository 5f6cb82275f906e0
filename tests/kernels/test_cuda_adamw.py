"""CUDA's AdamW and gradient norm, thread by thread, against the references in float64."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gpu import fake_cupy, launches
from support.gpu.fake_cupy import to_device
from support.gpu.host_cuda.raw_module import SCHEDULES, scheduled

from autograd.dtypes import as_dtype
from autograd.kernels import KERNELS, explain, kernel_mode
from autograd.kernels.adamw import reference
from autograd.kernels.cuda.launch import counting

if TYPE_CHECKING:
    from collections.abc import Iterator

grad_norm, multi_adamw = (reference.grad_norm.reference, reference.multi_adamw.reference)
CHUNK = 8192
OPTIONS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6}
MANY = ((3, 5), (CHUNK + 3,), (), (0, 2), (2 * CHUNK,), (1,))


@pytest.fixture(autouse=True)
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module, kernel_mode("cuda"):
        yield module


def _lists(shapes: Any, dtype: Any, seed: int = 0) -> tuple[list[Any], ...]:
    rng = np.random.default_rng(seed)
    params, grads, firsts = ([np.asarray(rng.standard_normal(s)).astype(dtype) for s in shapes] for _ in range(3))
    return params, grads, firsts, [np.asarray(rng.uniform(0.1, 1, s)).astype(dtype) for s in shapes]


def _decays(shapes: Any) -> list[float]:
    return [0.0 if i % 2 else 0.1 for i in range(len(shapes))]


def _wide(lists: tuple[list[Any], ...]) -> tuple[list[Any], ...]:
    return tuple([a.astype(np.float64) for a in arrays] for arrays in lists)


def _bytes(lists: tuple[list[Any], ...]) -> list[bytes]:
    return [a.get().tobytes() for arrays in lists for a in arrays]


@settings(max_examples=15, deadline=None)
@given(
    shapes=st.lists(st.sampled_from([(), (1,), (3,), (4, 4), (0,), (257,), (CHUNK + 1,)]), min_size=1, max_size=5),
    dtype=st.sampled_from(["float32", "float16"]),
    clip_grad=st.sampled_from([None, 0.5, 1e9]),
    divisor=st.sampled_from([1.0, 1024.0]),
    step=st.integers(1, 1000),
    seed=st.integers(0, 2**32),
)
def test_follows_the_reference(shapes: Any, dtype: str, clip_grad: Any, divisor: float, step: int, seed: int) -> None:
    options = {**OPTIONS, "step": step, "clip_grad": clip_grad, "grad_divisor": divisor}
    lists = _lists(shapes, dtype, seed)
    wide, mine = _wide(lists), to_device(lists)
    want = multi_adamw(*wide, _decays(shapes), **options)
    norm = KERNELS["multi_adamw"](*mine, _decays(shapes), **options)
    assert (norm.shape, norm.dtype) == ((), np.float64)
    np.testing.assert_allclose(float(norm), float(want), rtol=1e-12)
    np.testing.assert_allclose(float(KERNELS["grad_norm"](mine[1])) / divisor, float(want), rtol=1e-12)
    # Computed in float32 and rounded once: a few of its roundings, and half a unit of the storage type.
    limit = 8 * 2.0**-24 + float(np.finfo(dtype).eps) / 2
    for got, expected in zip(mine, wide, strict=True):
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(a.get(), b, rtol=limit, atol=4 * limit)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_any_order_of_threads_gives_the_same_bits(dtype: str) -> None:
    found = []
    for name in (*SCHEDULES, SCHEDULES[0]):
        lists = to_device(_lists(MANY, as_dtype(dtype)))
        with scheduled(name):
            norm = KERNELS["multi_adamw"](*lists, _decays(MANY), step=2, clip_grad=1.0, **OPTIONS)
        found.append([norm.get().tobytes(), *_bytes(lists)])
    assert all(f == found[0] for f in found)


def test_learning_rate_and_step_may_lie_on_the_device(cupy: Any) -> None:
    found = []
    rates, steps = cupy.asarray(np.array([9, 0.01, 9])), cupy.asarray(np.array([9, 3, 9]))
    assert rates[1].data.ptr % 16  # a view of one number, which no kernel takes as it lies
    for lr, step in ((0.01, 3), (cupy.asarray(0.01), cupy.asarray(3)), (rates[1], steps[1])):
        lists = to_device(_lists(MANY, "float32"))
        KERNELS["multi_adamw"](*lists, _decays(MANY), **{**OPTIONS, "lr": lr, "step": step})
        found.append(_bytes(lists))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_nothing_is_written_where_the_norm_is_not_finite(bad: float) -> None:
    lists = _lists(MANY, "float32")
    lists[1][4][-1] = bad
    mine = to_device(lists)
    before = _bytes(mine)
    norm = KERNELS["multi_adamw"](*mine, _decays(MANY), step=1, **OPTIONS)
    assert not np.isfinite(float(norm))
    assert _bytes(mine) == before


def test_norms_beyond_float32_are_found(cupy: Any) -> None:
    """1e30 squared is no float32; the reference in float64 knows."""
    grads = [np.full(3, 1e30, np.float32), np.full(5, 1e-30, np.float32)]
    want = grad_norm([g.astype(np.float64) for g in grads])
    np.testing.assert_allclose(float(KERNELS["grad_norm"](to_device(grads))), float(want), rtol=1e-12)


def test_three_launches_and_no_copies() -> None:
    lists = to_device(_lists(MANY, "float32"))
    with counting() as counts:
        KERNELS["multi_adamw"](*lists, _decays(MANY), step=1, **OPTIONS)
        KERNELS["grad_norm"](lists[1])
    assert counts.launches == {"grad_squares": 2, "adamw_numbers": 1, "multi_adamw": 1, "grad_norm": 1}
    assert counts.copies == 0


def test_tables_are_uploaded_once_while_no_array_moves() -> None:
    lists, found = to_device(_lists(MANY, "float32")), []
    for grads in (lists[1], lists[1], to_device(_lists(MANY, "float32", seed=1)[1])):
        with launches.counted(values=True) as counts:
            KERNELS["multi_adamw"](lists[0], grads, *lists[2:], _decays(MANY), step=1, **OPTIONS)
        found.append(counts.of("upload", "wait"))
    assert found[0] > 0
    assert found[1:] == [0, 1]  # other gradients: another table of addresses


def test_gradients_of_other_layouts_are_copied_and_counted(cupy: Any) -> None:
    params, grads, firsts, seconds = _lists(((3, 5), (9,)), "float32")
    found = []
    for strided in (False, True):
        lists = to_device(([p.copy() for p in params], grads, [m.copy() for m in firsts], [v.copy() for v in seconds]))
        if strided:
            around = cupy.zeros(10, np.float32)
            around[1:] = lists[1][1]
            lists[1][:] = [cupy.asarray(np.ascontiguousarray(grads[0].T)).T, around[1:]]
        with counting() as counts:
            KERNELS["multi_adamw"](*lists, [0.1, 0.0], step=1, **OPTIONS)
        assert counts.copies == (2 if strided else 0)
        found.append([_bytes((lists[0],)), _bytes(lists[2:])])
    assert found[0] == found[1]


def test_views_that_begin_anywhere_are_updated_in_place(cupy: Any) -> None:
    """One flat buffer a list, cut at odd places: no address but the first is one of 16 bytes."""
    shapes = ((3,), (5, 2), (1,), (6,))
    lists = _lists(shapes, "float32")
    flat = [cupy.asarray(np.concatenate([a.reshape(-1) for a in arrays])) for arrays in lists]
    views = []
    for buffer in flat:
        at, cut = 0, []
        for shape in shapes:
            size = int(np.prod(shape))
            cut.append(buffer[at : at + size].reshape(shape))
            at += size
        views.append(cut)
    apart = to_device(lists)
    for arrays in (views, apart):
        KERNELS["multi_adamw"](*arrays, _decays(shapes), step=4, **OPTIONS)
    for buffer, arrays in zip(flat, apart, strict=True):
        np.testing.assert_array_equal(buffer.get(), np.concatenate([a.get().reshape(-1) for a in arrays]))


@pytest.mark.parametrize("odd", range(4))
def test_one_array_of_four_that_begins_anywhere(cupy: Any, odd: int) -> None:
    """All four have to lie at 16 bytes to be taken 16 bytes at a time; the stand-in refuses such a load elsewhere."""
    lists = _lists(((24,),), "float32")
    moved, apart = to_device(lists), to_device(lists)
    buffer = cupy.asarray(np.concatenate([np.zeros(1, np.float32), lists[odd][0]]))
    moved[odd][0] = buffer[1:]
    for arrays in (moved, apart):
        KERNELS["multi_adamw"](*arrays, _decays(((24,),)), step=4, **OPTIONS)
    for got, want in zip(moved, apart, strict=True):
        np.testing.assert_array_equal(got[0].get(), want[0].get())


@pytest.mark.parametrize("odd", range(4))
@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_arrays_that_are_no_floats_are_left_to_the_reference(odd: int, dtype: str) -> None:
    """Kernels find them by bare addresses and would take their bytes for floats."""
    lists = to_device(_lists(((24,),), "float32"))
    lists[odd][0] = lists[odd][0].astype(dtype)
    assert f"got {', '.join(sorted(('float32', dtype)))}" in explain("multi_adamw", *lists, [0.1], step=4, **OPTIONS)
    with kernel_mode("cuda"), pytest.raises(RuntimeError, match=dtype):
        KERNELS["multi_adamw"](*lists, [0.1], step=4, **OPTIONS)
    with kernel_mode("cuda"), pytest.raises(RuntimeError, match=dtype):
        KERNELS["grad_norm"]([lists[(odd + 1) % 4][0], lists[odd][0]])


def test_a_learning_rate_of_no_numbers_is_refused(cupy: Any) -> None:
    options = {**OPTIONS, "lr": cupy.zeros(0)}
    with pytest.raises(ValueError, match=r"expected lr and step to be one number each; got shape \(0,\)"):
        KERNELS["multi_adamw"](*to_device(_lists(((3,),), "float32")), [0.1], step=4, **options)


def test_arrays_to_update_that_are_not_c_ordered_are_refused() -> None:
    lists = to_device(_lists(((3, 5),), "float32"))
    lists[2][0] = lists[2][0].T.copy().T
    with pytest.raises(ValueError, match="C-ordered arrays to update in place"):
        KERNELS["multi_adamw"](*lists, [0.1], step=1, **OPTIONS)


def test_nothing_but_empty_arrays() -> None:
    lists = to_device(_lists(((0,), (2, 0)), "float32"))
    with counting() as counts:
        assert float(KERNELS["multi_adamw"](*lists, [0.1, 0.1], step=1, **OPTIONS)) == 0
    assert counts.launches == {"adamw_numbers": 1}


def test_refuses_arrays_of_other_devices() -> None:
    """The kernels find arrays by their addresses, which mean nothing elsewhere."""
    host = _lists(((3,), (4,)), "float32")
    lists = to_device(host)
    with sys.modules["cupy"].cuda.Device(1):
        elsewhere = to_device(host[1])
    with kernel_mode("auto"):
        for grads, devices in ((elsewhere, "cuda:0, cuda:1"), (host[1], "cpu, cuda:0")):
            told = explain("multi_adamw", lists[0], grads, *lists[2:], [0.0, 0.0], step=1, **OPTIONS)
            assert f"cuda: CUDA kernels take arrays of one device; got {devices}" in told
        assert "got cuda:0, cuda:1" in explain("grad_norm", [lists[1][0], elsewhere[1]])


@pytest.mark.parametrize("dtypes", [("float64", "float64"), ("float32", "float16")])
def test_refuses_other_and_mixed_dtypes(dtypes: tuple[str, str]) -> None:
    lists = _lists(((3,), (4,)), "float32")
    lists = to_device(tuple([a.astype(d) for a, d in zip(arrays, dtypes, strict=True)] for arrays in lists))
    with kernel_mode("auto"):
        told = explain("multi_adamw", *lists, [0.0, 0.0], step=1, **OPTIONS)
        assert told.startswith("multi_adamw: runs reference\n  cuda: CUDA kernels take arrays of one dtype")
    assert KERNELS["multi_adamw"].cuda is not None
