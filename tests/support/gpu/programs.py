"""The CUDA programs of both packages, as their launchers list them, and what they need."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import autograd
import swinpy

if TYPE_CHECKING:
    from types import ModuleType

    from autograd.kernels.cuda.source import Program

__all__ = ["ARCHITECTURES", "FOLDERS", "TENSOR_CORES", "kernel_files", "label", "launchers", "least_architecture"]
__all__ += ["own_text"]

ROOT = Path(autograd.__file__).parents[1]
FOLDERS = tuple(Path(package.__file__).parent / "kernels" for package in (autograd, swinpy))
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
TENSOR_CORES = ("mma_16x8x16", "load_matrices", "load_matrices_transposed")  # names of device.cuh from sm_80 on


def launchers() -> list[ModuleType]:
    """The modules that offer ``BUDGETS`` and ``variants()``; others beside them may need what is not installed."""
    return [
        import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for folder in FOLDERS
        for path in sorted(folder.rglob("*.py"))
        if "\nBUDGETS" in path.read_text(encoding="utf-8")
    ]


def kernel_files() -> list[Path]:
    """Every ``*.cu`` file."""
    return sorted(path for folder in FOLDERS for path in folder.rglob("*.cu"))


def own_text(program: Program) -> str:
    """The text of a program, what it includes too, without the headers that all have."""
    return program.text.partition('#line 1 "defines"')[2]


def least_architecture(program: Program) -> int:
    """75, or 80 for what reads bfloat16 or works on tensor cores."""
    wide = any(value == "bf16" for _, value in program.defines) or any(n in own_text(program) for n in TENSOR_CORES)
    return 80 if wide else ARCHITECTURES[0]


def label(program: Program) -> str:
    """A short name for test reports: "gelu-N=8-T=f16", "window_attention-small_fwd-..."."""
    room, file = program.path.parent.name, program.path.stem
    return "-".join([*([room] if room != file else []), file, *(f"{name}={value}" for name, value in program.defines)])
