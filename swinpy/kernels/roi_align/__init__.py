"""RoIAlign: the reference and compiled twins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.extend import compiled_dtype, register_compiled
from swinpy.kernels.roi_align.reference import roi_align_bwd, roi_align_fwd
from swinpy.kernels.roi_align.samples import LARGEST

if TYPE_CHECKING:
    from types import ModuleType

    from autograd.extend import Array

__all__ = ["LARGEST", "roi_align_bwd", "roi_align_fwd"]


def _accepts(maps: list[Array] | Array, *_: Any, **__: Any) -> str | None:
    """The boxes may be of another dtype."""
    return compiled_dtype(*(maps if isinstance(maps, list) else [maps]))


@register_compiled(roi_align_fwd, roi_align_bwd, accepts=_accepts)
def _compiled() -> ModuleType:
    from swinpy.kernels.roi_align import cpu

    return cpu
