"""``pytest -m gpu``: every kernel, every op and whole models on a GPU against the CPU; skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from support.checks import applies
from support.gpu import checks as gpu_checks
from support.gpu.rows import GPU_ROWS
from support.rows.table import KERNEL_ROWS, cases

from autograd.kernels import KERNELS

pytestmark = pytest.mark.gpu

CUDA_KERNELS = [*sorted(name for name in KERNEL_ROWS if KERNELS[name].cuda is not None), *GPU_ROWS]
OPS = [(check, info.name, case) for info, case in cases() for check in gpu_checks.OP_CHECKS if applies(check, info)]
SWIN_T, SWIN_V2_T = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
# Heads, widths and windows of the larger models, each with one block a stage.
LARGER = ["swin_base_patch4_window7_224", "swin_large_patch4_window7_224", "swin_base_patch4_window12_384"]
# Of Swin-T, handwritten kernels alone; all launches are counted on the stand-in (test_launches.py).
HANDWRITTEN_A_STEP = 270


@pytest.fixture(scope="module")
def cupy() -> Any:
    return gpu_checks.real_cupy()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CUDA_KERNELS)
def test_kernel(cupy: Any, name: str, dtype: str) -> None:
    gpu_checks.check_row(cupy, name, gpu_checks.dtype_on(cupy, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CUDA_KERNELS)
def test_kernel_repeats_bitwise(cupy: Any, name: str, dtype: str) -> None:
    gpu_checks.repeats_bitwise(cupy, name, gpu_checks.dtype_on(cupy, dtype), times=250)


@pytest.mark.parametrize(("check", "name", "case"), OPS)
def test_op(cupy: Any, check: str, name: str, case: str) -> None:
    gpu_checks.check_op(check, name, case)


@pytest.mark.timeout(1800)  # most of it on the CPU: the reference in float64, and the model in each dtype
@pytest.mark.parametrize("autocast", [None, "float16", "bfloat16"])
@pytest.mark.parametrize("name", [SWIN_T, SWIN_V2_T])
def test_model(cupy: Any, name: str, autocast: str | None) -> None:
    gpu_checks.dtype_on(cupy, autocast)
    gpu_checks.check_model(cupy, name, batch=2, autocast=autocast, num_classes=10)


@pytest.mark.parametrize("name", LARGER)
def test_larger_model(cupy: Any, name: str) -> None:
    gpu_checks.check_model(cupy, name, batch=1, autocast="float16", num_classes=10, depths=(1, 1, 1, 1))


@pytest.mark.parametrize("autocast", [None, "float16", "bfloat16"])
def test_train_step_copies_nothing_and_repeats(
    cupy: Any, autocast: str | None, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_checks.dtype_on(cupy, autocast)
    counts, bits = gpu_checks.train_steps(cupy, SWIN_T, batch=4, steps=3, autocast=autocast)
    total = sum(counts.launches.values())
    record_property("launches", counts.launches)
    with capsys.disabled():
        print(f"\n{SWIN_T}, {autocast or 'float32'}: {total} launches of handwritten kernels a train step")
    assert counts.copies == 0
    assert 0 < total <= HANDWRITTEN_A_STEP
    assert gpu_checks.train_steps(cupy, SWIN_T, batch=4, steps=3, autocast=autocast)[1] == bits
