"""Launches window attention on CUDA cores (general_*.cu): any window, head size and storage type.

Arithmetic is float32 whatever the arrays hold. The gradients that windows share (bias, qkv bias, logit scale) are a
partial sum per block. A second kernel adds them up in order, so that repeats are equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.extend import FLOAT_NAMES, Budget, array_module, contiguous, cuda_dtype, launch, multiprocessors, program
from swinpy.geometry import Geometry, on_device, shift_regions, window_tokens
from swinpy.kernels.window_attention.sum_parts import sum_parts

if TYPE_CHECKING:
    from autograd.extend import Array, Program
    from swinpy.kernels.window_attention.reference import AttentionSpec

__all__ = ["BUDGETS", "can_run", "general_bwd", "general_fwd", "variants"]

# A block has two warps: with up to 255 registers per thread, four blocks fit on a multiprocessor. For the windows of
# published models, forward stays within 128 registers, so that eight blocks fit, and spills nothing. Windows of 24 in
# float32 spill where the compiler is older.
BUDGETS = {
    "window_attention_general_fwd": Budget(registers=255, spill_bytes=32, older_spill_bytes=48),
    "window_attention_general_bwd": Budget(registers=255, spill_bytes=96),
    "window_attention_general_bwd_queries": Budget(registers=255, spill_bytes=32),
    "window_attention_general_bwd_keys": Budget(registers=255, spill_bytes=32, older_spill_bytes=68),
}

MAX_HEAD_DIM = 128
MAX_WINDOW = 24
_FOLDER = Path(__file__).parent
_THREADS = 64
_SHARED = 64 * 1024  # bytes per block on sm_75, the least of all supported devices
_FORWARD = "general_fwd.cu"
_BACKWARD, _BACKWARD_TILED = "general_bwd.cu", "general_bwd_tiled.cu"
_BLOCKS = 4  # of backward per multiprocessor
_PARTS_BYTES = 64 * 2**20  # at most, of partial sums of the bias's gradient


def can_run(*args: Any) -> str | None:
    """None if these kernels take the arguments of window_attention_fwd or _bwd, else why not."""
    qkv, spec = args[-5], args[-1]
    head_dim = qkv.shape[3] // 3 // spec.heads
    if head_dim > MAX_HEAD_DIM:
        return f"head_dim is at most {MAX_HEAD_DIM}; got {head_dim}"
    if max(spec.geometry.window) > MAX_WINDOW:
        return f"a window has at most {MAX_WINDOW} tokens a side; got {spec.geometry.window}"
    return cuda_dtype(*args)


@dataclass(frozen=True)
class Tiling:
    """The division of a window into tiles (see general.cuh).

    Attributes:
        r: rows and columns of scores per thread; a tile has 8 r tokens.
        tiles: of a window.
        head_dim: channels of a head.
    """

    r: int
    tiles: int
    head_dim: int

    @property
    def tile(self) -> int:
        """Tokens of a tile."""
        return 8 * self.r

    @property
    def row(self) -> int:
        """Row stride of q, k and v in shared memory, in floats."""
        vectors = -(-self.head_dim // 4)
        return 4 * (vectors + 1 - vectors % 2)

    @property
    def score_row(self) -> int:
        """Row stride of the scores in shared memory, in floats."""
        return self.tile + 8 * (1 - self.r % 2)

    @property
    def forward_bytes(self) -> int:
        """Shared memory of the forward kernel, in bytes."""
        rows, scores = self.tile * self.row, self.tile * self.score_row
        before_v = max(scores, 2 * rows) if self.tiles == 1 else 2 * rows + scores
        return 4 * (before_v + rows + self.tile)

    @property
    def backward_bytes(self) -> int:
        """Shared memory of the backward kernels, in bytes."""
        return 4 * self.tile * (4 * self.row + self.score_row + 2)


def _tiling(tokens: int, head_dim: int, shared: str) -> Tiling:
    """The tiling with the fewest tiles that fit into shared memory, and of these with the smallest."""
    for tiles in range(-(-tokens // 64), tokens + 1):
        found = Tiling(-(-tokens // (8 * tiles)), tiles, head_dim)
        if getattr(found, shared) <= _SHARED:
            return found
    raise AssertionError("a tile of 8 tokens fits")


@lru_cache(maxsize=256)
def _tables(geometry: Geometry, device: int) -> tuple[Array, Array | None]:
    """The pixel of each token of each window and, with a shift, its region, on a device: (nW, N) each."""
    import cupy

    with cupy.cuda.Device(device):
        like = cupy.empty(0)
        regions = shift_regions(geometry).astype(np.int8) if any(geometry.shift) else None
        return on_device(window_tokens(geometry).astype(np.int32), like), on_device(regions, like)


def _program(file: str, dtype: str, tiling: Tiling, cosine: bool) -> Program:
    kind, head_dim = FLOAT_NAMES[dtype], tiling.head_dim
    return program(_FOLDER / file, T=kind, HEAD=head_dim, R=tiling.r, TILES=tiling.tiles, COSINE=int(cosine))


def variants() -> list[Program]:
    """The programs to compile: windows of published models, some in 16 bits, some with cosine; two other head sizes."""
    shapes = [("float32", 49, 32, False), ("float32", 49, 32, True), ("float32", 64, 32, False)]
    shapes += [("float32", 144, 32, True), ("float32", 576, 32, False)]
    shapes += [("float32", 49, MAX_HEAD_DIM, True), ("float32", 9, 33, False)]
    shapes += [("float16", 49, 32, False), ("bfloat16", 144, 32, True)]
    found = []
    for dtype, tokens, head_dim, cosine in shapes:
        forward = _tiling(tokens, head_dim, "forward_bytes")
        backward = _tiling(tokens, head_dim, "backward_bytes")
        found.append(_program(_FORWARD, dtype, forward, cosine))
        found.append(_program(_backward_file(backward), dtype, backward, cosine))
    return found


def _backward_file(tiling: Tiling) -> str:
    return _BACKWARD if tiling.tiles == 1 else _BACKWARD_TILED


def _ready(*arrays: Array | None) -> list[Array | None]:
    return [None if a is None else contiguous(a) for a in arrays]


def general_fwd(
    qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> Array:
    """As :func:`swinpy.kernels.window_attention.window_attention_fwd`."""
    batch, height, width, channels = qkv.shape[0], *spec.geometry.size, qkv.shape[3] // 3
    out = array_module(qkv).empty((batch, height, width, channels), qkv.dtype)
    if not out.size:
        return out
    geometry = spec.geometry
    tiling = _tiling(geometry.tokens, channels // spec.heads, "forward_bytes")
    windows = geometry.windows[0] * geometry.windows[1]
    sizes = (spec.heads, windows, geometry.tokens, height * width, spec.scale, spec.mask_value)
    launch(
        _program(_FORWARD, qkv.dtype.name, tiling, spec.cosine),
        "window_attention_general_fwd",
        batch * windows * spec.heads * tiling.tiles,
        _THREADS,
        (*_ready(qkv, bias, qkv_bias, logit_scale), *_tables(geometry, qkv.device.id), out, *sizes),
        tiling.forward_bytes,
    )
    return out


def _slots(qkv: Array, tiling: Tiling, spec: AttentionSpec, count: int) -> int:
    """The number of blocks among which the windows of a head and tile are divided: enough to fill the device."""
    most = _BLOCKS * multiprocessors(qkv) // (spec.heads * tiling.tiles)
    memory = _PARTS_BYTES // (4 * spec.heads * spec.geometry.tokens**2)
    turns = -(-count // max(1, min(most, memory, count, 65535)))
    return -(-count // turns)


def general_bwd(
    g: Array, qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """As :func:`swinpy.kernels.window_attention.window_attention_bwd`."""
    xp, geometry, heads = array_module(qkv), spec.geometry, spec.heads
    shared = [bias, qkv_bias, logit_scale]
    if not qkv.size:
        gqkv = xp.empty(qkv.shape, qkv.dtype)
        return (gqkv, *(None if a is None else xp.zeros(a.shape, a.dtype) for a in shared))
    tiling = _tiling(geometry.tokens, qkv.shape[3] // 3 // heads, "backward_bytes")
    windows = geometry.windows[0] * geometry.windows[1]
    count = qkv.shape[0] * windows
    slots = _slots(qkv, tiling, spec, count)

    def parts(like: Array | None, slots: int) -> Array | None:
        return None if like is None else xp.empty((slots, like.size), np.float32)

    gqkv = xp.empty(qkv.shape, qkv.dtype)
    bias_parts = parts(bias, slots)
    qkv_bias_parts, logit_parts = (parts(a, slots * tiling.tiles) for a in (qkv_bias, logit_scale))
    inputs = (*_ready(g, qkv, bias, qkv_bias, logit_scale), *_tables(geometry, qkv.device.id), gqkv)
    sizes = (count, heads, windows, geometry.tokens, geometry.size[0] * geometry.size[1], spec.scale, spec.mask_value)
    code = _program(_backward_file(tiling), qkv.dtype.name, tiling, spec.cosine)

    def run(kernel: str, *outputs: Array | None) -> None:
        grid = (heads * tiling.tiles, slots)
        launch(code, kernel, grid, _THREADS, (*inputs, *outputs, *sizes), tiling.backward_bytes)

    if tiling.tiles == 1:
        run("window_attention_general_bwd", bias_parts, qkv_bias_parts, logit_parts)
    else:
        softmax = xp.empty((count, heads, geometry.tokens, 3), np.float32)
        run("window_attention_general_bwd_queries", softmax, qkv_bias_parts, logit_parts)
        run("window_attention_general_bwd_keys", softmax, bias_parts, qkv_bias_parts)
    gbias, gqkv_bias, glogit_scale = sum_parts((bias_parts, qkv_bias_parts, logit_parts), shared)
    return gqkv, gbias, gqkv_bias, glogit_scale
