"""Launches patches.cu.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module
from autograd.kernels.cuda import register_cuda
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.checks import cuda_dtype
from autograd.kernels.cuda.launch import capability, contiguous, launch
from autograd.kernels.cuda.source import TYPE_NAMES, program
from autograd.kernels.patches import reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.backend import Array
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "patch_merge_bwd", "patch_merge_fwd", "patch_rows", "variants"]

_FILE = Path(__file__).with_name("patches.cu")
BUDGETS = {
    "patch_merge_fwd": Budget(registers=40),
    "patch_merge_bwd": Budget(registers=40),
    "patch_rows": Budget(registers=48),
}
_THREADS, _WARPS = 256, 8
_WIDTH = {"float": 4, "f16": 8, "bf16": 8}


def variants() -> list[Program]:
    """The programs to compile: each type, with 16 bytes and with one value per thread; images in 8 bits and in
    floats."""
    kinds = [("u8", 1), (None, 1), (None, 16)]
    return [
        program(_FILE, S=source or kind, T=kind, N=width if bytes_ == 16 else 1)
        for kind, width in _WIDTH.items()
        for source, bytes_ in kinds
    ]


def _moving(x: Array, channels: int) -> Program:
    """The program that copies 16 bytes per thread if a pixel's channels allow it, else one value."""
    kind = TYPE_NAMES[x.dtype.name]
    return program(_FILE, S=kind, T=kind, N=1 if channels % _WIDTH[kind] else _WIDTH[kind])


def _takes_patch_merge_fwd(x: Array) -> str | None:
    return cuda_dtype(x) if x.ndim == 4 else f"expected a map (B, H, W, C); got shape {x.shape}"


@register_cuda(reference.patch_merge_fwd, _takes_patch_merge_fwd)
def patch_merge_fwd(x: Array) -> Array:
    """One gather, padding included; a warp for each cell."""
    x = contiguous(x)
    batch, height, width, channels = x.shape
    y = array_module(x).empty((batch, (height + 1) // 2, (width + 1) // 2, 4 * channels), x.dtype)
    if y.size:
        cells = y.size // (4 * channels)
        sizes = (cells, height, width, channels)
        launch(_moving(x, channels), "patch_merge_fwd", -(-cells // _WARPS), _THREADS, (x, y, *sizes))
    return y


def _takes_patch_merge_bwd(g: Array, height: int, width: int) -> str | None:
    half = (-(-height // 2), -(-width // 2))
    if g.ndim != 4 or g.shape[1:3] != half or g.shape[3] % 4:
        return f"expected a gradient (B, {half[0]}, {half[1]}, 4C) of a map {height}x{width}; got shape {g.shape}"
    return cuda_dtype(g)


@register_cuda(reference.patch_merge_bwd, _takes_patch_merge_bwd)
def patch_merge_bwd(g: Array, height: int, width: int) -> Array:
    """One scatter; a warp for each cell."""
    g = contiguous(g)
    channels = g.shape[3] // 4
    gx = array_module(g).empty((g.shape[0], height, width, channels), g.dtype)
    if gx.size:
        cells = g.size // (4 * channels)
        sizes = (cells, height, width, channels)
        launch(_moving(g, channels), "patch_merge_bwd", -(-cells // _WARPS), _THREADS, (g, gx, *sizes))
    return gx


@lru_cache(maxsize=16)
def _channel_values(values: tuple[float, ...], device: int) -> Array:
    import cupy

    with cupy.cuda.Device(device):
        return cupy.asarray(np.array(values, np.float32))


def _takes_patch_rows(
    images: Array, patch: tuple[int, int], mean: Any = None, std: Any = None, dtype: Any = None
) -> str | None:
    """None for 8-bit images, or floats that keep their dtype, and rows of a dtype that kernels exist for; else why
    not."""
    if images.ndim != 4 or min(patch) < 1:
        return f"expected images (B, C, H, W) and patches of 1x1 or more; got shape {images.shape} and {patch}"
    if [None if v is None else len(v) for v in (mean, std)] not in ([None] * 2, [images.shape[1]] * 2):
        return f"expected mean and std of the {images.shape[1]} channels, or neither; got {mean} and {std}"
    wanted = np.dtype(dtype or images.dtype).name
    if TYPE_NAMES.get(wanted) not in _WIDTH:
        return f"patch_rows makes rows of float32, float16 or bfloat16; got {wanted}"
    if wanted == "bfloat16" and capability(images) < 80:
        return f"bfloat16 needs compute capability 8.0; got {capability(images) / 10}"
    taken = "uint8" if mean is not None else wanted
    return None if images.dtype.name == taken else f"patch_rows takes {taken} images here; got {images.dtype.name}"


@register_cuda(reference.patch_rows, _takes_patch_rows)
def patch_rows(
    images: Array,
    patch: tuple[int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: Any = None,
) -> Array:
    """One gather, which also normalises; a warp for each patch."""
    images, (ph, pw) = contiguous(images), patch
    batch, channels, height, width = images.shape
    count, dtype = batch * -(-height // ph) * -(-width // pw), np.dtype(dtype or images.dtype)
    rows = array_module(images).empty((count, channels * ph * pw), dtype)
    if not rows.size:
        return rows
    device = images.device.id
    means = None if mean is None else _channel_values(tuple(mean), device)
    stds = None if std is None else _channel_values(tuple(std), device)
    code = program(_FILE, S=TYPE_NAMES[images.dtype.name], T=TYPE_NAMES[dtype.name], N=1)
    sizes = (count, channels, height, width, ph, pw)
    launch(code, "patch_rows", -(-count // _WARPS), _THREADS, (images, rows, means, stds, *sizes))
    return rows
