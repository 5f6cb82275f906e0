"""AdamW and the norm of gradients: the reference, compiled twins, CUDA kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autograd.dtypes import is_float
from autograd.kernels.adamw import cuda as _cuda  # noqa: F401 (registers the launchers)
from autograd.kernels.adamw.reference import adamw, grad_norm, multi_adamw
from autograd.kernels.compiled import compiled_dtype, register_compiled
from autograd.kernels.validate import arrays_in

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["adamw", "grad_norm", "multi_adamw"]


def _takes(*args: Any, **_: Any) -> str | None:
    """As :func:`compiled_dtype`, and no other arrays: the twins find arrays by their addresses."""
    other = next((a.dtype for a in arrays_in(args) if not is_float(a.dtype)), None)
    return compiled_dtype(*args) if other is None else f"compiled kernels take float32 or float64 arrays; got {other}"


@register_compiled(adamw, grad_norm, multi_adamw, accepts=_takes)
def _compiled() -> ModuleType:
    from autograd.kernels.adamw import cpu

    return cpu
