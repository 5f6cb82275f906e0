"""Non-maximum suppression: the reference and a compiled twin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.extend import register_compiled
from swinpy.kernels.nms.reference import suppress

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["suppress"]


@register_compiled(suppress)
def _compiled() -> ModuleType:
    from swinpy.kernels.nms import cpu

    return cpu
