"""Mask targets, pasting, the check of targets, and laws of RoIAlign."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.detection.odd import ODD, Odd
from support.implementations import IMPLEMENTATIONS, using
from support.rows.detection import roi_align_reference

import autograd as ag
from swinpy.detection import MaskTargetRule, Window, mask_targets, paste_masks
from swinpy.detection import masks as module
from swinpy.kernels.paste import sample_windows
from swinpy.ops import pool_levels, roi_align
from swinpy.targets import check_targets

every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
every_image = pytest.mark.parametrize("odd", ODD.values(), ids=ODD)


# ---- RoIAlign


@every_implementation
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_a_constant_map_is_constant_inside(implementation: str, ratio: int, aligned: bool) -> None:
    boxes = np.array([[0.0, 0, 40, 28], [3.3, 4.4, 5.5, 20.1], [10, 10, 11, 11]])
    x = np.full((1, 2, 9, 12), 2.5)
    with using(implementation):
        found = roi_align(x, boxes, np.zeros(3, int), (3, 2), scale=0.25, ratio=ratio, aligned=aligned)
    np.testing.assert_allclose(found.numpy(), 2.5, rtol=1e-14)


@every_implementation
def test_a_ramp_is_read_at_the_centres_of_bins(implementation: str) -> None:
    """Aligned: pixel i's value stands at i + 0.5, so a map of i + 0.5 shows positions."""
    ramp = np.broadcast_to(np.arange(20) + 0.5, (1, 1, 20, 20))
    box = np.array([[4.0, 3, 12, 15]])
    with using(implementation):
        found = roi_align(ramp, box, np.zeros(1, int), (2, 4)).numpy()[0, 0]
        shifted = roi_align(ramp, box, np.zeros(1, int), (2, 4), aligned=False).numpy()[0, 0]
    np.testing.assert_allclose(found, [[5, 7, 9, 11]] * 2)
    np.testing.assert_allclose(shifted, found + 0.5)


@every_implementation
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("box", [[3.0, 3, 3, 9], [3, 3, 9, 3], [9, 3, 3, 9], [3, 9, 9, 3], [4, 4, 4, 4]])
def test_an_empty_box_gives_zero(implementation: str, ratio: int, box: list[float]) -> None:
    x = ag.Tensor(np.ones((1, 2, 12, 12)), requires_grad=True)
    with using(implementation):
        found = roi_align(x, np.array([box], float), np.zeros(1, int), 3, ratio=ratio)
        found.sum().backward()
    assert not found.numpy().any()
    assert not x.grad.any()


@every_implementation
def test_bits_of_the_gradient_follow_the_boxes_alone(implementation: str) -> None:
    """Float32 sums of 200 boxes on one spot: any thread count, and the batch around an image, leave the bits."""
    rng, before = np.random.default_rng(0), ag.get_num_threads()
    x = rng.standard_normal((3, 40, 24, 20)).astype(np.float32)
    boxes = np.concatenate([rng.uniform(0, 40, (200, 2)), rng.uniform(41, 80, (200, 2))], axis=1).astype(np.float32)
    images, g = rng.integers(0, 3, 200), rng.standard_normal((200, 40, 3, 3)).astype(np.float32)

    def gradient(which: np.ndarray) -> np.ndarray:
        tensor = ag.Tensor(x, requires_grad=True)
        roi_align(tensor, boxes[which], images[which], 3, scale=0.25).backward(g[which])
        return tensor.grad

    with using(implementation):
        found = gradient(np.arange(200))
        try:
            for threads in (1, 2, 3):
                ag.set_num_threads(threads)
                np.testing.assert_array_equal(gradient(np.arange(200)), found)
        finally:
            ag.set_num_threads(before)
        alone = gradient(np.flatnonzero(images == 1))
    np.testing.assert_array_equal(alone[1], found[1])


@every_implementation
@pytest.mark.parametrize("channels", [1, 3, 37])
def test_large_maps_and_boxes(implementation: str, channels: int) -> None:
    """Bands of rows, many samples a bin, channels that are no multiple of a vector."""
    rng = np.random.default_rng(1)
    maps = [rng.standard_normal((2, channels, 67, 45)), rng.standard_normal((2, channels, 34, 23))]
    boxes = rng.uniform(-20, 300, (14, 4))
    boxes[:, 2:] = boxes[:, :2] + np.exp(rng.uniform(-1, 6, (14, 2)))
    where = {"images": rng.integers(0, 2, 14), "levels": rng.integers(0, 2, 14)}
    how = {"size": (5, 7), "scales": (0.25, 0.125), "ratio": 0, "aligned": True}
    with using(implementation):
        found = pool_levels([np.asfortranarray(x) for x in maps], boxes, **where, **how).numpy()
    np.testing.assert_allclose(found, roi_align_reference(*maps, boxes=boxes, **where, **how), rtol=1e-12, atol=1e-12)


# ---- mask targets


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_targets_by_hand(dtype) -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :, :4] = True
    masks[1, 2:6, 2:6] = True
    boxes = np.array([[0, 0, 8, 8], [2, 2, 6, 6], [0, 0, 8, 8]], dtype)
    found = mask_targets(masks, boxes, np.array([0, 1, 1]), 4, MaskTargetRule())
    np.testing.assert_array_equal(found[0], [[1, 1, 0, 0]] * 4)
    np.testing.assert_array_equal(found[1], np.ones((4, 4)))
    np.testing.assert_array_equal(found[2], np.pad(np.ones((2, 2)), 1))
    assert found.dtype == dtype
    assert mask_targets(masks, boxes[:0], np.zeros(0, int), 4, MaskTargetRule()).shape == (0, 4, 4)


def test_clipping_of_boxes_is_a_field() -> None:
    masks, box = np.ones((1, 8, 8), bool), np.array([[4.0, 0, 20, 8]])
    clipped, not_clipped = (
        mask_targets(masks, box, np.zeros(1, int), 4, MaskTargetRule(clip=clip)) for clip in (True, False)
    )
    np.testing.assert_array_equal(clipped[0], np.ones((4, 4)))
    np.testing.assert_array_equal(not_clipped[0], [[1, 0, 0, 0]] * 4)


@every_image
def test_a_mask_survives_target_and_pasting(odd: Odd) -> None:
    """What is cut out of an image at 64 x 64 and put back overlaps with what was there, where it has some pixels."""
    masks = odd.masks()
    targets = mask_targets(masks, odd.boxes, np.arange(len(masks)), 64, MaskTargetRule(threshold=None))
    for mask, window in zip(masks, paste_masks(targets, odd.boxes, odd.size), strict=True):
        found = window.on(odd.size)
        if mask.sum() > 60:
            assert (found & mask).sum() / (found | mask).sum() > 0.85


# ---- pasting


def _naive(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with zeros around, at each pixel's centre."""
    padded = np.pad(mask, 2)
    out = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            v = (y + 0.5 - box[1]) / (box[3] - box[1]) * len(mask) - 0.5
            u = (x + 0.5 - box[0]) / (box[2] - box[0]) * len(mask) - 0.5
            if -1 < v < len(mask) and -1 < u < len(mask):
                j, i = int(np.floor(v)), int(np.floor(u))
                corner = padded[j + 2 : j + 4, i + 2 : i + 4]
                out[y, x] = np.array([j + 1 - v, v - j]) @ corner @ np.array([i + 1 - u, u - i])
    return out


@every_implementation
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pasting_at_centres(implementation: str, dtype) -> None:
    rng = np.random.default_rng(2)
    boxes = np.array([[2.3, 3.1, 12.9, 15.2], [-4, -5, 6, 3], [15, 10, 30, 40], [0, 0, 20, 18], [7, 7, 8, 8]], dtype)
    masks = rng.random((5, 6, 6)).astype(dtype)
    with using(implementation):
        windows = list(paste_masks(masks, boxes, (18, 20), threshold=None))
    for mask, box, window in zip(masks, boxes, windows, strict=True):
        full, want = window.on((18, 20)), _naive(mask, box, (18, 20))
        shown = full != 0
        np.testing.assert_allclose(full[shown], want[shown], atol=1e-12 if dtype == np.float64 else 1e-5)
        assert ((want < 0.5) | shown).all()  # outside the window nothing can reach the threshold
        assert full.dtype == dtype


@pytest.mark.parametrize("rule", ["centres", "resized"])
def test_boxes_outside_and_empty(rule) -> None:
    boxes = np.array([[50.0, 50, 60, 60], [-30, -30, -20, -20], [5, 5, 5, 9], [5, 5, 5, 5]])
    with np.errstate(all="raise"):
        windows = list(paste_masks(np.ones((4, 6, 6)), boxes, (20, 20), rule=rule, threshold=None))
    assert [w.on((20, 20)).any() for w in windows[:2]] == [False, False]
    assert all(np.isfinite(w.values).all() for w in windows)
    assert list(paste_masks(np.ones((0, 6, 6)), boxes[:0], (20, 20), rule=rule)) == []


def test_thresholds() -> None:
    """At exactly 0.5 mmdetection's mask is there, torchvision's is not."""
    box, half = np.array([[0.0, 0, 8, 8]]), np.full((1, 4, 4), 0.5)
    (centres,), (resized,) = (list(paste_masks(half, box, (8, 8), rule=rule)) for rule in ("centres", "resized"))
    assert centres.values[2:6, 2:6].all()
    assert not resized.values.any()


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    boxes = np.concatenate([rng.uniform(0, 20, (9, 2)), rng.uniform(21, 40, (9, 2))], axis=1)
    masks = rng.random((9, 7, 7))
    want = [w.values for w in paste_masks(masks, boxes, (40, 40))]
    monkeypatch.setattr(module, "_CHUNK", 500)
    for window, one in zip(paste_masks(masks, boxes, (40, 40)), want, strict=True):
        np.testing.assert_array_equal(window.values, one)


@given(st.integers(0, 2**31))
def test_twin_of_sampling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heights, widths = rng.integers(0, 6, 4), rng.integers(0, 6, 4)
    ys, xs = rng.uniform(-3, 6, heights.sum()), np.rint(rng.uniform(-3, 6, widths.sum()))
    with ag.kernel_mode("validate"):
        sample_windows(rng.random((4, 3, 4)), ys, xs, heights, widths)


def test_a_window_in_its_image() -> None:
    window = Window(1, 2, np.ones((2, 1)))
    np.testing.assert_array_equal(window.on((4, 4)), np.pad(np.ones((2, 1)), ((1, 1), (2, 1))))


# ---- the check of targets

BOXES = np.array([[0.0, 0, 10, 10], [5, 5, 20, 30]])
LABELS = np.array([0, 4])
MASKS = np.zeros((2, 30, 20), bool)


def _box(*box: float) -> np.ndarray:
    return np.stack([BOXES[0], np.array(box)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": _box(5, 5, 5, 9)}, r"x0 < x1 and y0 < y1 .*; got \[5.0, 5.0, 5.0, 9.0\] as box 1"),
        ({"boxes": _box(5, 9, 8, 5)}, "as box 1"),
        ({"boxes": _box(0, 0, 0, 0)}, "leave out an object without area"),
        ({"boxes": _box(5, np.nan, 8, 9)}, r"finite boxes; got \[5.0, nan, 8.0, 9.0\] as box 1"),
        ({"boxes": _box(5, 1, np.inf, 9)}, "finite boxes"),
        ({"boxes": _box(5, 1, 22, 9)}, "inside the image of 30 x 20"),
        ({"boxes": _box(-2, 1, 6, 9)}, "inside the image"),
        ({"boxes": _box(100, 100, 120, 130)}, "inside the image"),
        ({"boxes": np.zeros(0)}, r"An image without objects has an array \(0, 4\)"),
        ({"boxes": BOXES.astype(int)}, "got int64"),
        ({"boxes": np.zeros((2, 5))}, r"got float64 \(2, 5\)"),
        ({"labels": np.array([0, 5])}, r"labels from 0 to 4 \(background is no label\); got 5 for box 1"),
        ({"labels": np.array([-1, 3])}, "got -1 for box 0"),
        ({"labels": np.array([0])}, "2 integer labels, one for each box"),
        ({"labels": np.array([0.0, 1.0])}, "got float64"),
        ({"masks": np.zeros((2, 20, 30), bool)}, r"masks \(2, 30, 20\).*; got \(2, 20, 30\)"),
        ({"masks": np.zeros((1, 30, 20), bool)}, r"got \(1, 30, 20\)"),
    ],
)
def test_bad_targets(change: dict, words: str) -> None:
    given_ = {"boxes": BOXES, "labels": LABELS, "masks": MASKS, **change}
    with pytest.raises(ValueError, match=rf"^targets of image 17: expected .*{words}"):
        check_targets(given_["boxes"], given_["labels"], (30, 20), 5, masks=given_["masks"], image=17)


def test_how_far_a_box_may_reach_over_the_image() -> None:
    over = np.array([[1, 1, 20.5, 9.0]]), np.array([0]), (30, 20), 1
    check_targets(*over, image=0)
    with pytest.raises(ValueError, match="inside the image of 30 x 20"):
        check_targets(*over, image=0, slack=0)


@every_image
def test_good_targets(odd: Odd) -> None:
    labels = np.zeros(len(odd.boxes), int)
    check_targets(odd.boxes, labels, odd.size, 1, masks=odd.masks(), image="a.png")
    check_targets(odd.boxes.astype(np.float32), labels, odd.size, 1, image=0)
