"""GELU and bias + GELU: the reference, compiled twins, CUDA kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.compiled import register_compiled
from autograd.kernels.gelu import cuda as _cuda  # noqa: F401 (registers the launchers)
from autograd.kernels.gelu.reference import bias_gelu_bwd, bias_gelu_fwd, gelu_bwd, gelu_fwd

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["bias_gelu_bwd", "bias_gelu_fwd", "gelu_bwd", "gelu_fwd"]


@register_compiled(gelu_fwd, gelu_bwd, bias_gelu_fwd, bias_gelu_bwd)
def _compiled() -> ModuleType:
    from autograd.kernels.gelu import cpu

    return cpu
