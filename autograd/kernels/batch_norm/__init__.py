"""Batch norm: the references and compiled twins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.batch_norm.reference import batch_norm_bwd, batch_norm_eval_fwd, batch_norm_fwd
from autograd.kernels.compiled import register_compiled

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["batch_norm_bwd", "batch_norm_eval_fwd", "batch_norm_fwd"]


@register_compiled(batch_norm_fwd, batch_norm_bwd, batch_norm_eval_fwd)
def _compiled() -> ModuleType:
    from autograd.kernels.batch_norm import cpu

    return cpu
