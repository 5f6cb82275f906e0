"""Masks of boxes, sampled at the pixels of an image: the reference and a compiled twin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.extend import register_compiled
from swinpy.kernels.paste.reference import sample_windows

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["sample_windows"]


@register_compiled(sample_windows)
def _compiled() -> ModuleType:
    from swinpy.kernels.paste import cpu

    return cpu
