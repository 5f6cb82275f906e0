"""The parts that all Swins share: patch embedding, MLP, window attention, block, merging.

The residual stream travels as (x, branch, keep, bias): the sum x + keep * (branch + bias) is left to the norm that
comes next, so that residual, DropPath, the bias of the branch's last layer and norm are one op. Attribute names are
the parameter names of the official checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

import autograd as ag
from swinpy.geometry import Pair, ShiftRule, SmallMap, geometry
from swinpy.nn import Conv2d, LayerNorm, Linear, Module, Parameter
from swinpy.nn.init import trunc_normal
from swinpy.ops import AttentionSpec, window_attention, window_attention_composite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swinpy.models.config import SwinConfig

__all__ = [
    "Block",
    "Branch",
    "Mlp",
    "Normalize",
    "PatchEmbed",
    "PatchMerging",
    "PreNormBlock",
    "Stream",
    "WindowAttention",
    "absolute_position",
]


Normalize: TypeAlias = "tuple[Sequence[float], Sequence[float]]"  # mean and std of each channel


class Branch(NamedTuple):
    """What a block adds to the stream, product + bias, with the addition of the bias pending.

    Attributes:
        product: (B, H, W, C).
        bias: (C,), or None for nothing pending.
    """

    product: ag.Tensor
    bias: ag.Tensor | None

    def settled(self) -> ag.Tensor:
        """product + bias."""
        return self.product if self.bias is None else self.product + self.bias


class Stream(NamedTuple):
    """The residual stream x + keep * (branch + bias) with its last addition pending.

    Attributes:
        x: (B, H, W, C).
        branch: like x, or None for nothing pending.
        keep: (B,) DropPath scales of the branch, or None for 1.
        bias: (C,) that is still to be added to the branch, or None.
    """

    x: ag.Tensor
    branch: ag.Tensor | None = None
    keep: Any = None
    bias: ag.Tensor | None = None

    @classmethod
    def adding(cls, x: ag.Tensor, branch: ag.Tensor | Branch, keep: Any) -> Stream:
        """x + keep * branch, whether or not the branch has a bias pending."""
        product, bias = branch if isinstance(branch, Branch) else (branch, None)
        return cls(x, product, keep, bias)

    def normed(self, norm: LayerNorm, to_low: bool = False) -> tuple[ag.Tensor, ag.Tensor]:
        """(x + keep * (branch + bias), norm of it); ``to_low`` where linear layers read the norm."""
        if self.branch is None:
            return self.x, norm(self.x)
        return norm.after_residual(self.x, self.branch, self.keep, self.bias, to_low)

    def settled(self) -> ag.Tensor:
        """x + keep * (branch + bias)."""
        if self.branch is None:
            return self.x
        branch = Branch(self.branch, self.bias).settled()
        return self.x + (branch if self.keep is None else branch * self.keep.reshape(-1, 1, 1, 1))


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
        """(B, h, w, C) of uint8 images, which are normalised while they are cut into patches."""
        p, weight = self.patch_size, self.proj.weight
        if not self.pads:
            images = images[:, :, : images.shape[2] // p * p, : images.shape[3] // p * p]
        batch, _, height, width = images.shape
        rows = ag.patch_rows(images, p, mean, std, weight.dtype)
        out = ag.linear(rows, weight.reshape(weight.shape[0], -1), self.proj.bias)
        return out.reshape(batch, -(-height // p), -(-width // p), weight.shape[0])


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

    def forward(self, x: ag.Tensor, recompute: bool = False, pending: bool = False) -> ag.Tensor | Branch:
        """All of it; without dropout as one op, which keeps one hidden map for backward, or none with ``recompute``.

        With ``pending`` the bias of fc2 is left to be added, unless dropout comes after it.
        """
        if self.drops:
            return self.output(self.hidden(x))
        out = ag.mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, None if pending else self.fc2.bias, recompute)
        return Branch(out, self.fc2.bias) if pending else out

    @property
    def drops(self) -> bool:
        """Whether there is dropout between the layers."""
        return bool(self.drop and self.training)


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
        """Those of a version of the attention alone."""

    def has_full_bias(self, config: SwinConfig) -> bool:
        """Whether queries, keys and values have one bias vector, qkv.bias."""
        return config.qkv_bias

    def position_bias(self, window: Pair) -> ag.Tensor | None:
        """Position bias of a window (no larger than built), (heads, N, N)."""
        raise NotImplementedError

    def qkv_bias(self) -> ag.Tensor | None:
        """(3C,)."""
        return self.qkv.bias

    def temperature(self) -> ag.Tensor | None:
        """Logarithm of the scale of cosine attention, (heads, 1, 1)."""
        return None

    def forward(self, x: ag.Tensor, pending: bool = False) -> ag.Tensor | Branch:
        """What the block adds; with ``pending`` the bias of proj is left to be added, unless dropout comes after it."""
        size = (x.shape[1], x.shape[2])
        cut = geometry(size, self.window, self.shift, self.small_map, self.shift_rule, self.roll_first)
        spec = AttentionSpec(cut, self.heads, 1.0 if self.cosine else self.scale, self.mask_value, self.cosine)
        operands = (
            ag.linear(x, self.qkv.weight),
            self.position_bias(cut.window),
            self.qkv_bias(),
            self.temperature(),
        )
        if self.mode == "fused":
            out = window_attention(*operands, spec=spec)
        else:
            dropout = self.attn_drop if self.training else 0.0
            out = window_attention_composite(*operands, spec=spec, dropout=dropout)
        if pending and not (self.drop and self.training):
            return Branch(ag.linear(out, self.proj.weight), self.proj.bias)
        return ag.dropout(self.proj(out), self.drop, self.training)


class Block(Module):
    """Two branches, each added to the residual stream: a mixer of tokens and an MLP.

    Subclasses order norms and branches in :meth:`to_mlp` and :meth:`after_mlp`.

    Args:
        mixer: attention, or what stands in its place, as (attribute name, module).
        channels: C.
        drop_path: rate of stochastic depth.
        config: the rest.
    """

    norm3: LayerNorm | None = None

    def __init__(self, mixer: tuple[str, Module], channels: int, drop_path: float, config: SwinConfig) -> None:
        self.norm1 = LayerNorm(channels, config.layer_norm_eps)
        setattr(self, *mixer)
        self.norm2 = LayerNorm(channels, config.layer_norm_eps)
        self.mlp = Mlp(channels, int(channels * config.mlp_ratio), config.drop_rate)
        self.drop_path, self.drop_mlp_path = drop_path, config.drop_path_branches == "both"

    def to_mlp(self, stream: Stream, keep: Any) -> tuple[ag.Tensor, ag.Tensor]:
        """The stream after the mixer, whose branch is scaled by ``keep``, and the input of the MLP."""
        raise NotImplementedError

    def after_mlp(self, branch: Any) -> ag.Tensor | Branch:
        """The MLP's branch as it is added to the stream."""
        return branch  # type: ignore[no-any-return]

    def leaves_bias(self, x: ag.Tensor) -> bool:
        """Whether the bias of a branch's last layer is left to the norm that adds the branch."""
        return False

    def forward(self, stream: Stream, checkpoint: bool = False) -> Stream:
        """One block.

        With ``checkpoint`` its inputs and the input of the MLP (with dropout: its hidden layer) are kept for backward.
        The rest is computed again but for fc2, a third of the block's products, whose result backward has no use for.
        """
        keep = ag.drop_path_keep(stream.x, self.drop_path, self.training)
        mlp_keep = ag.drop_path_keep(stream.x, self.drop_path, self.training) if self.drop_mlp_path else None
        if checkpoint:
            x, branch = self._checkpointed(stream, keep)
        else:
            x, y = self.to_mlp(stream, keep)
            branch = self.mlp(y, pending=True) if self.leaves_bias(y) else self.mlp(y)
        out = Stream.adding(x, self.after_mlp(branch), mlp_keep)
        return out if self.norm3 is None else Stream(out.normed(self.norm3)[1])

    def _checkpointed(self, stream: Stream, keep: Any) -> tuple[ag.Tensor, ag.Tensor | Branch]:
        """The stream after the mixer and what the MLP makes of it, keeping little."""
        inputs = (stream.x,) if stream.branch is None else (stream.x, stream.branch)

        def run(x: ag.Tensor, branch: ag.Tensor | None = None) -> tuple[ag.Tensor, ag.Tensor]:
            x, y = self.to_mlp(Stream(x, branch, stream.keep, stream.bias), keep)
            return x, self.mlp.hidden(y) if self.mlp.drops else y

        x, kept = ag.checkpoint(run, *inputs)
        if self.mlp.drops:
            return x, self.mlp.output(kept)
        return x, self.mlp(kept, recompute=True, pending=self.leaves_bias(kept))


class PreNormBlock(Block):
    """Norm, mixer, residual; norm, MLP, residual."""

    def mix(self, x: ag.Tensor) -> ag.Tensor | Branch:
        """The branch of the normed tokens."""
        raise NotImplementedError

    def leaves_bias(self, x: ag.Tensor) -> bool:
        return x.device != "cpu"  # where products come without a bias; a compiled product adds it for nothing

    def to_mlp(self, stream: Stream, keep: Any) -> tuple[ag.Tensor, ag.Tensor]:
        x, y = stream.normed(self.norm1, to_low=True)
        return Stream.adding(x, self.mix(y), keep).normed(self.norm2, to_low=True)


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
