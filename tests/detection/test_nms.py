"""Non-maximum suppression and top-k: the references and the compiled twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.implementations import IMPLEMENTATIONS, needs_numba, using

import autograd as ag
from swinpy.detection import grouped_nms, nms, top_k
from swinpy.kernels.nms import suppress

Array = np.ndarray
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def drawn(seed: int, count: int, dtype=np.float64) -> tuple[Array, Array, Array]:
    """Boxes, distinct scores, groups."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (count, 2))], axis=1)
    return boxes.astype(dtype), rng.permutation(count).astype(dtype), rng.integers(0, 3, count)


def greedy(boxes: Array, scores: Array, groups: Array, threshold: float) -> list[int]:
    """The rule, one pair after another."""
    left, kept = sorted(range(len(boxes)), key=lambda i: (-scores[i], i)), []
    for i in left:
        for k in kept:
            width, height = np.minimum(boxes[i, 2:], boxes[k, 2:]) - np.maximum(boxes[i, :2], boxes[k, :2])
            inner = max(width, 0) * max(height, 0)
            areas = [(boxes[n, 2] - boxes[n, 0]) * (boxes[n, 3] - boxes[n, 1]) for n in (k, i)]
            if groups[i] == groups[k] and inner and inner / (areas[0] + areas[1] - inner) > boxes.dtype.type(threshold):
                break
        else:
            kept.append(i)
    return kept


@every_implementation
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_against_the_rule(implementation: str, dtype, threshold: float) -> None:
    for seed, count in enumerate((0, 1, 2, 40, 90)):
        boxes, scores, groups = drawn(seed, count, dtype)
        with using(implementation):
            found = grouped_nms(boxes, scores, groups, threshold)
        assert found.tolist() == greedy(boxes, scores, groups, threshold)
        assert found.dtype == np.int64


@every_implementation
def test_an_overlap_of_exactly_the_threshold_stays(implementation: str) -> None:
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.0001]])
    with using(implementation):
        assert nms(boxes, np.array([3.0, 2, 1]), 0.5).tolist() == [0, 1]
        # a third of 0.1 and 0.3 in float32: rounding decides, and alike everywhere
        thirds = np.array([[0, 0, 0.3, 1], [0, 0, 0.1, 1]], np.float32)
        want = np.float32(0.1) / (np.float32(0.3) + np.float32(0.1) - np.float32(0.1)) > np.float32(1 / 3)
        assert (len(nms(thirds, np.array([2.0, 1], np.float32), 1 / 3)) == 1) == want


@every_implementation
def test_boxes_without_area_stay(implementation: str) -> None:
    boxes = np.array([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10], [5, 5, 5, 9]])
    with using(implementation):
        assert nms(boxes, np.array([4.0, 3, 2, 1]), 0.0).tolist() == [0, 1, 2, 3]


@every_implementation
def test_ties_go_by_index(implementation: str) -> None:
    boxes = np.tile(np.array([[0.0, 0, 10, 10]]), (4, 1))
    with using(implementation):
        assert nms(boxes, np.ones(4), 0.5).tolist() == [0]
        assert grouped_nms(boxes, np.ones(4), np.array([1, 0, 1, 0]), 0.5).tolist() == [0, 1]


@every_implementation
def test_groups_never_meet(implementation: str) -> None:
    """Shifted apart, as the peers do, float32 boxes of group 40,000 would lose their last seven bits."""
    boxes, scores, _ = drawn(1, 50, np.float32)
    far = np.where(np.arange(50) % 2, 40_000, 3)
    with using(implementation):
        assert grouped_nms(boxes, scores, far, 0.5).tolist() == greedy(boxes, scores, far, 0.5)
        assert len(grouped_nms(boxes, scores, np.arange(50), 0.0)) == 50


@given(st.integers(0, 2**31), st.integers(1, 40), st.floats(0.05, 0.95))
def test_laws(seed: int, count: int, threshold: float) -> None:
    """Invariant under permutation (scores are distinct), and idempotent."""
    boxes, scores, groups = drawn(seed, count)
    kept = grouped_nms(boxes, scores, groups, threshold)
    order = np.random.default_rng(seed).permutation(count)
    assert order[grouped_nms(boxes[order], scores[order], groups[order], threshold)].tolist() == kept.tolist()
    again = grouped_nms(boxes[kept], scores[kept], groups[kept], threshold)
    assert again.tolist() == list(range(len(kept)))


@needs_numba
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_twin_has_the_references_bits_for_many_boxes(dtype) -> None:
    boxes, scores, groups = drawn(9, 6000, dtype)
    boxes = np.rint(boxes * 4) / 4  # many overlaps are equal, some the threshold
    with ag.kernel_mode("reference"):
        want = grouped_nms(boxes, scores, groups, 0.5)
    for threads in (1, 3):
        before = ag.get_num_threads()
        ag.set_num_threads(threads)
        try:
            np.testing.assert_array_equal(grouped_nms(boxes, scores, groups, 0.5), want)
        finally:
            ag.set_num_threads(before)


@every_implementation
def test_nan_suppresses_nothing(implementation: str) -> None:
    boxes = np.tile(np.array([[0.0, 0, 10, 10]]), (5, 1))
    boxes[0, 0], boxes[1, 3], boxes[3, 2], boxes[4, 1] = np.nan, np.nan, np.inf, -np.inf
    with using(implementation):
        assert suppress(boxes, np.array([0, 5]), 0.5).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros((2, 5)), np.zeros(2), np.zeros(2, int), 0.5), r"boxes \(N, 4\)"),
        ((np.zeros((2, 4)), np.zeros(3), np.zeros(2, int), 0.5), r"got \(2, 4\), \(3,\), \(2,\)"),
        ((np.zeros((2, 4)), np.zeros(2), np.zeros(2, int), 1.5), "threshold from 0 to 1; got 1.5"),
        ((np.zeros((2, 4)), np.zeros(2), np.zeros(2, int), float("nan")), "got nan"),
    ],
)
def test_bad_calls(arguments, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        grouped_nms(*arguments)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, -1.0, 1e30, -np.inf, np.inf]), max_size=30), st.integers(0, 35))
def test_top_k(values: list[float], k: int) -> None:
    want = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    for dtype in (np.float32, np.float64):
        assert top_k(np.array(values, dtype), k).tolist() == want
