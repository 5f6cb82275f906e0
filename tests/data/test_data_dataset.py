"""The dataset record, the names, and the digits."""

from __future__ import annotations

import builtins
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swinpy import data
from swinpy.data import ImageDataset, channel_stats, load_dataset, load_digits
from swinpy.data.digits import upsample4


def make(n=6, classes=3):
    rng = np.random.default_rng(0)
    return ImageDataset(
        name="toy",
        images=rng.integers(0, 256, (n, 3, 4, 4), dtype=np.uint8),
        labels=np.arange(n) % classes,
        class_names=tuple("abc"[:classes]),
        synthetic=True,
        source="nowhere",
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
    )


def test_record():
    dataset = make()
    assert len(dataset) == 6
    assert dataset.num_classes == 3
    with pytest.raises(FrozenInstanceError):
        dataset.name = "other"
    part = dataset.take(np.array([4, 1]))
    assert len(part) == 2
    np.testing.assert_array_equal(part.images, dataset.images[[4, 1]])
    np.testing.assert_array_equal(part.labels, dataset.labels[[4, 1]])
    assert part.class_names == dataset.class_names
    assert len({d.identity for d in (dataset, part, dataset.take(np.array([1, 4])), dataset.subset(2))}) == 4
    assert len(dataset.subset(6)) == 6


@pytest.mark.parametrize("n", [0, -1, 7])
def test_subset_of_another_size(n):
    with pytest.raises(ValueError, match=rf"expected 1 <= n <= 6; got {n}. Ask for no more"):
        make().subset(n)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((6, 3, 4, 4), np.float32)}, r"uint8 \(N, 3, H, W\); got float32 .*channels first"),
        ({"images": np.zeros((6, 4, 4, 3), np.uint8)}, r"got uint8 \(6, 4, 4, 3\).*Transpose"),
        ({"images": np.zeros((6, 3, 4), np.uint8)}, r"got uint8 \(6, 3, 4\)"),
        ({"labels": np.zeros(5, np.int64)}, r"labels as int64 \(6,\); got int64 \(5,\).*one class number an image"),
        ({"labels": np.zeros(6, np.int32)}, r"got int32 \(6,\).*astype\(np.int64\)"),
        ({"labels": np.full(6, 3)}, r"labels in \[0, 3\); got 3..3. Name every class"),
        ({"labels": np.full(6, -1)}, r"got -1..-1.*count classes from 0"),
        ({"images": np.zeros((0, 3, 4, 4), np.uint8), "labels": np.zeros(0, np.int64)}, "at least one image; got none"),
        ({"mean": (0.5,)}, "three means.*channel_stats"),
        ({"std": (0.2, 0.0, 0.2)}, "three positive stds.*channel_stats"),
    ],
)
def test_bad_record(change, message):
    with pytest.raises(ValueError, match=f"ImageDataset 'toy': .*{message}"):
        replace(make(), **change)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 9), side=st.integers(1, 6))
def test_channel_stats(seed, n, side):
    images = np.random.default_rng(seed).integers(0, 256, (n, 3, side, side), dtype=np.uint8)
    mean, std = channel_stats(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-9, atol=1e-12)


def test_unknown_name(tmp_path):
    known = "expected a name of cifar10, cifar100, scenes, digits, folder; got 'imagenet'"
    with pytest.raises(ValueError, match=known):
        load_dataset("imagenet", tmp_path)


def test_public_names():
    assert sorted(data.__all__, key=lambda name: (not name.isupper(), name.islower(), name))
    assert all(hasattr(data, name) for name in data.__all__)


def test_import_is_light():
    """Neither scikit-learn nor what it brings is loaded before it is needed."""
    code = "import sys, swinpy.data; print([m for m in ('sklearn', 'scipy', 'matplotlib') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_digits(tmp_path):
    train, test = load_dataset("digits", tmp_path / "not needed")
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape == (1437, 3, 32, 32)
    assert not train.synthetic
    np.testing.assert_array_equal(train.images[:, 0], train.images[:, 2])
    assert not (tmp_path / "not needed").exists()

    from sklearn.datasets import load_digits as original

    bunch = original()
    share = np.bincount(test.labels) / np.bincount(bunch.target)
    assert abs(share - 360 / 1797).max() < 0.005
    # Every image is in exactly one half: the sets of all 1,797 (label, picture) pairs agree.
    whole = sorted(
        (int(t), upsample4(i[None].astype(int)).tobytes()) for t, i in zip(bunch.target, bunch.images, strict=True)
    )
    halves = sorted(
        (int(t), i[0].tobytes()) for part in (train, test) for t, i in zip(part.labels, part.images, strict=True)
    )
    assert whole == halves
    again, _ = load_digits()
    np.testing.assert_array_equal(again.images, train.images)
    assert (train.mean, train.std) == channel_stats(train.images)
    assert test.mean == train.mean


def test_digits_without_sklearn(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r'digits: expected scikit-learn.*pip install "swinpy\[data\]"'):
        load_digits()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 8), width=st.integers(1, 8))
def test_upsampling_is_bilinear(seed, height, width):
    image = np.random.default_rng(seed).integers(0, 17, (1, height, width))
    got = upsample4(image)[0]
    assert got.shape == (4 * height, 4 * width)
    for row in range(4 * height):
        for column in range(4 * width):
            y = min(max((row + 0.5) / 4 - 0.5, 0), height - 1)
            x = min(max((column + 0.5) / 4 - 0.5, 0), width - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            fy, fx = y - y0, x - x0
            top = image[0, y0, x0] * (1 - fx) + image[0, y0, x1] * fx
            bottom = image[0, y1, x0] * (1 - fx) + image[0, y1, x1] * fx
            assert got[row, column] == int((top * (1 - fy) + bottom * fy) * 255 / 16 + 0.5)


def test_upsampling_of_constants():
    np.testing.assert_array_equal(upsample4(np.full((2, 8, 8), 16)), 255)
    np.testing.assert_array_equal(upsample4(np.zeros((2, 8, 8), int)), 0)
