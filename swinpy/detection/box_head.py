"""The second stage: what class each region is, and where its box really lies.

Source: Girshick 2015, "Fast R-CNN", section 2; with two linear layers Lin et al. 2017, section 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import autograd as ag
from autograd.extend import array_module
from swinpy.detection.assign import MatchRule, assign
from swinpy.detection.boxes import BoxCoder, clip_boxes, large_enough
from swinpy.detection.nms import grouped_nms
from swinpy.detection.sample import Draw, SampleRule, sample
from swinpy.nn import Linear, Module, ModuleList
from swinpy.nn.init import normal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autograd.extend import Array

__all__ = ["BoxHead", "DetectionRule", "Detections", "Regions", "RoIRule", "sample_regions"]

_MATCH, _SAMPLE = MatchRule(0.5, 0.5), SampleRule(512, 0.25)


@dataclass(frozen=True)
class RoIRule:
    """Which regions a box head learns from.

    Attributes:
        match: of regions and objects. mmdetection's Mask R-CNN: low-quality matches "object" with a floor of 0.5.
        sample: how many regions of an image count.
        truth_first: whether the objects' own boxes join the proposals in front (mmdetection) or behind (torchvision,
            detectron2).
    """

    match: MatchRule = _MATCH
    sample: SampleRule = _SAMPLE
    truth_first: bool = True


@dataclass(frozen=True)
class DetectionRule:
    """Which boxes of which classes are detections.

    Attributes:
        score: probabilities must be above it.
        threshold: of NMS, each class apart.
        most: the best of an image.
        least_side: of a box in pixels; 0.01 in torchvision, 0 for no such rule.
    """

    score: float = 0.05
    threshold: float = 0.5
    most: int = 100
    least_side: float = 0.0


class Regions(NamedTuple):
    """The sampled regions of one image, ascending by their number among proposals and objects.

    Attributes:
        boxes: (R, 4).
        labels: (R,) the class of each, K for background.
        truth: (R,) the object of each, NEGATIVE for background.
    """

    boxes: Array
    labels: Array
    truth: Array


class Detections(NamedTuple):
    """Of one image, by falling score.

    Attributes:
        boxes: (D, 4).
        scores: (D,) probabilities.
        labels: (D,) classes from 0.
    """

    boxes: Array
    scores: Array
    labels: Array


def sample_regions(proposals: Array, truth: Array, labels: Array, classes: int, rule: RoIRule, draw: Draw) -> Regions:
    """Choose among the proposals of an image and the boxes of its objects.

    Args:
        proposals: (P, 4).
        truth: (G, 4), G may be 0.
        labels: (G,) from 0 to ``classes`` - 1.
        classes: K; the label of background.
        rule: which ones.
        draw: what the choice depends on.
    """
    xp = array_module(proposals)
    boxes = xp.concatenate([truth, proposals] if rule.truth_first else [proposals, truth])
    matched = assign(truth, boxes, rule.match).truth
    chosen = sample(matched, rule.sample, draw)
    index = xp.sort(xp.concatenate([chosen.positive, chosen.negative]))
    of = matched[index]
    known = xp.concatenate([labels, xp.full(1, classes, labels.dtype)])  # the last for background
    return Regions(boxes[index], known[xp.where(of >= 0, of, len(labels))], of)


class BoxHead(Module):
    """Two linear layers with ReLU, then K + 1 scores, background last, and four offsets for each of K classes.

    Args:
        inputs: channels times pixels of a region's map, which is flattened as (C, h, w).
        hidden: of both layers.
        classes: K.
        coder: of the offsets; std 0.1, 0.1, 0.2, 0.2.
    """

    def __init__(self, inputs: int, hidden: int, classes: int, coder: BoxCoder) -> None:
        self.fc = ModuleList([Linear(inputs, hidden), Linear(hidden, hidden)])
        self.cls, self.reg = Linear(hidden, classes + 1), Linear(hidden, 4 * classes)
        self.cls.weight.assign_(normal(self.cls.weight.shape, 0.01))
        self.reg.weight.assign_(normal(self.reg.weight.shape, 0.001))
        self.classes, self.coder = classes, coder

    def forward(self, pooled: ag.Tensor) -> tuple[ag.Tensor, ag.Tensor]:
        """(R, C, h, w) to scores (R, K + 1) and offsets (R, K, 4)."""
        count = pooled.shape[0]
        x = pooled.reshape(count, math.prod(pooled.shape[1:]))
        for layer in self.fc:
            x = ag.relu(layer(x))
        return self.cls(x), self.reg(x).reshape(count, self.classes, 4)

    def losses(
        self, scores: ag.Tensor, offsets: ag.Tensor, regions: Sequence[Regions], truth: Sequence[Array], beta: float
    ) -> dict[str, ag.Tensor]:
        """Cross-entropy over all regions, and the box loss of the positives' own classes over the same number.

        Args:
            scores: of :meth:`forward`, of the regions of all images in order.
            offsets: likewise.
            regions: of each image.
            truth: boxes (G, 4) of each image's objects.
            beta: of smooth L1; 0 is L1.

        Returns:
            "cls" and "box"; without positives the latter is 0, with a gradient of zeros.
        """
        xp = array_module(scores.data)
        labels = xp.concatenate([r.labels for r in regions])
        positive = xp.nonzero(labels < self.classes)[0]
        targets = [
            self.coder.encode(boxes[r.truth[r.truth >= 0]], r.boxes[r.truth >= 0])
            for r, boxes in zip(regions, truth, strict=True)
        ]
        count = float(max(1, len(labels)))
        found = offsets.reshape(offsets.shape[0] * self.classes, 4)[positive * self.classes + labels[positive]]
        return {
            "cls": ag.cross_entropy(scores, labels, divisor=count),
            "box": ag.smooth_l1_loss(found, xp.concatenate(targets), beta=beta, divisor=count),
        }

    def detections(
        self, scores: Array, offsets: Array, boxes: Array, size: tuple[int, int], rule: DetectionRule
    ) -> Detections:
        """The boxes of one image.

        Args:
            scores: (R, K + 1), raw.
            offsets: (R, K, 4).
            boxes: (R, 4) of the regions.
            size: (height, width), to which boxes are cut.
            rule: which ones.
        """
        xp = array_module(scores)
        powers = xp.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = (powers / powers.sum(axis=1, keepdims=True))[:, : self.classes]
        found = clip_boxes(self.coder.decode(offsets, boxes[:, None]), size).reshape(-1, 4)
        flat, labels = probabilities.reshape(-1), xp.tile(xp.arange(self.classes), len(boxes))
        keep = flat > rule.score
        if rule.least_side:
            keep &= large_enough(found, rule.least_side, strict=False)
        found, flat, labels = found[keep], flat[keep], labels[keep]
        kept = grouped_nms(found, flat, labels, rule.threshold)[: rule.most]
        return Detections(found[kept], flat[kept], labels[kept])
