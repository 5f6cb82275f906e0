"""The plain functions of detection against mmdetection's, in float64, on images at the edges.

Their anchors and encoded targets are float32 whatever comes: these are compared to float32's accuracy.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from support.detection.mm import load_mmdet
from support.detection.odd import ODD, Odd
from support.skips import NO_MMDET
from support.swin.parity import import_or_skip

import autograd as ag
from swinpy.detection import (
    IGNORED,
    NEGATIVE,
    Anchors,
    BoxCoder,
    Draw,
    LevelRule,
    MaskTargetRule,
    MatchRule,
    SampleRule,
    assign,
    box_giou,
    box_iou,
    choose,
    grouped_nms,
    inside_border,
    mask_targets,
    octave_sizes,
    paste_masks,
    roi_levels,
    sample,
)
from swinpy.ops import pool_levels

pytestmark = pytest.mark.parity

mm = import_or_skip(load_mmdet, NO_MMDET, "SWINPY_REQUIRE_MMDET")
torch = mm.torch

SINGLE = 4e-7  # three roundings of float32, relative to the largest side
STRIDES = (4, 8, 16, 32, 64)
RPN = Anchors(STRIDES, tuple((8.0 * s,) for s in STRIDES))
RETINANET = Anchors(STRIDES, octave_sizes([4.0 * s for s in STRIDES]))
RULES = {
    "rpn": (MatchRule(0.7, 0.3, "object", 0.3, 1e-6), {"pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3}),
    "mask_rcnn": (
        MatchRule(0.5, 0.5, "object", 0.5, 1e-6),
        {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5},
    ),
    "cascade_3": (
        MatchRule(0.7, 0.7, least_area=1e-6),
        {"pos_iou_thr": 0.7, "neg_iou_thr": 0.7, "min_pos_iou": 0.7, "match_low_quality": False},
    ),
    "retinanet": (MatchRule(0.5, 0.4, "object", 0.0, 1e-6), {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}),
}
every_image = pytest.mark.parametrize("odd", ODD.values(), ids=ODD)


def same(got, want, tolerance: float = 1e-10) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(np.abs(want).max(initial=0), 1))


def t(array):
    return torch.from_numpy(np.array(array, order="C"))


def our_anchors(odd: Odd, anchors: Anchors = RPN):
    return np.concatenate(anchors.on(odd.map_sizes(STRIDES), odd.padded, np.float64))


def their_generator(anchors: Anchors):
    kind = mm.tasks.AnchorGenerator
    if anchors is RETINANET:
        return kind(STRIDES, [0.5, 1.0, 2.0], octave_base_scale=4, scales_per_octave=3)
    return kind(STRIDES, [0.5, 1.0, 2.0], scales=[8])


@every_image
@pytest.mark.parametrize("anchors", [RPN, RETINANET], ids=["rpn", "retinanet"])
def test_anchors(odd: Odd, anchors: Anchors) -> None:
    sizes = odd.map_sizes(STRIDES)
    want = their_generator(anchors).grid_priors(sizes, dtype=torch.float64, device="cpu")
    same(our_anchors(odd, anchors), torch.cat(want), SINGLE)


@every_image
def test_which_anchors_count(odd: Odd) -> None:
    """The batch is larger than the image, whose own padding ends between two cells of the last map."""
    sizes = [(h + 3, w + 2) for h, w in odd.map_sizes(STRIDES)]
    generator, anchors = their_generator(RPN), RPN.on(sizes, odd.padded, np.float64)
    flags = generator.valid_flags(sizes, odd.padded, device="cpu")
    for ours, theirs in zip(RPN.valid(sizes, odd.padded), flags, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    flat, valid = np.concatenate(anchors), np.concatenate(RPN.valid(sizes, odd.padded))
    for border in (-1, 0, 5):
        want = mm.prior_utils.anchor_inside_flags(t(flat), t(valid), odd.size, border)
        np.testing.assert_array_equal(valid & inside_border(flat, odd.size, border), want)


@every_image
def test_overlaps(odd: Odd) -> None:
    boxes = odd.proposals()
    same(box_iou(odd.boxes, boxes, least_area=1e-6), mm.overlaps(t(odd.boxes), t(boxes)))
    same(box_giou(odd.boxes, boxes, least_area=1e-6), mm.overlaps(t(odd.boxes), t(boxes), mode="giou"))
    crowd = np.ones(len(odd.boxes), bool)  # theirs divides by the first's area
    same(box_iou(odd.boxes, boxes, crowd=crowd, least_area=1e-6), mm.overlaps(t(boxes), t(odd.boxes), mode="iof").T)


@every_image
@pytest.mark.parametrize("std", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2), (0.033, 0.033, 0.067, 0.067)])
def test_coder(odd: Odd, std) -> None:
    ours, theirs = BoxCoder(std, clamp_below=True), mm.tasks.DeltaXYWHBBoxCoder(target_stds=std)
    proposals = odd.proposals()
    if len(odd.boxes):
        truth = odd.boxes[np.arange(len(proposals)) % len(odd.boxes)].astype(np.float32)
        single = proposals.astype(np.float32)
        same(ours.encode(truth, single), theirs.encode(t(single), t(truth)), 1e-5)
    offsets = np.random.default_rng(1).normal(0, 4, (len(proposals), 3, 4)) / std / 4
    want = theirs.decode(t(proposals), t(offsets.reshape(len(proposals), 12)), max_shape=odd.size)
    same(ours.decode(offsets, proposals[:, None], odd.size).reshape(want.shape), want)


def _assigned(odd: Odd, boxes, options):
    truth = mm.instances(bboxes=t(odd.boxes), labels=torch.zeros(len(odd.boxes), dtype=torch.int64))
    return mm.tasks.MaxIoUAssigner(**options).assign(mm.instances(priors=t(boxes)), truth), truth


@every_image
@pytest.mark.parametrize("name", RULES)
def test_assignment(odd: Odd, name: str) -> None:
    rule, options = RULES[name]
    for boxes in (our_anchors(odd), odd.proposals()):
        found, (want, _) = assign(odd.boxes, boxes, rule), _assigned(odd, boxes, options)
        as_theirs = np.where(found.truth == NEGATIVE, 0, np.where(found.truth == IGNORED, -1, found.truth + 1))
        np.testing.assert_array_equal(as_theirs, want.gt_inds)
        same(found.iou, want.max_overlaps)


@every_image
def test_sampling(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their choice among candidates replaced by ours: so many, of those, in that order."""
    draw, kinds = Draw(7, 3, 1), iter((0, 1))
    boxes = our_anchors(odd)[::7]
    found = assign(odd.boxes, boxes, RULES["rpn"][0])
    got = sample(found.truth, SampleRule(16, 0.25), draw)
    want, truth = _assigned(odd, boxes, RULES["rpn"][1])
    several = len(want.gt_inds[want.gt_inds > 0]) > 4

    def random_choice(self, gallery, count):
        return gallery[t(choose(count, len(gallery), draw, next(kinds) if several else 1))]

    monkeypatch.setattr(mm.tasks.RandomSampler, "random_choice", random_choice)
    sampler = mm.tasks.RandomSampler(num=16, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=False)
    theirs = sampler.sample(want, mm.instances(priors=t(boxes)), truth)
    np.testing.assert_array_equal(got.positive, theirs.pos_inds)
    np.testing.assert_array_equal(got.negative, theirs.neg_inds)


@every_image
def test_pooling_of_levels(odd: Odd) -> None:
    rng = np.random.default_rng(2)
    maps = [rng.standard_normal((2, 3, *hw)) for hw in odd.map_sizes(STRIDES[:4])]
    boxes, images = np.concatenate([odd.proposals(0), odd.boxes]), []
    images = rng.integers(0, 2, len(boxes))
    layer = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0}
    extractor = mm.extractor(layer, 3, list(STRIDES[:4]))
    rois = t(np.concatenate([images[:, None], boxes], axis=1))
    levels = roi_levels(boxes, 4, LevelRule("mmdetection"))
    np.testing.assert_array_equal(levels, extractor.map_roi_levels(rois, 4))
    inputs = [t(x).requires_grad_() for x in maps]
    want = torch.cat([extractor.roi_layers[k](inputs[k], rois[i : i + 1]) for i, k in enumerate(levels.tolist())])
    tensors = [ag.Tensor(x, requires_grad=True) for x in maps]
    got = pool_levels(tensors, boxes, images, levels, 7, scales=[1 / s for s in STRIDES[:4]])
    same(got.numpy(), want.detach())
    g = rng.standard_normal(got.shape)
    (want * t(g)).sum().backward()
    got.backward(g)
    for ours, x in zip(tensors, inputs, strict=True):
        same(ours.grad, np.zeros(x.shape) if x.grad is None else x.grad)


@every_image
def test_mask_targets(odd: Odd) -> None:
    if not len(odd.boxes):
        return
    boxes, masks = odd.proposals() + 0.7, odd.masks()  # some reach over the border
    truth = np.arange(len(boxes)) % len(masks)
    for soft in (False, True):
        config = mm.config(mask_size=28, soft_mask_target=soft)
        want = mm.mask_target(t(boxes), t(truth), mm.bitmap(masks.astype(np.uint8), *odd.size), config)
        got = mask_targets(masks, boxes, truth, 28, MaskTargetRule(threshold=None if soft else 0.5))
        same(got, want, SINGLE if soft else 0)  # what they return is float32


@every_image
def test_pasting(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their float32 replaced by float64."""
    wide = ModuleType("torch")
    wide.__dict__.update(vars(torch), float32=torch.float64)
    monkeypatch.setattr(mm.mask_head, "torch", wide)
    boxes = np.concatenate([odd.proposals(), odd.boxes])
    masks = np.random.default_rng(4).random((len(boxes), 28, 28))
    windows = paste_masks(masks, boxes, odd.size, threshold=None)
    for mask, box, window in zip(masks, boxes, windows, strict=True):
        want, (rows, columns) = mm.mask_head._do_paste_mask(
            t(mask)[None, None], t(box)[None], *odd.size, skip_empty=True
        )
        assert (window.top, window.left) == (int(rows.start), int(columns.start))
        same(window.values, want[0])


@every_image
def test_nms(odd: Odd) -> None:
    rng = np.random.default_rng(6)
    boxes = our_anchors(odd)[:600]
    boxes = boxes + rng.normal(0, 3, boxes.shape)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    scores, groups = rng.random(len(boxes)), rng.integers(0, 3, len(boxes))
    _, want = mm.batched_nms(t(boxes), t(scores), t(groups), {"type": "nms", "iou_threshold": 0.5})
    np.testing.assert_array_equal(grouped_nms(boxes, scores, groups, 0.5), want)
