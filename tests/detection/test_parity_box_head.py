"""The box head against torchvision's: sampled regions, losses with all gradients, detections, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.detection.tv import load_tv_detection
from support.swin.parity import import_or_skip

import autograd as ag
from swinpy.detection import (
    BoxCoder,
    BoxHead,
    DetectionRule,
    Draw,
    RoIRule,
    SampleRule,
    sample,
    sample_regions,
)

pytestmark = pytest.mark.parity

tv = import_or_skip(load_tv_detection)
torch = tv.torch

CLASSES, CHANNELS, SIDE, HIDDEN = 4, 3, 7, 16
RULE = RoIRule(sample=SampleRule(24, 0.25), truth_first=False)
CODER = BoxCoder.from_weights((10.0, 10.0, 5.0, 5.0))
SIZES = [(60, 80), (33, 90)]
OBJECTS = {
    "some": [([[5, 5, 30, 40], [20, 8, 70, 30]], [0, 3]), ([[10, 3, 40, 30]], [2])],
    "one_image": [([], []), ([[10, 3, 40, 30], [10, 3, 40, 30.5]], [2, 1])],
    "none": [([], []), ([], [])],
}


def _head() -> BoxHead:
    ag.manual_seed(0)
    head = BoxHead(CHANNELS * SIDE * SIDE, HIDDEN, CLASSES, CODER).astype(np.float64)
    rng = np.random.default_rng(0)
    for parameter in head.parameters():
        parameter.assign_(rng.standard_normal(parameter.shape) * 0.2)
    return head


def _rows(ours: Any, last: int) -> Any:
    """Our rows, background last, as theirs, background first; the rows of ``last`` values a class."""
    rows = ours.reshape(-1, last, *ours.shape[1:])
    if len(rows) == CLASSES:  # offsets of background, which are never used
        rows = np.concatenate([rows, np.zeros_like(rows[:1])])
    return np.concatenate([rows[-1:], rows[:-1]]).reshape(-1, *ours.shape[1:])


def _peer(head: BoxHead) -> tuple[Any, Any]:
    from torchvision.models.detection import faster_rcnn

    layers = faster_rcnn.TwoMLPHead(CHANNELS * SIDE * SIDE, HIDDEN).double()
    predictor = faster_rcnn.FastRCNNPredictor(HIDDEN, CLASSES + 1).double()
    with torch.no_grad():
        for ours, theirs in zip(head.fc, (layers.fc6, layers.fc7), strict=True):
            for kind in ("weight", "bias"):
                getattr(theirs, kind).copy_(torch.from_numpy(getattr(ours, kind).data))
        for kind in ("weight", "bias"):
            getattr(predictor.cls_score, kind).copy_(torch.from_numpy(_rows(getattr(head.cls, kind).data, 1)))
            getattr(predictor.bbox_pred, kind).copy_(torch.from_numpy(_rows(getattr(head.reg, kind).data, 4)))
    return layers, predictor


def _proposals() -> list[Any]:
    rng = np.random.default_rng(3)
    found = []
    for height, width in SIZES:
        corner = rng.uniform(0, 0.7, (40, 2)) * [width, height]
        sides = rng.uniform(4, 30, (40, 2))
        near = np.array([[5.0, 6, 31, 38], [20, 7, 66, 31], [11, 3, 39, 31]])
        boxes = np.concatenate([near, np.concatenate([corner, corner + sides], axis=1)])
        found.append(np.minimum(boxes, [width, height, width, height]))
    return found


def _truth(name: str) -> tuple[list[Any], list[Any]]:
    boxes = [np.array(b, np.float64).reshape(-1, 4) for b, _ in OBJECTS[name]]
    return boxes, [np.array(labels, np.int64) for _, labels in OBJECTS[name]]


DRAWS = [Draw(1, 5, i) for i in range(2)]


def _theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Their heads, with our sample in place of theirs."""
    heads = tv.roi_heads.RoIHeads(None, None, None, 0.5, 0.5, 24, 0.25, None, 0.05, 0.5, 100).double()

    def chosen(labels: Any) -> Any:
        masks = []
        for of, draw in zip(labels, DRAWS, strict=True):
            s = sample(of.numpy() - 1, RULE.sample, draw)
            one, other = (torch.zeros(len(of), dtype=torch.uint8) for _ in range(2))
            one[s.positive], other[s.negative] = 1, 1
            masks.append((one, other))
        return [m[0] for m in masks], [m[1] for m in masks]

    monkeypatch.setattr(heads, "fg_bg_sampler", chosen)
    return heads


@pytest.mark.parametrize("objects", OBJECTS)
def test_regions_losses_and_gradients(objects: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, (boxes, labels), proposals = _head(), _truth(objects), _proposals()
    layers, predictor = _peer(head)
    regions = [
        sample_regions(p, b, n, CLASSES, RULE, draw)
        for p, b, n, draw in zip(proposals, boxes, labels, DRAWS, strict=True)
    ]
    targets = [
        {"boxes": torch.from_numpy(b), "labels": torch.from_numpy(n + 1)} for b, n in zip(boxes, labels, strict=True)
    ]
    chosen, _, their_labels, their_offsets = _theirs(monkeypatch).select_training_samples(
        [torch.from_numpy(p) for p in proposals], targets
    )
    for ours, box, label in zip(regions, chosen, their_labels, strict=True):
        np.testing.assert_array_equal(ours.boxes, box.numpy())
        np.testing.assert_array_equal((ours.labels + 1) % (CLASSES + 1), label.numpy())

    count = sum(len(r.boxes) for r in regions)
    pooled = np.random.default_rng(4).standard_normal((count, CHANNELS, SIDE, SIDE))
    x, y = ag.Tensor(pooled, requires_grad=True), torch.tensor(pooled, requires_grad=True)
    losses = head.losses(*head(x), regions, boxes, beta=1 / 9)
    (losses["cls"] + 3 * losses["box"]).backward()
    scores, offsets = predictor(layers(y))
    want = tv.roi_heads.fastrcnn_loss(scores, offsets, their_labels, their_offsets)
    (want[0] + 3 * want[1]).backward()
    np.testing.assert_allclose([losses["cls"].item(), losses["box"].item()], [w.item() for w in want], rtol=1e-10)
    np.testing.assert_allclose(x.grad, y.grad.numpy(), rtol=0, atol=1e-11)
    for ours, theirs in zip(head.fc, (layers.fc6, layers.fc7), strict=True):
        np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad.numpy(), rtol=0, atol=1e-11)
    for kind in ("weight", "bias"):
        got = _rows(getattr(head.cls, kind).grad, 1)
        np.testing.assert_allclose(got, getattr(predictor.cls_score, kind).grad.numpy(), rtol=0, atol=1e-11)
        got = _rows(getattr(head.reg, kind).grad, 4)
        np.testing.assert_allclose(got, getattr(predictor.bbox_pred, kind).grad.numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("count", [43, 1, 0])
def test_detections(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    head = _head()
    layers, predictor = _peer(head)
    boxes = [p[:count] for p in _proposals()]
    pooled = np.random.default_rng(5).standard_normal((2 * count, CHANNELS, SIDE, SIDE))
    scores, offsets = head(ag.Tensor(pooled))
    rule = DetectionRule(0.05, 0.5, 20, least_side=0.01)
    got = [
        head.detections(scores.data[i * count :][:count], offsets.data[i * count :][:count], boxes[i], size, rule)
        for i, size in enumerate(SIZES)
    ]
    theirs = _theirs(monkeypatch)
    theirs.detections_per_img, theirs.box_coder = 20, tv.utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    with torch.no_grad():
        raw = predictor(layers(torch.from_numpy(pooled)))
        want = theirs.postprocess_detections(*raw, [torch.from_numpy(b) for b in boxes], SIZES)
    for ours, box, score, label in zip(got, *want, strict=True):
        np.testing.assert_allclose(ours.boxes, box.numpy(), rtol=0, atol=1e-10)
        np.testing.assert_allclose(ours.scores, score.numpy(), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(ours.labels + 1, label.numpy())
