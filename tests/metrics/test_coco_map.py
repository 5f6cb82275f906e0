"""Average precision: pycocotools' numbers, to the last digits of its tables."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from support.coco_sets import judge, made_up, write_set

from swinpy.data import DatasetCorrupt
from swinpy.data.detection import Annotations, Detections, Rle, load_coco
from swinpy.metrics import RECALLS, evaluate_coco, read_results, result_rows, write_results

MAX_DETS = (1, 10, 100)


def evaluated(folder, content, results, kind, max_dets=MAX_DETS):
    """Through the files: the reader of objects and that of results."""
    path, images = write_set(folder, content)
    dataset = load_coco(path, images)
    (folder / "results.json").write_text(json.dumps(results))
    found = read_results(folder / "results.json", dataset)
    return evaluate_coco(dataset.annotations, found, dataset.sizes, dataset.num_classes, kind, max_dets)


def assert_equal(scores, judged):
    for got, want in ((scores.precision, "precision"), (scores.recall, "recall"), (scores.scores, "scores")):
        np.testing.assert_allclose(got, judged.eval[want], rtol=0, atol=1e-12)
    summary = [-1 if value is None else value for value in scores.summary().values()]
    np.testing.assert_allclose(summary, judged.stats, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(12))
def test_equal_to_pycocotools(tmp_path, seed, kind):
    content, results = made_up(seed)
    assert_equal(evaluated(tmp_path, content, results, kind), judge(content, results, kind, MAX_DETS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", range(100, 400))
def test_equal_to_pycocotools_on_many(tmp_path, seed, kind):
    content, results = made_up(seed, images=1 + seed % 30, classes=1 + seed % 5, most=1 + seed % 9, found=1 + seed % 20)
    if not results:
        return
    assert_equal(evaluated(tmp_path, content, results, kind), judge(content, results, kind, MAX_DETS))


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_the_best_of_each_image_count(tmp_path, kind):
    content, results = made_up(5, images=3, classes=1, found=40)
    most = (1, 3, 100)
    assert max(np.unique([row["image_id"] for row in results], return_counts=True)[1]) > 3
    scores = evaluated(tmp_path, content, results, kind, most)
    assert_equal(scores, judge(content, results, kind, most))
    assert list(scores.summary())[6:9] == ["AR1", "AR3", "AR100"]


def test_more_than_a_hundred_detections(tmp_path):
    content, results = made_up(6, images=2, classes=1, found=300)
    assert max(np.unique([row["image_id"] for row in results], return_counts=True)[1]) > 100
    assert_equal(evaluated(tmp_path, content, results, "box"), judge(content, results, "box", MAX_DETS))


@pytest.mark.parametrize("scale", [1e-6, 1 / 3, 1e4])
def test_boxes_of_any_floats(tmp_path, scale):
    """Boxes alone know no pixels; sums round."""
    content, results = made_up(8)
    for row in (*content["annotations"], *results):
        row["bbox"] = [value * scale for value in row["bbox"]]
    for row in content["annotations"]:
        row["area"] *= scale * scale
    assert_equal(evaluated(tmp_path, content, results, "box"), judge(content, results, "box", MAX_DETS))


def objects(boxes, crowd=None, image=None, label=None, area=None):
    boxes = np.array(boxes, float).reshape(-1, 4)
    n = len(boxes)
    return Annotations(
        np.zeros(n, np.int64) if image is None else np.array(image),
        np.zeros(n, np.int64) if label is None else np.array(label),
        boxes,
        boxes[:, 2] * boxes[:, 3] if area is None else np.array(area, float),
        np.zeros(n, bool) if crowd is None else np.array(crowd),
        [None] * n,
        np.arange(n),
    )


def detections(boxes, scores, image=None):
    n = len(scores)
    where = np.zeros(n, np.int64) if image is None else np.array(image)
    return Detections(where, np.zeros(n, np.int64), np.array(scores, float), np.array(boxes, float).reshape(-1, 4))


def ap(truth, found, **options):
    return evaluate_coco(truth, found, [(500, 500)] * 3, 1).average_precision(**options)


def test_perfect_and_none():
    boxes = [[0, 0, 10, 10], [20, 20, 40, 40]]
    assert ap(objects(boxes), detections(boxes, [0.5, 0.9])) == 1
    assert ap(objects(boxes), detections([], [])) == 0
    assert ap(objects(boxes), detections([[100, 100, 5, 5]], [1.0])) == 0
    scores = evaluate_coco(objects([]), detections(boxes, [0.5, 0.9]), [(500, 500)] * 3, 1)
    assert set(scores.summary().values()) == {None}
    assert scores.curve(0) is None
    assert str(scores).startswith("box AP n/a, AP50 n/a")


def test_known_by_hand():
    """One object of two is found, after a false positive: precision 1/2 up to a recall of 1/2, 0 beyond."""
    truth = objects([[0, 0, 10, 10], [50, 50, 10, 10]])
    found = detections([[200, 200, 9, 9], [0, 0, 10, 10]], [0.9, 0.8])
    assert ap(truth, found) == pytest.approx(0.5 * 51 / 101, abs=1e-15)
    curve = evaluate_coco(truth, found, [(500, 500)], 1).curve(0)
    np.testing.assert_allclose(curve, np.where(RECALLS <= 0.5, 0.5, 0.0), atol=1e-15)


def test_an_overlap_at_the_threshold_counts():
    truth, found = objects([[0, 0, 10, 10]]), detections([[0, 0, 10, 5]], [1.0])
    assert ap(truth, found, iou=0.5) == pytest.approx(1, abs=1e-15)
    assert ap(truth, found, iou=0.55) == 0


def test_a_crowd_takes_any_number_and_counts_for_nothing():
    truth = objects([[0, 0, 100, 100], [200, 200, 10, 10]], crowd=[True, False])
    inside = [[i, i, 8, 8] for i in range(20)]
    found = detections([*inside, [200, 200, 10, 10]], [*np.linspace(0.6, 0.9, 20), 0.1])
    assert ap(truth, found) == pytest.approx(1, abs=1e-15)
    assert ap(objects(truth.box), found) < 0.1


def test_an_id_of_zero_is_no_exception(tmp_path):
    """pycocotools writes the object's id where 0 means that nothing was found, and so does not find that object."""
    content, results = made_up(3)
    row = next(row for row in content["annotations"] if not row["iscrowd"])
    for found in results:
        del found["segmentation"]
    results.append({**results[0], **{key: row[key] for key in ("image_id", "category_id", "bbox")}, "score": 1.0})
    first, right = row["id"], judge(content, results, "box", MAX_DETS)
    for row in content["annotations"]:
        row["id"] -= first
    assert judge(content, results, "box", MAX_DETS).stats[0] != right.stats[0]
    assert_equal(evaluated(tmp_path, content, results, "box"), right)


def test_empty_images_and_no_classes_change_nothing():
    boxes = [[0, 0, 10, 10]]
    one = evaluate_coco(objects(boxes), detections(boxes, [0.5]), [(20, 20)], 1)
    more = evaluate_coco(objects(boxes), detections(boxes, [0.5]), [(20, 20)] * 9, 3)
    assert one.summary() == more.summary()
    assert [more.average_precision(label) for label in range(3)] == [one.average_precision(), None, None]


def test_order_of_rows_decides_only_among_equals(tmp_path):
    content, results = made_up(9)
    for i, row in enumerate(results):
        row["score"] = (i + 0.5) / len(results)
    first = evaluated(tmp_path / "a", content, results, "mask")
    second = evaluated(tmp_path / "b", content, results[::-1], "mask")
    np.testing.assert_array_equal(first.precision, second.precision)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": [np.nan]}, r"image 0, detection 0: expected a finite score; got nan"),
        ({"boxes": [[0, 0, np.inf, 1]]}, r"image 0, detection 0: expected a finite box; got \[0.0, 0.0, inf, 1.0\]"),
        ({"image": [7]}, r"expected the image of detection 0 in \[0, 3\); got 7"),
    ],
)
def test_bad_detections(change, message):
    values = {"boxes": [[0, 0, 5, 5]], "score": [0.5], "image": [0], **change}
    with pytest.raises(ValueError, match=message):
        ap(objects([[0, 0, 5, 5]]), detections(values["boxes"], values["score"], values["image"]))


def test_bad_objects_and_kinds():
    boxes = [[0, 0, 5, 5]]
    with pytest.raises(ValueError, match=r"expected the label of object 0 in \[0, 1\); got 4"):
        ap(objects(boxes, label=[4]), detections(boxes, [0.5]))
    with pytest.raises(ValueError, match=r"expected masks; got detections of boxes alone. Use kind='box'"):
        evaluate_coco(objects(boxes), detections(boxes, [0.5]), [(9, 9)], 1, "mask")
    with pytest.raises(ValueError, match=r"threshold of .50, .55, ..., .95; got 0.52"):
        ap(objects(boxes), detections(boxes, [0.5]), iou=0.52)


def masked(truth, found, shape):
    mask = Rle.encode(np.ones(shape, bool))
    with_masks = Detections(found.image, found.label, found.score, None, [mask] * len(found))
    return evaluate_coco(truth, with_masks, [(9, 9)] * 3, 1, "mask")


def test_bad_masks():
    truth, found = objects([[0, 0, 5, 5]]), detections([[0, 0, 5, 5]], [0.5])
    with pytest.raises(ValueError, match=r"image 0, a detection: expected a mask of the image's 9x9 pixels; got 9x8"):
        masked(truth, found, (9, 8))
    with pytest.raises(ValueError, match=r"image 0, object 0: expected a mask; got none"):
        masked(truth, found, (9, 9))
    masked_box = Detections(found.image, found.label, found.score, None, [])
    with pytest.raises(ValueError, match=r"expected boxes; got detections of masks alone"):
        evaluate_coco(truth, masked_box, [(9, 9)], 1)


# ---- results


def images_of(dataset, results):
    """The rows of a file as a model would give them, image by image."""
    images = {number: place for place, number in enumerate(dataset.ids)}
    out = [{"boxes": [], "scores": [], "labels": [], "masks": []} for _ in dataset.ids]
    for row in results:
        one = out[images[row["image_id"]]]
        x, y, w, h = row["bbox"]
        one["boxes"].append([x, y, x + w, y + h])
        one["scores"].append(row["score"])
        one["labels"].append(dataset.category_ids.index(row["category_id"]))
        one["masks"].append(Rle.from_text(row["segmentation"]["counts"], tuple(row["segmentation"]["size"])).decode())
    return [{key: np.array(value) for key, value in one.items()} for one in out]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_a_models_results_through_the_file(tmp_path, kind):
    content, results = made_up(2)
    path, images = write_set(tmp_path, content)
    dataset = load_coco(path, images)
    found = Detections.of_images(images_of(dataset, results))
    write_results(tmp_path / "found.json", found, dataset, kind)
    rows = json.loads((tmp_path / "found.json").read_text())
    assert {tuple(sorted(row)) for row in rows} == {
        tuple(sorted(("image_id", "category_id", "score", "bbox" if kind == "box" else "segmentation")))
    }
    back = read_results(tmp_path / "found.json", dataset)
    one, two = (evaluate_coco(dataset.annotations, f, dataset.sizes, dataset.num_classes, kind) for f in (found, back))
    np.testing.assert_array_equal(one.precision, two.precision)
    stats = judge(content, rows, kind, MAX_DETS).stats
    np.testing.assert_allclose([-1 if v is None else v for v in one.summary().values()], stats, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(back.score, found.score)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_nothing_found(tmp_path, kind):
    content, _ = made_up(2)
    path, images = write_set(tmp_path, content)
    dataset = load_coco(path, images)
    found = Detections.of_images([])
    write_results(tmp_path / "found.json", found, dataset, kind)
    assert (tmp_path / "found.json").read_text() == "[]\n"
    back = read_results(tmp_path / "found.json", dataset)
    scores = evaluate_coco(dataset.annotations, back, dataset.sizes, dataset.num_classes, kind)
    assert scores.average_precision() == 0
    assert scores.average_recall(1) == 0


def test_results_need_what_they_say(tmp_path):
    content, _ = made_up(2)
    path, images = write_set(tmp_path, content)
    dataset = load_coco(path, images)
    with pytest.raises(ValueError, match=r"results: expected detections with masks; got boxes alone"):
        result_rows(detections([[0, 0, 1, 1]], [0.5]), dataset, "mask")
    one = {"boxes": np.zeros((2, 4)), "scores": np.zeros(2), "labels": np.zeros(1)}
    with pytest.raises(ValueError, match=r"image 0: expected as many boxes.* 2; got 2, 1 and 0"):
        Detections.of_images([one])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 999}, r"detection 3 of .*: expected the image_id of one of 12; got 999"),
        ({"category_id": "x"}, r"detection 3 of .*: expected the category_id of one of 4; got 'x'"),
        ({"score": None}, r"detection 3 of .*: expected score to be 1 finite numbers; got \[None\]"),
        ({"score": float("inf")}, r"detection 3 of .*: expected score to be 1 finite numbers"),
        ({"bbox": [1, 2, 3]}, r"detection 3 of .*: expected bbox to be 4 finite numbers; got \[1, 2, 3\]"),
        ({"segmentation": {"size": [1, 2], "counts": "2"}}, r"detection 3 .*expected compressed runs of the image's"),
        ({"segmentation": None}, r"detection 3 .*expected compressed runs of the image's .*; got None"),
    ],
)
def test_bad_files_of_results(tmp_path, change, message):
    content, results = made_up(2)
    path, images = write_set(tmp_path, content)
    bad = copy.deepcopy(results)
    bad[3].update(change)
    (tmp_path / "r.json").write_text(json.dumps(bad))
    with pytest.raises(DatasetCorrupt, match=message):
        read_results(tmp_path / "r.json", load_coco(path, images))


@pytest.mark.parametrize("text", ["{}", "[1]", "[", '"x"'])
def test_files_that_are_no_results(tmp_path, text):
    content, _ = made_up(2)
    path, images = write_set(tmp_path, content)
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DatasetCorrupt, match=r"results: expected "):
        read_results(tmp_path / "r.json", load_coco(path, images))
