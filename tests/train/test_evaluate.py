"""Evaluation against counts made by hand."""

import numpy as np
import pytest

import autograd as ag
from swinpy.data import ImageDataset, Loader
from swinpy.train.evaluate import evaluate

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


class _Model:
    """Answers by the first pixel, which is the image's number."""

    training = True
    dtype = np.dtype(np.float64)
    device = "cpu"

    def __call__(self, images):
        rows = np.rint(images.numpy()[:, 0, 0, 0] * 255).astype(int)
        return ag.Tensor(LOGITS[rows])

    def train(self, mode=True):
        self.training = mode

    def eval(self):
        self.training = False


def _result(batch):
    images = np.zeros((5, 3, 2, 2), np.uint8)
    images[:, 0, 0, 0] = range(5)
    names = tuple("abcdefg")
    data = ImageDataset("five", images, LABELS, names, True, "memory", (0.0,) * 3, (1.0,) * 3)
    model = _Model()
    result = evaluate(model, Loader(data, batch))
    assert model.training, "the mode is put back"
    return result


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
