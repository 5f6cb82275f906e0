"""The plain functions of detection against torchvision's, in float64, on images at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from support.detection.odd import ODD, Odd
from support.detection.tv import load_tv_detection
from support.swin.parity import import_or_skip

import autograd as ag
from swinpy.detection import (
    NEGATIVE,
    Anchors,
    BoxCoder,
    LevelRule,
    MaskTargetRule,
    MatchRule,
    assign,
    box_giou,
    box_iou,
    clip_boxes,
    grouped_nms,
    mask_targets,
    octave_sizes,
    paste_masks,
    roi_levels,
)
from swinpy.ops import pool_levels, roi_align

pytestmark = pytest.mark.parity

tv = import_or_skip(load_tv_detection)
torch = tv.torch

STRIDES = (4, 8, 16, 32, 64)
RPN = Anchors(STRIDES, ((32,), (64,), (128,), (256,), (512,)), rounding=True, stride_rule="map")
RULES = {
    "rpn": (MatchRule(0.7, 0.3, "nearest"), (0.7, 0.3, True)),
    "box_head": (MatchRule(0.5, 0.5), (0.5, 0.5, False)),
    "retinanet": (MatchRule(0.5, 0.4, "nearest"), (0.5, 0.4, True)),
}
every_image = pytest.mark.parametrize("odd", ODD.values(), ids=ODD)


def same(got, want, tolerance: float = 1e-10) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def t(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def their_anchors(odd: Odd, sizes, ratios):
    generator = tv.anchors.AnchorGenerator(sizes, (ratios,) * len(sizes))
    images = tv.image_list.ImageList(torch.zeros(1, 1, *odd.padded), [odd.size])
    maps = [torch.zeros(1, 1, *hw, dtype=torch.float64) for hw in odd.map_sizes(STRIDES)]
    return generator(images, maps)[0].numpy()


def our_anchors(odd: Odd, anchors: Anchors = RPN):
    return np.concatenate(anchors.on(odd.map_sizes(STRIDES), odd.padded, np.float64))


@every_image
def test_anchors(odd: Odd) -> None:
    same(our_anchors(odd), their_anchors(odd, RPN.sizes, RPN.ratios))


def test_the_last_stride_of_a_side_of_800_is_61() -> None:
    odd = Odd((790, 800), np.zeros((0, 4)))
    assert RPN.steps(4, odd.map_sizes(STRIDES)[4], odd.padded) == (61, 61)
    same(our_anchors(odd), their_anchors(odd, RPN.sizes, RPN.ratios))


@every_image
def test_anchors_of_retinanet(odd: Odd) -> None:
    sizes = octave_sizes((32, 64, 128, 256, 512), whole=True)
    assert sizes == tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    anchors = Anchors(STRIDES, sizes, rounding=True, stride_rule="map")
    same(our_anchors(odd, anchors), their_anchors(odd, sizes, anchors.ratios))


@every_image
def test_overlaps(odd: Odd) -> None:
    boxes = odd.proposals()
    same(box_iou(odd.boxes, boxes), tv.boxes.box_iou(t(odd.boxes), t(boxes)))
    same(box_giou(odd.boxes, boxes), tv.boxes.generalized_box_iou(t(odd.boxes), t(boxes)))


@every_image
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_coder(odd: Odd, weights) -> None:
    ours, theirs = BoxCoder.from_weights(weights), tv.utils.BoxCoder(weights)
    proposals = odd.proposals()
    if len(odd.boxes):
        truth = odd.boxes[np.arange(len(proposals)) % len(odd.boxes)]
        same(ours.encode(truth, proposals), theirs.encode_single(t(truth), t(proposals)))
    offsets = np.random.default_rng(1).normal(0, 4, (len(proposals), 3, 4))  # some scales beyond the clamp
    want = theirs.decode(t(offsets.reshape(len(proposals), 12)), [t(proposals)])
    got = ours.decode(offsets, proposals[:, None])
    same(got, want.reshape(got.shape))
    clipped = tv.boxes.clip_boxes_to_image(want.reshape(-1, 4), odd.size)
    same(clip_boxes(got, odd.size), clipped.reshape(got.shape))


@every_image
@pytest.mark.parametrize("name", RULES)
def test_assignment(odd: Odd, name: str) -> None:
    rule, theirs = RULES[name]
    for boxes in (our_anchors(odd), odd.proposals()):
        found = assign(odd.boxes, boxes, rule)
        if not len(odd.boxes):  # their matcher refuses; their losses take all for background
            assert (found.truth == NEGATIVE).all()
            continue
        overlaps = tv.boxes.box_iou(t(odd.boxes), t(boxes))
        np.testing.assert_array_equal(found.truth, tv.utils.Matcher(*theirs)(overlaps))
        same(found.iou, overlaps.max(dim=0).values)


@every_image
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_levels(odd: Odd, dtype) -> None:
    boxes = np.concatenate([odd.boxes, odd.proposals(), [[0, 0, s, s] for s in (0, 1, 112, 224, 448, 5000)]])
    boxes = boxes.astype(dtype)
    want = tv.poolers.LevelMapper(2, 5)([t(boxes)])
    np.testing.assert_array_equal(roi_levels(boxes, 4, LevelRule("torchvision")), want)


@every_image
def test_pooling_of_levels(odd: Odd) -> None:
    """The scales that torchvision guesses from the first batch are right where it is as large as here."""
    rng = np.random.default_rng(2)
    maps = [rng.standard_normal((2, 3, *hw)) for hw in odd.map_sizes(STRIDES[:4])]
    boxes = [odd.proposals(0), odd.proposals(1)]
    theirs = tv.poolers.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    theirs.scales, theirs.map_levels = [1 / s for s in STRIDES[:4]], tv.poolers.LevelMapper(2, 5)
    inputs = {str(i): t(x).requires_grad_() for i, x in enumerate(maps)}
    want = theirs(inputs, [t(b) for b in boxes], [odd.size] * 2)
    every = np.concatenate(boxes)
    images = np.repeat([0, 1], [len(b) for b in boxes])
    tensors = [ag.Tensor(x, requires_grad=True) for x in maps]
    levels = roi_levels(every, 4, LevelRule("torchvision"))
    got = pool_levels(tensors, every, images, levels, 7, scales=[1 / s for s in STRIDES[:4]], ratio=2, aligned=False)
    same(got.numpy(), want.detach())
    g = rng.standard_normal(got.shape)
    (want * t(g)).sum().backward()
    got.backward(g)
    for ours, x in zip(tensors, inputs.values(), strict=True):
        same(ours.grad, np.zeros(x.shape) if x.grad is None else x.grad)


@every_image
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(odd: Odd, ratio: int, aligned: bool) -> None:
    """Against torchvision's Python version itself, where no sample lies outside."""
    boxes, stride = odd.proposals()[:25], 8
    x = np.random.default_rng(3).standard_normal((1, 2, *odd.map_sizes((stride,))[0]))
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0 if aligned else stride)
    boxes = boxes[(boxes[:, :2] + sides <= np.array(odd.padded)[::-1]).all(axis=1)]
    got = roi_align(x, boxes, np.zeros(len(boxes), int), (3, 5), scale=1 / stride, ratio=ratio, aligned=aligned)
    rois = t(np.concatenate([np.zeros((len(boxes), 1)), boxes], axis=1))
    same(got.numpy(), tv.ops.pure_roi_align(t(x), rois, 1 / stride, 3, 5, ratio, aligned))
    same(got.numpy(), tv.ops.roi_align(t(x), rois, (3, 5), 1 / stride, ratio, aligned))


@every_image
def test_mask_targets(odd: Odd) -> None:
    if not len(odd.boxes):
        return
    boxes, masks = odd.proposals(), odd.masks()
    truth = np.arange(len(boxes)) % len(masks)
    want = tv.roi_heads.project_masks_on_boxes(t(masks), t(boxes), t(truth), 28)
    same(mask_targets(masks, boxes, truth, 28, MaskTargetRule(aligned=False, threshold=None, clip=False)), want)


@every_image
def test_pasting(odd: Odd) -> None:
    boxes = odd.proposals()
    masks = np.random.default_rng(4).random((len(boxes), 28, 28))
    want = tv.roi_heads.paste_masks_in_image(t(masks)[:, None], t(boxes), odd.size)[:, 0]
    windows = list(paste_masks(masks, boxes, odd.size, rule="resized", threshold=None))
    same(np.stack([w.on(odd.size) for w in windows]), want)
    cut = np.stack([w.on(odd.size) for w in paste_masks(masks, boxes, odd.size, rule="resized")])
    np.testing.assert_array_equal(cut, want > 0.5)


@every_image
def test_nms(odd: Odd) -> None:
    """Their boxes are shifted apart by group, so that overlaps near the threshold would differ; none is here."""
    boxes, rng = our_anchors(odd)[:600], np.random.default_rng(6)
    boxes = boxes + rng.normal(0, 3, boxes.shape)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    scores, groups = rng.random(len(boxes)), rng.integers(0, 3, len(boxes))
    want = tv.boxes._batched_nms_coordinate_trick(t(boxes), t(scores), t(groups), 0.5)
    np.testing.assert_array_equal(grouped_nms(boxes, scores, groups, 0.5), want)
