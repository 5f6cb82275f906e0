"""Every CUDA kernel under the sanitizers for addresses, undefined behaviour and threads; planted faults are caught."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.gpu.checks import on_device
from support.gpu.host_cuda.build import host_source
from support.gpu.host_cuda.raw_module import Launch, RawModule, recording
from support.gpu.host_cuda.sanitize import SANITIZERS, SanitizerFault, check
from support.gpu.rows import GPU_ROWS, arguments_of
from support.rows.table import KERNEL_ROWS

from autograd.kernels import KERNELS, kernel_mode
from autograd.kernels.cuda.source import entries_of, program
from autograd.kernels.gelu.cuda import FILE as GELU_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

CUDA_KERNELS = sorted(name for name in KERNEL_ROWS if KERNELS[name].cuda is not None)


def _launches(call: Callable[[Any], Any]) -> list[Launch]:
    """What ``call`` launches on a GPU, the first launch of each kernel of each program."""
    with fake_cupy.installed() as cupy, kernel_mode("cuda"), recording() as launches:
        call(cupy)
    return list({(launch.source, launch.entry.name): launch for launch in reversed(launches)}.values())


def _call_row(cupy: Any, name: str, dtype: Any) -> None:
    kernel, (args, options) = arguments_of(name, np.random.default_rng(0), dtype)
    KERNELS[kernel](*on_device(cupy, args), **on_device(cupy, options))


@pytest.mark.parametrize("name", CUDA_KERNELS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("dtype", [np.float16, pytest.param(np.float32, marks=pytest.mark.slow)])
def test_row_is_clean(name: str, sanitizer: str, dtype: Any) -> None:
    launches = _launches(lambda cupy: _call_row(cupy, name, dtype))
    assert launches or name == "linear_fwd"  # which is one product, by cuBLAS
    for launch in launches:
        check(launch, sanitizer)


@pytest.mark.parametrize("name", GPU_ROWS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_row_at_a_real_size_is_clean(name: str, sanitizer: str) -> None:
    launches = _launches(lambda cupy: _call_row(cupy, name, np.float16))
    assert launches
    for launch in launches:
        check(launch, sanitizer)


@pytest.mark.parametrize("label", [-1, 5, 2**40, -(2**63)])
def test_a_label_that_is_no_class_reads_nothing_outside(label: int) -> None:
    x, labels = np.ones((4, 5), np.float32), np.array([1, label, label, 0])

    def both(cupy: Any) -> None:
        logits, target = cupy.asarray(x), cupy.asarray(labels)
        losses, log_probs = KERNELS["cross_entropy_fwd"](logits, target, 0.1)
        KERNELS["cross_entropy_bwd"](losses, log_probs, target, 0.1)

    launches = _launches(both)
    assert [launch.entry.name for launch in launches] == ["cross_entropy_bwd", "cross_entropy_fwd"]
    for launch in launches:
        check(launch, "address")


# ---- planted faults

REVERSE_IN_SHARED = """
#line 1 "reverse.cu"
// y is x backwards, a block's worth of it, and the sum of all.
KERNEL void reverse(const float* __restrict__ x, float* __restrict__ y, float* __restrict__ total, int size) {
  SHARED_MEMORY(shared);
  float* all = (float*)shared;
  if ((int)threadIdx.x < size) all[threadIdx.x] = x[threadIdx.x];
  else all[threadIdx.x] = 0;
  barrier();
  float sum = 0;
  for (int i = 0; i < (int)blockDim.x; i++) sum += all[i];
  if ((int)threadIdx.x < size) y[threadIdx.x] = all[size - 1 - threadIdx.x];
  if (threadIdx.x == 0) total[0] = sum;
}
"""
REVERSE = program(GELU_FILE, T="float", N=1).text.partition('#line 1 "gelu.cu"')[0] + REVERSE_IN_SHARED
SIZE, THREADS = 50, 64


def _reverse(*edits: tuple[str, str]) -> Launch:
    """The launch of the kernel above with its text edited."""
    text = REVERSE
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    entries = entries_of(text)
    x = np.random.default_rng(0).standard_normal(SIZE).astype("f4")
    nan = np.full(SIZE, np.nan, "f4")
    args = (x, nan, nan[:1].copy(), np.int32(SIZE))
    return Launch(host_source(text, entries), entries["reverse"], (1, 1, 1), THREADS, 4 * THREADS, args)


def _right(launch: Launch) -> bool:
    x, y, total, _ = launch.run()
    return bool((y == x[::-1]).all() and abs(total[0] - x.sum()) < 1e-4)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_kernel_for_planting_is_clean(sanitizer: str) -> None:
    assert _right(_reverse())
    check(_reverse(), sanitizer)


ADDRESS = "AddressSanitizer: heap-buffer-overflow"
POISON = "AddressSanitizer: use-after-poison"
OVERFLOW = "signed integer overflow"
RACE = "ThreadSanitizer: data race"
# What is wrong: (sanitizer, old text, new text, what the report says, line that it names).
PLANTED: dict[str, tuple[str, str, str, str, int]] = {
    "a missing barrier": ("thread", "  barrier();\n", "\n", RACE, 9),
    "a barrier of the warp only": ("thread", "  barrier();\n", "  warp_barrier();\n", RACE, 9),
    "two threads write one place": ("thread", "threadIdx.x == 0", "threadIdx.x < 2", RACE, 11),
    "reads one too far": ("address", "= x[threadIdx.x]", "= x[threadIdx.x + 1]", ADDRESS, 5),
    "bound off by one": ("address", "x < size) all", "x <= size) all", ADDRESS, 5),
    "writes one too far": ("address", "total[0]", "total[1]", ADDRESS, 11),
    "writes before the array": ("address", "total[0]", "total[-1]", ADDRESS, 11),
    "behind shared memory": ("address", "i < (int)blockDim", "i <= (int)blockDim", POISON, 9),
    "overflow of an int": ("address", "sum = 0", "sum = size * 100000000 * 0.0f", OVERFLOW, 8),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_fault_is_found_where_it_is(fault: str) -> None:
    sanitizer, old, new, report, line = PLANTED[fault]
    with pytest.raises(SanitizerFault) as raised:
        check(_reverse((old, new)), sanitizer)
    assert report in str(raised.value)
    assert f"reverse.cu:{line}" in str(raised.value)


def test_blocks_that_write_one_place_race() -> None:
    one = _reverse()
    with pytest.raises(SanitizerFault, match=RACE):
        check(replace(one, grid=(2, 1, 1)), "thread")


TABLE = """
#line 1 "table.cu"
// Each block doubles the array whose address stands in its row, behind it the number of its values.
KERNEL void doubled(const u64* __restrict__ table) {
  float* x = (float*)table[2 * blockIdx.x];
  if (threadIdx.x < table[2 * blockIdx.x + 1]) x[threadIdx.x] *= 2;
}
"""


def _doubled() -> tuple[list[np.ndarray[Any, Any]], Launch]:
    """Three arrays doubled through a table, and the launch."""
    text = REVERSE.partition('#line 1 "reverse.cu"')[0] + TABLE
    with fake_cupy.installed() as cupy, recording() as launches:
        arrays = [cupy.asarray(np.arange(n, dtype="f4")) for n in (5, 8, 13)]
        table = cupy.asarray(np.array([(a.data.ptr, a.size) for a in arrays], "u8"))
        RawModule(code=text).get_function("doubled")((3,), (32,), (table,))
        return [a.get() for a in arrays], launches[0]


def test_arrays_behind_a_table_of_addresses() -> None:
    arrays, launch = _doubled()
    assert sorted(p.values.size for p in launch.pointees) == [5, 8, 13]
    for got, n in zip(arrays, (5, 8, 13), strict=True):
        np.testing.assert_array_equal(got, 2 * np.arange(n))
    for sanitizer in SANITIZERS:
        check(launch, sanitizer)
    rows = launch.args[0].copy()
    rows[:, 1] += 1
    with pytest.raises(SanitizerFault, match=ADDRESS):
        check(replace(launch, args=(rows,)), "address")


def test_shared_memory_that_nothing_wrote_shows_as_nan() -> None:
    launch = _reverse(("  else all[threadIdx.x] = 0;\n", ""))
    assert np.isnan(launch.run()[2][0])
    assert not _right(launch)


def test_an_output_that_nothing_wrote_shows_as_nan() -> None:
    launch = _reverse(("if ((int)threadIdx.x < size) y", "if ((int)threadIdx.x < size - 1) y"))
    assert np.isnan(launch.run()[1][-1])


def test_a_launch_that_is_a_fault_of_its_own_is_reported() -> None:
    launch = _reverse(("  barrier();\n", "  if (threadIdx.x < 40) barrier();\n"))
    with pytest.raises(SanitizerFault, match=r"exit 3\nbarrier\(\) without all threads"):
        check(launch, "address")


# Faults in the packages' kernels: (row to call, old text, new text, sanitizer that has to find it).
IN_KERNELS: dict[str, tuple[str, str, str, str]] = {
    "GELU past the end": ("gelu_fwd", "if (first >= size) return;", "if (first > size) return;", "address"),
    "the fill of a list taken for a place": ("position_bias_bwd", "if (list[i] >= 0) sum", "sum", "address"),
}


@pytest.mark.parametrize("fault", IN_KERNELS)
def test_fault_in_a_real_kernel_is_found(fault: str) -> None:
    name, old, new, sanitizer = IN_KERNELS[fault]
    launches = _launches(lambda cupy: _call_row(cupy, name, np.float16))
    launch = next(launch for launch in launches if old in launch.source)
    with pytest.raises(SanitizerFault, match="Sanitizer:"):
        check(replace(launch, source=launch.source.replace(old, new)), sanitizer)
