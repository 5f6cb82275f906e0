"""The region proposal network by itself: shapes, order, what it starts with, gradients, images without objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import autograd as ag
from swinpy.detection import RPN, Anchors, BoxCoder, Draw, ProposalRule, RPNLossRule, SampleRule

ANCHORS = Anchors((8, 16), ((12.0,), (24.0,)))
PADDED, SIZES = (32, 48), [(32, 48), (20, 30)]


def build(dtype: Any = np.float64) -> RPN:
    ag.manual_seed(0)
    rpn = RPN(4, ANCHORS, BoxCoder()).astype(dtype)
    rng = np.random.default_rng(0)
    for parameter in rpn.parameters():
        parameter.assign_((rng.standard_normal(parameter.shape) * 0.2).astype(dtype))
    return rpn


def maps_of(dtype: Any = np.float64) -> list[ag.Tensor]:
    rng = np.random.default_rng(1)
    sizes = [(PADDED[0] // s, PADDED[1] // s) for s in ANCHORS.strides]
    return [ag.Tensor(rng.standard_normal((2, 4, *size)).astype(dtype), requires_grad=True) for size in sizes]


def losses_of(rpn: RPN, maps: list[ag.Tensor], truth: list[Any], **changes: Any) -> dict[str, ag.Tensor]:
    rule = RPNLossRule(sample=SampleRule(16, 0.5), **changes)
    boxes = [np.array(b, maps[0].dtype).reshape(-1, 4) for b in truth]
    return rpn.losses(rpn(maps), PADDED, SIZES, boxes, rule, [Draw(1, 2, i) for i in range(2)])


OBJECTS = [[[4, 4, 20, 18], [20, 2, 44, 30]], [[3, 1, 15, 13]]]


def test_what_it_starts_with() -> None:
    rpn = RPN(64, ANCHORS, BoxCoder())
    for layer in (rpn.conv, rpn.cls, rpn.reg):
        assert layer.weight.data.std() == pytest.approx(0.01, rel=0.1)
        assert not layer.bias.data.any()


def test_predictions_are_in_the_order_of_anchors() -> None:
    rpn, maps = build(), maps_of()
    logits, offsets, sizes = rpn(maps)
    assert sizes == [(4, 6), (2, 3)]
    assert (logits.shape, offsets.shape) == (
        (
            2,
            90,
        ),
        (2, 90, 4),
    )
    hidden = ag.relu(rpn.conv(maps[1]))
    cell, anchor = (1, 2), 2  # the last row and column of the coarse map
    at = 4 * 6 * 3 + (cell[0] * 3 + cell[1]) * 3 + anchor
    np.testing.assert_array_equal(logits.data[:, at], rpn.cls(hidden).data[:, anchor, cell[0], cell[1]])
    np.testing.assert_array_equal(offsets.data[:, at], rpn.reg(hidden).data[:, 4 * anchor : 4 * anchor + 4, 1, 2])


@pytest.mark.parametrize("divisor", ["sampled", "each", "full"])
@pytest.mark.parametrize("beta", [0.0, 1 / 9])
def test_gradients(divisor: str, beta: float) -> None:
    rpn, maps = build(), maps_of()
    ours = list(rpn.parameters())

    def total(*inputs: Any) -> ag.Tensor:
        found = losses_of(rpn, list(inputs[:2]), OBJECTS, divisor=divisor, beta=beta)
        return found["rpn_cls"] + found["rpn_box"]

    ag.gradcheck(total, maps)
    losses = losses_of(rpn, maps, OBJECTS, divisor=divisor, beta=beta)
    (losses["rpn_cls"] + losses["rpn_box"]).backward()
    assert all(parameter.grad is not None and np.abs(parameter.grad).max() > 0 for parameter in ours)


def test_without_objects_nothing_is_learnt_of_boxes() -> None:
    rpn, maps = build(), maps_of()
    losses = losses_of(rpn, maps, [[], []])
    assert losses["rpn_box"].item() == 0
    (losses["rpn_cls"] + losses["rpn_box"]).backward()
    assert not rpn.reg.weight.grad.any()
    assert rpn.cls.weight.grad.any()


def test_a_draw_decides_and_nothing_else() -> None:
    rpn, maps = build(), maps_of()
    one, same = (losses_of(rpn, maps, OBJECTS)["rpn_cls"].item() for _ in range(2))
    assert one == same


@pytest.mark.parametrize("by", ["logit", "probability"])
def test_proposals_are_few_sound_and_ranked(by: Any) -> None:
    rpn, maps = build(np.float32), maps_of(np.float32)
    rule = ProposalRule((40, 20), (9, 7), by=by)
    for mode, most in ((rpn.train(), 9), (rpn.eval(), 7)):
        for found, (height, width) in zip(mode.proposals(mode(maps), PADDED, SIZES, rule), SIZES, strict=True):
            assert 0 < len(found.boxes) <= most
            assert found.boxes.dtype == found.scores.dtype == np.float32
            assert (np.diff(found.scores) <= 0).all()
            assert (found.boxes >= 0).all()
            assert (found.boxes <= [width, height, width, height]).all()
            assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_cells_beyond_an_images_own_padding_are_left_out() -> None:
    """The second image is 20 x 30, padded to 32 x 32: cells from column 4 of the fine map on are not its own."""
    rpn = build()
    rule = RPNLossRule()
    anchors = np.concatenate(ANCHORS.on([(4, 6), (2, 3)], PADDED, np.float64))
    matched = rpn._matched(anchors, np.zeros((0, 4)), [(4, 6), (2, 3)], SIZES[1], rule)
    left_out = (matched == -2)[:72].reshape(4, 6, 3)
    assert left_out[:, 4:].all()
    assert not left_out[:, :4].any()
