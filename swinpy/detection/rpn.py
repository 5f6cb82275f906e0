"""Region proposal network: at each cell of each map, whether each anchor has an object, and where it would lie.

Source: Ren et al. 2015, "Faster R-CNN", section 3.1; on a pyramid Lin et al. 2017, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

import autograd as ag
from autograd.extend import array_module
from swinpy.detection.anchors import Anchors, inside_border
from swinpy.detection.assign import IGNORED, MatchRule, assign
from swinpy.detection.boxes import BoxCoder, clip_boxes, large_enough
from swinpy.detection.nms import grouped_nms, top_k
from swinpy.detection.sample import Draw, Sampled, SampleRule, sample
from swinpy.nn import Conv2d, Module
from swinpy.nn.init import normal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.extend import Array

__all__ = ["RPN", "Predicted", "ProposalRule", "Proposals", "RPNLossRule"]

Size = tuple[int, int]


@dataclass(frozen=True)
class ProposalRule:
    """Which predicted boxes become proposals.

    Attributes:
        before: the best of each map before NMS; in training, in inference.
        after: the best of an image after it, likewise. mmdetection's Mask R-CNN: 1000 in both.
        threshold: of NMS, each map apart.
        least_side: of a box in pixels: torchvision 1e-3, mmdetection and detectron2 0 with ``strict``.
        strict: whether sides must be longer than that.
        by: what boxes are ranked by: "logit" (torchvision, detectron2) or "probability" (mmdetection), whose large
            values are equal in float32.
    """

    before: tuple[int, int] = (2000, 1000)
    after: tuple[int, int] = (2000, 1000)
    threshold: float = 0.7
    least_side: float = 0.0
    strict: bool = True
    by: Literal["logit", "probability"] = "probability"


_MATCH = MatchRule(0.7, 0.3, "object", floor=0.3, least_area=1e-6)
_SAMPLE = SampleRule(256, 0.5)


@dataclass(frozen=True)
class RPNLossRule:
    """What an RPN learns from.

    Attributes:
        match: of anchors and objects.
        sample: how many anchors of an image count.
        border: anchors that reach over the image by more pixels are left out; negative for none.
        own_cells: anchors of cells beyond an image's own padding, to a multiple of this number, are left out, too
            (mmdetection: 32); 0 for none.
        beta: of the smooth L1 loss of boxes; 0 is L1. 1/9 in torchvision and Cascade R-CNN.
        divisor: of both sums: "sampled", all sampled anchors of the batch (torchvision); "each", where every image
            counts as at least one positive and one negative (mmdetection); "full", as if every sample were full
            (detectron2).
    """

    match: MatchRule = _MATCH
    sample: SampleRule = _SAMPLE
    border: float = -1.0
    own_cells: int = 32
    beta: float = 0.0
    divisor: Literal["sampled", "each", "full"] = "each"


class Predicted(NamedTuple):
    """What the network says of the anchors of all maps, in the order of :meth:`Anchors.on`.

    Attributes:
        logits: (B, N).
        offsets: (B, N, 4).
        map_sizes: (H, W) of each map.
    """

    logits: ag.Tensor
    offsets: ag.Tensor
    map_sizes: list[Size]


class Proposals(NamedTuple):
    """Of one image, by falling score.

    Attributes:
        boxes: (P, 4).
        scores: (P,), probabilities.
    """

    boxes: Array
    scores: Array


class RPN(Module):
    """A 3x3 convolution with ReLU, then 1x1 convolutions to a logit and four offsets an anchor; shared by all maps.

    Args:
        channels: of the maps.
        anchors: their sizes and places. The network has an output for each anchor of a cell.
        coder: of the offsets.
    """

    def __init__(self, channels: int, anchors: Anchors, coder: BoxCoder) -> None:
        self.conv = Conv2d(channels, channels, (3, 3), padding=(1, 1))
        self.cls = Conv2d(channels, anchors.per_cell, (1, 1))
        self.reg = Conv2d(channels, 4 * anchors.per_cell, (1, 1))
        for layer in (self.conv, self.cls, self.reg):
            layer.weight.assign_(normal(layer.weight.shape, 0.01))
            if layer.bias is not None:
                layer.bias.assign_(np.zeros(layer.bias.shape, np.float32))
        self.anchors, self.coder = anchors, coder

    def forward(self, maps: Sequence[ag.Tensor]) -> Predicted:
        """Predictions for each anchor of maps (B, channels, H, W)."""
        logits, offsets = [], []
        for x in maps:
            hidden = ag.relu(self.conv(x))
            batch = len(x.data)
            logits.append(self.cls(hidden).transpose(0, 2, 3, 1).reshape(batch, -1))
            offsets.append(self.reg(hidden).transpose(0, 2, 3, 1).reshape(batch, -1, 4))
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        return Predicted(ag.concatenate(logits, axis=1), ag.concatenate(offsets, axis=1), sizes)

    def _anchors(self, predicted: Predicted, padded: Size) -> list[Array]:
        logits = predicted.logits.data
        return self.anchors.on(predicted.map_sizes, padded, logits.dtype, array_module(logits))

    def proposals(
        self, predicted: Predicted, padded: Size, sizes: Sequence[Size], rule: ProposalRule
    ) -> list[Proposals]:
        """The best boxes of each image. They carry no gradient.

        Args:
            predicted: of :meth:`forward`.
            padded: (height, width) of the batch.
            sizes: of each image without padding, to which boxes are cut.
            rule: which ones.
        """
        anchors = self._anchors(predicted, padded)
        return [
            self._of_image(predicted.logits.data[i], predicted.offsets.data[i], anchors, size, rule)
            for i, size in enumerate(sizes)
        ]

    def _of_image(
        self, logits: Array, offsets: Array, anchors: list[Array], size: Size, rule: ProposalRule
    ) -> Proposals:
        xp, mode, start = array_module(logits), 0 if self.training else 1, 0
        chosen, levels = [], []
        ranking = _sigmoid(logits) if rule.by == "probability" else logits
        for level, of_map in enumerate(anchors):
            best = top_k(ranking[start : start + len(of_map)], rule.before[mode])
            chosen.append(start + best)
            levels.append(xp.full(len(best), level))
            start += len(of_map)
        index, level_of = xp.concatenate(chosen), xp.concatenate(levels)
        boxes = clip_boxes(self.coder.decode(offsets[index], xp.concatenate(anchors)[index]), size)
        keep = large_enough(boxes, rule.least_side, strict=rule.strict)
        boxes, scores, level_of = boxes[keep], _sigmoid(logits[index])[keep], level_of[keep]
        kept = grouped_nms(boxes, scores, level_of, rule.threshold)[: rule.after[mode]]
        return Proposals(boxes[kept], scores[kept])

    def losses(
        self,
        predicted: Predicted,
        padded: Size,
        sizes: Sequence[Size],
        truth: Sequence[Array],
        rule: RPNLossRule,
        draws: Sequence[Draw],
    ) -> dict[str, ag.Tensor]:
        """The losses of sampled anchors.

        Args:
            predicted: of :meth:`forward`.
            padded: (height, width) of the batch.
            sizes: of each image without padding.
            truth: boxes (G, 4) of each image's objects; G may be 0.
            rule: what is learnt from.
            draws: what each image's sample depends on.

        Returns:
            "rpn_cls", binary cross-entropy of the sampled anchors; "rpn_box", of the positive ones. Without positives
            the latter is 0, with a gradient of zeros.
        """
        levels = self._anchors(predicted, padded)
        anchors = array_module(levels[0]).concatenate(levels)
        count = len(anchors)
        sampled, targets = [], []
        for size, boxes, draw in zip(sizes, truth, draws, strict=True):
            matched = self._matched(anchors, boxes, predicted.map_sizes, size, rule)
            sampled.append(sample(matched, rule.sample, draw))
            positive = sampled[-1].positive
            targets.append(self.coder.encode(boxes[matched[positive]], anchors[positive]))
        return _losses(predicted, count, sampled, targets, rule)

    def _matched(self, anchors: Array, boxes: Array, map_sizes: list[Size], size: Size, rule: RPNLossRule) -> Array:
        """The object of each anchor, or NEGATIVE or IGNORED; those that are left out take no part in the matching."""
        xp = array_module(anchors)
        there = inside_border(anchors, size, rule.border)
        if rule.own_cells:
            height, width = (-(-side // rule.own_cells) * rule.own_cells for side in size)
            there = there & xp.concatenate(self.anchors.valid(map_sizes, (height, width), xp))
        matched = xp.full(len(anchors), IGNORED, np.int64)
        matched[there] = assign(boxes, anchors[there], rule.match).truth
        return matched


def _sigmoid(x: Array) -> Array:
    xp = array_module(x)
    small = xp.exp(-abs(x))
    return xp.where(x >= 0, 1, small) / (1 + small)


def _losses(
    predicted: Predicted, count: int, sampled: list[Sampled], targets: list[Array], rule: RPNLossRule
) -> dict[str, ag.Tensor]:
    xp = array_module(predicted.logits.data)
    positive = xp.concatenate([i * count + s.positive for i, s in enumerate(sampled)])
    negative = xp.concatenate([i * count + s.negative for i, s in enumerate(sampled)])
    divisors = {
        "sampled": len(positive) + len(negative),
        "each": sum(max(len(s.positive), 1) + max(len(s.negative), 1) for s in sampled),
        "full": rule.sample.count * len(sampled),
    }
    divisor = float(max(1, divisors[rule.divisor]))
    logits = predicted.logits.reshape(-1)[xp.concatenate([positive, negative])]
    wanted: Any = xp.concatenate([xp.ones(len(positive)), xp.zeros(len(negative))]).astype(logits.dtype)
    offsets = predicted.offsets.reshape(-1, 4)[positive]
    return {
        "rpn_cls": ag.binary_cross_entropy_with_logits(logits, wanted, divisor=divisor),
        "rpn_box": ag.smooth_l1_loss(offsets, xp.concatenate(targets), beta=rule.beta, divisor=divisor),
    }
