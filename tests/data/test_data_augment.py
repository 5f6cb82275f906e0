"""Augmentation against references written sample by sample, and what must hold whatever is drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.implementations import needs_numba

from autograd import random as agr
from autograd.kernels import KERNELS, kernel_mode
from swinpy.data import Augment, Evaluate
from swinpy.data.augment import draw_boxes, erase, normal_rows
from swinpy.data.pixels import crop_flip_normalise, crop_padded, flip, normalise
from swinpy.data.streams import AUGMENT, as_integers, stream_of

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PLAIN = Augment(
    num_classes=10, mean=MEAN, std=STD, hflip=0, crop_padding=0, erase_prob=0, mixup=0, cutmix=0, smoothing=0
)
SEEDS = st.integers(0, 2**63)


def batch_of(seed, n, height=8, width=8):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 3, height, width), dtype=np.uint8)
    return images, rng.integers(0, 10, n), rng.integers(0, 60_000, n)


def naive(augment, image, label, index, epoch):
    """One sample, pixel by pixel, before mixing; follows the docstrings, not the code."""
    _, height, width = image.shape
    stream = stream_of(AUGMENT, epoch)
    u = [float(v) for v in agr.uniform(augment.seed, int(index) << 20, 26, stream=stream)]
    pad = augment.crop_padding
    top, left = int(u[1] * (2 * pad + 1)) - pad, int(u[2] * (2 * pad + 1)) - pad
    out = np.zeros((3, height, width), np.float32)
    for c in range(3):
        for y in range(height):
            for x in range(width):
                source_y, source_x = y + top, (width - 1 - x if u[0] < augment.hflip else x) + left
                inside = 0 <= source_y < height and 0 <= source_x < width
                if augment.crop_mode == "reflect":
                    source_y = abs(source_y) if source_y < height else 2 * (height - 1) - source_y
                    source_x = abs(source_x) if source_x < width else 2 * (width - 1) - source_x
                    inside = True
                value = np.float32(image[c, source_y, source_x] if inside else 0) / np.float32(255)
                out[c, y, x] = (value - np.float32(augment.mean[c])) / np.float32(augment.std[c])
    if u[3] < augment.erase_prob:
        naive_erase(augment, out, u, int(index) << 20, stream)
    target = [augment.smoothing / augment.num_classes] * augment.num_classes
    target[label] = 1 - augment.smoothing + augment.smoothing / augment.num_classes
    return out, np.array(target, np.float32)


def naive_erase(augment, out, u, offset, stream):
    channels, height, width = out.shape
    low, high = augment.erase_area
    narrow, wide = augment.erase_aspect
    for attempt in range(10):
        area = (low + u[6 + 2 * attempt] * (high - low)) * height * width
        aspect = math.exp(math.log(narrow) + u[7 + 2 * attempt] * (math.log(wide) - math.log(narrow)))
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if box_height < height and box_width < width:
            break
    else:
        return
    top, left = int(u[4] * (height - box_height + 1)), int(u[5] * (width - box_width + 1))
    noise = normal_rows(augment.seed, np.array([offset + 7], np.uint64), out.size, stream=stream).reshape(out.shape)
    for c in range(channels):
        for y in range(top, top + box_height):
            for x in range(left, left + box_width):
                out[c, y, x] = noise[c, y, x] if augment.erase_mode == "pixel" else 0


@settings(max_examples=40, deadline=None)
@given(
    data_seed=SEEDS,
    seed=SEEDS,
    n=st.integers(1, 5),
    height=st.integers(6, 9),
    width=st.integers(6, 9),
    epoch=st.integers(0, 2**32 - 1),
    pad=st.integers(0, 4),
    mode=st.sampled_from(["zero", "reflect"]),
    erase_mode=st.sampled_from(["pixel", "const"]),
    erase_prob=st.sampled_from([0.0, 0.5, 1.0]),
    smoothing=st.sampled_from([0.0, 0.1]),
)
def test_equals_naive_reference(data_seed, seed, n, height, width, epoch, pad, mode, erase_mode, erase_prob, smoothing):
    augment = replace(
        PLAIN,
        seed=seed,
        hflip=0.5,
        crop_padding=pad,
        crop_mode=mode,
        erase_mode=erase_mode,
        erase_prob=erase_prob,
        smoothing=smoothing,
    )
    images, labels, indices = batch_of(data_seed, n, height, width)
    before = images.copy()
    got, targets = augment(images, labels, indices, epoch, 3)
    np.testing.assert_array_equal(images, before)
    assert got.dtype == targets.dtype == np.float32
    assert not np.shares_memory(got, images)
    for b in range(n):
        expected, target = naive(augment, images[b], labels[b], indices[b], epoch)
        np.testing.assert_array_equal(got[b], expected)
        np.testing.assert_array_equal(targets[b], target)


@settings(max_examples=25, deadline=None)
@given(data_seed=SEEDS, n=st.integers(2, 12))
def test_a_sample_does_not_depend_on_its_batch(data_seed, n):
    augment = replace(PLAIN, hflip=0.5, crop_padding=4, erase_prob=0.5)
    images, labels, indices = batch_of(data_seed, n)
    whole, _ = augment(images, labels, indices, 5, 0)
    order = np.random.default_rng(data_seed).permutation(n)[: max(1, n // 2)]
    part, _ = augment(images[order], labels[order], indices[order], 5, 17)
    np.testing.assert_array_equal(part, whole[order])


def test_epochs_seeds_and_samples_differ():
    augment = replace(PLAIN, erase_prob=1.0)
    images = np.full((1, 3, 16, 16), 128, np.uint8)
    outcomes = [
        replace(augment, seed=seed)(images, np.array([0]), np.array([index]), epoch, 0)[0].tobytes()
        for seed in (0, 1)
        for index in (0, 1, 1 << 30)
        for epoch in (0, 1)
    ]
    assert len(set(outcomes)) == len(outcomes)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 5), height=st.integers(1, 7), width=st.integers(1, 7))
def test_flip_is_an_involution(seed, n, height, width):
    images, _, _ = batch_of(seed, n, height, width)
    chosen = np.random.default_rng(seed).random(n) < 0.5
    once = flip(images, chosen)
    np.testing.assert_array_equal(flip(once, chosen), images)
    np.testing.assert_array_equal(once[~chosen], images[~chosen])
    np.testing.assert_array_equal(once[chosen], images[chosen][..., ::-1])
    np.testing.assert_array_equal(flip(images[..., ::-1], chosen), once[..., ::-1])


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 4), padding=st.integers(0, 4), mode=st.sampled_from(["zero", "reflect"]))
def test_crop_without_shift_is_the_identity(seed, n, padding, mode):
    images, _, _ = batch_of(seed, n)
    middle = np.full(n, padding)
    np.testing.assert_array_equal(crop_padded(images, middle, middle, padding, mode), images)


def test_crop_moves_one_pixel():
    image = np.zeros((2, 3, 5, 5), np.uint8)
    image[:, :, 2, 2] = 9
    moved = crop_padded(image, np.array([2, 4]), np.array([1, 3]), 3)
    assert np.argwhere(moved[0, 0]).tolist() == [[3, 4]]
    assert np.argwhere(moved[1, 0]).tolist() == [[1, 2]]


def test_crop_uses_every_shift_equally():
    shifts = as_integers(agr.uniform(0, 0, 90_000), 9)
    counts = np.bincount(shifts, minlength=9)
    assert len(counts) == 9
    assert abs(counts / 10_000 - 1).max() < 0.06


@settings(max_examples=50, deadline=None)
@given(bits=st.integers(0, 2**24 - 1), n=st.integers(1, 2**31))
def test_integers_stay_below_n(bits, n):
    uniform = np.array([bits * 2.0**-24], np.float32)
    assert as_integers(uniform, n)[0] == bits * n >> 24


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 30), height=st.integers(1, 40), width=st.integers(1, 40))
def test_boxes_lie_within_the_image(seed, n, height, width):
    u = np.random.default_rng(seed).integers(0, 2**24, (n, 22)).astype(np.float32) * np.float32(2.0**-24)
    top, left, box_height, box_width = draw_boxes(u, height, width, (0.02, 1 / 3), (0.3, 1 / 0.3))
    assert ((top >= 0) & (left >= 0) & (box_height >= 0) & (box_width >= 0)).all()
    assert ((top + box_height <= height) & (left + box_width <= width)).all()
    assert ((box_height < height) & (box_width < width)).all()


def test_erased_share_is_as_asked():
    u = agr.uniform_rows(0, np.arange(20_000) * 100, 22)
    _, _, height, width = draw_boxes(u, 32, 32, (0.02, 1 / 3), (0.3, 1 / 0.3))
    share = height * width / 1024
    assert share.mean() == pytest.approx((0.02 + 1 / 3) / 2, rel=0.02)
    assert share.min() > 0.01
    assert share.max() < 0.36
    aspect = np.log(height / width)
    assert abs(aspect.mean()) < 0.02  # log-uniform: as many tall boxes as wide ones
    chosen = np.mean([_erased(replace(PLAIN, erase_prob=0.25), index) for index in range(2000)])
    assert chosen == pytest.approx(0.25, abs=0.03)


def _erased(augment, index):
    images = np.full((1, 3, 6, 6), 200, np.uint8)
    out, _ = augment(images, np.array([0]), np.array([index]), 0, 0)
    return (out != normalise(images, MEAN, STD)).any()


def test_no_box_fits_an_image_of_one_pixel():
    images = np.full((4, 3, 1, 1), 7, np.uint8)
    out, _ = replace(PLAIN, erase_prob=1.0)(images, np.zeros(4, int), np.arange(4), 0, 0)
    np.testing.assert_array_equal(out, normalise(images, MEAN, STD))


def test_erase_touches_the_box_alone():
    images = np.zeros((2, 3, 5, 6), np.float32)
    boxes = (np.array([1, 0]), np.array([2, 0]), np.array([3, 0]), np.array([2, 0]))
    out = erase(images, boxes, np.ones((1, 1, 1, 1), np.float32))
    assert out[0].sum() == 3 * 6
    assert out[0, :, 1:4, 2:4].all()
    assert not out[1].any()


def test_normal_rows_are_normal():
    rows = normal_rows(1, np.array([0, 10_000], np.uint64), 40_000, stream=9)
    assert rows.dtype == np.float32
    assert abs(rows.mean()) < 0.01
    assert rows.std() == pytest.approx(1, abs=0.01)
    assert (rows**4).mean() == pytest.approx(3, abs=0.15)
    assert abs(np.corrcoef(rows)[0, 1]) < 0.02
    assert (abs(rows) < 1.9599).mean() == pytest.approx(0.95, abs=0.005)
    alone = normal_rows(1, np.array([10_000], np.uint64), 40_000, stream=9)
    np.testing.assert_array_equal(alone[0], rows[1])


@settings(max_examples=20, deadline=None)
@needs_numba
@given(seed=SEEDS, n=st.integers(0, 5), height=st.integers(4, 9), width=st.integers(4, 9), padding=st.integers(0, 3))
@pytest.mark.parametrize("reflect", [False, True])
def test_compiled_twin_has_the_same_bits(reflect, seed, n, height, width, padding):
    rng = np.random.default_rng(seed)
    images, _, _ = batch_of(seed, n, height, width)
    top, left = (rng.integers(0, 2 * padding + 1, n) for _ in range(2))
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    args = (images, top, left, rng.random(n) < 0.5, padding, reflect, mean, std)
    with kernel_mode("cpu"):
        got = KERNELS["crop_flip_normalise"](*args)
    np.testing.assert_array_equal(got, crop_flip_normalise(*args))


@given(seed=SEEDS, n=st.integers(1, 4))
def test_normalise(seed, n):
    images, labels, indices = batch_of(seed, n)
    out = normalise(images, MEAN, STD)
    exact = (images / 255 - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-6)
    same, targets = PLAIN(images, labels, indices, 0, 0)
    np.testing.assert_array_equal(same, out)
    evaluated, hard = Evaluate(10, MEAN, STD)(images, labels, indices, 4, 2)
    np.testing.assert_array_equal(evaluated, out)
    np.testing.assert_array_equal(hard, np.eye(10, dtype=np.float32)[labels])
    np.testing.assert_array_equal(targets, hard)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hflip": 1.5}, r"hflip to be a probability in \[0, 1\]; got 1.5"),
        ({"erase_prob": -0.1}, "erase_prob to be a probability"),
        ({"mix_prob": math.nan}, "mix_prob to be a probability"),
        ({"switch_prob": 2}, "switch_prob to be a probability"),
        ({"smoothing": 1.0}, r"smoothing in \[0, 1\)"),
        ({"crop_padding": -1}, "crop_padding to be 0 or more pixels; got -1"),
        ({"crop_mode": "wrap"}, "crop_mode 'zero' or 'reflect'; got 'wrap'"),
        ({"erase_mode": "rand"}, "erase_mode 'pixel' or 'const'; got 'rand'"),
        ({"erase_area": (0.4, 0.2)}, "erase_area 0 < low <= high <= 1"),
        ({"erase_area": (0.0, 0.2)}, "erase_area"),
        ({"erase_aspect": (-1, 2)}, "erase_aspect 0 < low <= high"),
        ({"mixup": -0.8}, r"mixup to be 0 \(off\) or positive"),
        ({"cutmix": math.inf}, "cutmix to be 0"),
        ({"mix_off_epoch": -3}, "mix_off_epoch to be 0"),
        ({"num_classes": 0}, "num_classes to be at least 1"),
        ({"mean": (0.5,)}, "mean of three channels"),
        ({"std": (0.2, 0.2, 0.0)}, "std of three positive values"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=f"Augment: expected {message}") as caught:
        replace(PLAIN, **change)
    assert f"Change {next(iter(change))}." in str(caught.value)


def test_reflection_wider_than_the_image():
    augment = replace(PLAIN, crop_padding=8, crop_mode="reflect")
    images, labels, indices = batch_of(0, 2)
    with pytest.raises(ValueError, match=r"expected padding < 8 to reflect an image of 8x8; got 8. Lower crop_padding"):
        augment(images, labels, indices, 0, 0)


def test_label_without_class():
    images, _, indices = batch_of(0, 2)
    with pytest.raises(ValueError, match=r"expected labels in \[0, 10\); got 3\.\.10. Set num_classes"):
        PLAIN(images, np.array([3, 10]), indices, 0, 0)
