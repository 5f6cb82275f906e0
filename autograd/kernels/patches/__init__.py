"""Patch merging and patches as rows: the reference, compiled twins, CUDA kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.kernels.compiled import COMPILED_DTYPES, register_compiled
from autograd.kernels.patches import cuda as _cuda  # noqa: F401 (registers the launchers)
from autograd.kernels.patches.reference import patch_merge_bwd, patch_merge_fwd, patch_rows

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["patch_merge_bwd", "patch_merge_fwd", "patch_rows"]


def _takes_patch_rows(
    images: Any, patch: tuple[int, int], mean: Any = None, std: Any = None, dtype: Any = None
) -> str | None:
    wanted = np.dtype(images.dtype if dtype is None else dtype)
    if wanted not in COMPILED_DTYPES:
        return f"compiled kernels take float32 or float64 arrays; got {wanted} wanted of patch_rows"
    taken = wanted if mean is None else np.dtype(np.uint8)
    return None if images.dtype == taken else f"patch_rows takes {taken} images here; got {images.dtype}"


@register_compiled(patch_rows, accepts=_takes_patch_rows)
@register_compiled(patch_merge_fwd, patch_merge_bwd)
def _compiled() -> ModuleType:
    from autograd.kernels.patches import cpu

    return cpu
