"""The MLP of a transformer block: the reference, compiled twins, products and kernels of a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.kernels.compiled import register_compiled
from autograd.kernels.mlp import cuda as _cuda  # noqa: F401 (registers the launchers)
from autograd.kernels.mlp.reference import mlp_bwd, mlp_fwd

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["mlp_bwd", "mlp_fwd"]


@register_compiled(mlp_fwd, mlp_bwd)
def _compiled() -> ModuleType:
    from autograd.kernels.mlp import cpu

    return cpu
