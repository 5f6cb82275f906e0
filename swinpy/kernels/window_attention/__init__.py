"""Window attention from map to map: the reference, compiled twins, CUDA kernels.

``mma`` launches the CUDA kernels on tensor cores (``small_*.cu``, ``large_*.cu``), ``general`` those without
(``general_*.cu``), and ``cuda`` chooses between them. ``cpu_parts`` has the steps of the compiled twins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.extend import register_compiled
from swinpy.kernels.window_attention import cuda as _cuda  # noqa: F401 (registers the launchers)
from swinpy.kernels.window_attention.reference import (
    MAX_LOGIT_SCALE,
    AttentionSpec,
    window_attention_bwd,
    window_attention_fwd,
)

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["MAX_LOGIT_SCALE", "AttentionSpec", "window_attention_bwd", "window_attention_fwd"]


@register_compiled(window_attention_fwd, window_attention_bwd)
def _compiled() -> ModuleType:
    from swinpy.kernels.window_attention import cpu

    return cpu
