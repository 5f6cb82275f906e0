"""Layer norm and residual + layer norm: the reference, compiled twins, CUDA kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.compiled import register_compiled
from autograd.kernels.layer_norm import cuda as _cuda  # noqa: F401 (registers the launchers)
from autograd.kernels.layer_norm.reference import (
    layer_norm_bwd,
    layer_norm_fwd,
    residual_layer_norm_bwd,
    residual_layer_norm_fwd,
)

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["layer_norm_bwd", "layer_norm_fwd", "residual_layer_norm_bwd", "residual_layer_norm_fwd"]


@register_compiled(layer_norm_fwd, layer_norm_bwd, residual_layer_norm_fwd, residual_layer_norm_bwd)
def _compiled() -> ModuleType:
    from autograd.kernels.layer_norm import cpu

    return cpu
