"""Swin-MLP: a linear layer over the tokens of each window and head instead of attention.

Source: the published code of Liu et al. 2021 (Swin-MLP, "swin_mlp").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import autograd as ag
from swinpy.geometry import Pair, ShiftRule, dropped_shift
from swinpy.models.parts import Block, Stream
from swinpy.nn import Module, Parameter
from swinpy.nn.init import trunc_normal
from swinpy.ops import window_partition, window_reverse

if TYPE_CHECKING:
    from swinpy.models.config import SwinConfig

__all__ = ["SpatialMlp", "SwinMlpBlock"]


class SpatialMlp(Module):
    """Each head's tokens of a window mixed by a matrix of their own: a convolution in groups of kernel 1.

    Args:
        heads: groups.
        tokens: N of a window.
    """

    def __init__(self, heads: int, tokens: int) -> None:
        self.weight = Parameter(trunc_normal((heads * tokens, tokens, 1)))
        self.bias = Parameter(np.zeros(heads * tokens, np.float32))
        self.heads, self.tokens = heads, tokens

    def forward(self, x: ag.Tensor) -> ag.Tensor:
        """(..., heads, N, d) to the same shape."""
        weight = self.weight.reshape(self.heads, self.tokens, self.tokens)
        return weight @ x + self.bias.reshape(self.heads, self.tokens, 1)


class SwinMlpBlock(Block):
    """Norm, (shifted) spatial MLP, residual; norm, MLP, residual.

    The shift is no roll: the map is padded with zeros by window - shift at the top and left and by shift at the bottom
    and right, so that no window joins what was apart and no mask is needed. A map that is no whole number of windows is
    padded further at the right and bottom.
    """

    spatial_mlp: SpatialMlp

    def __init__(self, channels: int, heads: int, window: Pair, shift: Pair, drop_path: float, config: SwinConfig):
        super().__init__(("spatial_mlp", SpatialMlp(heads, window[0] * window[1])), channels, drop_path, config)
        self.window, self.shift = window, shift
        self.shift_rule: ShiftRule = "never" if config.windows == "fixed" else config.shift_rule

    def padding(self, size: Pair) -> list[Pair]:
        """(before, after) along each axis of a map."""
        shift = dropped_shift(size, self.window, self.shift, self.shift_rule)
        before = [w - d if d else 0 for w, d in zip(self.window, shift, strict=True)]
        whole = [-(b + n + d) % w for b, n, d, w in zip(before, size, shift, self.window, strict=True)]
        return [(b, d + rest) for b, d, rest in zip(before, shift, whole, strict=True)]

    def forward(self, stream: Stream, checkpoint: bool = False) -> Stream:
        """See :meth:`Block.forward`."""
        keep, mlp_keep = self.draw_keeps(stream)

        def mixed(stream: Stream) -> Stream:
            return stream.add(self.mix(stream.norm(self.norm1)), keep)

        stream = stream.recomputed(mixed) if checkpoint else mixed(stream)
        return stream.add(self.run_mlp(stream.norm(self.norm2), checkpoint), mlp_keep)

    def mix(self, x: ag.Tensor) -> ag.Tensor:
        """The tokens of each window mixed, (B, H, W, C) to (B, H, W, C)."""
        batch, h, w, channels = x.shape
        rows, columns = self.padding((h, w))
        if any((*rows, *columns)):
            x = ag.pad(x, ((0, 0), rows, columns, (0, 0)))
        windows = window_partition(x, self.window)
        down, across = windows.shape[1:3]
        heads, tokens = self.spatial_mlp.heads, self.spatial_mlp.tokens
        split = windows.reshape(batch, down * across, tokens, heads, channels // heads).transpose(0, 1, 3, 2, 4)
        mixed = self.spatial_mlp(split).transpose(0, 1, 3, 2, 4)
        out = window_reverse(mixed.reshape(batch, down, across, *self.window, channels))
        return out[:, rows[0] : rows[0] + h, columns[0] : columns[0] + w]
