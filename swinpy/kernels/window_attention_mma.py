"""Launching the tensor-core kernels of window attention: 32 channels a head, 16-bit floats, windows up to 24 x 24."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.extend import array_module, capability, contiguous, is_array, launch, multiprocessors, program
from swinpy.geometry import Geometry, window_tokens

if TYPE_CHECKING:
    from autograd.extend import Array, Program
    from swinpy.kernels.window_attention import AttentionSpec

__all__ = ["can_run", "mma_bwd", "mma_fwd"]

HEAD_DIM = 32
SMALL = 64  # tokens that a warp holds in registers
_LARGEST = 24 * 24
_CAPABILITY = 80
_BLOCKS = 3  # of a backward kernel that a multiprocessor runs at once
_FOLDER = Path(__file__).parent / "cuda"
_TYPES = {"float16": "f16", "bfloat16": "bf16"}


def _program(name: str, dtype: Any, **defines: str | int) -> Program:
    return program(_FOLDER / f"window_attention_{name}.cu", T=_TYPES[dtype.name], **defines)


def can_run(qkv: Array, spec: AttentionSpec) -> str | None:
    """None if the tensor-core kernels take these arguments, else why not."""
    head_dim = qkv.shape[3] // 3 // spec.heads
    if head_dim != HEAD_DIM:
        return f"tensor-core kernels take {HEAD_DIM} channels a head; got {head_dim}"
    if qkv.dtype.name not in _TYPES:
        return f"tensor-core kernels take float16 and bfloat16; got {qkv.dtype.name}"
    if spec.cut.tokens > _LARGEST:
        return f"tensor-core kernels take windows of up to {_LARGEST} tokens; got {spec.cut.tokens}"
    if capability(qkv) < _CAPABILITY:
        return f"tensor-core kernels need compute capability 8.0; got {capability(qkv) / 10}"
    return None


# ---- what depends on the geometry alone


@lru_cache(maxsize=256)
def _table(cut: Geometry, xp: Any, device: int) -> Array:
    """The pixel of each token of each window on the current device, int32 (nW, N), -1 for padding."""
    return xp.asarray(window_tokens(cut).astype(np.int32))


@lru_cache(maxsize=256)
def seams(cut: Geometry) -> tuple[int, int]:
    """Sets of up to 64 tokens, as bits: those of a last window that the shift brought from the other edge, by axis.

    Returns:
        Behind the seam between rows (in the last row of windows), behind that between columns.
    """
    places = [divmod(i, cut.window[1]) for i in range(cut.tokens)]
    behind = [[place[axis] >= cut.window[axis] - cut.shift[axis] for place in places] for axis in (0, 1)]
    rows, columns = (sum(1 << i for i, bit in enumerate(bits) if bit) for bits in behind)
    return rows, columns


@dataclass(frozen=True)
class _Call:
    """Arguments that all kernels of a call share, made ready."""

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
        return self.spec.cut.tokens

    @property
    def windows(self) -> int:
        return int(self.qkv.shape[0]) * self.spec.cut.windows[0] * self.spec.cut.windows[1]

    @property
    def place(self) -> tuple[Any, ...]:
        """table, pixels, channels, heads, windows, down, across."""
        cut = self.spec.cut
        with self.qkv.device:
            table = _table(cut, self.xp, self.qkv.device.id)
        channels = self.qkv.shape[3] // 3
        return table, cut.size[0] * cut.size[1], channels, self.spec.heads, self.windows, *cut.windows

    @property
    def scores(self) -> tuple[float, float]:
        """scale, mask_value."""
        return self.spec.scale, self.spec.mask_value

    def empty(self, *shape: int, dtype: Any = np.float32) -> Array:
        return self.xp.empty(shape, dtype)

    def program(self, name: str, **defines: str | int) -> Program:
        return _program(name, self.qkv.dtype, **defines)

    def packed_bias(self) -> Array | None:
        """The bias as the kernels for small windows read it."""
        if self.bias is None:
            return None
        n, heads = self.tokens, self.spec.heads
        size = heads * -(-n // 16) * 32 * -(-n // 8) * 4
        packed = self.empty(size)
        launch(self.program("sums"), "pack_bias", -(-size // 256), 256, (self.bias, packed, heads, n))
        return packed


def _ready(*arrays: Array | None) -> list[Any]:
    return [contiguous(a) if is_array(a) else None for a in arrays]


def mma_fwd(
    qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> Array:
    """As the reference ``window_attention_fwd``."""
    call = _Call(*_ready(qkv, bias, qkv_bias, logit_scale), spec)
    out = call.empty(*qkv.shape[:3], qkv.shape[3] // 3, dtype=qkv.dtype)
    if out.size:
        _small_fwd(call, out)
    return out


def _small_fwd(call: _Call, out: Array) -> None:
    code = call.program("small_fwd", TOKENS=call.tokens, COSINE=int(call.spec.cosine))
    pairs = call.windows * call.spec.heads
    inputs = (call.qkv, call.qkv_bias, call.packed_bias(), call.logit_scale)
    args = (*inputs, out, *call.place, *call.scores, *seams(call.spec.cut))
    launch(code, "window_attention_small_fwd", -(-pairs // 4), 128, args)


# ---- backward


@dataclass(frozen=True)
class _Parts:
    """Sums of each block, float32, one row a split: of the gradients of bias, qkv_bias and tau."""

    splits: int
    bias: Array | None
    qkv_bias: Array | None
    tau: Array | None


def _parts(call: _Call) -> _Parts:
    """As many blocks as the device runs at once; each takes one head and every ``splits``-th window."""
    heads = call.spec.heads
    splits = min(call.windows, -(-_BLOCKS * multiprocessors(call.qkv) // heads))
    return _Parts(
        splits,
        None if call.bias is None else call.empty(splits, heads, call.tokens, call.tokens),
        None if call.qkv_bias is None else call.empty(splits, call.qkv.shape[3]),
        call.empty(splits, heads) if call.spec.cosine else None,
    )


def _total(call: _Call, parts: Array | None, like: Array | None) -> Array | None:
    """The sum of the blocks' sums, in order."""
    if parts is None or like is None:
        return None
    total = call.empty(*like.shape, dtype=like.dtype)
    args = (parts, total, parts.shape[0], like.size)
    launch(call.program("sums"), "sum_parts", -(-int(like.size) // 128), 128, args)
    return total


def _logit_scale_total(call: _Call, parts: Array | None) -> Array | None:
    if parts is None or call.logit_scale is None:
        return None
    heads = call.spec.heads
    grad = call.empty(*call.logit_scale.shape, dtype=call.logit_scale.dtype)
    args = (parts, call.logit_scale, grad, parts.shape[0], heads)
    launch(call.program("sums"), "logit_scale_bwd", -(-heads // 128), 128, args)
    return grad


def mma_bwd(
    g: Array, qkv: Array, bias: Array | None, qkv_bias: Array | None, logit_scale: Array | None, spec: AttentionSpec
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """As the reference ``window_attention_bwd``."""
    g, *inputs = _ready(g, qkv, bias, qkv_bias, logit_scale)
    call = _Call(*inputs, spec)
    if not g.size:
        zeros = [None if a is None else call.xp.zeros(a.shape, a.dtype) for a in inputs]
        return zeros[0], zeros[1], zeros[2], zeros[3]
    gqkv = call.empty(*qkv.shape, dtype=qkv.dtype)
    parts = _parts(call)
    _small_bwd(call, g, gqkv, parts)
    return (
        gqkv,
        _total(call, parts.bias, call.bias),
        _total(call, parts.qkv_bias, call.qkv_bias),
        _logit_scale_total(call, parts.tau),
    )


def small_bwd_shared(tokens: int) -> int:
    """Bytes of shared memory: rows of q, k, v, dO; P and dS; sums of 128 threads; lengths of q and k."""
    rows = -(-tokens // 16) * 16
    return 4 * rows * 80 + 2 * rows * 144 + (-(-tokens // 8) + 6) * 128 * 16 + 2 * rows * 8


def _small_bwd(call: _Call, g: Array, gqkv: Array, parts: _Parts) -> None:
    code = call.program("small_bwd", TOKENS=call.tokens, COSINE=int(call.spec.cosine))
    inputs = (g, call.qkv, call.qkv_bias, call.packed_bias(), call.logit_scale)
    outputs = (gqkv, parts.bias, parts.qkv_bias, parts.tau)
    args = (*inputs, *outputs, *call.place, *call.scores, *seams(call.spec.cut))
    grid = (parts.splits, call.spec.heads)
    launch(code, "window_attention_small_bwd", grid, 128, args, small_bwd_shared(call.tokens))
