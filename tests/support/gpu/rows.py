"""Further arguments of kernels, beside KERNEL_ROWS: sizes and dtypes at which other CUDA programs run.

The rows of KERNEL_ROWS are tiny, so that attention runs there as the general kernel and a norm in a few lanes. These
reach the tensor cores (windows of 4 and 7, and of 9 and 12), the tiled backward, rows of a whole block, and 16-bit
branches beside a float32 stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..rows.opinfo import Source
from ..rows.swin import Case, make
from ..rows.table import KERNEL_ROWS

__all__ = ["ATTENTION_ROWS", "GPU_ROWS", "arguments_of"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
_SEAM = Case(size=(9, 10), window=(7, 7), shift=(3, 2), heads=2, head_dim=32, batch=1)
_CASES = {
    "7x7": _SEAM,
    "4x4, cosine": replace(_SEAM, window=(4, 4), size=(7, 6), shift=(1, 2), cosine=True),
    "9x9": replace(_SEAM, window=(9, 9), shift=(4, 5), heads=1),
    "12x12": replace(_SEAM, window=(12, 12), size=(13, 12), shift=(6, 0), heads=1),
}


def _attention(case: Case, backward: bool) -> Callable[[np.random.Generator, Any], Arguments]:
    def arguments(rng: np.random.Generator, dtype: Any) -> Arguments:
        sample = make(case, Source(0)).cast(dtype)
        g = rng.standard_normal((case.batch, *case.size, case.heads * case.head_dim)).astype(dtype)
        return (*((g,) if backward else ()), *sample.args, case.spec), {}

    return arguments


def _beside(columns: int, backward: bool) -> Callable[[np.random.Generator, Any], Arguments]:
    """Residual + layer norm with the branch, or the gradient of the norm, in ``dtype`` and all else in float32."""

    def arguments(rng: np.random.Generator, dtype: Any) -> Arguments:
        wide = np.float64 if dtype == np.float64 else np.float32
        x, other, weight, bias = (
            rng.standard_normal(s).astype(wide) for s in ((3, 2, columns),) * 2 + ((columns,),) * 2
        )
        low, keep = rng.standard_normal(x.shape).astype(dtype), np.array([1.25, 0, 1.25], wide)
        mean, rstd = x.reshape(6, columns).mean(axis=1), 1 / x.reshape(6, columns).std(axis=1)
        if backward:
            return (other, low, x, keep, weight, mean, rstd, True, np.dtype(dtype)), {}
        return (x, low, keep, weight, bias, 1e-5, bias, np.dtype(dtype)), {}

    return arguments


Make = Callable[[np.random.Generator, Any], Arguments]
ATTENTION_ROWS: dict[str, Make] = {
    f"window_attention_{way} at {name}": _attention(case, way == "bwd")
    for name, case in _CASES.items()
    for way in ("fwd", "bwd")
}
GPU_ROWS: dict[str, Make] = ATTENTION_ROWS | {
    f"residual_layer_norm_{way} at {columns}": _beside(columns, way == "bwd")
    for columns in (100, 1100)
    for way in ("fwd", "bwd")
}


def arguments_of(name: str, rng: np.random.Generator, dtype: Any) -> tuple[str, Arguments]:
    """The kernel of a row of KERNEL_ROWS or GPU_ROWS, and arguments to call it with."""
    make_them = GPU_ROWS[name] if name in GPU_ROWS else KERNEL_ROWS[name].arguments
    return name.partition(" at ")[0], make_them(rng, dtype)
