"""Batch norm: the references and compiled twins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.kernels.batch_norm.reference import batch_norm_bwd, batch_norm_eval_fwd, batch_norm_fwd
from autograd.kernels.compiled import compiled_dtype, register_compiled

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["batch_norm_bwd", "batch_norm_eval_fwd", "batch_norm_fwd"]


def _takes(*args: Any) -> str | None:
    """Other layouts would have to be copied, which takes longer than the reference."""
    if any(isinstance(a, np.ndarray) and a.ndim > 1 and not a.flags.c_contiguous for a in args):
        return "compiled batch norm takes maps whose channels are last in memory; got another layout"
    return compiled_dtype(*args)


@register_compiled(batch_norm_fwd, batch_norm_bwd, batch_norm_eval_fwd, accepts=_takes)
def _compiled() -> ModuleType:
    from autograd.kernels.batch_norm import cpu

    return cpu
