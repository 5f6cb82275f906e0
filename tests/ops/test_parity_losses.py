"""Losses of detection and segmentation against torch, torchvision and the formula of mmdetection, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support import tolerances
from support.swin.parity import import_or_skip
from support.swin.torchvision_stub import make_importable

import autograd as ag

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.parity


def _load() -> Any:
    import torch

    make_importable(torch)
    import torchvision.ops

    return torch, torchvision.ops


torch, vision = import_or_skip(_load)
RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((3, 5, 4, 6)) * 3
LABELS = RNG.integers(0, 5, (3, 4, 6))
LABELS[0, 1], LABELS[2, :, 3] = 255, 255


def _agree(ours: Callable[..., Any], theirs: Callable[..., Any], *arrays: Any) -> None:
    """Values and gradients of all operands, for the same random gradient of the result."""
    leaves = [ag.Tensor(a, requires_grad=True) for a in arrays]
    peers = [torch.tensor(a, requires_grad=True) for a in arrays]
    out, want = ours(*leaves), theirs(*peers)
    g = np.asarray(np.random.default_rng(1).standard_normal(out.shape))
    pairs = [(out.data, want.detach().numpy())]
    found = torch.autograd.grad(want, peers, torch.tensor(g))
    pairs += zip(ag.grad(out, leaves, g), [t.numpy() for t in found], strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=tolerances.FORWARD, atol=tolerances.FORWARD * max(abs(b).max(), 1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_label_maps_with_an_ignored_label(reduction: str, smoothing: float) -> None:
    options = {"label_smoothing": smoothing, "reduction": reduction, "ignore_index": 255}
    target = torch.tensor(LABELS)
    _agree(
        lambda x: ag.cross_entropy(x, LABELS.astype(np.uint8), **options),
        lambda x: torch.nn.functional.cross_entropy(x, target, **options),
        LOGITS,
    )


def test_a_mean_over_all_labels_as_mmsegmentation() -> None:
    target = torch.tensor(LABELS)
    _agree(
        lambda x: ag.cross_entropy(x, LABELS, ignore_index=255, divisor=LABELS.size),
        lambda x: torch.nn.functional.cross_entropy(x, target, ignore_index=255, reduction="none").mean(),
        LOGITS,
    )


@pytest.mark.parametrize("target", [LOGITS > 0, RNG.random(LOGITS.shape)], ids=["labels", "between"])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (None, 0.0), (0.6, 0.5), (0.3, 3.0)])
def test_focal(alpha: float | None, gamma: float, target: Any) -> None:
    wanted = torch.tensor(target, dtype=torch.float64)
    _agree(
        lambda x: ag.sigmoid_focal_loss(x, target, alpha, gamma),
        lambda x: vision.sigmoid_focal_loss(x, wanted, -1 if alpha is None else alpha, gamma),
        LOGITS,
    )


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0, 3.0])
def test_smooth_l1(beta: float) -> None:
    near = LOGITS + RNG.choice([0, 1 / 9, -1, 0.3, 5], LOGITS.shape)
    _agree(
        lambda x, y: ag.smooth_l1_loss(x, y, beta),
        lambda x, y: torch.nn.functional.smooth_l1_loss(x, y, beta=beta),
        LOGITS,
        near,
    )


def _boxes(least: int) -> Any:
    """Corners on a small grid: edges coincide, boxes touch, hold each other or are apart."""
    boxes = RNG.integers(0, 6, (2, 2000, 4)).astype(float)
    boxes[..., 2:] = boxes[..., :2] + np.maximum(boxes[..., 2:], least)
    return boxes


def _giou_of_mmdet(x: Any, y: Any, eps: float) -> Any:
    """mmdet.structures.bbox.bbox_overlaps(mode="giou", is_aligned=True), as its source reads."""
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (x, y)]
    inner = (torch.min(x[:, 2:], y[:, 2:]) - torch.max(x[:, :2], y[:, :2])).clamp(min=0)
    outer = (torch.max(x[:, 2:], y[:, 2:]) - torch.min(x[:, :2], y[:, :2])).clamp(min=0)
    overlap, least = inner[:, 0] * inner[:, 1], x.new_tensor([eps])
    union = torch.max(areas[0] + areas[1] - overlap, least)
    hull = torch.max(outer[:, 0] * outer[:, 1], least)
    return 1 - (overlap / union - (hull - union) / hull)


def test_giou_of_torchvision() -> None:
    _agree(ag.giou_loss, vision.generalized_box_iou_loss, *_boxes(1))


@pytest.mark.parametrize("eps", [1e-6, 20.0])
def test_giou_of_mmdetection(eps: float) -> None:
    _agree(lambda x, y: ag.giou_loss(x, y, eps, "floor"), lambda x, y: _giou_of_mmdet(x, y, eps), *_boxes(1))


def test_giou_of_boxes_that_touch() -> None:
    """Where the intersection has no width, mmdetection's clamp passes the gradient and torchvision's mask does not."""
    x, y = np.array([[0.0, 0, 2, 2]]), np.array([[2.0, 1, 4, 3]])  # union 8, hull 12, intersection 0 x 1
    for mode, slope in (("add", -2 / 12), ("floor", -2 / 12 - (1 / 8 - 1 / 12))):
        leaf = ag.Tensor(x, requires_grad=True)
        grad = ag.grad(ag.giou_loss(leaf, y, eps=1e-12, eps_mode=mode).sum(), leaf)[0]
        np.testing.assert_allclose(grad[0, 2], slope, rtol=1e-11)
