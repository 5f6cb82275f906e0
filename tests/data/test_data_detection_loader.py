"""Samples with boxes and masks: what is refused, how they are resized, cut and mirrored, and their batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from swinpy.data import DatasetCorrupt, normalise
from swinpy.data.detection import DetectionLoader, DetectionRecipe, dataset_of, load_many_scenes, resized_size
from swinpy.data.detection.resize import resize_masks, resize_pixels
from swinpy.data.detection.transforms import crop, mirror, resize


@pytest.fixture(scope="module")
def scenes():
    return load_many_scenes(3, 30, 1, variant="hard", classes=5)[0]


def recipe_of(dataset, **options):
    options = {"shorts": (64, 96, 130), "crop_shorts": (80, 110), "crop_sides": (40, 70), **options}
    return DetectionRecipe(dataset.mean, dataset.std, **options)


def assert_tight(sample):
    """Boxes lie around their masks."""
    assert len(sample.boxes) == len(sample.labels) == len(sample.masks)
    for box, mask in zip(sample.boxes, sample.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_targets_that_are_refused():
    """The check is swinpy.targets'; what it says is about the data here."""
    image, target = np.zeros((3, 9, 8), np.uint8), {"boxes": [[1, 1, 9, 5]], "labels": [0]}
    with pytest.raises(
        DatasetCorrupt, match=r"targets of image 0: expected boxes inside the image of 9 x 8; got \[1.0"
    ):
        dataset_of([image], [target], ("a",), mean=(0.5,) * 3, std=(0.5,) * 3)


def test_mirrored_twice_is_the_same(scenes):
    for i in range(10):
        sample, once = scenes[i], mirror(scenes[i])
        assert_tight(once)
        for name in ("image", "boxes", "masks", "crowd_boxes"):
            np.testing.assert_array_equal(getattr(mirror(once), name), getattr(sample, name))


def test_crops_keep_boxes_around_masks(scenes):
    for i in range(30):
        sample = scenes[i]
        part = crop(sample, 20, 31, 40, 50)
        assert part.size == (40, 50)
        np.testing.assert_array_equal(part.image, sample.image[:, 20:60, 31:81])
        assert_tight(part)
        inside = sample.masks[:, 20:60, 31:81].sum(axis=(1, 2))
        assert sorted(part.masks.sum(axis=(1, 2))) == sorted(inside[inside > 0])
    with pytest.raises(ValueError, match=r"crop: expected a part of the image's \(96, 96\); got 40x50 pixels at 60, 0"):
        crop(scenes[0], 60, 0, 40, 50)


def test_a_crop_without_masks_cuts_boxes(scenes):
    sample = replace(
        scenes[0], masks=None, boxes=np.array([[0, 0, 30, 30], [0, 0, 20.5, 9]], np.float32), labels=np.arange(2)
    )
    assert crop(sample, 0, 20, 50, 50).boxes.tolist() == [[0, 0, 10, 30]]


@pytest.mark.parametrize("rule", ["mmdet", "torchvision", "detectron2"])
def test_twice_as_large(scenes, rule):
    sample = scenes[1]
    large = resize(sample, (192, 192), rule)
    assert_tight(large)
    np.testing.assert_array_equal(large.boxes, sample.boxes * 2)
    np.testing.assert_array_equal(large.masks[:, ::2, ::2], sample.masks)
    assert large.image.dtype == (np.float32 if rule == "torchvision" else np.uint8)


def _bilinear(image, size):
    """By its definition, in float64."""
    matrices = []
    for old, new in zip(image.shape[1:], size, strict=True):
        place = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0)
        first = np.minimum(place.astype(int), old - 1)
        matrix = np.zeros((new, old))
        np.add.at(matrix, (np.arange(new), first), 1 - (place - first))
        np.add.at(matrix, (np.arange(new), np.minimum(first + 1, old - 1)), place - first)
        matrices.append(matrix)
    return np.einsum("ij,cjk,lk->cil", matrices[0], image.astype(float), matrices[1])


@pytest.mark.parametrize("seed", range(8))
def test_pixels_are_bilinear(seed):
    rng = np.random.default_rng(seed)
    height, width, new_height, new_width = (int(v) for v in rng.integers(1, 60, 4))
    image, size = rng.integers(0, 256, (3, height, width), dtype=np.uint8), (new_height, new_width)
    want = _bilinear(image, size)
    np.testing.assert_allclose(resize_pixels(image, size, "torchvision"), want, rtol=0, atol=1e-3)
    assert abs(resize_pixels(image, size, "mmdet") - want).max() < 1.6
    pillow = Image.fromarray(image.transpose(1, 2, 0)).resize(size[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize_pixels(image, size, "detectron2"), np.asarray(pillow).transpose(2, 0, 1))
    pairs = zip((height, width), size, strict=True)
    rows, columns = (((np.arange(new) + 0.5) * old / new + 1e-9).astype(int) for old, new in pairs)
    np.testing.assert_array_equal(resize_masks(image[:1], size)[0], image[0][rows[:, None], columns])


@pytest.mark.parametrize(
    ("size", "rule", "want"),
    [
        ((480, 640), "mmdet", (800, 1067)),
        ((480, 640), "torchvision", (800, 1066)),
        ((480, 640), "detectron2", (800, 1067)),
        ((427, 1280), "mmdet", (445, 1333)),
        ((427, 1280), "torchvision", (444, 1333)),
    ],
)
def test_sizes(size, rule, want):
    assert resized_size(size, 800, 1333, rule) == want


def test_batches(scenes):
    recipe = recipe_of(scenes)
    loader = DetectionLoader(scenes, 4, recipe, shuffle=True, seed=2)
    batches = list(loader.epoch(1))
    assert len({batch.images.shape for batch in batches}) > 1
    for batch in batches:
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
        for b, (h, w) in enumerate(batch.sizes):
            assert not batch.images[b, :, h:].any()
            assert not batch.images[b, :, :, w:].any()
            assert batch.masks[b].shape == (len(batch.labels[b]), *batch.images.shape[2:])
            assert not batch.masks[b][:, h:].any()
            assert (batch.boxes[b] >= 0).all()
            assert (batch.boxes[b] <= [w, h, w, h]).all()
            assert batch.originals[b] == (96, 96)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_and_starts_change_nothing(scenes, workers):
    whole = list(DetectionLoader(scenes, 4, recipe_of(scenes), shuffle=True, seed=2).epoch(1))
    threaded = DetectionLoader(scenes, 4, recipe_of(scenes), shuffle=True, seed=2, workers=workers)
    for got, want in zip(threaded.epoch(1, 3), whole[3:], strict=True):
        assert got.step == want.step
        np.testing.assert_array_equal(got.images, want.images)
        for name in ("boxes", "labels", "masks"):
            for a, b in zip(getattr(got, name), getattr(want, name), strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_sample_does_not_depend_on_its_batch(scenes):
    recipe = recipe_of(scenes)
    alone, together = recipe([scenes[5]], 2, 0), recipe([scenes[4], scenes[5]], 2, 9)
    height, width = alone.sizes[0]
    assert together.sizes[1] == (height, width)
    np.testing.assert_array_equal(alone.images[0, :, :height, :width], together.images[1, :, :height, :width])


def test_evaluation_draws_nothing(scenes):
    recipe = recipe_of(scenes, shorts=()).for_evaluation()
    batch = recipe([scenes[0]], 3, 0)
    np.testing.assert_array_equal(batch.images, normalise(scenes[0].image[None], scenes.mean, scenes.std))
    assert recipe_of(scenes).for_evaluation()([scenes[0]], 0, 0).sizes == ((130, 130),)
