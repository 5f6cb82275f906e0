"""The host that runs CUDA kernels: each wrapper against NumPy bit for bit, and each fault that it has to report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.gpu.host_cuda.raw_module import SCHEDULES, KernelFault, RawModule, scheduled

from autograd.kernels.cuda.launch import launch
from autograd.kernels.cuda.source import program

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPPORT = Path(fake_cupy.__file__).parent / "host_cuda"
WRAPPERS, FAULTY = program(SUPPORT / "wrappers.cu"), program(SUPPORT / "faulty.cu")
THREADS = 256


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed(devices=2) as module:
        yield module


def _run(cupy: Any, kernel: str, *args: Any, grid: Any = 1, block: int = 32, shared: int = 0) -> list[Any]:
    """The arrays among the arguments, after the launch."""
    given = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
    launch(WRAPPERS, kernel, grid, block, given, shared)
    return [a.get() for a in given if isinstance(a, cupy.ndarray)]


def _each(cupy: Any, kernel: str, out: Any, *inputs: Any) -> Any:
    """One thread an element of ``out``, which is the last array."""
    n = len(out)
    return _run(cupy, kernel, *inputs, out, n, grid=-(-n // THREADS), block=THREADS)[-1]


def _assert_same(got: Any, expected: Any) -> None:
    """Bit for bit, but for the bits of a NaN."""
    word = f"u{got.dtype.itemsize}"
    nan = np.isnan(expected.astype("f4"))
    np.testing.assert_array_equal(np.isnan(got.astype("f4")), nan)
    np.testing.assert_array_equal(got.view(word)[~nan], expected.view(word)[~nan])


def _half_types() -> dict[str, Any]:
    import ml_dtypes

    return {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


def _every_value(kind: str) -> Any:
    return np.arange(65536, dtype="u2").view(_half_types()[kind])


def _hard_to_round(kind: str) -> Any:
    """Every value of the 16-bit type, what lies halfway to the next, the floats beside both, and a crowd of others."""
    values = _every_value(kind).astype("f4")
    values = np.sort(values[np.isfinite(values)])
    middle = np.concatenate([values, ((values[:-1].astype("f8") + values[1:]) / 2).astype("f4")])
    beside = [np.nextafter(middle, np.float32(sign * np.inf)) for sign in (-1, 1)]
    crowd = np.random.default_rng(0).integers(0, 2**32, 50_000, dtype="u4").view("f4")
    return np.concatenate([middle, *beside, crowd, np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65519, 65520], "f4")])


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_widen(cupy: Any, kind: str) -> None:
    values = _every_value(kind)
    _assert_same(_each(cupy, f"widen_{kind}", np.empty(len(values), "f4"), values), values.astype("f4"))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_narrow_and_pack(cupy: Any, kind: str) -> None:
    values = _hard_to_round(kind)
    values = values[: len(values) // 2 * 2]
    with np.errstate(all="ignore"):
        expected = values.astype(_half_types()[kind])
    _assert_same(_each(cupy, f"narrow_{kind}", np.empty_like(expected), values), expected)
    packed = _each(cupy, f"pack2_{kind}", np.empty(len(values) // 2, "u4"), values)
    _assert_same(packed.view(expected.dtype), expected)  # the low half first


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_add_pairs(cupy: Any, kind: str) -> None:
    rng, dtype = np.random.default_rng(0), _half_types()[kind]
    a, b = (rng.permutation(65536).astype("u2").view(dtype) for _ in range(2))
    with np.errstate(all="ignore"):
        expected = (a.astype("f8") + b.astype("f8")).astype(dtype)
    _assert_same(_each(cupy, f"add_{kind}", np.empty(32768, "u4"), a.view("u4"), b.view("u4")).view(dtype), expected)


def test_integer_tools(cupy: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2**32, 1000, dtype="u4") for _ in range(2))
    a[:3], b[:3] = (0, 2**32 - 1, 2**32 - 1), (5, 2**32 - 1, 1)
    high = (a.astype("u8") * b.astype("u8") >> np.uint64(32)).astype("u4")
    np.testing.assert_array_equal(_each(cupy, "high_word", np.empty_like(a), a, b), high)
    digits = rng.integers(0, 8, (1000, 4))
    selector = (digits << np.arange(0, 16, 4)).sum(axis=1).astype("u4")
    parts = np.concatenate([a[:, None], b[:, None]], axis=1).view("u1")
    expected = np.ascontiguousarray(np.take_along_axis(parts, digits, axis=1)).view("u4")[:, 0]
    np.testing.assert_array_equal(_each(cupy, "permute", np.empty_like(a), a, b, selector), expected)
    x = a.view("f4")
    words, back = _run(cupy, "bits", x, np.empty_like(a), np.empty_like(x), 1000, grid=4, block=THREADS)[1:]
    np.testing.assert_array_equal(words, a)
    np.testing.assert_array_equal(back.view("u4"), a)


def test_approximate_functions(cupy: Any) -> None:
    """As the hardware's are: within two units in the last place, and exact at the ends."""
    x = np.concatenate([np.linspace(-30, 30, 1000), [-np.inf, 0, np.inf]]).astype("f4")
    np.testing.assert_allclose(_each(cupy, "power_of_two", np.empty_like(x), x), np.exp2(x.astype("f8")), rtol=2.4e-7)
    y = np.exp2(x[:1000].astype("f8")).astype("f4")
    np.testing.assert_allclose(_each(cupy, "inverse_root", np.empty_like(y), y), y.astype("f8") ** -0.5, rtol=2.4e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shuffles(cupy: Any, schedule: str) -> None:
    lanes = np.arange(96)
    with scheduled(schedule):
        floats, words = _run(cupy, "shuffles", np.empty((32, 96), "f4"), np.empty((32, 96), "u4"), block=96)
        (told,) = _run(cupy, "broadcasts", np.empty((32, 96), "f4"), block=96)
        x = np.random.default_rng(0).standard_normal(32).astype("f4")
        sum4, max32 = _run(cupy, "sums", x, np.empty(32, "f4"), np.empty(32, "f4"))[1:]
    for mask in range(32):
        np.testing.assert_array_equal(floats[mask], lanes ^ mask)
        np.testing.assert_array_equal(told[mask], lanes // 32 * 32 + mask)
        np.testing.assert_array_equal(words[mask], ((lanes ^ mask) << 24) % 2**32)
    fours = x.reshape(8, 4)
    expected = (fours[:, 0] + fours[:, 2]) + (fours[:, 1] + fours[:, 3])
    np.testing.assert_array_equal(sum4.reshape(8, 4), np.tile(expected[:, None], 4))
    np.testing.assert_array_equal(max32, x.max())


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_matrix_product(cupy: Any, kind: str, schedule: str) -> None:
    """Small integers, so that every sum is exact in any order."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-8, 9, (16, 16)), rng.integers(-8, 9, (16, 8))
    c = rng.integers(-8, 9, (16, 8)).astype("f4")
    dtype = _half_types()[kind]
    with scheduled(schedule):
        got = _run(cupy, f"multiply_{kind}", a.astype("f4").astype(dtype), b.astype("f4").astype(dtype), c)[-1]
    np.testing.assert_array_equal(got, c + a @ b)


def test_matrix_product_of_fractions(cupy: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((16, 16)).astype("f2"), rng.standard_normal((16, 8)).astype("f2")
    got = _run(cupy, "multiply_f16", a, b, np.zeros((16, 8), "f4"))[-1]
    np.testing.assert_allclose(got, a.astype("f8") @ b.astype("f8"), rtol=0, atol=16 * 16 * 2.0**-24)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_load_matrices(cupy: Any, schedule: str) -> None:
    x = np.arange(256, dtype="u2").reshape(8, 32)
    with scheduled(schedule):
        words = _run(cupy, "matrices", x.view("f2"), np.empty((2, 32, 4), "u4"), shared=512)[-1]
    for lane in range(32):
        group, pair = lane // 4, 2 * (lane % 4)
        for matrix in range(4):
            tile = x[:, 8 * matrix : 8 * matrix + 8].astype("u4")
            assert words[0, lane, matrix] == tile[group, pair] | tile[group, pair + 1] << 16
            assert words[1, lane, matrix] == tile[pair, group] | tile[pair + 1, group] << 16


@pytest.mark.parametrize("width", [8, 16])
def test_vectors(cupy: Any, width: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, 64, dtype="u1")
    for start in range(49):
        if start % width == 0:
            y = _run(cupy, f"copy{width}", x, np.zeros_like(x), start, 16, block=1)[-1]
            np.testing.assert_array_equal(y[16 : 16 + width], x[start : start + width])
            assert not y[:16].any()
            assert not y[16 + width :].any()
        else:
            for ends in ((start, 16), (16, start)):
                with pytest.raises(KernelFault, match="a vector that is not aligned to its size"):
                    _run(cupy, f"copy{width}", x, np.zeros_like(x), *ends, block=1)


def test_positions(cupy: Any) -> None:
    (y,) = _run(cupy, "positions", np.empty((2, 3, 4, 40), "i4"), grid=(4, 3, 2), block=40)
    thread = np.arange(40)
    expected = 100 * np.arange(24)[:, None] + 10 * (thread // 32) + thread % 32 % 10
    np.testing.assert_array_equal(y.reshape(24, 40), expected)


def test_schedules_differ_where_a_kernel_races(cupy: Any) -> None:
    def last(schedule: str, seed: int) -> int:
        with scheduled(schedule, seed):
            return int(_run(cupy, "last_one", np.zeros(1, "i4"), block=128)[0][0])

    assert last("forward", 1) == 127
    assert last("reverse", 1) == 0
    assert len({last("random", seed) for seed in range(8)}) > 3
    assert {last("greedy", seed) for seed in range(16)} == {31, 63, 95, 127}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_barriers_order_threads(cupy: Any, schedule: str) -> None:
    with scheduled(schedule):
        (told,) = _run(cupy, "first_tells", np.empty(128, "i4"), block=128, shared=4)
        (swapped,) = _run(cupy, "neighbours", np.empty(128, "i4"), block=128, shared=512)
    assert (told == 7).all()
    np.testing.assert_array_equal(swapped, np.arange(128) ^ 1)


# ---- faults

FAULTS = [
    ("barrier_of_one_warp", 64, (), "barrier() without all threads: some have returned"),
    ("barrier_after_return", 64, (), "barrier() without all threads: some have returned"),
    ("shuffle_after_return", 32, (), "a warp collective without all 32 lanes: some have returned"),
    ("shuffle_of_half", 32, (), "some lanes of a warp wait at barrier(), others in a warp collective"),
    ("shuffle_beside_mma", 32, (), "the lanes of a warp wait in different collectives"),
    ("shuffle_beside_warp_barrier", 32, (), "the lanes of a warp wait in different collectives"),
    ("shuffle", 40, (), "a warp collective without all 32 lanes: some have returned"),
    ("behind_shared", 1, (64,), "written behind the shared memory that was asked for"),
    ("behind_shared", 1, (64 + 4095,), "written behind the shared memory that was asked for"),
    ("unaligned_matrices", 32, (), "a vector that is not aligned to its size"),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("kernel", "threads", "more", "message"), FAULTS)
def test_fault_is_reported(cupy: Any, schedule: str, kernel: str, threads: int, more: Any, message: str) -> None:
    with scheduled(schedule), pytest.raises(KernelFault) as raised:
        launch(FAULTY, kernel, 1, threads, (cupy.empty(64, "f4"), *more), shared=64)
    assert str(raised.value).startswith(f"{kernel}: {message}; block (0, 0, 0), thread ")
    launch(FAULTY, "shuffle", 2, 32, (cupy.empty(64, "f4"),))  # the host is fit for more


def test_the_last_byte_is_no_fault(cupy: Any) -> None:
    launch(FAULTY, "behind_shared", 1, 1, (cupy.empty(64, "f4"), 63), shared=64)


def test_shared_memory_and_outputs_start_as_nan(cupy: Any) -> None:
    y = cupy.empty(32, "f4")
    assert np.isnan(y.get()).all()
    y[...] = 0
    launch(FAULTY, "unwritten_shared", 1, 32, (y,), shared=128)
    assert np.isnan(y.get()).all()


def _function(name: str) -> Any:
    return RawModule(code=FAULTY.text).get_function(name)


def test_module_is_as_strict_as_the_hardware(cupy: Any) -> None:
    y, count, scale = cupy.empty(4, "f4"), np.int32(3), np.float32(0.5)
    takes = _function("takes")
    takes((1,), (1,), (y, count, scale))
    assert y.get()[0] == 1.5
    for wrong in (3, 3.0, np.int64(3), np.float32(3)):
        with pytest.raises(TypeError, match="count: CUDA reads a int32"):
            takes((1,), (1,), (y, wrong, scale))
    with pytest.raises(TypeError, match="scale: CUDA reads a float32"):
        takes((1,), (1,), (y, count, 0.5))
    with pytest.raises(TypeError, match="2 arguments"):
        takes((1,), (1,), (y, count))
    with pytest.raises(KernelFault, match="not aligned to 16 bytes"):
        takes((1,), (1,), (y[1:], count, scale))
    with pytest.raises(KernelFault, match="1025 threads a block"):
        takes((1,), (1025,), (y, count, scale))


def test_shared_memory_has_to_be_asked_for(cupy: Any) -> None:
    y = cupy.empty(32, "f4")
    function = _function("unwritten_shared")
    function((1,), (32,), (y,), shared_mem=48 * 1024)
    with pytest.raises(KernelFault, match="49153 bytes of shared memory were not asked for"):
        function((1,), (32,), (y,), shared_mem=48 * 1024 + 1)
    function.max_dynamic_shared_size_bytes = 512 * 1024
    function((1,), (32,), (y,), shared_mem=227 * 1024)
    with pytest.raises(KernelFault, match="bytes of shared memory were not asked for"):
        function((1,), (32,), (y,), shared_mem=227 * 1024 + 1)
    function.max_dynamic_shared_size_bytes = 48 * 1024
    for kilobytes in (100, 60, 100):  # the launcher asks, and never for less than before
        launch(FAULTY, "unwritten_shared", 1, 32, (y,), shared=kilobytes * 1024)
