"""The launcher's checks, the program text and what is read from it, and the names that kernels may use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.gpu.host_cuda.build import HEADER
from support.gpu.programs import kernel_files, launchers

from autograd.kernels.cuda.launch import contiguous, counting, launch
from autograd.kernels.cuda.source import HEADERS, TYPE_NAMES, entries_of, program
from autograd.kernels.gelu.cuda import FILE as GELU_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTY = program(Path(fake_cupy.__file__).parent / "host_cuda" / "faulty.cu")


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed(devices=2) as module:
        yield module


# ---- launching


def _on(cupy: Any, device: int) -> Any:
    with cupy.cuda.Device(device):
        return cupy.empty(8, "f4")


REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("count", lambda c: (c.empty(8, "f4"), 1), TypeError, r"expected 3 arguments \(y, count, scale\); got 2"),
    ("dtype", lambda c: (c.empty(8, "f2"), 1, 1.0), TypeError, "expected y to be float32; got float16"),
    (
        "an array for a number",
        lambda c: (c.empty(8, "f4"), c.empty(2), 1.0),
        TypeError,
        "expected count to be a number",
    ),
    ("a number for an array", lambda c: (1.0, c.empty(2), 1.0), TypeError, "expected y to be an array on cuda:0"),
    ("strides", lambda c: (c.empty(16, "f4")[::2], 1, 1.0), ValueError, "expected y to be C-ordered"),
    ("address", lambda c: (c.empty(9, "f4")[1:], 1, 1.0), ValueError, "expected y to be aligned to 16 bytes"),
    ("no array", lambda c: (1, 1, 1.0), TypeError, "expected arrays on a GPU; got none"),
    ("NumPy", lambda c: (np.empty(8, "f4"), 1, 1.0), TypeError, "expected arrays on a GPU; got NumPy arrays"),
]


@pytest.mark.parametrize(("args", "error", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_arguments_are_refused(cupy: Any, args: Any, error: type[Exception], message: str) -> None:
    with counting() as counts, pytest.raises(error, match=f"^takes: {message}"):
        launch(FAULTY, "takes", 1, 1, args(cupy))
    assert not counts.launches


def test_arrays_of_two_devices_are_refused(cupy: Any) -> None:
    text = program(Path(fake_cupy.__file__).parent / "host_cuda" / "wrappers.cu")
    arrays = (_on(cupy, 0), _on(cupy, 1))
    with pytest.raises(ValueError, match="inverse_root: expected y to be on cuda:0; got one on cuda:1"):
        launch(text, "inverse_root", 1, 8, (*arrays, 8))


@pytest.mark.parametrize(
    ("grid", "block"),
    [(1, 0), (1, 1025), (0, 32), ((1, 0), 32), ((1, 65536), 32), ((1, 1, 65536), 32), (2**31, 32)],
)
def test_sizes_beyond_cuda_are_refused(cupy: Any, grid: Any, block: int) -> None:
    with pytest.raises(ValueError, match="takes: expected 1 to 1024 threads a block and a grid within"):
        launch(FAULTY, "takes", grid, block, (cupy.empty(8, "f4"), 1, 1.0))


def test_unknown_kernel(cupy: Any) -> None:
    with pytest.raises(KeyError, match="nothing"):
        launch(FAULTY, "nothing", 1, 1, (cupy.empty(8, "f4"),))


def test_numbers_are_cast_and_launches_counted(cupy: Any) -> None:
    y = cupy.empty(8, "f4")
    with counting() as counts:
        launch(FAULTY, "takes", 1, 1, (y, np.int64(3), 0.5))
        launch(FAULTY, "takes", (1, 1), 1, (y, True, 3))
    assert y.get()[0] == 3
    assert counts.launches == {"takes": 2}
    with pytest.raises(OverflowError):
        launch(FAULTY, "takes", 1, 1, (y, 2**31, 0.5))


def test_copies_are_counted(cupy: Any) -> None:
    x = cupy.asarray(np.arange(24, dtype="f4").reshape(4, 6))
    with counting() as counts:
        assert contiguous(x) is x
        for view in (x.T, x[:, 1:], x[::-1], x.reshape(-1)[1:]):
            made = contiguous(view)
            assert made.flags.c_contiguous
            assert made.data.ptr % 16 == 0
            np.testing.assert_array_equal(made.get(), view.get())
    assert counts.copies == 4


# ---- text


def _entry(text: str) -> list[tuple[str, str, bool, bool]]:
    (entry,) = entries_of(text).values()
    return [(p.name, p.dtype, p.pointer, p.const) for p in entry.parameters]


TWO = [("x", "float16", True, True), ("n", "int32", False, False)]


@pytest.mark.parametrize(
    "text",
    [
        "KERNEL void f(const f16* x, int n) {}",
        "KERNEL void f(const f16* __restrict__ x, int n) {}",
        "KERNEL void f(const f16 *x, int n) {}",
        "KERNEL void f(const f16*x,int n){}",
        "  KERNEL  void\n  f (\n    const f16*\n      __restrict__ x,\n    int n\n) {}",
        "KERNEL void __launch_bounds__(256) f(const f16* x, int n) {}",
        "KERNEL void __launch_bounds__(32 * (4 + 1), 2)\nf(const f16* x, int n) {}",
        "KERNEL void f(const f16* x /* rows, columns (both) */, int n) {}",
        "KERNEL void f(const f16* x,  // (rows, columns)\n  int n) {}",
        "#define T f16\nKERNEL void f(const T* x, int n) {}",
        "// KERNEL void g(int* y)\n/*\nKERNEL void h(int* y) {}\n*/\nKERNEL void f(const f16* x, int n) {}",
        "#define KERNEL nothing\nKERNEL void f(const f16* x, int n) {}\nvoid g(float* KERNEL_OF) {}",
    ],
)
def test_signatures_however_they_are_laid_out(text: str) -> None:
    assert list(entries_of(text)) == ["f"]
    assert _entry(text) == TWO


def test_every_type() -> None:
    for dtype, name in TYPE_NAMES.items():
        assert _entry(f"KERNEL void f({name}* x) {{}}") == [("x", dtype, True, False)]
        assert _entry(f"KERNEL void f({name} x) {{}}") == [("x", dtype, False, False)]


@pytest.mark.parametrize(
    "text",
    [
        "KERNEL void f(half* x) {}",
        "KERNEL void f(float& x) {}",
        "KERNEL void f(float x[]) {}",
        "KERNEL void f(float** x) {}",
        "KERNEL void f(float*) {}",
        "KERNEL void f(T* x) {}",
        "KERNEL int f(float* x) {}",
        "KERNEL __launch_bounds__(64) void f(float* x) {}",
        "template <int N> KERNEL_\nKERNEL void f(float (*x)[4]) {}",
    ],
)
def test_what_cannot_be_checked_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        entries_of(text)


def test_a_program_says_where_its_lines_come_from() -> None:
    text = program(GELU_FILE, T="f16", N=8).text
    files = [path.name for path in HEADERS]
    assert re.findall(r'^#line 1 "(.*)"$', text, re.MULTILINE)[: len(files) + 2] == [*files, "defines", "gelu.cu"]
    assert '#line 1 "defines"\n#define N 8\n#define T f16\n' in text


def test_what_a_program_includes_stands_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "f.cu").write_text('// f\n#include "part.cuh"\nKERNEL void f(X* x) {}\n')
    (tmp_path / "part.cuh").write_text("#define X u8\n")
    made = program(tmp_path / "f.cu")
    expected = '#line 1 "f.cu"\n// f\n#line 1 "part.cuh"\n#define X u8\n\n#line 3 "f.cu"\nKERNEL void f(X* x) {}\n'
    assert made.text.endswith(expected)
    assert made.entries["f"].parameters[0].dtype == "uint8"
    (tmp_path / "g.cu").write_text('#include "missing.cuh"\n')
    with pytest.raises(FileNotFoundError):
        _ = program(tmp_path / "g.cu").text


# ---- names

_DEFINED = re.compile(
    r"^(?:template <.*?> )?(?:DEVICE|inline) [\w ]+?\*? (\w+)\(|^typedef .*? (\w+);|^struct (\w+) \{|^#define (\w+)",
    re.MULTILINE,
)
# CUDA's own, which the host has to give and device.cuh has not; and what either side needs for itself.
_BUILT_IN = {"rsqrtf", "threadIdx", "blockIdx", "blockDim", "gridDim", "__launch_bounds__"}
_HOST_ONLY = {"SWINPY_HOST", "SIM_TSAN", "SIM_ASAN", "SIM_UNSEEN"}
_DEVICE_ONLY = {"SWINPY_MMA"}
_FORBIDDEN = re.compile(
    r"\basm\b|\batomic\w*|\b__(?!restrict__|launch_bounds__|shared__|CUDA_ARCH__)\w+|\bwarpSize\b|\buint[234]\b"
)


def _names(text: str) -> set[str]:
    return {name for found in _DEFINED.findall(text) for name in found if name}


def test_the_host_has_the_names_of_the_device() -> None:
    parts = re.findall(r'^#include "(\w+\.h)"$', HEADER.read_text(encoding="utf-8"), re.MULTILINE)
    simulator = "".join((HEADER.parent / part).read_text(encoding="utf-8") for part in parts)
    outside, inside = re.subn(r"namespace sim \{.*?\n\}  // namespace sim\n", "", simulator, flags=re.DOTALL)
    assert inside == 3
    host = _names(outside) - _HOST_ONLY
    device = _names(HEADERS[0].read_text(encoding="utf-8")) - _DEVICE_ONLY
    assert {"widen", "narrow", "pack2", "mma_16x8x16", "f16", "u32", "barrier", "SHARED_MEMORY", "Words4"} <= device
    assert host - _BUILT_IN == device
    assert host >= _BUILT_IN


@pytest.mark.parametrize("path", [*HEADERS[1:], *kernel_files()], ids=lambda path: path.name)
def test_kernels_use_cuda_through_the_wrappers_only(path: Path) -> None:
    """No assembly, no atomics (sums would depend on the order of threads), no intrinsic, no static shared memory."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not _FORBIDDEN.findall(code)


def test_the_search_for_intrinsics_finds() -> None:
    for line in ("__syncthreads();", "x = __expf(y);", "atomicAdd(p, 1);", 'asm("");', "__half x;", "uint4 v;"):
        assert _FORBIDDEN.search(line), line
    assert not _FORBIDDEN.search("KERNEL void __launch_bounds__(32) f(float* __restrict__ x) { barrier(); }")


def test_every_variant_is_a_program_whose_kernels_are_read() -> None:
    for module in launchers():
        programs = module.variants()
        assert programs, module.__name__
        assert len(programs) == len(set(programs)), module.__name__
        assert all(p.entries for p in programs), module.__name__
