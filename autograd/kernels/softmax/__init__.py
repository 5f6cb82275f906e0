"""Softmax with and without a mask: the reference, compiled twins, CUDA kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.compiled import register_compiled
from autograd.kernels.softmax import cuda as _cuda  # noqa: F401 (registers the launchers)
from autograd.kernels.softmax.reference import softmax_bwd, softmax_fwd

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["softmax_bwd", "softmax_fwd"]


@register_compiled(softmax_fwd, softmax_bwd)
def _compiled() -> ModuleType:
    from autograd.kernels.softmax import cpu

    return cpu
