"""Feature pyramid: maps of one number of channels at each stride, coarse ones added to fine ones.

Source: Lin et al. 2017, "Feature Pyramid Networks for Object Detection", section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

import autograd as ag
from swinpy.nn import Conv2d, Module, ModuleList
from swinpy.nn.init import xavier_uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FPN"]


def _conv(in_channels: int, out_channels: int, side: int, stride: int = 1) -> Conv2d:
    layer = Conv2d(in_channels, out_channels, (side, side), (stride, stride), padding=(side // 2, side // 2))
    layer.weight.assign_(xavier_uniform(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.assign_(np.zeros(out_channels, np.float32))
    return layer


class FPN(Module):
    """Lateral 1x1 and output 3x3 convolutions with biases, no norms and no activations.

    A coarser map is enlarged to the finer one's own size by nearest neighbours, which need not be twice as large.

    Args:
        in_channels: of each map of the backbone, the finest first.
        out_channels: of every map of the pyramid.
        extra: what is added behind the coarsest map. "none"; "pool": every second pixel of it (Faster and Mask R-CNN);
            "input": 3x3 convolutions of stride 2, the first of the backbone's last map (RetinaNet of mmdetection, and
            of torchvision's v2); "output": the first of the pyramid's last map (torchvision's v1, detectron2).
        extra_maps: how many convolutions with "input" or "output".
        relu: whether there is a ReLU between them (torchvision, detectron2; not mmdetection).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        extra: Literal["none", "pool", "input", "output"] = "pool",
        extra_maps: int = 2,
        relu: bool = False,
    ) -> None:
        if extra not in ("none", "pool", "input", "output"):
            raise ValueError(f"FPN: expected extra as one of none, pool, input, output; got {extra!r}.")
        if not in_channels or min(*in_channels, out_channels) < 1:
            raise ValueError(f"FPN: expected positive channels; got {list(in_channels)} and {out_channels}.")
        self.lateral = ModuleList([_conv(c, out_channels, 1) for c in in_channels])
        self.output = ModuleList([_conv(out_channels, out_channels, 3) for _ in in_channels])
        convolved = extra in ("input", "output")
        first = in_channels[-1] if extra == "input" else out_channels
        inputs = [first, *[out_channels] * (extra_maps - 1)] if convolved else []
        self.extra = ModuleList([_conv(c, out_channels, 3, stride=2) for c in inputs])
        self.extra_rule, self.relu = extra, relu

    def forward(self, maps: Sequence[ag.Tensor]) -> list[ag.Tensor]:
        """The pyramid, the finest map first.

        Args:
            maps: (B, C_i, H_i, W_i) of the backbone.

        Returns:
            (B, out_channels, H_i, W_i) for each, and the extra ones.

        Raises:
            ValueError: for another number of maps.
        """
        if len(maps) != len(self.lateral):
            raise ValueError(f"FPN: expected {len(self.lateral)} maps; got {len(maps)}.")
        inner = [layer(x) for layer, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(inner) - 1, 0, -1):
            height, width = inner[i - 1].shape[2:]
            inner[i - 1] = inner[i - 1] + ag.interpolate(inner[i], (height, width), mode="nearest")
        out = [layer(x) for layer, x in zip(self.output, inner, strict=True)]
        if self.extra_rule == "pool":
            out.append(out[-1][:, :, ::2, ::2])
        x = maps[-1] if self.extra_rule == "input" else out[-1]
        for i, layer in enumerate(self.extra):
            x = layer(ag.relu(x) if i and self.relu else x)
            out.append(x)
        return out
