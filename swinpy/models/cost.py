"""What a model costs to run, counted from the ops that it executes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from swinpy.nn import in_mode

if TYPE_CHECKING:
    from swinpy.models.swin import SwinTransformer

__all__ = ["ModelCost", "macs_of", "model_cost"]

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
