"""The skips that CI accepts. Any other reason for a skip fails the run there: a test that silently stops running is
worse than one that fails."""

from __future__ import annotations

import os
import re

import pytest

__all__ = [
    "ALLOWED",
    "NO_COMPILER",
    "NO_CUPY_BFLOAT16",
    "NO_GPU",
    "NO_HIPS",
    "NO_ML_DTYPES",
    "NO_MMDET",
    "NO_NUMBA",
    "NO_NVRTC",
    "NO_OPENBLAS",
    "NO_PARITY",
]
__all__ += ["is_allowed", "skip_unless"]

NO_COMPILER = "g++ is not installed"
NO_CUPY_BFLOAT16 = "this CuPy has no products of bfloat16"
NO_GPU = "no CUDA device"
NO_HIPS = "SWINPY_HIPS_PYTHON names no interpreter that has HIPS autograd"
NO_ML_DTYPES = "ml_dtypes is not installed"
NO_MMDET = "mmdetection is not installed"
NO_NUMBA = "Numba is not installed"
NO_NVRTC = "NVRTC is not installed"
NO_OPENBLAS = "NumPy has another BLAS than OpenBLAS"
NO_PARITY = "torch or transformers is not installed"

ALLOWED = (
    NO_COMPILER,
    NO_CUPY_BFLOAT16,
    NO_GPU,
    NO_HIPS,
    NO_ML_DTYPES,
    NO_MMDET,
    NO_NUMBA,
    NO_NVRTC,
    NO_OPENBLAS,
    NO_PARITY,
)


def is_allowed(reason: str) -> bool:
    """Whether a skip with this reason (as pytest reports it) may happen in CI."""
    return re.sub(r"^Skipped: ", "", reason).startswith(ALLOWED)


def skip_unless(there: bool, reason: str, required: str) -> None:
    """Skip the test where a tool is missing, or fail it if the environment variable ``required`` is set, as in CI."""
    if there:
        return
    if os.environ.get(required):
        pytest.fail(f"{reason}, and {required} is set")
    pytest.skip(reason)
