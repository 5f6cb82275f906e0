"""The region proposal network against torchvision's: predictions, proposals, losses and all gradients, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.detection.tv import load_tv_detection
from support.swin.parity import import_or_skip

import autograd as ag
from swinpy.detection import (
    RPN,
    Anchors,
    BoxCoder,
    Draw,
    MatchRule,
    ProposalRule,
    RPNLossRule,
    SampleRule,
)

pytestmark = pytest.mark.parity

tv = import_or_skip(load_tv_detection)
torch = tv.torch

ANCHORS = Anchors((4, 8, 16), ((8.0,), (16.0,), (32.0,)), rounding=True, stride_rule="map")
PROPOSALS = ProposalRule((60, 40), (50, 30), least_side=1e-3, strict=False, by="logit")
LOSSES = RPNLossRule(MatchRule(0.7, 0.3, "nearest"), SampleRule(64, 0.5), own_cells=0, beta=1 / 9, divisor="sampled")
# height and width of the batch, those of the images, their objects
BATCHES: dict[str, tuple[Any, Any, Any]] = {
    "two": ((64, 96), [(64, 96), (50, 71)], [[[3, 5, 30, 28], [40, 10, 70, 60]], [[10, 10, 22, 24]]]),
    "no_object": ((64, 64), [(64, 64), (33, 64)], [[], [[1, 2, 50, 30]]]),
    "none_at_all": ((32, 64), [(32, 64)], [[]]),
    "at_the_border": ((64, 64), [(64, 64)], [[[0, 0, 9, 64], [55, 55, 64, 64], [20, 20, 21, 21]]]),
    "long": ((32, 544), [(17, 517)], [[[100, 0, 160, 17], [400, 4, 420, 12]]]),
}


def _peer(rpn: RPN, training: bool) -> Any:
    """torchvision's, with the same parameters."""
    from torchvision.models.detection import rpn as theirs

    head = theirs.RPNHead(6, ANCHORS.per_cell)
    peer = theirs.RegionProposalNetwork(
        tv.anchors.AnchorGenerator(ANCHORS.sizes, (ANCHORS.ratios,) * 3), head, 0.7, 0.3, 64, 0.5,
        {"training": 60, "testing": 40}, {"training": 50, "testing": 30}, 0.7,
    ).double()  # fmt: skip
    names = {"head.conv.0.0": rpn.conv, "head.cls_logits": rpn.cls, "head.bbox_pred": rpn.reg}
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            layer, _, kind = name.rpartition(".")
            parameter.copy_(torch.from_numpy(getattr(names[layer], kind).data))
    return peer.train(training), names


def _ours() -> RPN:
    ag.manual_seed(0)
    rpn = RPN(6, ANCHORS, BoxCoder()).astype(np.float64)
    rng = np.random.default_rng(0)
    for parameter in rpn.parameters():
        parameter.assign_(rng.standard_normal(parameter.shape) * 0.3)
    return rpn


def _maps(padded: Any, images: int) -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((images, 6, padded[0] // s, padded[1] // s)) for s in ANCHORS.strides]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("training", [False, True])
def test_proposals(batch: str, training: bool) -> None:
    padded, sizes, _ = BATCHES[batch]
    maps, rpn = _maps(padded, len(sizes)), _ours().train(training)
    peer, _ = _peer(rpn, training)
    got = rpn.proposals(rpn([ag.Tensor(x) for x in maps]), padded, sizes, PROPOSALS)
    images = tv.image_list.ImageList(torch.zeros(len(sizes), 3, *padded, dtype=torch.float64), sizes)
    objectness, deltas = peer.head([torch.from_numpy(x) for x in maps])
    anchors = peer.anchor_generator(images, [torch.from_numpy(x) for x in maps])
    from torchvision.models.detection.rpn import concat_box_prediction_layers

    counts = [x.shape[1] * x.shape[2] * x.shape[3] for x in objectness]
    flat, offsets = concat_box_prediction_layers(objectness, deltas)
    decoded = peer.box_coder.decode(offsets.detach(), anchors).view(len(sizes), -1, 4)
    boxes, scores = peer.filter_proposals(decoded, flat, sizes, counts)
    for ours, box, score in zip(got, boxes, scores, strict=True):
        np.testing.assert_allclose(ours.boxes, box.detach().numpy(), rtol=0, atol=1e-10)
        np.testing.assert_allclose(ours.scores, score.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch", BATCHES)
def test_losses_and_gradients(batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    padded, sizes, objects = BATCHES[batch]
    rpn = _ours()
    peer, names = _peer(rpn, True)
    truth = [np.array(boxes, np.float64).reshape(-1, 4) for boxes in objects]
    draws = [Draw(7, 3, i) for i in range(len(sizes))]
    maps = [ag.Tensor(x, requires_grad=True) for x in _maps(padded, len(sizes))]
    losses = rpn.losses(rpn(maps), padded, sizes, truth, LOSSES, draws)
    (losses["rpn_cls"] + 2 * losses["rpn_box"]).backward()

    def chosen(labels: Any) -> Any:
        """Our sample in place of theirs."""
        from swinpy.detection import sample

        places = {1.0: 0, 0.0: -1, -1.0: -2}
        found = [
            sample(np.array([places[v] for v in of.tolist()]), LOSSES.sample, draw)
            for of, draw in zip(labels, draws, strict=True)
        ]
        masks = [(torch.zeros(len(of)), torch.zeros(len(of))) for of in labels]
        for (one, other), s in zip(masks, found, strict=True):
            one[s.positive], other[s.negative] = 1, 1
        return [m[0] for m in masks], [m[1] for m in masks]

    assigned = peer.assign_targets_to_anchors

    def wide(*args: Any) -> Any:
        """Their labels are float32, and so would the loss be."""
        labels, boxes = assigned(*args)
        return [of.double() for of in labels], boxes

    monkeypatch.setattr(peer, "fg_bg_sampler", chosen)
    monkeypatch.setattr(peer, "assign_targets_to_anchors", wide)
    theirs = [torch.tensor(x.data, requires_grad=True) for x in maps]
    images = tv.image_list.ImageList(torch.zeros(len(sizes), 3, *padded, dtype=torch.float64), sizes)
    targets = [{"boxes": torch.from_numpy(boxes)} for boxes in truth]
    _, want = peer(images, {str(i): x for i, x in enumerate(theirs)}, targets)
    (want["loss_objectness"] + 2 * want["loss_rpn_box_reg"]).backward()
    np.testing.assert_allclose(losses["rpn_cls"].item(), want["loss_objectness"].item(), rtol=1e-10)
    np.testing.assert_allclose(losses["rpn_box"].item(), want["loss_rpn_box_reg"].item(), rtol=1e-10, atol=1e-14)
    for x, y in zip(maps, theirs, strict=True):
        np.testing.assert_allclose(x.grad, y.grad.numpy(), rtol=0, atol=1e-10)
    for name, parameter in peer.named_parameters():
        layer, _, kind = name.rpartition(".")
        np.testing.assert_allclose(
            getattr(names[layer], kind).grad, parameter.grad.numpy(), rtol=0, atol=1e-10, err_msg=name
        )
