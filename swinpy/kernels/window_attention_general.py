"""Launching window attention on CUDA cores (window_attention_general_*.cu): any window, head size and storage type.

Arithmetic is float32 whatever the arrays hold. The gradients of what windows share (bias, qkv bias, logit scale) are one
partial sum a block, added up in order by a second kernel, so that repeats are equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.extend import array_module, contiguous, cuda_dtype, launch, program
from swinpy.geometry import Geometry, on_device, shift_regions, window_tokens

if TYPE_CHECKING:
    from autograd.extend import Array, Program
    from swinpy.kernels.window_attention import AttentionSpec

__all__ = ["can_run", "general_fwd"]

MAX_HEAD_DIM = 128
MAX_WINDOW = 24
_FOLDER = Path(__file__).parent / "cuda"
_THREADS = 64
_SHARED = 64 * 1024  # of a block on sm_75, the least of the devices that count
_TYPES = {"float32": "float", "float16": "f16", "bfloat16": "bf16"}


def can_run(*args: Any) -> str | None:
    """None if these kernels take the arguments of window_attention_fwd or _bwd, else why not."""
    qkv, spec = args[-5], args[-1]
    head_dim = qkv.shape[3] // 3 // spec.heads
    if head_dim > MAX_HEAD_DIM:
        return f"head_dim is at most {MAX_HEAD_DIM}; got {head_dim}"
    if max(spec.cut.window) > MAX_WINDOW:
        return f"a window has at most {MAX_WINDOW} tokens a side; got {spec.cut.window}"
    return cuda_dtype(*args)


@dataclass(frozen=True)
class Tiling:
    """How a window is cut (see window_attention_general.cuh).

    Attributes:
        r: rows and columns of scores a thread; a tile has 8 r tokens.
        tiles: of a window.
        head_dim: channels of a head.
    """

    r: int
    tiles: int
    head_dim: int

    @property
    def tile(self) -> int:
        return 8 * self.r

    @property
    def row(self) -> int:
        """Floats from row to row of q, k and v in shared memory."""
        vectors = -(-self.head_dim // 4)
        return 4 * (vectors + 1 - vectors % 2)

    @property
    def score_row(self) -> int:
        return self.tile + 8 * (1 - self.r % 2)

    @property
    def forward_bytes(self) -> int:
        """Shared memory of the forward kernel."""
        rows, scores = self.tile * self.row, self.tile * self.score_row
        before_v = max(scores, 2 * rows) if self.tiles == 1 else 2 * rows + scores
        return 4 * (before_v + rows + self.tile)


def _tiling(tokens: int, head_dim: int, shared: str) -> Tiling:
    """The fewest tiles that fit into shared memory, as small as they can be."""
    for tiles in range(-(-tokens // 64), tokens + 1):
        found = Tiling(-(-tokens // (8 * tiles)), tiles, head_dim)
        if getattr(found, shared) <= _SHARED:
            return found
    raise AssertionError("a tile of 8 tokens fits")


@lru_cache(maxsize=256)
def _tables(cut: Geometry, device: int) -> tuple[Array, Array | None]:
    """Pixel and, with a shift, region of each token of each window, on a device."""
    import cupy

    with cupy.cuda.Device(device):
        like = cupy.empty(0)
        regions = shift_regions(cut).astype(np.int8) if any(cut.shift) else None
        return on_device(window_tokens(cut).astype(np.int32), like), on_device(regions, like)


def _forward_program(dtype: str, tiling: Tiling, cosine: bool) -> Program:
    return program(
        _FOLDER / "window_attention_general_fwd.cu",
        T=_TYPES[dtype],
        HEAD=tiling.head_dim,
        R=tiling.r,
        TILES=tiling.tiles,
        COSINE=int(cosine),
        MIN_BLOCKS=1,
    )


def _ready(*arrays: Array | None) -> list[Array | None]:
    return [None if a is None else contiguous(a) for a in arrays]


def general_fwd(
    qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> Array:
    """As :func:`swinpy.kernels.window_attention.window_attention_fwd`."""
    batch, height, width, channels = qkv.shape[0], *spec.cut.size, qkv.shape[3] // 3
    out = array_module(qkv).empty((batch, height, width, channels), qkv.dtype)
    if not out.size:
        return out
    cut = spec.cut
    tiling = _tiling(cut.tokens, channels // spec.heads, "forward_bytes")
    windows = cut.windows[0] * cut.windows[1]
    sizes = (spec.heads, windows, cut.tokens, height * width, spec.scale, spec.mask_value)
    launch(
        _forward_program(qkv.dtype.name, tiling, spec.cosine),
        "window_attention_general_fwd",
        batch * windows * spec.heads * tiling.tiles,
        _THREADS,
        (*_ready(qkv, bias, qkv_bias, logit_scale), *_tables(cut, qkv.device.id), out, *sizes),
        tiling.forward_bytes,
    )
    return out
