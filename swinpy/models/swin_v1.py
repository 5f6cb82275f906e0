"""Swin V1: norms before the branches, scaled dot products, a table of position biases.

Source: Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swinpy.geometry import Pair, position_index
from swinpy.models.parts import Block, Stream, WindowAttention
from swinpy.nn import Parameter
from swinpy.nn.init import trunc_normal
from swinpy.ops import position_bias

if TYPE_CHECKING:
    import autograd as ag
    from swinpy.models.config import SwinConfig

__all__ = ["SwinBlock", "TableAttention"]


class TableAttention(WindowAttention):
    """Window attention with a learned bias for each offset of two tokens."""

    relative_position_bias_table: Parameter | None
    defer_bias = True

    def make_parameters(self, channels: int, config: SwinConfig) -> None:
        """The bias table ((2 Wh - 1) (2 Ww - 1), heads), if positions are relative."""
        self.relative_position_bias_table = None
        if config.position in ("relative", "both"):
            rows = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
            self.relative_position_bias_table = Parameter(trunc_normal((rows, self.heads)))

    def position_bias(self, window: Pair) -> ag.Tensor | None:
        """See :meth:`WindowAttention.position_bias`."""
        if self.relative_position_bias_table is None:
            return None
        index = position_index(window, self.window)
        return position_bias(self.relative_position_bias_table, index, self.bias_dtype())


class SwinBlock(Block):
    """Norm, (shifted) window attention, residual; norm, MLP, residual.

    Source: Liu et al. 2021, equation 3.
    """

    attn: TableAttention

    def __init__(self, channels: int, heads: int, window: Pair, shift: Pair, drop_path: float, config: SwinConfig):
        super().__init__(("attn", TableAttention(channels, heads, window, shift, config)), channels, drop_path, config)

    def forward(self, stream: Stream, checkpoint: bool = False) -> Stream:
        """See :meth:`Block.forward`."""
        keep, mlp_keep = self.draw_keeps(stream)

        def attend(stream: Stream) -> Stream:
            return stream.add(self.attn(stream.norm(self.norm1)), keep)

        stream = stream.recomputed(attend) if checkpoint else attend(stream)
        return stream.add(self.run_mlp(stream.norm(self.norm2), checkpoint), mlp_keep)
