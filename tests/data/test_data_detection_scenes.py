"""Scenes of several objects: their bits, what is in them, and their files."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from swinpy.data.detection import (
    Detections,
    Rle,
    generate_many,
    load_coco,
    load_many_scenes,
    outline,
    write_ade,
    write_coco,
)
from swinpy.data.detection.many_scenes import MANY_VARIANTS, VOID
from swinpy.data.detection.rle import rasterise
from swinpy.data.scenes.draw import SCENE_CLASSES
from swinpy.metrics import evaluate_coco

VARIANTS = sorted(MANY_VARIANTS)
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def drawn(variant="plain", n=200, seed=3, **options):
    most = options.pop("most", MANY_VARIANTS[variant].grid ** 2)
    return generate_many(seed, range(n), variant=variant, most=most, **options)


def test_bits_are_promised():
    """Runs on these scenes are compared by their seed. If this fails on purpose, give the variants new numbers."""
    digests = {}
    for variant in VARIANTS:
        scenes = drawn(variant, 60, seed=0)
        whole = hashlib.sha256(scenes.images.tobytes() + scenes.semantic.tobytes())
        for part in (*scenes.boxes, *scenes.labels, *scenes.masks):
            whole.update(part.tobytes())
        digests[variant] = whole.hexdigest()[:16]
    assert digests == {"easy": "d047b508575d584f", "hard": "793915bab2867dd4", "plain": "c133220ab81dee03"}


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    draw=st.integers(0, 2**32),
    n=st.integers(1, 40),
    variant=st.sampled_from(VARIANTS),
    side=st.sampled_from([32, 64, 97]),
)
def test_an_image_depends_on_its_own_index_only(seed, draw, n, variant, side):
    indices = np.random.default_rng(draw).integers(0, 2**50, n)
    whole = generate_many(seed, indices, variant=variant, side=side)
    for i in {0, n // 2, n - 1}:
        alone = generate_many(seed, [indices[i]], variant=variant, side=side)
        for name in ("images", "boxes", "labels", "masks", "crowds", "semantic"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(whole, name)[i])


def test_seed_variant_and_index_all_matter():
    base = drawn(n=20).images
    for other in (drawn(n=20, seed=4), drawn("hard", 20), generate_many(3, range(20, 40))):
        assert (other.images if hasattr(other, "images") else other).shape == base.shape
        assert (other.images != base).any(axis=(1, 2, 3)).all()


@every_variant
def test_boxes_masks_and_map_agree(variant):
    scenes = drawn(variant)
    for boxes, labels, masks, crowds, semantic in zip(
        scenes.boxes, scenes.labels, scenes.masks, scenes.crowds, scenes.semantic, strict=True
    ):
        assert boxes.shape == (len(labels), 4)
        assert masks.shape == (len(labels), 96, 96)
        assert (masks.sum(axis=0) <= 1).all()
        want = np.zeros((96, 96), int)
        for box, label, mask, crowd in zip(boxes, labels, masks, crowds, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert crowd or mask.sum() >= 20
            want[mask] = VOID if crowd else label + 1
        np.testing.assert_array_equal(semantic, want)


@every_variant
def test_what_is_drawn(variant):
    scenes = drawn(variant, 1000)
    counts = np.array([(~crowds).sum() for crowds in scenes.crowds])
    assert 0.07 < (np.array([len(labels) for labels in scenes.labels]) == 0).mean() < 0.13
    assert 0.07 < np.mean([bool(crowds.any()) for crowds in scenes.crowds]) < 0.13
    assert counts.max() == MANY_VARIANTS[variant].grid ** 2
    labels = np.concatenate(scenes.labels)
    assert np.bincount(labels, minlength=10).min() > 0.07 * len(labels)
    overlapping = np.mean([_overlap(boxes) for boxes in scenes.boxes])
    assert overlapping > 0.2 if variant == "hard" else overlapping < 0.2


def _overlap(boxes):
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    return bool(((high > low).all(axis=-1) & ~np.eye(len(boxes), dtype=bool)).any())


def test_a_crowd_is_a_row_of_equal_shapes():
    scenes = drawn("easy", 300)
    rows = [
        (box, mask)
        for b, m, c in zip(scenes.boxes, scenes.masks, scenes.crowds, strict=True)
        for box, mask in zip(b[c], m[c], strict=True)
    ]
    wide = [box for box, _ in rows if box[2] - box[0] > 70]
    assert len(wide) > 20
    assert max(box[3] - box[1] for box in wide) <= 8


def test_colour_tells_the_class_in_one_variant_only():
    def explained(variant):
        scenes = drawn(variant, 400)
        colours, labels = [], np.concatenate(scenes.labels)
        for image, masks in zip(scenes.images, scenes.masks, strict=True):
            colours += [image[:, mask].mean(axis=1) for mask in masks]
        colours = np.array(colours)
        within = sum(((colours[labels == k] - colours[labels == k].mean(axis=0)) ** 2).sum() for k in range(10))
        return 1 - within / ((colours - colours.mean(axis=0)) ** 2).sum()

    assert explained("easy") > 0.5
    assert explained("plain") < 0.1


def test_noise_is_as_said():
    scenes = drawn("hard", 60)
    for image, labels in zip(scenes.images, scenes.labels, strict=True):
        if not len(labels):
            second = np.diff(image.astype(float), n=2, axis=1)
            assert second.std() / 6**0.5 / 255 == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "natural"}, r"expected a variant of easy, plain, hard; got 'natural'"),
        ({"side": 31}, r"expected side in \[32, 240\]; got 31"),
        ({"side": 241}, r"expected side in \[32, 240\]; got 241"),
        ({"classes": 11}, r"expected classes in \[1, 10\]; got 11"),
        ({"most": 5}, r"expected most in \[1, 4\]; got 5"),
        ({"most": 0}, r"expected most in \[1, 4\]; got 0"),
        ({"indices": [-1]}, r"expected a list of indices in \[0, 2\*\*50\)"),
        ({"indices": [[1]]}, r"expected a list of indices in .*; got shape \(1, 1\)"),
    ],
)
def test_bad_arguments(options, message):
    indices = options.pop("indices", [0])
    with pytest.raises(ValueError, match=f"generate_many: {message}"):
        generate_many(0, indices, **options)


def test_no_image():
    scenes = generate_many(0, [])
    assert scenes.images.shape == (0, 3, 96, 96)
    assert scenes.boxes == []


# ---- as a set, and as files


def test_as_a_set():
    train, test = load_many_scenes(5, 40, 10, side=64, classes=3)
    scenes = generate_many(5, range(40), side=64, classes=3)
    assert (len(train), len(test)) == (40, 10)
    assert train.class_names == SCENE_CLASSES[:3]
    assert train.synthetic
    assert train.mean == test.mean
    assert train.identity != test.identity
    for i in range(40):
        sample, crowds = train[i], scenes.crowds[i]
        np.testing.assert_array_equal(sample.image, scenes.images[i])
        np.testing.assert_array_equal(sample.boxes, scenes.boxes[i][~crowds])
        np.testing.assert_array_equal(sample.labels, scenes.labels[i][~crowds])
        np.testing.assert_array_equal(sample.masks, scenes.masks[i][~crowds])
        np.testing.assert_array_equal(sample.crowd_boxes, scenes.boxes[i][crowds])


@every_variant
def test_outlines_give_the_mask_back(variant):
    found = 0
    for masks in drawn(variant, 60).masks:
        for mask in masks:
            polygon = outline(mask)
            if polygon is not None:
                np.testing.assert_array_equal(rasterise([np.array(polygon, float)], mask.shape).decode(), mask)
                found += 1
    assert found > 60


@pytest.mark.parametrize(
    ("rows", "polygon"),
    [
        (["#"], [0, 0, 1, 0, 1, 1, 0, 1]),
        (["##", "#."], [0, 0, 2, 0, 2, 1, 1, 1, 1, 2, 0, 2]),
        (["#.#"], None),
        (["#.", ".#"], None),
        (["###", "#.#", "###"], None),
        (["..", ".."], None),
    ],
)
def test_outlines(rows, polygon):
    assert outline(np.array([[c == "#" for c in row] for row in rows])) == polygon


def test_through_cocos_files(tmp_path):
    scenes = drawn("hard", 40, classes=6)
    file, images = write_coco(tmp_path, scenes, SCENE_CLASSES[:6], "val")
    assert file == tmp_path / "annotations" / "instances_val.json"
    dataset = load_coco(file, images)
    kinds = [type(s).__name__ for s in dataset.annotations.segmentation]
    assert kinds.count("tuple") > 30
    assert kinds.count("Rle") > 30
    assert np.diff(dataset.ids).max() > 3
    assert max(dataset.category_ids) > 6
    for i in range(40):
        sample, crowds = dataset[i], scenes.crowds[i]
        np.testing.assert_array_equal(sample.image, scenes.images[i])
        np.testing.assert_array_equal(sample.masks, scenes.masks[i][~crowds])
        np.testing.assert_array_equal(sample.boxes, scenes.boxes[i][~crowds])
        np.testing.assert_array_equal(sample.labels, scenes.labels[i][~crowds])
        np.testing.assert_array_equal(sample.crowd_boxes, scenes.boxes[i][crowds])


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_the_truth_finds_itself(kind):
    train, _ = load_many_scenes(5, 40, 1)
    results = []
    for i in range(40):
        sample = train[i]
        results.append({"boxes": sample.boxes, "labels": sample.labels, "scores": np.ones(len(sample.labels))})
        results[-1]["masks"] = [Rle.encode(mask) for mask in sample.masks]
    scores = evaluate_coco(train.annotations, Detections.of_images(results), train.sizes, train.num_classes, kind)
    assert scores.average_precision() == pytest.approx(1, abs=1e-12)
    assert scores.average_precision(area="large") is None


def test_through_ades_files(tmp_path):
    scenes = drawn(n=12)
    images, maps = write_ade(tmp_path, scenes, "validation")
    assert images == tmp_path / "images" / "validation"
    names = sorted(path.stem for path in images.glob("*.jpg"))
    assert names == sorted(path.stem for path in maps.glob("*.png"))
    assert names[0] == "ADE_valid_00000001"
    for i, name in enumerate(names):
        labels = np.asarray(Image.open(maps / f"{name}.png"))
        np.testing.assert_array_equal(np.where(labels == 0, VOID, labels.astype(int) - 1), scenes.semantic[i])
        close = np.asarray(Image.open(images / f"{name}.jpg")).transpose(2, 0, 1).astype(int) - scenes.images[i]
        assert abs(close).mean() < 8


@every_variant
def test_no_shape_is_cut_by_its_window(variant, monkeypatch):
    few = drawn(variant, 60)
    monkeypatch.setattr("swinpy.data.detection.many_scenes._REACH", 9.0)  # windows as large as the image
    np.testing.assert_array_equal(drawn(variant, 60).images, few.images)
