"""Boxes, anchors, assignment, levels and samples: values known by hand, and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.detection.odd import ODD, Odd

from swinpy.detection import (
    IGNORED,
    NEGATIVE,
    Anchors,
    BoxCoder,
    Draw,
    LevelRule,
    MatchRule,
    SampleRule,
    assign,
    box_area,
    box_giou,
    box_iou,
    choose,
    clip_boxes,
    inside_border,
    large_enough,
    octave_sizes,
    roi_levels,
    sample,
)

DTYPES = [np.float64, np.float32]
every_image = pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
seeds = st.integers(0, 2**31)


def drawn(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(-10, 90, (count, 2))
    return np.concatenate([low, low + np.exp(rng.uniform(-1, 4, (count, 2)))], axis=1)


# ---- overlaps


def test_overlaps_by_hand() -> None:
    truth = np.array([[0.0, 0, 10, 10], [20, 20, 20, 20]])
    boxes = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [20, 20, 20, 20], [2, 2, 4, 4]])
    np.testing.assert_allclose(box_area(boxes), [100, 100, 100, 0, 4])
    np.testing.assert_array_equal(box_iou(truth, boxes), [[1, 50 / 150, 0, 0, 0.04], [0] * 5])
    crowd = box_iou(truth, boxes, crowd=np.array([True, False]))
    np.testing.assert_array_equal(crowd[0], [1, 0.5, 0, 0, 1])
    np.testing.assert_allclose(box_giou(truth[:1], boxes)[0], [1, 50 / 150, 0, -300 / 400, 0.04])
    assert box_iou(truth[1:], boxes[3:4], least_area=1e-6) == 0


@given(seeds)
def test_laws_of_overlaps(seed: int) -> None:
    one, other = drawn(seed, 6), drawn(seed + 1, 9)
    iou, giou = box_iou(one, other), box_giou(one, other)
    np.testing.assert_array_equal(iou, box_iou(other, one).T)
    assert ((iou >= 0) & (iou <= 1) & (giou >= -1) & (giou <= iou + 1e-15)).all()
    np.testing.assert_allclose(np.diag(box_giou(one, one)), 1)
    np.testing.assert_allclose(box_iou(one * 4, other * 4), iou)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_are_kept(dtype) -> None:
    boxes, truth, coder = drawn(0, 5).astype(dtype), drawn(1, 2).astype(dtype), BoxCoder((0.1, 0.1, 0.2, 0.2), True)
    found = assign(truth, boxes, MatchRule(0.5, 0.4, "object"))
    offsets = coder.encode(boxes, boxes[::-1])
    for array in (
        box_area(boxes), box_iou(truth, boxes, least_area=1e-6), box_giou(truth, boxes, least_area=1e-6),
        clip_boxes(boxes, (5, 7)), offsets, coder.decode(offsets, boxes, (50, 60)), found.iou,
        *Anchors((4,), ((8,),)).on([(2, 3)], (8, 12), dtype),
    ):  # fmt: skip
        assert array.dtype == dtype


def test_clipping_and_size() -> None:
    boxes = np.array([[-3.0, -2, 50, 60], [1, 2, 3, 2], [5, 5, 6, 6]])
    np.testing.assert_array_equal(clip_boxes(boxes, (30, 40)), [[0, 0, 40, 30], [1, 2, 3, 2], [5, 5, 6, 6]])
    np.testing.assert_array_equal(large_enough(boxes, 1.0, strict=False), [True, False, True])
    np.testing.assert_array_equal(large_enough(boxes, 1.0, strict=True), [True, False, False])


# ---- the code


def test_code_by_hand() -> None:
    coder = BoxCoder.from_weights((10, 10, 5, 5))
    reference, box = np.array([0.0, 0, 10, 20]), np.array([5.0, 10, 25, 30])
    np.testing.assert_allclose(coder.encode(box, reference), [10, 5, 5 * math.log(2), 0])
    grown = coder.decode(np.array([0.0, 0, 100, -100]), reference)
    np.testing.assert_allclose(grown, [5 - 312.5, 10 - 10 * math.exp(-20), 5 + 312.5, 10 + 10 * math.exp(-20)])
    both = BoxCoder(coder.std, clamp_below=True).decode(np.array([0.0, 0, 100, -100]), reference)
    np.testing.assert_allclose(both, [5 - 312.5, 10 - 0.16, 5 + 312.5, 10 + 0.16])


@given(seeds, st.booleans())
def test_decoding_inverts_encoding(seed: int, clamp: bool) -> None:
    coder = BoxCoder((0.1, 0.2, 0.3, 0.4), clamp)
    boxes, reference = drawn(seed, 20), drawn(seed + 1, 20)  # scales up to e^5 would be clamped
    inside = (abs(np.log((boxes[:, 2:] - boxes[:, :2]) / (reference[:, 2:] - reference[:, :2]))) < 4).all(axis=1)
    found = coder.decode(coder.encode(boxes, reference), reference)
    np.testing.assert_allclose(found[inside], boxes[inside], rtol=1e-10, atol=1e-10)
    offsets = np.random.default_rng(seed).normal(0, 2, (20, 4))
    again = coder.encode(coder.decode(offsets, reference), reference)
    np.testing.assert_allclose(again, offsets, rtol=1e-9, atol=1e-9)


# ---- anchors


def test_anchors_by_hand() -> None:
    anchors = Anchors((4, 8), ((8, 16), (16, 32)), (0.5, 2.0))
    first, second = anchors.on([(2, 3), (1, 2)], (8, 12), np.float64)
    assert (len(first), len(second), anchors.per_cell) == (24, 8, 4)
    long, short = 4 * math.sqrt(2), 2 * math.sqrt(2)  # half sides of size 8, ratio 1 / 2
    np.testing.assert_allclose(first[0], [-long, -short, long, short])
    np.testing.assert_allclose(first[1], 2 * first[0])  # sizes inside ratios
    np.testing.assert_allclose(first[2], [-short, -long, short, long])
    np.testing.assert_allclose(first[4:8], first[:4] + np.array([4, 0, 4, 0]))  # columns before rows
    np.testing.assert_allclose(first[12:16], first[:4] + np.array([0, 4, 0, 4]))
    by_size = Anchors((4,), ((8, 16),), (0.5, 2.0), order="sizes").of_cell(0)
    np.testing.assert_allclose(by_size, first[[0, 2, 1, 3]])


def test_rounding_is_half_to_even_and_the_stride_of_the_map() -> None:
    anchors = Anchors((64,), ((32,),), (0.5, 1.0), rounding=True, stride_rule="map")
    np.testing.assert_array_equal(anchors.of_cell(0), [[-23, -11, 23, 11], [-16, -16, 16, 16]])
    np.testing.assert_array_equal(Anchors((1,), ((5,),), (1.0,), rounding=True).of_cell(0), [[-2, -2, 2, 2]])
    (found,) = anchors.on([(13, 13)], (800, 800))
    np.testing.assert_array_equal(found[2 * 14 + 1], [61 - 16, 61 - 16, 61 + 16, 61 + 16])


def test_octaves() -> None:
    assert octave_sizes((32, 64), 2) == ((32.0, 32 * 2**0.5), (64.0, 64 * 2**0.5))
    assert octave_sizes((32,), whole=True) == ((32.0, 40.0, 50.0),)


def test_cells_of_an_images_own_padding() -> None:
    anchors = Anchors((4, 8), ((8,), (16,)), (1.0,))
    first, second = anchors.valid([(3, 4), (2, 2)], (8, 9))
    np.testing.assert_array_equal(first.reshape(3, 4), [[True] * 3 + [False]] * 2 + [[False] * 4])
    np.testing.assert_array_equal(second.reshape(2, 2), [[True, True], [False, False]])


def test_anchors_at_the_border() -> None:
    boxes = np.array([[0.0, 0, 10, 20], [0, 0, 9, 19], [-1, 0, 5, 5], [-1, -1, 11, 21]])
    np.testing.assert_array_equal(inside_border(boxes, (20, 10), 0), [False, True, False, False])
    np.testing.assert_array_equal(inside_border(boxes, (20, 10), 1), [True, True, True, False])
    assert inside_border(boxes, (20, 10), -1).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((4, 8), ((8,),)), "each of 2 strides"),
        (((4, 8), ((8,), (8, 16))), "One head predicts for all maps"),
        (((4,), ((8,),), (0.0, 1.0)), "above 0"),
        (((4,), ((-8,),)), "above 0"),
        (((0,), ((8,),)), "above 0"),
    ],
)
def test_anchors_that_are_refused(arguments, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Anchors(*arguments)


# ---- assignment


def test_assignment_by_hand() -> None:
    truth = np.array([[0.0, 0, 10, 10], [100, 0, 110, 10]])
    boxes = np.array(
        [[0.0, 0, 10, 8], [0, 0, 10, 5], [0, 0, 10, 2], [100, 0, 110, 4], [100, 6, 110, 10], [50, 0, 60, 9]]
    )
    plain = assign(truth, boxes, MatchRule(0.7, 0.3))
    np.testing.assert_array_equal(plain.truth, [0, IGNORED, NEGATIVE, IGNORED, IGNORED, NEGATIVE])
    np.testing.assert_allclose(plain.iou, [0.8, 0.5, 0.2, 0.4, 0.4, 0])
    low = assign(truth, boxes, MatchRule(0.7, 0.3, "object", 0.3))  # both ties
    np.testing.assert_array_equal(low.truth, [0, IGNORED, NEGATIVE, 1, 1, NEGATIVE])
    floor = assign(truth, boxes, MatchRule(0.7, 0.3, "object", 0.5))
    np.testing.assert_array_equal(floor.truth, plain.truth)


def test_low_quality_matches_differ_between_libraries() -> None:
    """Object 1 overlaps most with the one box, which overlaps more with object 0."""
    truth, box = np.array([[0.0, 0, 10, 10], [0, 0, 10, 6]]), np.array([[0.0, 0, 10, 9]])
    assert assign(truth, box, MatchRule(0.7, 0.3, "nearest")).truth == [0]
    assert assign(truth, box, MatchRule(0.7, 0.3, "object", 0.3)).truth == [1]
    assert assign(truth, box, MatchRule(0.7, 0.3)).truth == [0]


def test_an_overlap_of_exactly_the_threshold_is_above_it() -> None:
    truth, boxes = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 5], [0, 0, 10, 2.5]])
    assert assign(truth, boxes, MatchRule(0.5, 0.25)).truth.tolist() == [0, IGNORED]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("low_quality", ["none", "nearest", "object"])
def test_blocks_do_not_show(low_quality, dtype) -> None:
    """Against the whole matrix at once, with several blocks of boxes and ties across them."""
    truth, boxes = drawn(3, 200).astype(dtype), np.tile(drawn(4, 3000), (3, 1)).astype(dtype)
    assert len(truth) * boxes.itemsize * len(boxes) > 3 << 20
    rule = MatchRule(0.6, 0.4, low_quality, 0.1)
    iou = box_iou(truth, boxes)
    want = np.where(iou.max(0) >= dtype(0.6), iou.argmax(0), np.where(iou.max(0) < dtype(0.4), NEGATIVE, IGNORED))
    for g in range(len(truth)):
        best = iou[g] == iou[g].max()
        if low_quality == "nearest":
            want[best] = iou.argmax(0)[best]
        elif low_quality == "object" and iou[g].max() >= dtype(0.1):
            want[best] = g
    found = assign(truth, boxes, rule)
    np.testing.assert_array_equal(found.truth, want)
    np.testing.assert_array_equal(found.iou, iou.max(0))


def test_nothing_to_assign() -> None:
    none = np.zeros((0, 4))
    assert (assign(none, drawn(0, 3), MatchRule(0.5, 0.5, "object")).truth == NEGATIVE).all()
    assert len(assign(drawn(0, 3), none, MatchRule(0.5, 0.5, "nearest")).truth) == 0


# ---- levels


@pytest.mark.parametrize("library", ["mmdetection", "torchvision", "detectron2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_levels(library, dtype) -> None:
    sides = np.array([0, 1, 50, 111.9, 112, 223.9, 224, 447.9, 448, 9000])
    boxes = np.stack([sides * 0, sides * 0, sides, sides], axis=1).astype(dtype)
    np.testing.assert_array_equal(roi_levels(boxes, 4, LevelRule(library)), [0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
    small = LevelRule(library, canonical_size=32, canonical_level=3)
    np.testing.assert_array_equal(roi_levels(boxes, 3, small), [0, 0, 1, 2, 2, 2, 2, 2, 2, 2])
    turned = np.array([[5.0, 5, 1, 4]], dtype)
    assert roi_levels(turned, 4, LevelRule(library)).tolist() == [0]


# ---- samples


@given(seeds, st.integers(1, 60), st.integers(0, 40))
def test_choices(seed: int, total: int, count: int) -> None:
    count = min(count, total)
    found = choose(count, total, Draw(seed, 3, 1))
    assert len(set(found.tolist())) == count
    assert (np.diff(found) > 0).all()
    assert count == 0 or (found[0] >= 0 and found[-1] < total)


def test_choices_are_keyed() -> None:
    base = Draw(7, 3, 1, 2)
    others = [base._replace(seed=8), base._replace(step=4), base._replace(image=2), base._replace(purpose=3)]
    first = choose(10, 10_000, base).tolist()
    assert first == choose(10, 10_000, base).tolist()
    assert len({tuple(choose(10, 10_000, draw)) for draw in others} | {tuple(first)}) == 5
    assert choose(10, 10_000, base, kind=1).tolist() != first


def test_choices_are_uniform() -> None:
    """Of 5 out of 12, each number 5 / 12 of the time: 2,000 draws, a deviation of 0.011."""
    counts = np.zeros(12)
    for step in range(2000):
        counts[choose(5, 12, Draw(0, step, 0))] += 1
    np.testing.assert_allclose(counts / 2000, 5 / 12, atol=0.05)


@pytest.mark.parametrize(
    ("positives", "negatives", "want"),
    [(0, 100, (0, 16)), (2, 100, (2, 14)), (50, 100, (4, 12)), (50, 3, (4, 3)), (0, 0, (0, 0)), (3, 0, (3, 0))],
)
def test_how_many(positives: int, negatives: int, want: tuple[int, int]) -> None:
    truth = np.array([*range(positives), *[NEGATIVE] * negatives, IGNORED, IGNORED])
    found = sample(truth, SampleRule(16, 0.25), Draw(0, 0, 0))
    assert (len(found.positive), len(found.negative)) == want
    assert (truth[found.positive] >= 0).all()
    assert (truth[found.negative] == NEGATIVE).all()


@every_image
def test_whole_chain_in_float32(odd: Odd) -> None:
    """Anchors to targets on every odd image: nothing that is not finite, and no more samples than asked for."""
    anchors = Anchors((4, 8, 16), ((16,), (32,), (64,)))
    flat = np.concatenate(anchors.on(odd.map_sizes((4, 8, 16)), odd.padded))
    truth = odd.boxes.astype(np.float32)
    found = assign(truth, flat, MatchRule(0.7, 0.3, "object", 0.3, 1e-6))
    chosen = sample(found.truth, SampleRule(64, 0.5), Draw(1, 2, 3))
    assert len(chosen.positive) <= 32
    assert len(chosen.positive) + len(chosen.negative) <= 64
    if len(chosen.positive):
        offsets = BoxCoder().encode(truth[found.truth[chosen.positive]], flat[chosen.positive])
        assert np.isfinite(offsets).all()
