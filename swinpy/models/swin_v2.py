"""Swin V2: norms after the branches, cosine attention, position biases from an MLP of log-spaced coordinates.

Source: Liu et al. 2022, "Swin Transformer V2: Scaling Up Capacity and Resolution", section 3.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

import autograd as ag
from autograd.extend import device_scope
from swinpy.geometry import Pair, coordinates_like, position_index
from swinpy.models.parts import Block, Stream, WindowAttention
from swinpy.nn import LayerNorm, Linear, Module, Parameter
from swinpy.ops import position_bias

if TYPE_CHECKING:
    from swinpy.models.config import SwinConfig

__all__ = ["POSITION_HIDDEN", "CosineAttention", "PositionMlp", "SwinBlockV2"]

POSITION_HIDDEN = 512  # of the MLP of positions


class PositionMlp(Module):
    """Coordinates (n, 2) to position biases in (0, 16), (n, heads): 16 sigmoid(linear(relu(linear))).

    The layers are called 0 and 2, as in the published checkpoints; 1 is the ReLU.
    """

    def __init__(self, heads: int) -> None:
        setattr(self, "0", Linear(2, POSITION_HIDDEN))
        setattr(self, "2", Linear(POSITION_HIDDEN, heads, bias=False))

    def forward(self, coordinates: ag.Tensor) -> ag.Tensor:
        """(n, 2) to (n, heads)."""
        layers = dict(self.children())
        return 16 * ag.sigmoid(layers["2"](ag.relu(layers["0"](coordinates))))


class CosineAttention(WindowAttention):
    """Window attention by the cosine of queries and keys, and a bias that is a function of two tokens' offset.

    Queries and values have a bias, keys have none (``key_bias``): a token that padding added has k = 0, whose cosine
    with everything is 0.

    Source: Liu et al. 2022, equations 2 and 3.
    """

    cosine = True
    logit_scale: Parameter

    def make_parameters(self, channels: int, config: SwinConfig) -> None:
        """Logit scales (heads, 1, 1), the MLP of positions, and biases of queries and values (C,)."""
        self.logit_scale = Parameter(np.full((self.heads, 1, 1), math.log(10), np.float32))
        self.cpb_mlp = PositionMlp(self.heads) if config.position in ("relative", "both") else None
        self.key_bias, self.formula = config.key_bias, config.coordinates
        self.pretrained = self.window
        self.q_bias: Parameter | None = None
        self.v_bias: Parameter | None = None
        if config.qkv_bias and config.key_bias == "none":
            self.q_bias, self.v_bias = (Parameter(np.zeros(channels, np.float32)) for _ in range(2))

    def has_full_bias(self, config: SwinConfig) -> bool:
        """Whether there is one bias vector qkv.bias: with the layouts whose keys have a part of it."""
        return config.qkv_bias and config.key_bias != "none"

    def position_bias(self, window: Pair) -> ag.Tensor | None:
        """See :meth:`WindowAttention.position_bias`."""
        if self.cpb_mlp is None:
            return None
        coordinates = coordinates_like(self.window, self.pretrained, self.formula, self.logit_scale.data)
        table = self.cpb_mlp(ag.Tensor(coordinates))
        return position_bias(table, position_index(window, self.window), self.bias_dtype())

    def qkv_bias(self) -> ag.Tensor | None:
        """(3C,); the keys' third is zeros unless ``key_bias`` is "full"."""
        query: ag.Tensor | None = self.q_bias
        value: ag.Tensor | None = self.v_bias
        if self.qkv.bias is not None:
            if self.key_bias == "full":
                return self.qkv.bias
            query, _, value = ag.split(self.qkv.bias, 3)
        if query is None or value is None:
            return None
        with device_scope(query.data):
            key = ag.Tensor(query.data * 0)
        return ag.concatenate([query, key, value])


class SwinBlockV2(Block):
    """(Shifted) window attention, norm, residual; MLP, norm, residual.

    Args:
        pretrained: window that scales the coordinates of positions.
        extra_norm: also norm the stream at the end (V2-H and V2-G, every sixth block).

    Source: Liu et al. 2022, figure 1 and section 3.2.
    """

    attn: CosineAttention

    def __init__(
        self,
        channels: int,
        heads: int,
        window: Pair,
        shift: Pair,
        drop_path: float,
        config: SwinConfig,
        *,
        pretrained: Pair | None = None,
        extra_norm: bool = False,
    ) -> None:
        attention = CosineAttention(channels, heads, window, shift, config)
        attention.pretrained = pretrained or window
        super().__init__(("attn", attention), channels, drop_path, config, norm_last=True)
        for norm in (self.norm1, self.norm2):
            norm.weight = Parameter(np.full(channels, config.res_post_norm_init, np.float32))
        self.norm3 = LayerNorm(channels, config.layer_norm_eps) if extra_norm else None

    def forward(self, stream: Stream, checkpoint: bool = False) -> Stream:
        """See :meth:`Block.forward`."""
        keep, mlp_keep = self.draw_keeps(stream)

        def attend(stream: Stream) -> Stream:
            return stream.add(self.norm1(self.attn(stream.value())), keep)

        stream = stream.recomputed(attend) if checkpoint else attend(stream)
        stream = stream.add(self.norm2(self.run_mlp(stream.value(), checkpoint)), mlp_keep)
        return stream if self.norm3 is None else Stream(stream.norm(self.norm3, wide=True))
