"""The linear layer: the reference, compiled twins, products of a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.compiled import register_compiled
from autograd.kernels.linear import cuda as _cuda  # noqa: F401 (registers the launchers)
from autograd.kernels.linear.reference import linear_bwd, linear_fwd

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["linear_bwd", "linear_fwd"]


@register_compiled(linear_fwd, linear_bwd)
def _compiled() -> ModuleType:
    from autograd.kernels.linear import cpu

    return cpu
