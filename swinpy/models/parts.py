"""The parts that all Swins share: residual stream, patch embedding, MLP, window attention, block, merging.

Attribute names are the parameter names of the official checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

import autograd as ag
from autograd.extend import autocast_dtype
from swinpy.geometry import Pair, ShiftRule, SmallMap, geometry
from swinpy.nn import Conv2d, LayerNorm, Linear, Module, Parameter
from swinpy.nn.init import trunc_normal
from swinpy.ops import AttentionSpec, window_attention, window_attention_composite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from swinpy.models.config import SwinConfig

__all__ = [
    "Block",
    "Mlp",
    "Normalize",
    "PatchEmbed",
    "PatchMerging",
    "Stream",
    "WindowAttention",
    "absolute_position",
]


Normalize: TypeAlias = "tuple[Sequence[float], Sequence[float]]"  # mean and std of each channel


class _Sum(NamedTuple):
    """The fields of :class:`Stream`, which adds an attribute that a NamedTuple cannot have."""

    x: ag.Tensor
    branch: ag.Tensor | None = None
    keep: Any = None


class Stream(_Sum):
    """The residual stream, the sum x + keep * branch, before the addition.

    The norm that reads the sum makes it on the way: residual, DropPath, the bias of the branch's last layer
    (:mod:`autograd.deferred`) and norm are one op. The first to read the sum makes it. Adding to a stream gives a new
    one, which takes the sum over.

    Attributes:
        x: (B, H, W, C).
        branch: like x, or None for x alone.
        keep: (B,) DropPath scales of the branch, or None for 1.
    """

    _total: ag.Tensor | None = None

    def add(self, branch: ag.Tensor, keep: Any = None) -> Stream:
        """The stream plus ``keep * branch``: (B, H, W, C), and (B,) or None for 1."""
        total, self._total = self.value(), None  # from here on the new stream holds it
        return Stream(total, branch, keep)

    def norm(self, layer: LayerNorm, wide: bool = False) -> ag.Tensor:
        """``layer`` of the sum, (B, H, W, C).

        Under autocast the one op rounds it to autocast's dtype, as the linear layer that reads it would. ``wide``
        leaves it in float32, for what is no linear layer.
        """
        if self.branch is None or self._total is not None:
            return layer(self.value())
        y_dtype = None if wide else autocast_dtype()
        self._total, y = layer.after_residual(self.x, self.branch, self.keep, y_dtype)
        return y

    def value(self) -> ag.Tensor:
        """The sum, (B, H, W, C)."""
        if self.branch is None:
            return self.x
        if self._total is None:
            keep = self.keep
            self._total = self.x + (self.branch if keep is None else self.branch * keep.reshape(-1, 1, 1, 1))
        return self._total

    def copy(self) -> Stream:
        """A stream of the same values, to read out of turn: reading it computes nothing in this one."""
        return Stream(*self)

    def recomputed(self, part: Callable[[Stream], Stream]) -> Stream:
        """``part(self)``, computed once more in backward instead of kept, together with the norm that reads its sum."""
        return _Recomputed(self, part)


class _Recomputed(Stream):
    """``part(stream)``, not yet computed: the first to read it computes it, in a checkpoint that keeps x and branch."""

    def __new__(cls, stream: Stream, part: Callable[[Stream], Stream]) -> _Recomputed:
        return super().__new__(cls, *stream)

    def __init__(self, stream: Stream, part: Callable[[Stream], Stream]) -> None:
        self.part = part

    def _checkpoint(self, read: Callable[[Stream], Any]) -> Any:
        """``read(part(stream))``."""

        def run(x: ag.Tensor, branch: ag.Tensor | None = None) -> Any:
            return read(self.part(Stream(x, branch, self.keep)))

        return ag.checkpoint(run, self.x) if self.branch is None else ag.checkpoint(run, self.x, self.branch)

    def copy(self) -> Stream:
        return _Recomputed(Stream(*self), self.part)

    def norm(self, layer: LayerNorm, wide: bool = False) -> ag.Tensor:
        if self._total is not None:
            return layer(self._total)

        def read(stream: Stream) -> tuple[ag.Tensor, ag.Tensor]:
            y = stream.norm(layer, wide)
            return stream.value(), y

        sum_and_norm: tuple[ag.Tensor, ag.Tensor] = self._checkpoint(read)
        self._total, y = sum_and_norm
        return y

    def value(self) -> ag.Tensor:
        if self._total is None:
            total: ag.Tensor = self._checkpoint(Stream.value)
            self._total = total
        return self._total


class PatchEmbed(Module):
    """Non-overlapping patches to C channels: (B, 3, H, W) to (B, ceil(H/p), ceil(W/p), C).

    An image that is no whole number of patches is padded with zeros at the right and bottom; with ``patch_rule="crop"``
    what is left over there is not seen.
    """

    def __init__(self, config: SwinConfig) -> None:
        self.patch_size, self.pads = config.patch_size, config.patch_rule == "pad"
        patch = (config.patch_size, config.patch_size)
        self.proj = Conv2d(config.in_chans, config.embed_dim, patch, patch)
        self.norm = LayerNorm(config.embed_dim, config.layer_norm_eps) if config.patch_norm else None

    def forward(self, x: ag.Tensor, normalize: Normalize | None = None) -> ag.Tensor:
        """With ``normalize`` (mean and std of each channel, of pixels scaled to [0, 1]) images are uint8."""
        if normalize is not None:
            x = self._embed_bytes(x, *normalize)
        else:
            down, right = (-n % self.patch_size for n in x.shape[2:])
            if self.pads and (down or right):
                x = ag.pad(x, ((0, 0), (0, 0), (0, down), (0, right)))
            x = self.proj(x).transpose(0, 2, 3, 1)
        return x if self.norm is None else self.norm(x)

    def _embed_bytes(self, images: ag.Tensor, mean: Sequence[float], std: Sequence[float]) -> ag.Tensor:
        """(B, h, w, C) of uint8 images, which are normalised while they are split into patches."""
        p, weight = self.patch_size, self.proj.weight
        if not self.pads:
            images = images[:, :, : images.shape[2] // p * p, : images.shape[3] // p * p]
        batch, _, height, width = images.shape
        rows = ag.patch_rows(images, p, mean, std, weight.dtype)
        out = ag.linear(rows, weight.reshape(weight.shape[0], -1), self.proj.bias)
        return out.reshape(batch, -(-height // p), -(-width // p), weight.shape[0])


class Mlp(Module):
    """fc2(gelu(fc1(x))); the bias of fc1 is added by the GELU op.

    Args:
        channels: C of the input and the output.
        hidden: channels between the layers.
        drop: rate of dropout after each layer.
        defer_bias: the output goes to a residual stream as it is, so that its norm may add the bias of fc2.
    """

    def __init__(self, channels: int, hidden: int, drop: float, defer_bias: bool = False) -> None:
        self.fc1 = Linear(channels, hidden)
        self.fc2 = Linear(hidden, channels)
        self.drop, self.defer_bias = drop, defer_bias

    def _with_dropout(self, x: ag.Tensor) -> ag.Tensor:
        """dropout(fc2(dropout(gelu(fc1(x)))))."""
        assert self.fc1.bias is not None
        hidden = ag.bias_gelu(ag.linear(x, self.fc1.weight), self.fc1.bias)
        return ag.dropout(self.fc2(ag.dropout(hidden, self.drop)), self.drop)

    def forward(self, x: ag.Tensor, recompute: bool = False) -> ag.Tensor:
        """(..., C) to (..., C).

        Without dropout it is one op, which keeps x and one hidden map for backward. With ``recompute`` x alone is kept.
        """
        if self.drop and self.training:
            return ag.checkpoint(self._with_dropout, x) if recompute else self._with_dropout(x)
        fc1, fc2 = self.fc1, self.fc2
        return ag.mlp(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, recompute, self.defer_bias)


class WindowAttention(Module):
    """W-MSA / SW-MSA on a map (B, H, W, C) of any size; what V1 and V2 share.

    Args:
        channels: C.
        heads: divides C.
        window: as built, (Wh, Ww).
        shift: nominal shift (0, 0) for W-MSA; dropped along an axis that has one window.
        config: the rest.
    """

    cosine = False
    logit_scale: Parameter | None = None  # of cosine attention: the logarithm of its scale, (heads, 1, 1)
    defer_bias = False  # whether the output goes to a residual stream as it is, so that its norm may add proj's bias

    def __init__(self, channels: int, heads: int, window: Pair, shift: Pair, config: SwinConfig) -> None:
        self.heads, self.window, self.shift = heads, window, shift
        fixed = config.windows == "fixed"
        self.small_map: SmallMap = "pad" if fixed else config.small_map
        self.shift_rule: ShiftRule = "never" if fixed else config.shift_rule
        self.roll_first = config.pad_order == "roll_pad"
        self.scale = config.qk_scale if config.qk_scale is not None else (channels // heads) ** -0.5
        self.mask_value, self.mode = config.mask_value, config.attention
        self.attn_drop, self.drop = config.attn_drop_rate, config.drop_rate
        self.make_parameters(channels, config)
        self.qkv = Linear(channels, 3 * channels, bias=self.has_full_bias(config))
        self.proj = Linear(channels, channels)

    def make_parameters(self, channels: int, config: SwinConfig) -> None:
        """The parameters that only one version of the attention has."""

    def has_full_bias(self, config: SwinConfig) -> bool:
        """Whether queries, keys and values have one bias vector, qkv.bias."""
        return config.qkv_bias

    def position_bias(self, window: Pair) -> ag.Tensor | None:
        """Position bias of a window (no larger than built), (heads, N, N)."""
        raise NotImplementedError

    def bias_dtype(self) -> Any:
        """What fused attention reads position biases in: autocast's dtype, or None for the table's own."""
        return autocast_dtype() if self.mode == "fused" else None

    def qkv_bias(self) -> ag.Tensor | None:
        """(3C,)."""
        return self.qkv.bias

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        size = (x.shape[1], x.shape[2])
        cut = geometry(size, self.window, self.shift, self.small_map, self.shift_rule, self.roll_first)
        spec = AttentionSpec(cut, self.heads, 1.0 if self.cosine else self.scale, self.mask_value, self.cosine)
        operands = (
            ag.linear(x, self.qkv.weight),
            self.position_bias(cut.window),
            self.qkv_bias(),
            self.logit_scale,
        )
        if self.mode == "fused":
            out = window_attention(*operands, spec=spec)
        else:
            dropout = self.attn_drop if self.training else 0.0
            out = window_attention_composite(*operands, spec=spec, dropout=dropout)
        drops = bool(self.drop and self.training)
        return ag.dropout(self.proj(out, self.defer_bias and not drops), self.drop, drops)


class Block(Module):
    """Two branches, each added to the residual stream: a mixer of tokens and an MLP.

    Subclasses put norms and branches in order in ``forward``.

    Args:
        mixer: attention, or what stands in its place, as (attribute name, module).
        channels: C.
        drop_path: rate of stochastic depth.
        config: the rest.
        norm_last: norms come after the branches, as in V2, and not before them.
    """

    def __init__(
        self, mixer: tuple[str, Module], channels: int, drop_path: float, config: SwinConfig, norm_last: bool = False
    ) -> None:
        self.norm1 = LayerNorm(channels, config.layer_norm_eps)
        setattr(self, *mixer)
        self.norm2 = LayerNorm(channels, config.layer_norm_eps)
        hidden = int(channels * config.mlp_ratio)
        self.mlp = Mlp(channels, hidden, config.drop_rate, defer_bias=not norm_last)
        self.drop_path, self.drop_mlp_path = drop_path, config.drop_path_branches == "both"

    def draw_keeps(self, stream: Stream) -> tuple[Any, Any]:
        """DropPath scales of the mixer's and of the MLP's branch, each (B,), or None for 1."""
        keep = ag.drop_path_keep(stream.x, self.drop_path, self.training)
        mlp_keep = ag.drop_path_keep(stream.x, self.drop_path, self.training) if self.drop_mlp_path else None
        return keep, mlp_keep

    def run_mlp(self, x: ag.Tensor, checkpoint: bool) -> ag.Tensor:
        """``self.mlp(x)``; with ``checkpoint`` it keeps x alone for backward."""
        out: ag.Tensor = self.mlp(x, recompute=True) if checkpoint else self.mlp(x)
        return out

    def forward(self, stream: Stream, checkpoint: bool = False) -> Stream:
        """One block.

        With ``checkpoint`` it keeps for backward its inputs and the input of the MLP. The rest is computed again but
        for fc2, a third of the block's products, whose result backward has no use for. (With dropout fc2 is, too.)
        """
        raise NotImplementedError


class PatchMerging(Module):
    """2x2 neighbours side by side, 4C to 2C: (B, H, W, C) to (B, ceil(H/2), ceil(W/2), 2C).

    Neighbours come in the order (0,0), (1,0), (0,1), (1,1) of (row, column). Odd maps are padded with zeros at the
    right and bottom. V1 norms the 4C channels before the projection, V2 the 2C after it.
    """

    def __init__(self, channels: int, eps: float, norm_last: bool = False) -> None:
        self.reduction = Linear(4 * channels, 2 * channels, bias=False)
        self.norm = LayerNorm((2 if norm_last else 4) * channels, eps)
        self.norm_last = norm_last

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """(B, H, W, C) to (B, ceil(H/2), ceil(W/2), 2C)."""
        first, last = (self.reduction, self.norm) if self.norm_last else (self.norm, self.reduction)
        merged: ag.Tensor = last(first(self.gather(x)))
        return merged

    @staticmethod
    def gather(x: ag.Tensor) -> ag.Tensor:
        """(B, H, W, C) to (B, ceil(H/2), ceil(W/2), 4C)."""
        return ag.patch_merge(x)


def absolute_position(config: SwinConfig) -> Parameter:
    """Absolute position embedding (1, H * W, C) at the built-in size, trunc-normal .02."""
    h, w = config.map_size(0)
    return Parameter(trunc_normal((1, h * w, config.embed_dim)).astype(np.float32))
