"""Evaluation of a classifier over a loader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag

if TYPE_CHECKING:
    from swinpy.data import Batch, Loader
    from swinpy.models import SwinTransformer

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        loss: mean cross-entropy against the hard labels.
        top1: percent of images whose best class is right.
        top5: percent of images whose class is among the best five (or all, with fewer classes).
        confusion: int64 (K, K), rows are labels, columns are answers.
        errors: indices of wrongly classified images, most confident first, with (index, label, answer, probability).
    """

    loss: float
    top1: float
    top5: float
    confusion: np.ndarray[Any, Any]
    errors: list[tuple[int, int, int, float]]


def evaluate(model: SwinTransformer, loader: Loader, max_errors: int = 16) -> Evaluation:
    """Run ``model`` in evaluation mode over every batch of ``loader``; the mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with ag.no_grad():
            parts = [_batch(model, batch) for batch in loader.epoch(0)]
    finally:
        model.train(was_training)
    log_probs = np.concatenate([p for p, _, _ in parts])
    labels = np.concatenate([label for _, label, _ in parts])
    indices = np.concatenate([index for _, _, index in parts])
    return _summarise(log_probs, labels, indices, loader.dataset.num_classes, max_errors)


def _batch(model: SwinTransformer, batch: Batch) -> tuple[np.ndarray[Any, Any], ...]:
    images = ag.Tensor(batch.images.astype(model.dtype, copy=False)).to(model.device)
    log_probs = ag.log_softmax(model(images)).numpy().astype(np.float64)
    return log_probs, batch.labels, batch.indices


def _summarise(
    log_probs: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    indices: np.ndarray[Any, Any],
    classes: int,
    max_errors: int,
) -> Evaluation:
    rows = np.arange(len(labels))
    own = log_probs[rows, labels]
    answers = log_probs.argmax(axis=1)
    rank = (log_probs > own[:, None]).sum(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, np.minimum(answers, classes - 1)), 1)
    wrong = np.flatnonzero(answers != labels)
    surest = wrong[np.argsort(-log_probs[wrong, answers[wrong]], kind="stable")][:max_errors]
    errors = [
        (int(indices[i]), int(labels[i]), int(answers[i]), float(np.exp(log_probs[i, answers[i]]))) for i in surest
    ]
    return Evaluation(
        loss=float(-own.mean()),
        top1=float(100 * (answers == labels).mean()),
        top5=float(100 * (rank < 5).mean()),
        confusion=confusion,
        errors=errors,
    )
