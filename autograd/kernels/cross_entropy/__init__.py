"""Cross-entropy: the reference, compiled twins, CUDA kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.compiled import register_compiled
from autograd.kernels.cross_entropy import cuda as _cuda  # noqa: F401 (registers the launchers)
from autograd.kernels.cross_entropy.reference import cross_entropy_bwd, cross_entropy_fwd

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["cross_entropy_bwd", "cross_entropy_fwd"]


@register_compiled(cross_entropy_fwd, cross_entropy_bwd)
def _compiled() -> ModuleType:
    from autograd.kernels.cross_entropy import cpu

    return cpu
