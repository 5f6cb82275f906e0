"""Crop, flip and normalise 8-bit images: the reference and a compiled twin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.extend import register_compiled
from swinpy.data.pixels.reference import crop_flip_normalise, crop_padded, flip, normalise

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["crop_flip_normalise", "crop_padded", "flip", "normalise"]


@register_compiled(crop_flip_normalise)
def _compiled() -> ModuleType:
    from swinpy.data.pixels import cpu

    return cpu
