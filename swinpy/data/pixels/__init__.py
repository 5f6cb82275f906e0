"""Crop, flip and normalise 8-bit images: `reference` defines it, `cpu` is its twin, compiled by Numba."""

from swinpy.data.pixels.reference import crop_flip_normalise, crop_padded, flip, normalise

__all__ = ["crop_flip_normalise", "crop_padded", "flip", "normalise"]
