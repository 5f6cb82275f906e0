"""CUDA kernels without a GPU: each against its reference in float64, thread by thread (see support.gpu.host_cuda)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.gpu import fake_cupy
from support.gpu.fake_cupy import to_device
from support.rows.table import KERNEL_ROWS

from autograd.kernels import KERNELS, explain, kernel_mode

if TYPE_CHECKING:
    from collections.abc import Iterator

CUDA_KERNELS = sorted(name for name in KERNEL_ROWS if KERNELS[name].cuda is not None)


@pytest.fixture
def cupy() -> Iterator[Any]:
    with fake_cupy.installed() as module:
        yield module


@pytest.mark.parametrize("name", CUDA_KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_row_runs_and_agrees(cupy: Any, name: str, dtype: Any) -> None:
    args, options = KERNEL_ROWS[name].arguments(np.random.default_rng(0), dtype)
    args = to_device(args)
    assert explain(name, *args, **options).startswith(f"{name}: runs cuda")
    with kernel_mode("validate"):
        KERNELS[name](*args, **options)


@pytest.mark.parametrize("name", CUDA_KERNELS)
@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_other_dtypes_are_the_references(cupy: Any, name: str, dtype: Any) -> None:
    def other(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(other(v) for v in value)
        if isinstance(value, np.dtype):
            return np.dtype(dtype)
        return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

    args, options = KERNEL_ROWS[name].arguments(np.random.default_rng(0), np.float32)
    said = explain(name, *to_device(other(args)), **options)
    assert said.startswith(f"{name}: runs reference")
    assert np.dtype(dtype).name in said
