"""What a model costs: counted from the ops that it executes, or reckoned from its configuration before it is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.models.swin_v2 import POSITION_HIDDEN
from swinpy.nn import in_mode

if TYPE_CHECKING:
    from swinpy.models.config import SwinConfig
    from swinpy.models.swin import SwinTransformer

__all__ = ["ModelCost", "activations_of", "macs_of", "model_cost", "parameters_of"]

_VIEWS = frozenset({"reshape", "transpose", "getitem", "sliding_window_view", "split", "broadcast_to", "flip"})


@dataclass(frozen=True)
class ModelCost:
    """What one image costs.

    Attributes:
        macs: multiply-adds of the products (the papers call them FLOPs: 4.5 G for Swin-T).
        activation_bytes: of all op results, views not counted: an estimate of what a training step keeps.
    """

    macs: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """2 * macs."""
        return 2 * self.macs


def macs_of(event: ag.OpEvent) -> int:
    """Multiply-adds of one op that an observer was told of: products only, 0 for all else."""
    x = event.inputs[0]
    out = event.outputs[0]
    if event.name == "linear":
        return int(out.size * event.inputs[1].shape[1])
    if event.name == "conv2d":
        return int(out.size * math.prod(event.inputs[1].shape[1:]))
    if event.name == "matmul":
        return int(out.size * x.shape[-1])
    if event.name == "mlp":
        return int(x.size // x.shape[-1] * (event.inputs[1].size + event.inputs[3].size))
    if event.name == "window_attention":
        geometry = event.static["spec"].geometry
        windows = x.shape[0] * math.prod(geometry.windows)
        return int(2 * windows * geometry.tokens**2 * (x.shape[3] // 3))
    return 0


def model_cost(model: SwinTransformer, size: tuple[int, int]) -> ModelCost:
    """Run one blank image of ``size`` (H, W) pixels in evaluation mode and count. Modes are as before afterwards."""
    macs = activations = 0

    def count(event: ag.OpEvent) -> None:
        nonlocal macs, activations
        macs += macs_of(event)
        if event.name not in _VIEWS:
            activations += sum(o.nbytes for o in event.outputs)

    blank: Any = ag.Tensor(np.zeros((1, model.config.in_chans, *size), model.dtype)).to(model.device)
    with in_mode(model, training=False), ag.no_grad(), ag.observe(count):
        model(blank)
    return ModelCost(macs, activations)


def parameters_of(config: SwinConfig) -> int:
    """How many numbers the parameters of a model of this configuration hold, without building it."""
    patch = config.in_chans * config.patch_size**2
    total = (patch + 1 + 2 * config.patch_norm) * config.embed_dim
    if config.position in ("absolute", "both"):
        total += math.prod(config.map_size(0)) * config.embed_dim
    for stage, depth in enumerate(config.depths):
        channels = config.embed_dim * 2**stage
        hidden = int(channels * config.mlp_ratio)
        block = 4 * channels + 2 * channels * hidden + hidden + channels + _mixer_parameters(config, stage)
        total += depth * block + 2 * channels * (stage in config.feature_norms)
        if config.extra_norm_every:
            total += depth // config.extra_norm_every * 2 * channels
        if stage < len(config.depths) - 1:
            total += 8 * channels**2 + (4 if config.architecture == "v2" else 8) * channels
    return int(total + 2 * channels + (channels + 1) * config.num_classes)


def _mixer_parameters(config: SwinConfig, stage: int) -> int:
    """Of the attention of one block, or of what stands in its place."""
    channels, heads, (down, across) = config.embed_dim * 2**stage, config.num_heads[stage], config.window(stage)
    tokens, relative = down * across, config.position in ("relative", "both")
    if config.architecture == "mlp":
        return heads * tokens * (tokens + 1)
    total = 4 * channels**2 + channels
    if config.architecture == "v1":
        table = (2 * down - 1) * (2 * across - 1) * heads
        return total + relative * table + config.qkv_bias * 3 * channels
    positions = POSITION_HIDDEN * (3 + heads)  # weights and biases of the first layer, weights of the second
    return total + heads + relative * positions + config.qkv_bias * (2 if config.key_bias == "none" else 3) * channels


def activations_of(config: SwinConfig, recompute: bool = False) -> tuple[int, int]:
    """How many numbers a training step keeps for backward, without building the model, at its built-in image size.

    Args:
        config: of the model.
        recompute: each block is computed again in backward, and keeps its inputs alone.

    Returns:
        Of one image, and of what all images share: the position biases. A step needs more than these at its height,
        by a third or so, for what it makes and drops.
    """
    down, across = (n * config.patch_size for n in config.map_size(0))
    image = config.in_chans * down * across
    shared = 0
    for stage, depth in enumerate(config.depths):
        channels, tokens = config.embed_dim * 2**stage, math.prod(config.map_size(stage))
        # norm 1, queries, keys and values, attention, sum, norm 2; and the hidden map of the MLP
        block = (6 if config.architecture == "mlp" else 7) * channels + int(channels * config.mlp_ratio)
        image += tokens * (3 * channels * (depth - 1) + block if recompute else depth * block)
        image += tokens * (2 if stage == 0 else 6) * channels  # the patches and their norm; or the merging
        if config.architecture != "mlp" and config.position in ("relative", "both"):
            shared += config.num_heads[stage] * math.prod(config.window(stage)) ** 2 * (1 if recompute else depth)
    return image, shared
