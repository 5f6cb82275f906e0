"""The parts of a Swin: patch embedding, MLP, window attention, block, merging, stage.

The residual stream travels as (x, branch, keep): the sum x + keep * branch is left to the norm that comes next, so
that residual, DropPath and norm are one op. Attribute names are the parameter names of the official checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import autograd as ag
from swinpy.geometry import Pair, SmallMap, geometry, relative_position_index
from swinpy.nn import Conv2d, LayerNorm, Linear, Module, ModuleList, Parameter
from swinpy.nn.init import trunc_normal
from swinpy.ops import AttentionSpec, window_attention, window_attention_composite

if TYPE_CHECKING:
    from swinpy.models.config import SwinConfig

__all__ = ["Mlp", "PatchEmbed", "PatchMerging", "Stage", "Stream", "SwinBlock", "WindowAttention"]


class Stream(NamedTuple):
    """The residual stream x + keep * branch with its last addition pending.

    Attributes:
        x: (B, H, W, C).
        branch: like x, or None for nothing pending.
        keep: (B,) DropPath scales of the branch, or None for 1.
    """

    x: ag.Tensor
    branch: ag.Tensor | None = None
    keep: Any = None

    def normed(self, norm: LayerNorm) -> tuple[ag.Tensor, ag.Tensor]:
        """(x + keep * branch, norm of it)."""
        if self.branch is None:
            return self.x, norm(self.x)
        return norm.after_residual(self.x, self.branch, self.keep)

    def settled(self) -> ag.Tensor:
        """x + keep * branch."""
        if self.branch is None:
            return self.x
        branch = self.branch if self.keep is None else self.branch * self.keep.reshape(-1, 1, 1, 1)
        return self.x + branch


class PatchEmbed(Module):
    """Non-overlapping patches to C channels: (B, 3, H, W) to (B, ceil(H/p), ceil(W/p), C).

    An image that is no whole number of patches is padded with zeros at the right and bottom.
    """

    def __init__(self, config: SwinConfig) -> None:
        self.patch_size = config.patch_size
        patch = (config.patch_size, config.patch_size)
        self.proj = Conv2d(config.in_chans, config.embed_dim, patch, patch)
        self.norm = LayerNorm(config.embed_dim, config.layer_norm_eps) if config.patch_norm else None

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        down, right = (-n % self.patch_size for n in x.shape[2:])
        if down or right:
            x = ag.pad(x, ((0, 0), (0, 0), (0, down), (0, right)))
        x = self.proj(x).transpose(0, 2, 3, 1)
        return x if self.norm is None else self.norm(x)


class Mlp(Module):
    """fc2(gelu(fc1(x))); the bias of fc1 is added by the GELU op."""

    def __init__(self, channels: int, hidden: int, drop: float) -> None:
        self.fc1 = Linear(channels, hidden)
        self.fc2 = Linear(hidden, channels)
        self.drop = drop

    def hidden(self, x: ag.Tensor) -> ag.Tensor:
        """gelu(fc1(x)), dropped out."""
        assert self.fc1.bias is not None
        hidden = ag.bias_gelu(ag.linear(x, self.fc1.weight), self.fc1.bias)
        return ag.dropout(hidden, self.drop, self.training)

    def output(self, hidden: ag.Tensor) -> ag.Tensor:
        """fc2(hidden), dropped out."""
        return ag.dropout(self.fc2(hidden), self.drop, self.training)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        return self.output(self.hidden(x))


class WindowAttention(Module):
    """W-MSA / SW-MSA on a map (B, H, W, C) of any size.

    Args:
        channels: C.
        heads: divides C.
        window: of the bias table, (Wh, Ww).
        shift: nominal shift (0 for W-MSA); dropped along an axis that has one window.
        config: the rest.
    """

    def __init__(self, channels: int, heads: int, window: Pair, shift: int, config: SwinConfig) -> None:
        self.heads, self.window, self.shift = heads, window, shift
        self.small_map: SmallMap = config.small_map
        self.scale = config.qk_scale if config.qk_scale is not None else (channels // heads) ** -0.5
        self.mask_value, self.mode = config.mask_value, config.attention
        self.attn_drop, self.drop = config.attn_drop_rate, config.drop_rate
        self.relative_position_bias_table: Parameter | None = None
        if config.position in ("relative", "both"):
            rows = (2 * window[0] - 1) * (2 * window[1] - 1)
            self.relative_position_bias_table = Parameter(trunc_normal((rows, heads)))
        self.qkv = Linear(channels, 3 * channels, bias=config.qkv_bias)
        self.proj = Linear(channels, channels)

    def position_bias(self, window: Pair) -> ag.Tensor | None:
        """Relative position bias of a window, (heads, N, N)."""
        if self.relative_position_bias_table is None:
            return None
        index = relative_position_index(window, self.window)
        return ag.table_gather(self.relative_position_bias_table, index).transpose(2, 0, 1)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        size = (x.shape[1], x.shape[2])
        cut = geometry(size, self.window, (self.shift, self.shift), self.small_map)
        spec = AttentionSpec(cut, self.heads, self.scale, self.mask_value)
        qkv = ag.linear(x, self.qkv.weight)
        bias = self.position_bias(cut.window)
        if self.mode == "fused":
            out = window_attention(qkv, bias, self.qkv.bias, spec=spec)
        else:
            dropout = self.attn_drop if self.training else 0.0
            out = window_attention_composite(qkv, bias, self.qkv.bias, spec=spec, dropout=dropout)
        return ag.dropout(self.proj(out), self.drop, self.training)


class SwinBlock(Module):
    """Norm, (shifted) window attention, residual; norm, MLP, residual (pre-norm, V1)."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, drop_path: float, config: SwinConfig):
        self.norm1 = LayerNorm(channels, config.layer_norm_eps)
        self.attn = WindowAttention(channels, heads, (window, window), shift, config)
        self.norm2 = LayerNorm(channels, config.layer_norm_eps)
        self.mlp = Mlp(channels, int(channels * config.mlp_ratio), config.drop_rate)
        self.drop_path = drop_path

    def _to_mlp(self, keeps: tuple[Any, Any], x: ag.Tensor, *branch: ag.Tensor) -> tuple[ag.Tensor, ag.Tensor]:
        """The block up to its MLP: (x after attention, the MLP's input)."""
        pending, own = keeps
        x, y = Stream(x, *branch, *([pending] if branch else [])).normed(self.norm1)
        return Stream(x, self.attn(y), own).normed(self.norm2)

    def forward(self, stream: Stream, checkpoint: bool = False) -> Stream:
        """One block.

        With ``checkpoint`` only its inputs and the hidden layer are kept for backward. Without the hidden layer it
        would keep a third of that, but compute the block's largest product, fc2, a second time for a result that
        backward has no use for.
        """
        attn_keep = ag.drop_path_keep(stream.x, self.drop_path, self.training)
        mlp_keep = ag.drop_path_keep(stream.x, self.drop_path, self.training)
        keeps = (stream.keep, attn_keep)
        inputs = (stream.x,) if stream.branch is None else (stream.x, stream.branch)

        def to_hidden(*tensors: ag.Tensor) -> tuple[ag.Tensor, ag.Tensor]:
            x, y = self._to_mlp(keeps, *tensors)
            return x, self.mlp.hidden(y)

        if checkpoint:
            x, hidden = ag.checkpoint(to_hidden, *inputs)
            return Stream(x, self.mlp.output(hidden), mlp_keep)
        x, y = self._to_mlp(keeps, *inputs)
        return Stream(x, self.mlp(y), mlp_keep)


class PatchMerging(Module):
    """2x2 neighbours side by side, norm, 4C to 2C: (B, H, W, C) to (B, ceil(H/2), ceil(W/2), 2C).

    Neighbours come in the order (0,0), (1,0), (0,1), (1,1) of (row, column). Odd maps are padded with zeros at the
    right and bottom.
    """

    def __init__(self, channels: int, eps: float) -> None:
        self.reduction = Linear(4 * channels, 2 * channels, bias=False)
        self.norm = LayerNorm(4 * channels, eps)

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        merged: ag.Tensor = self.reduction(self.norm(self.gather(x)))
        return merged

    @staticmethod
    def gather(x: ag.Tensor) -> ag.Tensor:
        """(B, H, W, C) to (B, ceil(H/2), ceil(W/2), 4C)."""
        batch, h, w, channels = x.shape
        if h % 2 or w % 2:
            x = ag.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        h, w = (h + 1) // 2, (w + 1) // 2
        cells = x.reshape(batch, h, 2, w, 2, channels).transpose(0, 1, 3, 4, 2, 5)
        return cells.reshape(batch, h, w, 4 * channels)


class Stage(Module):
    """Blocks at one resolution, windows shifted in every second one; then merging, but for the last stage."""

    def __init__(self, stage: int, config: SwinConfig, drop_path: list[float]) -> None:
        channels, window = config.embed_dim * 2**stage, config.window(stage)
        self.blocks = ModuleList(
            [
                SwinBlock(channels, config.num_heads[stage], window, window // 2 * (i % 2) * config.shift, rate, config)
                for i, rate in enumerate(drop_path)
            ]
        )
        last = stage == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(channels, config.layer_norm_eps)

    def forward(self, x: ag.Tensor, checkpoint: str = "none") -> Stream:
        """The stream after the last block, before merging."""
        if checkpoint != "stage":
            return self._run(x, checkpoint == "block")
        return Stream(ag.checkpoint(lambda t: self._run(t, False).settled(), x))

    def _run(self, x: ag.Tensor, checkpoint: bool) -> Stream:
        stream = Stream(x)
        for block in self.blocks:
            stream = block(stream, checkpoint)
        return stream


def absolute_position(config: SwinConfig) -> Parameter:
    """Absolute position embedding (1, H * W, C) at the built-in size, trunc-normal .02."""
    h, w = config.map_size(0)
    return Parameter(trunc_normal((1, h * w, config.embed_dim)).astype(np.float32))
