"""COCO's json: what is read, what is left out and said, what is refused."""

from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask
from support.coco_sets import made_up, write_set

from swinpy.data import BadImage, DatasetCorrupt, DatasetMissing
from swinpy.data.detection import Rle, load_coco
from swinpy.data.detection.rle import intersections, rasterise

# of pycocotools' own: NumPy 2 wants another signature of what decode returns
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

# ---- runs

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(MASKS)
def test_runs_are_those_of_pycocotools(mask):
    runs, theirs = Rle.encode(mask), coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert runs.text() == theirs["counts"].decode()
    assert runs.area == mask.sum() == coco_mask.area(theirs)
    for text in (theirs["counts"], theirs["counts"].decode()):
        np.testing.assert_array_equal(Rle.from_text(text, mask.shape).decode(), mask)


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=8))
def test_runs_of_any_lengths_are_written_as_pycocotools_reads_them(counts):
    """Of nothing, too: two neighbouring runs are then one."""
    total = max(sum(counts), 1)
    counts = [*counts, total - sum(counts)]
    runs = Rle((total, 1), np.array(counts))
    np.testing.assert_array_equal(Rle.from_text(runs.text(), runs.size).counts, counts)
    theirs = {"size": [total, 1], "counts": runs.text().encode()}
    np.testing.assert_array_equal(coco_mask.decode(theirs), runs.decode())
    other = Rle.encode(np.arange(total)[:, None] % 3 > 0)
    assert intersections([runs], [other])[0, 0] == (runs.decode() & other.decode()).sum()


@given(st.lists(MASKS, min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_intersections(masks, seed):
    shape = masks[0].shape
    rng = np.random.default_rng(seed)
    these, those = ([rng.random(shape) < rng.random() for _ in range(n)] for n in (3, len(masks)))
    got = intersections([Rle.encode(m) for m in these], [Rle.encode(m) for m in those])
    assert got.tolist() == [[int((a & b).sum()) for b in those] for a in these]


def test_intersections_of_none_and_of_several_sizes():
    one, other = Rle.encode(np.ones((2, 3), bool)), Rle.encode(np.ones((3, 2), bool))
    assert intersections([], [one]).shape == (0, 1)
    assert intersections([one], []).shape == (1, 0)
    with pytest.raises(ValueError, match=r"expected masks of one size; got \[\(2, 3\), \(3, 2\)\]"):
        intersections([one], [other])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", r"expected runs that fill 2x3 = 6 pixels; got 1"),
        ("", r"expected runs that fill 2x3 = 6 pixels; got 0"),
        ("12345", r"expected runs that fill"),
        ("o", r"expected compressed runs to end; got the end of the text within a run"),
        ("oooooooo0", r"expected at most 7 characters a run; got 9"),
        ("\x01", r"expected characters of compressed runs"),
        ("é", r"expected compressed runs to end|expected runs that fill"),
        ("D6", r"expected runs of 0 to 6 pixels; got one of -12"),
        ("ooooooO6", r"expected runs of 0 to 6 pixels; got one of"),
    ],
)
def test_texts_that_are_no_runs(text, message):
    with pytest.raises(ValueError, match=message):
        Rle.from_text(text, (2, 3))


@given(st.binary(max_size=12))
def test_no_text_does_harm(text):
    try:
        runs = Rle.from_text(text, (4, 5))
    except ValueError:
        return
    assert runs.decode().shape == (4, 5)


@pytest.mark.parametrize("size", [(0, 3), (1 << 14, 1 << 13), (-2, -3)])
def test_sizes_that_no_mask_has(size):
    with pytest.raises(ValueError, match=r"expected a mask of 1 to 2\^26 pixels"):
        Rle(size, np.array([size[0] * size[1]]))


@pytest.mark.parametrize("seed", range(5))
def test_polygons_are_rasterised_as_by_pycocotools(seed):
    rng = np.random.default_rng(seed)
    polygons = [rng.uniform(-5, 45, 2 * int(rng.integers(3, 9))) for _ in range(3)]
    theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([p.tolist() for p in polygons], 30, 40)))
    np.testing.assert_array_equal(rasterise(polygons, (30, 40)).decode(), theirs)


def test_polygons_need_pycocotools(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match=r"expected pycocotools, which rasterises them.*'swinpy\[detection\]'"):
        rasterise([np.array([0.0, 0, 3, 0, 3, 3])], (5, 5))


# ---- files


def small():
    """Two images and an empty one, ids with holes; a polygon, both kinds of runs, a crowd."""
    mask = np.zeros((30, 40), bool)
    mask[5:15, 10:30] = True
    other = np.zeros((20, 25), bool)
    other[2:9, 3:20] = True
    runs = {"size": [30, 40], "counts": Rle.encode(mask).text()}
    flat = {"size": [20, 25], "counts": Rle.encode(other).counts.tolist()}
    common = {"iscrowd": 0, "area": 200.0}
    return {
        "images": [
            {"id": 70, "file_name": "b.png", "height": 20, "width": 25},
            {"id": 9, "file_name": "a.png", "height": 30, "width": 40},
            {"id": 12, "file_name": "empty.png", "height": 8, "width": 50},
        ],
        "categories": [{"id": 44, "name": "late"}, {"id": 3, "name": "early"}],
        "annotations": [
            {"id": 5, "image_id": 70, "category_id": 44, "bbox": [3, 2, 17, 7], "segmentation": flat, **common},
            {"id": 6, "image_id": 9, "category_id": 3, "bbox": [10, 5, 20, 10], "segmentation": runs, **common},
            {
                "id": 9,
                "image_id": 9,
                "category_id": 44,
                "bbox": [2, 3, 10.5, 8],
                "segmentation": [[2, 3, 12.5, 3, 12.5, 11, 2, 11], [0, 0, 1, 0, 1, 1, 0, 1]],
                **common,
            },
            {
                "id": 1,
                "image_id": 9,
                "category_id": 3,
                "bbox": [0, 0, 40, 4],
                "segmentation": runs,
                "iscrowd": 1,
                "area": 9,
            },
        ],
    }


def loaded(folder, content, **options):
    return load_coco(*write_set(folder, content), **options)


def test_samples(tmp_path):
    dataset = loaded(tmp_path, small())
    assert dataset.ids == (9, 12, 70)
    assert dataset.class_names == ("early", "late")
    assert dataset.category_ids == (3, 44)
    assert len(dataset) == 3
    first, empty, last = (dataset[i] for i in range(3))
    assert first.image.shape == (3, 30, 40)
    assert first.image.dtype == np.uint8
    assert first.image[:, 0, 0].tolist() == [90, 120, 30]
    assert (first.id, first.index) == (9, 0)
    assert first.boxes.tolist() == [[10, 5, 30, 15], [2, 3, 12.5, 11]]
    assert first.boxes.dtype == np.float32
    assert first.labels.tolist() == [0, 1]
    assert first.crowd_boxes.tolist() == [[0, 0, 40, 4]]
    assert [int(m.sum()) for m in first.masks] == [200, 11 * 8 + 1]
    assert first.masks[0, 5:15, 10:30].all()
    assert empty.boxes.shape == (0, 4)
    assert empty.masks.shape == (0, 8, 50)
    assert (last.labels.tolist(), int(last.masks.sum())) == ([1], 7 * 17)
    assert dataset.notes == ("objects.json: 1 of 3 images have no object",)


def test_without_masks_no_polygon_is_rasterised(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    content = small()
    content["annotations"][0]["segmentation"] = []
    del content["annotations"][1]["segmentation"]
    dataset = loaded(tmp_path, content, with_masks=False)
    assert dataset[0].masks is None
    assert dataset[0].boxes.shape == (2, 4)


def test_images_without_objects_are_kept_unless_asked(tmp_path):
    dataset = loaded(tmp_path, small())
    some = dataset.without_empty()
    assert some.ids == (9, 70)
    assert some.notes[-1] == "1 of 3 images have no object to learn and were left out"
    assert some.identity != dataset.identity
    np.testing.assert_array_equal(some[1].boxes, dataset[2].boxes)
    assert some.without_empty() is some


def test_what_cannot_be_learnt_is_left_out_and_said(tmp_path):
    content = small()
    box = [[3, 3, 0, 5], [3, 3, 5, 0.5], [60, 3, 5, 5], [3, 3, 5, 5], [3, 3, 5, 5], [-2, 18, 9, 8]]
    for i, bbox in enumerate(box):
        row = {"id": 100 + i, "image_id": 70, "category_id": 3, "bbox": bbox, "area": 25, "iscrowd": 0}
        content["annotations"].append({**row, "segmentation": [[0, 0, 5, 0, 5, 5]]})
    content["annotations"][7]["area"] = 0
    content["annotations"][8]["ignore"] = 1
    dataset = loaded(tmp_path, content)
    assert dataset[2].boxes.tolist() == [[3, 2, 20, 9], [0, 18, 7, 20]]
    assert len(dataset.annotations) == 10
    assert dataset.notes == (
        "objects.json: left out of 10 objects: 1 marked ignore (such as annotation 104 of b.png, box [3.0, 3.0, 5.0, "
        "5.0]), 1 without area (such as annotation 103 of b.png, box [3.0, 3.0, 5.0, 5.0]), 2 less than a pixel wide "
        "or high (such as annotation 100 of b.png, box [3.0, 3.0, 0.0, 5.0]), 1 outside their image (such as "
        "annotation 102 of b.png, box [60.0, 3.0, 5.0, 5.0]); 1 boxes were clipped to their images; 1 of 3 images have "
        "no object",
    )


def test_objects_without_an_area_have_that_of_their_box(tmp_path):
    content = small()
    for row in content["annotations"]:
        del row["area"]
    dataset = loaded(tmp_path, content)
    np.testing.assert_array_equal(dataset.annotations.area, [119, 200, 84, 160])
    assert "4 objects have no area; that of their box is used" in dataset.notes[0]


def test_ids_may_be_texts(tmp_path):
    content = small()
    for row in content["images"]:
        row["id"] = f"img-{row['id']:03}"
    for row in content["annotations"]:
        row["image_id"] = f"img-{row['image_id']:03}"
    assert loaded(tmp_path, content).ids == ("img-009", "img-012", "img-070")


def test_two_readings_are_equal(tmp_path):
    content, _ = made_up(4)
    path, images = write_set(tmp_path, content)
    one, two = load_coco(path, images), load_coco(path, images)
    assert one.identity == two.identity
    for i in range(len(one)):
        np.testing.assert_array_equal(one[i].masks, two[i].masks)
        np.testing.assert_array_equal(one[i].boxes, two[i].boxes)


def changed(path, value):
    """A file in which one value is another; None takes it away."""
    content = small()
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


ANNOTATION = ("annotations", 1)
IN_6 = r"in annotation 6 \(image a.png\) of .*objects.json; got "


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*ANNOTATION, "bbox"), [10, 5, -20, 10], IN_6 + r"\[10, 5, -20, 10\]"),
        ((*ANNOTATION, "bbox"), [10, 5, float("nan"), 10], IN_6 + r"\[10, 5, nan, 10\]"),
        ((*ANNOTATION, "bbox"), [10, 5, 20], IN_6 + r"\[10, 5, 20\]"),
        ((*ANNOTATION, "bbox"), ["10", 5, 20, 1], IN_6 + r"\['10', 5, 20, 1\]"),
        ((*ANNOTATION, "bbox"), [10**400, 5, 20, 1], IN_6),
        ((*ANNOTATION, "bbox"), None, IN_6 + "None"),
        ((*ANNOTATION, "area"), -3, r"area to be a finite number of pixels " + IN_6 + "-3"),
        ((*ANNOTATION, "area"), "big", IN_6 + "'big'"),
        ((*ANNOTATION, "iscrowd"), 2, r"iscrowd to be 0 or 1 " + IN_6 + "2"),
        ((*ANNOTATION, "image_id"), 71, r"the image_id of one of 3 in annotation 6 of .*; got 71"),
        ((*ANNOTATION, "category_id"), None, r"the category_id of one of 2 in annotation 6 of .*; got None"),
        ((*ANNOTATION, "category_id"), [3], r"the category_id of one of 2 in annotation 6 of .*; got \[3\]"),
        ((*ANNOTATION, "id"), 5, r"each id once in the annotation table of .*; got 5 2 times"),
        ((*ANNOTATION, "id"), 2.5, r"id to be a whole number or a text in annotation at place 1 of .*; got 2.5"),
        (("images", 1, "id"), 70, r"each id once in the image table of .*; got 70 2 times"),
        (("images", 1, "id"), "9", r"ids of one kind in the image table of .*; got numbers and texts"),
        (("images", 1, "width"), 0, r"height and width in pixels in image 9 of .*; got \(30, 0\)"),
        (("images", 1, "width"), 1 << 30, r"height and width in pixels in image 9"),
        (("images", 1, "width"), "40", r"height and width in pixels in image 9"),
        (("images", 1, "file_name"), 7, r"file_name to be a text in image 9 of .*; got 7"),
        (("images", 1, "file_name"), "../a.png", r"file names below the folder of images in .*; got '../a.png'"),
        (("images", 1, "file_name"), "/a.png", r"file names below the folder of images"),
        (("categories", 1, "id"), 44, r"each id once in the category table of .*; got 44 2 times"),
        (("categories", 1, "name"), "late", r"each name once in categories of .*; got 'late' 2 times"),
        (("categories",), [], r"at least one in categories of .*; got none"),
        (("categories",), {}, r"expected a list 'categories' of objects in .*; got dict"),
        (("annotations",), None, r"expected a list 'annotations' of objects in .*; got NoneType"),
        (("images", 1), 3, r"expected a list 'images' of objects"),
        (
            (*ANNOTATION, "segmentation", "size"),
            [40, 30],
            r"a mask of the image's \[30, 40\].* " + IN_6 + r"\[40, 30\]",
        ),
        ((*ANNOTATION, "segmentation", "counts"), "1", r"runs that fill 30x40 = 1200 pixels " + IN_6 + "1"),
        ((*ANNOTATION, "segmentation", "counts"), [1199], r"runs that fill 30x40 = 1200 pixels " + IN_6 + "1199"),
        ((*ANNOTATION, "segmentation", "counts"), [1201, -1], r"counts of pixels or a text " + IN_6 + r"\[1201, -1\]"),
        ((*ANNOTATION, "segmentation", "counts"), [10**30], r"counts of pixels or a text"),
        ((*ANNOTATION, "segmentation"), [[1, 2, 3, 4]], r"polygons of three points or more.* " + IN_6 + "4 numbers"),
        ((*ANNOTATION, "segmentation"), [[1, 2, 3, 4, 5, 6, 7]], IN_6 + "7 numbers"),
        ((*ANNOTATION, "segmentation"), [[1, 2, 3, 4, 5, float("inf")]], IN_6 + r"coordinates 1..inf"),
        ((*ANNOTATION, "segmentation"), [[1, 2, 3, 4, 5, float("nan")]], IN_6 + r"coordinates nan..nan"),
        ((*ANNOTATION, "segmentation"), [[1, 2, 3, 4, 5, 1e9]], IN_6 + r"coordinates 1..1e\+09"),
        ((*ANNOTATION, "segmentation"), [["1", 2, 3, 4, 5, 6]], r"polygons, lists of numbers " + IN_6),
        ((*ANNOTATION, "segmentation"), "abc", r"polygons or runs " + IN_6 + "str"),
        ((*ANNOTATION, "segmentation"), [], r"expected a segmentation of every object in .*; got none in annotation 6"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_faults_are_named(tmp_path, path, value, message):
    sound = small()
    file, images = write_set(tmp_path, sound)
    file.write_text(json.dumps(changed(path, value)))
    with pytest.raises(DatasetCorrupt, match=message) as caught:
        load_coco(file, images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_files_that_are_no_json_of_objects(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetCorrupt, match=r"coco: expected "):
        load_coco(tmp_path / "x.json", tmp_path)


def test_what_is_not_there(tmp_path):
    file, images = write_set(tmp_path, small())
    with pytest.raises(DatasetMissing, match=r"coco: expected COCO's json of objects at .*none.json; got no such file"):
        load_coco(tmp_path / "none.json", images)
    with pytest.raises(DatasetCorrupt, match=r"coco: expected to read .*; got Is a directory"):
        load_coco(tmp_path, images)
    for name in ("a.png", "b.png"):
        (images / name).unlink()
    with pytest.raises(DatasetMissing, match=r"the 3 images of .* got 2 that are not there: .*a.png, .*b.png. Name"):
        load_coco(file, images)


def test_an_image_of_another_size(tmp_path):
    file, images = write_set(tmp_path, small())
    Image.new("RGB", (30, 40)).save(images / "a.png")
    with pytest.raises(DatasetCorrupt, match=r"image 9 \(.*a.png\): expected 40x30 pixels, .*; got 30x40. Rotated"):
        load_coco(file, images)[0]


def test_an_image_that_cannot_be_read(tmp_path):
    file, images = write_set(tmp_path, small())
    (images / "a.png").write_bytes(b"no image")
    with pytest.raises(BadImage, match=r"a.png"):
        load_coco(file, images)[0]


def test_reading_changes_nothing(tmp_path):
    content = small()
    before = copy.deepcopy(content)
    loaded(tmp_path, content)
    assert content == before
