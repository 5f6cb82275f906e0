"""The box head by itself: shapes, what it starts with, gradients, regions and detections by hand."""

from __future__ import annotations

import numpy as np
import pytest

import autograd as ag
from swinpy.detection import (
    NEGATIVE,
    BoxCoder,
    BoxHead,
    DetectionRule,
    Draw,
    RoIRule,
    SampleRule,
    sample_regions,
)

CODER = BoxCoder((0.1, 0.1, 0.2, 0.2))
TRUTH, LABELS = np.array([[2.0, 2, 12, 14], [20, 5, 34, 22]]), np.array([2, 0])
PROPOSALS = np.array([[3.0, 2, 12, 14], [50, 50, 60, 60], [20, 6, 34, 22], [0, 40, 9, 52]])


def build() -> BoxHead:
    ag.manual_seed(0)
    head = BoxHead(2 * 3 * 3, 8, 3, CODER).astype(np.float64)
    rng = np.random.default_rng(0)
    for parameter in head.parameters():
        parameter.assign_(rng.standard_normal(parameter.shape) * 0.3)
    return head


def test_what_it_starts_with() -> None:
    head = BoxHead(100, 64, 20, CODER)
    assert head.cls.weight.data.std() == pytest.approx(0.01, rel=0.1)
    assert head.reg.weight.data.std() == pytest.approx(0.001, rel=0.1)
    scores, offsets = head(ag.Tensor(np.ones((5, 4, 5, 5), np.float32)))
    assert (scores.shape, offsets.shape) == ((5, 21), (5, 20, 4))


@pytest.mark.parametrize("first", [True, False])
def test_objects_join_the_proposals(first: bool) -> None:
    regions = sample_regions(PROPOSALS, TRUTH, LABELS, 3, RoIRule(truth_first=first), Draw(0, 0, 0))
    both = np.concatenate([TRUTH, PROPOSALS] if first else [PROPOSALS, TRUTH])
    np.testing.assert_array_equal(regions.boxes, both)
    of = [0, 1, 0, NEGATIVE, 1, NEGATIVE] if first else [0, NEGATIVE, 1, NEGATIVE, 0, 1]
    assert regions.truth.tolist() == of
    assert regions.labels.tolist() == [3 if i < 0 else LABELS[i] for i in of]


def test_an_image_without_objects_is_background() -> None:
    none = np.zeros((0, 4)), np.zeros(0, np.int64)
    regions = sample_regions(PROPOSALS, *none, 3, RoIRule(sample=SampleRule(3, 0.25)), Draw(0, 0, 0))
    assert regions.labels.tolist() == [3, 3, 3]


def test_gradients() -> None:
    head = build()
    regions = [sample_regions(PROPOSALS, TRUTH, LABELS, 3, RoIRule(), Draw(0, 0, 0))]
    pooled = ag.Tensor(np.random.default_rng(1).standard_normal((6, 2, 3, 3)), requires_grad=True)

    def total(x: ag.Tensor) -> ag.Tensor:
        losses = head.losses(*head(x), regions, [TRUTH], beta=1 / 9)
        return losses["cls"] + losses["box"]

    ag.gradcheck(total, [pooled])


def test_without_positives_nothing_is_learnt_of_boxes() -> None:
    head = build()
    none = np.zeros((0, 4))
    regions = [sample_regions(PROPOSALS, none, np.zeros(0, np.int64), 3, RoIRule(), Draw(0, 0, 0))]
    losses = head.losses(*head(ag.Tensor(np.ones((4, 2, 3, 3)))), regions, [none], beta=0.0)
    assert losses["box"].item() == 0
    (losses["cls"] + losses["box"]).backward()
    assert not head.reg.weight.grad.any()
    assert head.cls.weight.grad.any()


def test_detections_by_hand() -> None:
    """Two regions on one object, one of another class there, one of background, one at the border."""
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 10], [5, 5, 9, 9], [15, 15, 30, 30]])
    scores = np.log(
        np.array([[0.7, 0.1, 0.2], [0.8, 0.1, 0.1], [0.04, 0.9, 0.06], [0.02, 0.03, 0.95], [0.6, 0.3, 0.1]])
    )
    head = BoxHead(1, 1, 2, CODER)
    found = head.detections(scores, np.zeros((5, 2, 4)), boxes, (20, 20), DetectionRule(score=0.2, most=3))
    assert found.labels.tolist() == [1, 0, 0]
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.6])
    np.testing.assert_array_equal(found.boxes, [[0, 0, 10, 10], [1, 0, 10, 10], [15, 15, 20, 20]])
