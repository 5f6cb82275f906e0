"""Launches the tensor-core kernels of window attention: heads of 32 channels, 16-bit floats, windows up to 24 x 24."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.extend import Budget, array_module, capability, contiguous, launch, multiprocessors, program
from swinpy.geometry import Geometry, shift_regions, window_tokens
from swinpy.kernels.window_attention.sum_parts import sum_parts

if TYPE_CHECKING:
    from autograd.extend import Array, Program
    from swinpy.kernels.window_attention.reference import AttentionSpec

__all__ = ["BUDGETS", "can_run", "mma_bwd", "mma_fwd", "variants"]

HEAD_DIM = 32
SMALL = 64  # tokens that a warp holds in registers
_LARGEST = 24 * 24
_CAPABILITY = 80
_FORWARD_CHUNKS, _BACKWARD_CHUNKS = (64, 48, 32), (48, 32)  # tokens of a large window that registers hold at a time
_PARTS_BYTES = 2**27  # at most, of partial sums of the bias's gradient
_BLOCKS = 3  # of a backward kernel per multiprocessor
FOLDER = Path(__file__).parent
_TYPES = {"float16": "f16", "bfloat16": "bf16"}

# With 168 registers, three blocks of a backward kernel fit on a multiprocessor, with more of them two. Windows of 7x8
# on sm_80 to 89 spill most, and with an older compiler on sm_90.
BUDGETS = {
    "pack_bias": Budget(registers=36),
    "logit_scale_bwd": Budget(registers=48),
    "window_attention_small_fwd": Budget(registers=168),
    "window_attention_small_bwd": Budget(registers=168, spill_bytes=104, older_spill_bytes=124),
    "window_attention_large_fwd": Budget(registers=128, spill_bytes=24),
    "window_attention_large_bwd_queries": Budget(registers=216, spill_bytes=48),
    "window_attention_large_bwd_keys": Budget(registers=255, spill_bytes=96),
}


def variants() -> list[Program]:
    """The programs to compile: windows 7, 7x8 and 8; large ones by chunk, and one of an odd number of tokens."""
    made = [_program("sums", kind) for kind in _TYPES]
    for kind in _TYPES:
        for cosine in (0, 1):
            for name in ("small_fwd", "small_bwd"):
                made += [_program(name, kind, TOKENS=n, COSINE=cosine) for n in (49, 56, 64)]
            for name, chunks in (("large_fwd", _FORWARD_CHUNKS), ("large_bwd", _BACKWARD_CHUNKS)):
                options = [(chunk, 1) for chunk in chunks] + [(32, 0)]
                made += [_program(name, kind, CHUNK=chunk, EVEN=even, COSINE=cosine) for chunk, even in options]
    return made


def _program(name: str, dtype: str, **defines: str | int) -> Program:
    return program(FOLDER / f"{name}.cu", T=_TYPES[dtype], **defines)


def can_run(qkv: Array, spec: AttentionSpec) -> str | None:
    """None if the tensor-core kernels take these arguments, else why not."""
    head_dim = qkv.shape[3] // 3 // spec.heads
    if head_dim != HEAD_DIM:
        return f"tensor-core kernels take {HEAD_DIM} channels a head; got {head_dim}"
    if qkv.dtype.name not in _TYPES:
        return f"tensor-core kernels take float16 and bfloat16; got {qkv.dtype.name}"
    if spec.geometry.tokens > _LARGEST:
        return f"tensor-core kernels take windows of up to {_LARGEST} tokens; got {spec.geometry.tokens}"
    if capability(qkv) < _CAPABILITY:
        return f"tensor-core kernels need compute capability 8.0; got {capability(qkv) / 10}"
    return None


# ---- what depends on the geometry alone


@lru_cache(maxsize=256)
def _table(geometry: Geometry, xp: Any, device: int) -> Array:
    """The pixel of each token of each window on the current device, int32 (nW, N), -1 for padding."""
    return xp.asarray(window_tokens(geometry).astype(np.int32))


@lru_cache(maxsize=256)
def _regions(geometry: Geometry, xp: Any, device: int) -> Array | None:
    """The region of each token of each window on the current device, uint8 (nW, N); None without a shift."""
    return xp.asarray(shift_regions(geometry).astype(np.uint8)) if any(geometry.shift) else None


@lru_cache(maxsize=256)
def seams(geometry: Geometry) -> tuple[int, int]:
    """The tokens of a last window that the shift brought from the map's other edge, as bits of a number of 64.

    Returns:
        For windows in the last row, those behind the seam between rows; for the last column, between columns.
    """
    places = [divmod(i, geometry.window[1]) for i in range(geometry.tokens)]
    behind = [[place[axis] >= geometry.window[axis] - geometry.shift[axis] for place in places] for axis in (0, 1)]
    rows, columns = (sum(1 << i for i, bit in enumerate(bits) if bit) for bits in behind)
    return rows, columns


@dataclass(frozen=True)
class _Operands:
    """The operands of one attention, contiguous, and the kernel arguments that follow from them."""

    qkv: Array
    bias: Array | None
    qkv_bias: Array | None
    logit_scale: Array | None
    spec: AttentionSpec

    @property
    def xp(self) -> Any:
        return array_module(self.qkv)

    @property
    def tokens(self) -> int:
        return self.spec.geometry.tokens

    @property
    def windows(self) -> int:
        return int(self.qkv.shape[0]) * self.spec.geometry.windows[0] * self.spec.geometry.windows[1]

    def table(self) -> Array:
        with self.qkv.device:
            return _table(self.spec.geometry, self.xp, self.qkv.device.id)

    def regions(self) -> Array | None:
        with self.qkv.device:
            return _regions(self.spec.geometry, self.xp, self.qkv.device.id)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Pixels, channels, heads."""
        size = self.spec.geometry.size
        return size[0] * size[1], self.qkv.shape[3] // 3, self.spec.heads

    @property
    def scores(self) -> tuple[float, float]:
        """The scale and the mask value of scores."""
        return self.spec.scale, self.spec.mask_value

    def empty(self, *shape: int, dtype: Any = np.float32) -> Array:
        return self.xp.empty(shape, dtype)

    def program(self, name: str, **defines: str | int) -> Program:
        return _program(name, self.qkv.dtype.name, **defines)

    def packed_bias(self) -> Array | None:
        """The bias as the kernels for small windows read it."""
        if self.bias is None:
            return None
        n, heads = self.tokens, self.spec.heads
        size = heads * -(-n // 16) * 32 * -(-n // 8) * 4
        packed = self.empty(size)
        launch(self.program("sums"), "pack_bias", -(-size // 256), 256, (self.bias, packed, heads, n))
        return packed


def _operands(
    qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> _Operands:
    ready = [None if a is None else contiguous(a) for a in (bias, qkv_bias, logit_scale)]
    return _Operands(contiguous(qkv), ready[0], ready[1], ready[2], spec)


def mma_fwd(
    qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> Array:
    """As the reference ``window_attention_fwd``."""
    operands = _operands(qkv, bias, qkv_bias, logit_scale, spec)
    out = operands.empty(*qkv.shape[:3], qkv.shape[3] // 3, dtype=qkv.dtype)
    if out.size:
        (_small_fwd if operands.tokens <= SMALL else _large_fwd)(operands, out)
    return out


def _small_fwd(operands: _Operands, out: Array) -> None:
    code = operands.program("small_fwd", TOKENS=operands.tokens, COSINE=int(operands.spec.cosine))
    pairs = operands.windows * operands.spec.heads
    inputs = (operands.qkv, operands.qkv_bias, operands.packed_bias(), operands.logit_scale)
    place = (operands.table(), *operands.sizes, operands.windows, *operands.spec.geometry.windows)
    args = (*inputs, out, *place, *operands.scores, *seams(operands.spec.geometry))
    launch(code, "window_attention_small_fwd", -(-pairs // 4), 128, args)


def chunk_size(tokens: int, sizes: tuple[int, ...]) -> int:
    """The chunk size that pads a window least; the largest of several."""
    return min(sizes, key=lambda size: (-(-tokens // size) * size, -size))


def _large_program(operands: _Operands, name: str, sizes: tuple[int, ...]) -> tuple[Program, int]:
    """The program of a large window and its shared memory in bytes: two rows, three floats and a byte per token."""
    chunk = chunk_size(operands.tokens, sizes)
    code = operands.program(name, CHUNK=chunk, EVEN=1 - operands.tokens % 2, COSINE=int(operands.spec.cosine))
    return code, -(-operands.tokens // chunk) * chunk * (2 * 80 + 3 * 4 + 1)


def _large_fwd(operands: _Operands, out: Array) -> None:
    code, shared = _large_program(operands, "large_fwd", _FORWARD_CHUNKS)
    inputs = (operands.qkv, operands.qkv_bias, operands.bias, operands.logit_scale)
    place = (operands.table(), operands.regions(), *operands.sizes, *operands.spec.geometry.windows, operands.tokens)
    grid = operands.windows * operands.spec.heads
    launch(code, "window_attention_large_fwd", grid, 128, (*inputs, out, *place, *operands.scores), shared)


# ---- backward


@dataclass(frozen=True)
class _Parts:
    """Partial sums of the gradients of bias, qkv_bias and tau: float32, (splits, ...).

    Attributes:
        splits: the number of blocks among which the windows of a head are divided.
        bias: (splits, heads, N, N), or None if there is no bias.
        qkv_bias: (splits, 3C), or None likewise.
        tau: (splits, heads), or None without cosine.
    """

    splits: int
    bias: Array | None
    qkv_bias: Array | None
    tau: Array | None


def _parts(operands: _Operands) -> _Parts:
    """Partial sums for as many blocks as the device runs at once. Each takes one head and every ``splits``-th
    window."""
    heads = operands.spec.heads
    memory = _PARTS_BYTES // (4 * heads * operands.tokens**2)
    splits = max(1, min(operands.windows, -(-_BLOCKS * multiprocessors(operands.qkv) // heads), memory))
    return _Parts(
        splits,
        None if operands.bias is None else operands.empty(splits, heads, operands.tokens, operands.tokens),
        None if operands.qkv_bias is None else operands.empty(splits, operands.qkv.shape[3]),
        operands.empty(splits, heads) if operands.spec.cosine else None,
    )


def _logit_scale_total(operands: _Operands, parts: Array | None) -> Array | None:
    if parts is None or operands.logit_scale is None:
        return None
    heads = operands.spec.heads
    grad = operands.empty(*operands.logit_scale.shape, dtype=operands.logit_scale.dtype)
    args = (parts, operands.logit_scale, grad, parts.shape[0], heads)
    launch(operands.program("sums"), "logit_scale_bwd", -(-heads // 128), 128, args)
    return grad


def mma_bwd(
    g: Array, qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """As the reference ``window_attention_bwd``."""
    operands = _operands(qkv, bias, qkv_bias, logit_scale, spec)
    gqkv = operands.empty(*qkv.shape, dtype=qkv.dtype)
    if not g.size:
        none = [None if a is None else operands.xp.zeros(a.shape, a.dtype) for a in (bias, qkv_bias, logit_scale)]
        return gqkv, none[0], none[1], none[2]
    parts = _parts(operands)
    (_small_bwd if operands.tokens <= SMALL else _large_bwd)(operands, contiguous(g), gqkv, parts)
    gbias, gqkv_bias = sum_parts((parts.bias, parts.qkv_bias), (operands.bias, operands.qkv_bias))
    return gqkv, gbias, gqkv_bias, _logit_scale_total(operands, parts.tau)


def small_bwd_shared(tokens: int) -> int:
    """Shared memory in bytes: rows of q, k, v, dO; P and dS; sums of 128 threads; lengths of q and k."""
    rows = -(-tokens // 16) * 16
    return 4 * rows * 80 + 2 * rows * 144 + (-(-tokens // 8) + 6) * 128 * 16 + 2 * rows * 8


def _small_bwd(operands: _Operands, g: Array, gqkv: Array, parts: _Parts) -> None:
    code = operands.program("small_bwd", TOKENS=operands.tokens, COSINE=int(operands.spec.cosine))
    inputs = (g, operands.qkv, operands.qkv_bias, operands.packed_bias(), operands.logit_scale)
    outputs = (gqkv, parts.bias, parts.qkv_bias, parts.tau)
    place = (operands.table(), *operands.sizes, operands.windows, *operands.spec.geometry.windows)
    args = (*inputs, *outputs, *place, *operands.scores, *seams(operands.spec.geometry))
    grid = (parts.splits, operands.spec.heads)
    launch(code, "window_attention_small_bwd", grid, 128, args, small_bwd_shared(operands.tokens))


def _large_bwd(operands: _Operands, g: Array, gqkv: Array, parts: _Parts) -> None:
    code, shared = _large_program(operands, "large_bwd", _BACKWARD_CHUNKS)
    statistics = operands.empty(operands.windows, operands.spec.heads, operands.tokens, 2)
    inputs = (g, operands.qkv, operands.qkv_bias, operands.bias, operands.logit_scale)
    place = (
        operands.table(),
        operands.regions(),
        *operands.sizes,
        operands.windows,
        *operands.spec.geometry.windows,
        operands.tokens,
        *operands.scores,
    )
    grid = (parts.splits, operands.spec.heads)

    def run(kernel: str, *outputs: Array | None) -> None:
        launch(code, f"window_attention_large_bwd_{kernel}", grid, 128, (*inputs, *outputs, *place), shared)

    run("queries", gqkv, statistics, parts.bias, parts.qkv_bias, parts.tau)
    run("keys", statistics, gqkv, parts.qkv_bias)
