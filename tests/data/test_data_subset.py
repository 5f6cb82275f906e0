"""Subsets: how many a class gives, by exact fractions, and which."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swinpy.data import ImageDataset, load_digits
from swinpy.data.subset import class_shares, stratified

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


def make(labels, classes):
    labels = np.asarray(labels, np.int64)
    images = np.zeros((len(labels), 3, 1, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    names = tuple(map(str, range(classes)))
    return ImageDataset("toy", images, labels, names, True, "nowhere", (0.5,) * 3, (0.2,) * 3)


@settings(max_examples=150, deadline=None)
@given(sizes=SIZES, share=st.floats(0, 1), seed=st.integers(0, 2**64 - 1))
def test_shares_are_those_of_the_largest_remainder(sizes, share, seed):
    total = sum(sizes)
    n = max(1, round(share * total))
    shares = class_shares(np.array(sizes), n, seed).tolist()
    there = sum(s > 0 for s in sizes)
    assert sum(shares) == n
    assert all(0 <= got <= size for got, size in zip(shares, sizes, strict=True))
    if n >= there:
        assert all(got >= (size > 0) for got, size in zip(shares, sizes, strict=True))
    quotas = [Fraction(n * size, total) for size in sizes]
    if all(q >= 1 for q in quotas if q):  # nothing had to be raised to one
        assert all(int(q) <= got <= int(q) + 1 for q, got in zip(quotas, shares, strict=True))
        raised = [q - int(q) for q, got in zip(quotas, shares, strict=True) if got > q]
        kept = [q - int(q) for q, got in zip(quotas, shares, strict=True) if got == int(q) and q != int(q)]
        assert not raised or not kept or min(raised) >= max(kept)


@pytest.mark.parametrize(
    ("sizes", "n", "want"),
    [
        ([12, 12, 12], 9, [3, 3, 3]),
        ([70, 20, 10], 10, [7, 2, 1]),
        ([97, 2, 1], 3, [1, 1, 1]),
        ([97, 2, 1], 10, [8, 1, 1]),
        ([60, 39, 1], 5, [3, 1, 1]),
        ([5, 0, 5], 4, [2, 0, 2]),
        ([3, 3], 6, [3, 3]),
        ([1, 99], 1, [0, 1]),
    ],
)
def test_shares_by_hand(sizes, n, want):
    assert class_shares(np.array(sizes), n, 0).tolist() == want


def test_the_seed_decides_between_equal_classes():
    one_of_ten = {int(class_shares(np.full(10, 5), 1, seed).argmax()) for seed in range(100)}
    assert one_of_ten == set(range(10))


@pytest.mark.parametrize("ordered", [True, False])
def test_images_are_drawn_by_the_seed(ordered):
    labels = np.repeat([0, 1, 2], [20, 10, 30])
    labels = labels if ordered else np.random.default_rng(0).permutation(labels)
    drawn = [stratified(labels, 12, seed) for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    for indices in drawn:
        assert np.bincount(labels[indices]).tolist() == [4, 2, 6]
        assert (np.diff(indices) > 0).all()
    assert len({tuple(indices) for indices in drawn}) == 3
    assert set(stratified(labels, 6, 5)) < set(stratified(labels, 12, 5)), "more are those and others"
    np.testing.assert_array_equal(stratified(labels, 60, 9), np.arange(60))
    often = np.zeros(60)
    for seed in range(300):
        often[stratified(labels, 6, seed)] += 1
    assert often.min() > 10, "30 on average: any image may be drawn"
    assert often.max() < 55


def test_a_draw_is_the_same_for_ever():
    """Runs resume on the same images: these numbers must not change."""
    assert stratified(np.repeat(np.arange(3), 10), 7, 42).tolist() == [1, 7, 8, 16, 19, 22, 28]


def test_a_subset_says_what_it_is():
    data = make(np.repeat([0, 1, 3], [20, 10, 30]), 4)
    part = data.subset(12, 7)
    np.testing.assert_array_equal(part.images[:, 0, 0, 0], stratified(data.labels, 12, 7))
    np.testing.assert_array_equal(part.labels, data.labels[stratified(data.labels, 12, 7)])
    assert part.notes == ("12 of 60 images drawn by seed 7: 2 to 6 of each of 3 classes",)
    assert data.subset(2, 7).notes == ("2 of 60 images drawn by seed 7: 1 of each of 2 classes, none of 1",)
    assert part.subset(3, 7).notes == (*part.notes, "3 of 12 images drawn by seed 7: 1 of each of 3 classes")
    assert part.identity != data.subset(12, 8).identity
    assert part.identity == data.subset(12, 7).identity


def test_digits():
    train, _ = load_digits()
    assert np.bincount(train.subset(100).labels).tolist() == [10] * 10
