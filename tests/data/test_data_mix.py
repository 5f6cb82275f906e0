"""Mixup and CutMix: exact against a sample-by-sample reference, and what they conserve."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swinpy.data import Augment
from swinpy.data.mix import MixSettings, cutmix, cutmix_box, mix_batch, mixup, smooth_one_hot

SEEDS = st.integers(0, 2**63)


def batch_of(seed, n, height=8, width=8, smoothing=0.1):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n, 3, height, width)).astype(np.float32)
    return images, smooth_one_hot(rng.integers(0, 7, n), 7, smoothing)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 9), classes=st.integers(1, 20), smoothing=st.sampled_from([0.0, 0.1, 0.5]))
def test_smooth_targets(seed, n, classes, smoothing):
    labels = np.random.default_rng(seed).integers(0, classes, n)
    targets = smooth_one_hot(labels, classes, smoothing)
    for row, label in zip(targets, labels, strict=True):
        for k in range(classes):
            expected = smoothing / classes + (1 - smoothing if k == label else 0)
            assert row[k] == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 9), lam=st.floats(0, 1))
def test_mixup_equals_naive_reference(seed, n, lam):
    images, targets = batch_of(seed, n)
    mixed, soft = mixup(images, targets, lam)
    keep, give = np.float32(lam), np.float32(1 - lam)
    for b in range(n):
        partner = n - 1 - b
        np.testing.assert_array_equal(mixed[b], images[b] * keep + images[partner] * give)
        np.testing.assert_array_equal(soft[b], targets[b] * keep + targets[partner] * give)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 6), height=st.integers(1, 9), width=st.integers(1, 9), lam=st.floats(0, 1))
def test_cutmix_equals_naive_reference(seed, n, height, width, lam):
    rng = np.random.default_rng(seed)
    images, targets = batch_of(seed, n, height, width, smoothing=0.0)
    row, column = int(rng.integers(height)), int(rng.integers(width))
    box = cutmix_box(height, width, lam, row, column)
    mixed, soft = cutmix(images, targets, box)

    box_height, box_width = int(height * math.sqrt(1 - lam)), int(width * math.sqrt(1 - lam))
    for b in range(n):
        partner, taken = n - 1 - b, 0
        for y in range(height):
            for x in range(width):
                below, right = y - row + box_height // 2, x - column + box_width // 2
                inside = 0 <= below < box_height and 0 <= right < box_width
                source = images[partner] if inside else images[b]
                taken += inside
                np.testing.assert_array_equal(mixed[b, :, y, x], source[:, y, x])
        share = taken / (height * width)  # the fraction of pixels is the fraction of the target
        expected = targets[b] * np.float32(1 - share) + targets[partner] * np.float32(share)
        np.testing.assert_allclose(soft[b], expected, rtol=1e-6, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    data_seed=SEEDS,
    seed=SEEDS,
    n=st.integers(1, 9),
    epoch=st.integers(0, 1000),
    step=st.integers(0, 10**6),
    alphas=st.sampled_from([(0.8, 1.0), (0.8, 0.0), (0.0, 1.0), (0.1, 0.1)]),
)
def test_targets_are_conserved(data_seed, seed, n, epoch, step, alphas):
    images, targets = batch_of(data_seed, n)
    mixed, soft = mix_batch(images, targets, MixSettings(*alphas, 1.0, 0.5), seed, epoch, step)
    assert mixed.dtype == soft.dtype == np.float32
    assert mixed.shape == images.shape
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(soft.sum(axis=0), targets.sum(axis=0), rtol=1e-4)  # what one gives, its partner gets
    assert soft.min() >= 0
    np.testing.assert_allclose(mixed.sum(axis=0), images.sum(axis=0), rtol=1e-3, atol=1e-4)
    again, _ = mix_batch(images, targets, MixSettings(*alphas, 1.0, 0.5), seed, epoch, step)
    np.testing.assert_array_equal(again, mixed)


def outcome(settings_, step, seed=0, epoch=0):
    """ "none", "mixup" or "cutmix", read off the pixels of a black image that meets a white one."""
    images = np.stack([np.zeros((3, 16, 16)), np.ones((3, 16, 16))]).astype(np.float32)
    mixed, soft = mix_batch(images, np.eye(2, dtype=np.float32), settings_, seed, epoch, step)
    assert soft[0, 1] == pytest.approx(mixed[0].mean(), abs=1e-5)
    if not mixed[0].any() and mixed[1].all():
        return "none"
    return "cutmix" if set(np.unique(mixed)) <= {0.0, 1.0} else "mixup"


def shares(settings_, n=1500):
    kinds = [outcome(settings_, step) for step in range(n)]
    return {kind: kinds.count(kind) / n for kind in ("none", "mixup", "cutmix")}


def test_probabilities():
    half = shares(MixSettings(0.8, 1.0, 0.6, 0.25))
    # A box of less than one pixel a side is empty, which now and then makes a CutMix of nothing.
    assert half["mixup"] == pytest.approx(0.6 * 0.75, abs=0.04)
    assert half["cutmix"] == pytest.approx(0.6 * 0.25, abs=0.04)
    assert shares(MixSettings(0.8, 1.0, 0.0, 0.5), 50)["none"] == 1
    assert shares(MixSettings(0.0, 0.0, 1.0, 0.5), 50)["none"] == 1
    assert shares(MixSettings(0.8, 0.0, 1.0, 1.0), 50)["cutmix"] == 0
    assert shares(MixSettings(0.0, 1.0, 1.0, 0.0), 50)["mixup"] == 0


def test_lambda_of_mixup_is_beta():
    settings_ = MixSettings(0.8, 0.0, 1.0, 0.5)
    targets = np.eye(2, dtype=np.float32)
    images = np.zeros((2, 3, 1, 1), np.float32)
    lams = np.array([mix_batch(images, targets, settings_, 0, 0, step)[1][0, 0] for step in range(4000)])
    assert lams.mean() == pytest.approx(0.5, abs=0.02)
    assert lams.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.05)


def test_every_step_and_epoch_draws_anew():
    settings_ = MixSettings(0.8, 0.0, 1.0, 0.5)
    images, targets = batch_of(0, 4)
    outcomes = {
        mix_batch(images, targets, settings_, seed, epoch, step)[0].tobytes()
        for seed in (0, 1)
        for epoch in (0, 1, 2)
        for step in (0, 1, 2, 2**40)
    }
    assert len(outcomes) == 24


def test_box_over_an_edge_counts_what_is_left():
    assert cutmix_box(10, 10, 0.36, 0, 9) == (0, 4, 5, 10)
    _, soft = cutmix(np.zeros((2, 3, 10, 10), np.float32), np.eye(2, dtype=np.float32), (0, 4, 5, 10))
    np.testing.assert_allclose(soft, [[0.8, 0.2], [0.2, 0.8]], rtol=1e-6)


def test_mixing_stops_at_its_epoch():
    augment = Augment(4, (0.5,) * 3, (0.2,) * 3, mix_off_epoch=3, erase_prob=0, cutmix=0)
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    labels, indices = np.arange(4), np.arange(4)
    hard = smooth_one_hot(labels, 4, augment.smoothing)
    for epoch in range(6):
        _, targets = augment(images, labels, indices, epoch, 0)
        assert (targets == hard).all() == (epoch >= 3)
        _, targets = replace(augment, mix_off_epoch=0)(images, labels, indices, epoch, 0)
        assert (targets != hard).any()


def test_mixing_comes_last():
    """Mixing takes the augmented images, partner and all."""
    settings_ = {"erase_prob": 1.0, "smoothing": 0.1, "seed": 5}
    augment = Augment(4, (0.5,) * 3, (0.2,) * 3, **settings_)
    plain = replace(augment, mixup=0, cutmix=0)
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    labels, indices = np.arange(6) % 4, np.arange(6)
    expected = mix_batch(*plain(images, labels, indices, 2, 9), MixSettings(0.8, 1.0, 1.0, 0.5), 5, 2, 9)
    got = augment(images, labels, indices, 2, 9)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_the_box_of_cutmix_is_timms_at_every_size():
    """timm 1.0.31's rand_bbox as its formula; a box of odd size was one pixel too small on both axes."""
    for height, width in itertools.product(range(1, 12), (7, 8)):
        for box, row, column in itertools.product(range(height + 1), range(height), (0, 3, width - 1)):
            lam = 1 - ((box + 0.25) / (height + 0.5)) ** 2
            share = np.sqrt(1 - lam)
            tall, wide = int(height * share), int(width * share)
            want = (
                np.clip(row - tall // 2, 0, height),
                np.clip(row + (tall + 1) // 2, 0, height),
                np.clip(column - wide // 2, 0, width),
                np.clip(column + (wide + 1) // 2, 0, width),
            )
            assert cutmix_box(height, width, lam, row, column) == want
    assert cutmix_box(9, 9, 1 - (3.1 / 9) ** 2, 4, 4) == (3, 6, 3, 6), "three pixels, not two"
