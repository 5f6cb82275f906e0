"""Every CUDA kernel compiled by NVRTC for every architecture, with no GPU, and held to the budget of its launcher."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support import skips
from support.gpu import nvrtc
from support.gpu.programs import (
    ARCHITECTURES,
    TENSOR_CORES,
    kernel_files,
    label,
    launchers,
    least_architecture,
    own_text,
)

if TYPE_CHECKING:
    from pathlib import Path

    from autograd.kernels.cuda.budget import Budget
    from autograd.kernels.cuda.source import Program

LAUNCHERS = launchers()
PROGRAMS: dict[str, tuple[Program, dict[str, Budget]]] = {
    label(p): (p, module.BUDGETS) for module in LAUNCHERS for p in module.variants()
}
_USUAL = 90  # where every variant is compiled by default; elsewhere the first of each file that can be
_WARP_TOKENS = 64  # windows of up to 8 x 8 are one warp's on the tensor cores, and one tile on the others


def _small_forward(name: str) -> bool:
    program, _ = PROGRAMS[name]
    defines = dict(program.defines)
    small = int(defines.get("TOKENS", _WARP_TOKENS + 1)) <= _WARP_TOKENS or int(defines.get("TILES", 2)) == 1
    return program.path.parent.name == "window_attention" and "_fwd" in program.path.stem and small


def _by_default(name: str, architecture: int, first: str) -> bool:
    return architecture == _USUAL or name == first or _small_forward(name)


def _matrix() -> list[object]:
    """(program, architecture) for all that apply; what is left out by default is marked slow.

    By default every kernel is compiled for every architecture, and every variant of it for one. Forward attention of
    small windows, which must keep all in registers, is compiled in all variants for all.
    ``-k "first and sm_90"`` is one variant of each file, for another NVRTC (SWINPY_NVRTC names its folder).
    """
    ordered = sorted(PROGRAMS.items(), key=lambda item: least_architecture(item[1][0]))
    first = {program.path: name for name, (program, _) in reversed(ordered)}
    return [
        pytest.param(
            name,
            architecture,
            marks=[] if _by_default(name, architecture, first[program.path]) else pytest.mark.slow,
            id=f"{'first-' if first[program.path] == name else ''}{name}-sm_{architecture}",
        )
        for name, (program, _) in PROGRAMS.items()
        for architecture in ARCHITECTURES
        if architecture >= least_architecture(program)
    ]


@pytest.fixture
def compiler() -> None:
    skips.skip_unless(nvrtc.find_library() is not None, skips.NO_NVRTC, "SWINPY_REQUIRE_NVRTC")


def _spill_bytes(budget: Budget) -> int:
    """Allowed for the compiler at hand; budgets are set with 13.5."""
    return budget.spill_bytes if nvrtc.version() >= (13, 5) else max(budget.spill_bytes, budget.older_spill_bytes)


def _over(program: Program, budgets: dict[str, Budget], architecture: int) -> list[str]:
    """What is over budget, in words."""
    usage = nvrtc.compiled(program.text, architecture).usage
    assert usage.keys() == program.entries.keys()
    return [
        f"{kernel}: {getattr(used, part)} {part}, {limit} allowed"
        for kernel, used in usage.items()
        for part, limit in (
            ("registers", budgets[kernel].registers),
            ("local_bytes", _spill_bytes(budgets[kernel])),
            ("shared_bytes", budgets[kernel].shared_bytes),
        )
        if getattr(used, part) > limit
    ]


def test_every_file_and_kernel_has_a_budget() -> None:
    listed = {program.path for program, _ in PROGRAMS.values()}
    assert sorted(listed) == kernel_files()
    for module in LAUNCHERS:
        kernels = {kernel for program in module.variants() for kernel in program.entries}
        assert module.BUDGETS.keys() == kernels, module.__name__


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("name", "architecture"), _matrix())
def test_compiles_within_its_budget(name: str, architecture: int) -> None:
    program, budgets = PROGRAMS[name]
    assert not _over(program, budgets, architecture)
    if _small_forward(name):
        assert [used.local_bytes for used in nvrtc.compiled(program.text, architecture).usage.values()] == [0]
    assert "warning" not in nvrtc.compiled(program.text, architecture).log


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("module", LAUNCHERS, ids=lambda module: module.__name__)
def test_budgets_are_not_idle(module: object) -> None:
    """A limit that is twice what any variant needs would let a kernel get worse unseen; by the NVRTC of cuda-check."""
    programs = [p for p, budgets in PROGRAMS.values() if budgets is module.BUDGETS]
    used = [(k, u) for p in programs for k, u in nvrtc.compiled(p.text, _USUAL).usage.items()]
    for kernel, budget in module.BUDGETS.items():
        registers = max(u.registers for name, u in used if name == kernel)
        spilled = max(u.local_bytes for name, u in used if name == kernel)
        assert budget.registers <= max(32, 2 * registers), f"{kernel} needs {registers} registers"
        assert budget.spill_bytes <= 2 * spilled + 64, f"{kernel} needs {spilled} bytes of local memory"


TENSOR_CORE_PROGRAMS = [
    name
    for name, (program, _) in PROGRAMS.items()
    if any(word in own_text(program) for word in TENSOR_CORES)
    and any(kernel.startswith("window_attention") for kernel in program.entries)
]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("name", "architecture"),
    [(n, a) for n in TENSOR_CORE_PROGRAMS for a in (80, _USUAL, 120) if a == _USUAL or _small_forward(n)],
)
def test_attention_in_machine_code(name: str, architecture: int) -> None:
    """Products on tensor cores, 16 bytes a load; forward of small windows keeps all in registers."""
    skips.skip_unless(nvrtc.find_nvdisasm() is not None, skips.NO_NVRTC, "SWINPY_REQUIRE_NVRTC")
    for kernel, lines in nvrtc.disassembly(nvrtc.compiled(PROGRAMS[name][0].text, architecture).cubin).items():
        if not kernel.startswith("window_attention"):
            continue
        assert any(line.startswith("HMMA.16816.F32") for line in lines), kernel
        assert any("LDG.E.128" in line for line in lines), kernel
        if _small_forward(name):
            assert not [line for line in lines if re.search(r"\b(LDL|STL)\b", line)], kernel


@pytest.mark.usefixtures("compiler")
def test_the_check_sees_what_it_looks_for() -> None:
    """An array indexed at run time is local memory, a shared one is counted, and a program that is wrong is refused."""
    text = """
extern "C" __global__ void worse(float* y, const int* order) {
  __shared__ float shared[64];
  float values[64];
  for (int i = 0; i < 64; i++) values[order[i]] = y[i];
  shared[threadIdx.x] = values[order[threadIdx.x]];
  __syncthreads();
  y[threadIdx.x] = shared[63 - threadIdx.x];
}"""
    made = nvrtc.compiled(text, 80)
    assert made.usage["worse"].local_bytes >= 256
    assert made.usage["worse"].shared_bytes == 256
    assert made.usage["worse"].registers >= 8
    with pytest.raises(RuntimeError, match="nonsense"):
        nvrtc.compiled('extern "C" __global__ void wrong(float* y) { *y = nonsense; }', 80)


def test_another_nvrtc_is_taken_from_the_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWINPY_NVRTC", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="SWINPY_NVRTC: expected a folder with libnvrtc"):
        nvrtc.find_library()
    (tmp_path / "libnvrtc.so.12").touch()
    assert nvrtc.find_library() == tmp_path / "libnvrtc.so.12"


@pytest.mark.usefixtures("compiler")
def test_the_disassembly_is_read() -> None:
    skips.skip_unless(nvrtc.find_nvdisasm() is not None, skips.NO_NVRTC, "SWINPY_REQUIRE_NVRTC")
    text = 'extern "C" __global__ void copy(const uint4* x, uint4* y) { y[threadIdx.x] = x[threadIdx.x]; }'
    lines = nvrtc.disassembly(nvrtc.compiled(text, 80).cubin)["copy"]
    assert sum("LDG.E.128" in line for line in lines) == 1
    assert sum("STG.E.128" in line for line in lines) == 1
