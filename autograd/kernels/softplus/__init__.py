"""Softplus: the reference and compiled twins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.compiled import register_compiled
from autograd.kernels.softplus.reference import softplus_bwd, softplus_fwd

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["softplus_bwd", "softplus_fwd"]


@register_compiled(softplus_fwd, softplus_bwd)
def _compiled() -> ModuleType:
    from autograd.kernels.softplus import cpu

    return cpu
