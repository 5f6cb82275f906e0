"""The scenes: what they promise about their bits, their contents and their files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swinpy.data import DatasetCorrupt, channel_stats, generate, load_dataset, load_scenes
from swinpy.data.scenes import files as scene_files
from swinpy.data.scenes.draw import SCENE_CLASSES, VARIANTS
from swinpy.data.scenes.shapes import SHAPES


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    draw=st.integers(0, 2**32),
    n=st.integers(1, 70),
    variant=st.sampled_from(sorted(VARIANTS)),
)
def test_an_image_depends_on_its_own_index_only(seed, draw, n, variant):
    rng = np.random.default_rng(draw)
    indices = rng.integers(0, 10**9, n)
    whole = generate(seed, indices, variant, with_masks=True)
    for i in rng.integers(0, n, 3):
        alone = generate(seed, [indices[i]], variant, with_masks=True)
        np.testing.assert_array_equal(alone.images[0], whole.images[i])
        np.testing.assert_array_equal(alone.masks[0], whole.masks[i])
        np.testing.assert_array_equal(alone.boxes[0], whole.boxes[i])
        assert alone.labels[0] == whole.labels[i]
    reordered = generate(seed, indices[::-1], variant)
    np.testing.assert_array_equal(reordered.images[::-1], whole.images)
    assert reordered.boxes is None
    assert reordered.masks is None


def test_bits_are_those_of_version_1():
    """The folder's name promises the same pictures for ever. If this fails on purpose, raise scene_files.VERSION."""
    digests = {
        variant: hashlib.sha256(generate(0, range(100), variant).images.tobytes()).hexdigest()[:16]
        for variant in VARIANTS
    }
    assert digests == {"natural": "fccb2beef482527b", "hard": "bddffbfd14851cf0"}
    assert scene_files.VERSION == 1


def test_seed_variant_and_index_all_matter():
    base = generate(0, range(20)).images
    for other in (generate(1, range(20)), generate(0, range(20), "hard"), generate(0, range(20, 40))):
        assert (other.images != base).any(axis=(1, 2, 3)).all()


def test_classes_are_balanced_and_named():
    labels = generate(3, range(2000)).labels
    assert labels.dtype == np.int64
    assert np.bincount(labels, minlength=10).min() > 150
    assert " ".join(SCENE_CLASSES) == "circle square triangle star cross ring hexagon crescent arrow heart"


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_boxes_are_tight_around_masks(variant):
    scenes = generate(5, range(200), variant, with_masks=True)
    for box, mask in zip(scenes.boxes, scenes.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert mask.sum() >= 12


def test_mask_is_where_the_shape_is():
    """Inside the mask the colour is nearly one, whatever lies outside."""
    scenes = generate(7, range(300), "natural", with_masks=True)
    spread = [image[:, mask].std(axis=1).mean() for image, mask in zip(scenes.images, scenes.masks, strict=True)]
    assert np.median(spread) < 20


def test_colour_is_a_cue_in_one_variant_only():
    """The share of variance of the shape's colour that the class explains."""

    def explained(variant):
        scenes = generate(11, range(1500), variant, with_masks=True)
        colours = np.array([i[:, m].mean(axis=1) for i, m in zip(scenes.images, scenes.masks, strict=True)])
        between = sum(
            (scenes.labels == k).sum() * (colours[scenes.labels == k].mean(axis=0) - colours.mean(axis=0)) ** 2
            for k in range(10)
        )
        return (between / ((colours - colours.mean(axis=0)) ** 2).sum(axis=0)).mean()

    assert explained("natural") > 0.25
    assert explained("hard") < 0.03


@pytest.mark.parametrize("name", list(SHAPES))
def test_shapes_lie_within_the_unit_square(name):
    line = np.linspace(-1.6, 1.6, 161, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    distance = SHAPES[name](x, y)
    assert distance.dtype == np.float32
    inside = distance < 0
    assert 0.1 < inside.sum() * 0.02**2 < 2.8
    assert max(abs(x[inside]).max(), abs(y[inside]).max()) <= 1.01
    # An arrow and a crescent are their own image upside down, all others left to right.
    mirrored = inside[::-1] if name in ("arrow", "crescent") else inside[:, ::-1]
    assert (mirrored != inside).mean() < 0.002


def test_star_has_five_tips():
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    x, y = (0.7 * np.cos(angle)).astype(np.float32), (0.7 * np.sin(angle)).astype(np.float32)
    inside = SHAPES["star"](x, y) < 0
    assert (inside & ~np.roll(inside, 1)).sum() == 5


@pytest.mark.parametrize("indices", [[-1], [2**53], [[0, 1]]])
def test_bad_indices(indices):
    with pytest.raises(ValueError, match=r"scenes: expected a list of indices in .*Give a range or a 1-D array"):
        generate(0, indices)


def test_no_indices():
    assert generate(0, []).images.shape == (0, 3, 32, 32)


def test_unknown_variant(tmp_path):
    for call in (lambda: generate(0, [0], "easy"), lambda: load_scenes(tmp_path, "easy")):
        with pytest.raises(ValueError, match=r"expected a variant of natural, hard; got 'easy'. Choose one of these"):
            call()


@pytest.mark.parametrize(("train", "test"), [(12, 2), (0, 2), (-5, 2), (10, 0)])
def test_bad_numbers(tmp_path, train, test):
    with pytest.raises(ValueError, match=rf"got {train} and {test}.*round the number up"):
        load_scenes(tmp_path, train=train, test=test)


def test_the_least_numbers(tmp_path):
    sets = load_scenes(tmp_path, train=5, test=1)
    assert [len(s) for s in sets] == [5, 1]


def small(root, **options):
    return load_scenes(root, **{"train": 50, "test": 8, **options})


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_through_disk_and_the_primary_loader(tmp_path, variant):
    train, test = small(tmp_path / "new", variant=variant, seed=4)
    folder = tmp_path / "new" / f"scenes-{variant}-v1-seed4-50-8"
    assert [path.name for path in (tmp_path / "new").iterdir()] == [folder.name]
    assert sorted(path.name for path in folder.iterdir()) == [
        "batches.meta.txt",
        *(f"data_batch_{i}.bin" for i in range(1, 6)),
        "manifest.json",
        "test_batch.bin",
    ]
    assert (folder / "data_batch_1.bin").stat().st_size == 10 * 3073
    assert (folder / "batches.meta.txt").read_text().split() == list(SCENE_CLASSES)
    expected = generate(4, range(50), variant)
    np.testing.assert_array_equal(train.images, expected.images)
    np.testing.assert_array_equal(train.labels, expected.labels)
    np.testing.assert_array_equal(test.images, generate(4, 10**9 + np.arange(8), variant).images)
    assert train.synthetic
    assert test.synthetic
    assert train.name == "scenes"
    assert train.source == str(folder)
    assert (test.mean, test.std) == (train.mean, train.std) == channel_stats(train.images)


def test_second_load_reads_what_is_there(tmp_path, monkeypatch):
    first, _ = small(tmp_path)
    monkeypatch.setattr(scene_files, "generate", lambda *_: pytest.fail("drawn again"))
    second, _ = small(tmp_path)
    np.testing.assert_array_equal(first.images, second.images)


def test_by_name_with_the_usual_numbers(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(scene_files, "_make", lambda *arguments: calls.append(arguments))
    with pytest.raises(DatasetCorrupt):  # since nothing was made
        load_dataset("scenes", tmp_path, seed=9)
    assert calls == [(tmp_path / "scenes-natural-v1-seed9", "natural", 9, 12_000, 2_000)]


@pytest.mark.parametrize("name", ["data_batch_2.bin", "test_batch.bin", "batches.meta.txt"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_said_and_not_mended(tmp_path, name, damage):
    small(tmp_path)
    (folder,) = tmp_path.iterdir()
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(DatasetCorrupt) as caught:
        small(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"scenes: expected {path} to have SHA-256")
    assert ("got no such file" if damage == "remove" else "got SHA-256") in text
    assert f"Remove {folder} to have the scenes drawn again." in text
    assert path.exists() == (damage != "remove")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"sha256": 3}', '{"sha256": {}}', None])
def test_manifest_that_cannot_be_read(tmp_path, content):
    small(tmp_path)
    (folder,) = tmp_path.iterdir()
    if content is None:
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text(content)
    with pytest.raises(DatasetCorrupt, match=r"expected a readable manifest\.json in .*Remove .* drawn again"):
        small(tmp_path)


def test_manifest_says_what_it_is(tmp_path):
    small(tmp_path, seed=2)
    (path,) = tmp_path.glob("*/manifest.json")
    manifest = json.loads(path.read_text())
    assert "not photographs" in manifest["what"]
    assert (manifest["seed"], manifest["variant"], manifest["version"]) == (2, "natural", 1)


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"scenes: expected to write .*; got .*--data-dir"):
        small(tmp_path / "file")

    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(scene_files.tempfile, "mkdtemp", read_only)
    with pytest.raises(OSError, match=r"got Read-only file system\. Choose a folder that can be written"):
        small(tmp_path / "other")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_half_way_leaves_nothing(tmp_path, monkeypatch, error):
    real, calls = scene_files.write_cifar_binary, []

    def fail_at_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise error
        real(*arguments)

    monkeypatch.setattr(scene_files, "write_cifar_binary", fail_at_third)
    with pytest.raises((OSError, KeyboardInterrupt)) as caught:
        small(tmp_path)
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
        assert "45 MB free" in str(caught.value)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    small(tmp_path)


def test_several_at_once(tmp_path):
    results = []
    threads = [threading.Thread(target=lambda: results.append(small(tmp_path)[0].images)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all((images == results[0]).all() for images in results)
    assert len(list(tmp_path.iterdir())) == 1


def test_calibration_runs():
    """As a command, and with one BLAS thread: its matrices are too small for more."""
    command = [sys.executable, "-W", "error", "-m", "swinpy.data.scenes.calibrate", "--train", "100", "--test", "50"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, "--variant", "natural"], capture_output=True, text=True, check=True, env=environment
    )
    found = re.fullmatch(r"natural  kNN \(k=5\) (\d+\.\d)%  logistic (\d+\.\d)%  drawn in \d+\.\d s\n", run.stdout)
    assert found, run.stdout
    assert 20 < float(found[1]) < 90
    assert 20 < float(found[2]) < 90
