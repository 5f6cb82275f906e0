"""Evaluation against counts made by hand."""

import re
import tracemalloc

import numpy as np
import pytest

import autograd as ag
from swinpy.data import ImageDataset, Loader
from swinpy.nn import Linear, Module
from swinpy.train.evaluate import evaluate
from swinpy.train.trainer import NonFiniteError

CLASSES = 7
# For each image: its label, and its logits as ranks (the largest is the answer).
LABELS = np.array([0, 1, 2, 2, 6])
LOGITS = np.array(
    [
        [9, 1, 2, 3, 4, 5, 6],  # right
        [9, 3, 2, 1, 0, 4, 8],  # 1 is fourth: answer 0
        [1, 2, 3, 9, 8, 7, 6],  # 2 is fifth: answer 3
        [9, 8, 2, 7, 6, 5, 4],  # 2 is last: answer 0
        [1, 2, 3, 4, 5, 6, 9],  # right
    ],
    dtype=np.float64,
)


class _Model(Module):
    """Answers by the first pixel, which is the image's number."""

    dtype = np.dtype(np.float64)
    device = "cpu"

    def __init__(self, logits):
        self.logits, self.frozen = logits, Linear(1, 1)

    def forward(self, images):
        assert not self.training
        assert not self.frozen.training
        rows = np.rint(images.numpy()[:, 0, 0, 0] * 255).astype(int)
        return ag.Tensor(self.logits[rows])


def _result(batch, logits=LOGITS, labels=LABELS):
    images = np.zeros((5, 3, 2, 2), np.uint8)
    images[:, 0, 0, 0] = range(5)
    names = tuple("abcdefg"[: int(labels.max()) + 1])
    data = ImageDataset("five", images, labels, names, True, "memory", (0.0,) * 3, (1.0,) * 3)
    model = _Model(logits).train()
    model.frozen.eval()
    try:
        return evaluate(model, Loader(data, batch))
    finally:
        assert model.training, "the mode is put back"
        assert not model.frozen.training, "each module's own"


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_loss_top1_top5_confusion_and_errors(batch):
    result = _result(batch)
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    assert result.loss == pytest.approx(-np.log(probabilities[range(5), LABELS]).mean(), rel=1e-12)
    assert result.top1 == 40.0
    assert result.top5 == 80.0, "fifth counts, seventh does not"
    want = np.zeros((CLASSES, CLASSES), int)
    for label, answer in ((0, 0), (1, 0), (2, 3), (2, 0), (6, 6)):
        want[label, answer] += 1
    np.testing.assert_array_equal(result.confusion, want)
    assert {(i, label, answer) for i, label, answer, _ in result.errors} == {(1, 1, 0), (2, 2, 3), (3, 2, 0)}
    shares = [p for *_, p in result.errors]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("images", [[3], [0, 4], [0, 1, 2, 3, 4]])
def test_logits_that_are_not_finite_are_counted_and_are_no_answer(bad, images):
    """argmax of NaN is a class, and log-softmax of one infinity among finite logits may have a finite loss."""
    logits = LOGITS.copy()
    logits[images, 5] = bad
    named = ", ".join(map(str, images[:4])) + (" ..." if len(images) > 4 else "")
    message = rf"got NaN or infinity for {len(images)} of 5 images \({re.escape(named)}\)"
    with pytest.raises(NonFiniteError, match=message):
        _result(2, logits)


@pytest.mark.parametrize(("outputs", "labels"), [(3, [0, 1, 2, 2, 1]), (5, [0, 1, 2, 4, 1])])
def test_no_five_are_the_best_of_five_classes_or_fewer(outputs, labels):
    result = _result(2, LOGITS[:, :outputs], np.array(labels))
    assert result.top5 is None
    assert result.accuracy() == f"top-1 {result.top1:.2f}%"


def test_a_model_of_more_classes_than_the_data():
    """The best five are of the model's classes; an answer that is none of the data's is wrong, and no other one."""
    result = _result(2, LOGITS, np.array([0, 1, 2, 2, 1]))
    answers = LOGITS.argmax(axis=1)
    assert answers.tolist() == [0, 0, 3, 0, 6]
    assert result.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert result.top1 == 20.0
    assert result.top5 == 60.0
    assert result.accuracy() == "top-1 20.00%  top-5 60.00%"
    assert {(i, answer) for i, _, answer, _ in result.errors} == {(1, 0), (2, 3), (3, 0), (4, 6)}


def test_what_is_kept_of_an_image_does_not_grow_with_the_classes():
    """50,000 images of 21,841 classes would have 8.7 GB of logits."""
    classes, count = 4096, 512
    images = np.zeros((count, 3, 1, 1), np.uint8)
    names = tuple(map(str, range(classes)))
    data = ImageDataset("many", images, np.arange(count), names, True, "memory", (0.0,) * 3, (1.0,) * 3)
    model = _Model(np.zeros((1, classes)))
    tracemalloc.start()
    evaluate(model, Loader(data, 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    confusion = classes * classes * 8  # zeros: of these only the touched pages are memory
    assert peak - confusion < count * classes * 8 / 8
