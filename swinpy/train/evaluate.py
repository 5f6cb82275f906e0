"""Evaluation of a classifier over a loader."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import autograd as ag
from swinpy.nn import in_mode
from swinpy.train.trainer import NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from swinpy.data import Batch, Loader
    from swinpy.models import SwinTransformer

__all__ = ["Evaluation", "EvaluationCutShort", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        loss: mean cross-entropy against the hard labels.
        top1: percent of images whose best class is right.
        top5: percent of images whose class is among the best five; None where the model tells no more than five apart.
        confusion: int64 (K, K), rows are labels, columns are answers. Answers that are no class of the data's (the
            model has more) are in none.
        errors: indices of wrongly classified images, most confident first, with (index, label, answer, probability).
    """

    loss: float
    top1: float
    top5: float | None
    confusion: np.ndarray[Any, Any]
    errors: list[tuple[int, int, int, float]]

    def accuracy(self) -> str:
        """Top-1, and top-5 where there is one, in words."""
        return f"top-1 {self.top1:.2f}%" + ("" if self.top5 is None else f"  top-5 {self.top5:.2f}%")


class _Answers(NamedTuple):
    """What is kept of a batch, a value an image: the logits of a whole set would fill the memory.

    Attributes:
        number: of the image in its dataset.
        label: its class.
        answer: the class with the largest logit.
        sure: log-probability of the answer.
        own: log-probability of the label.
        rank: how many classes have a larger logit than the label.
        finite: whether all logits and the loss are.
    """

    number: np.ndarray[Any, Any]
    label: np.ndarray[Any, Any]
    answer: np.ndarray[Any, Any]
    sure: np.ndarray[Any, Any]
    own: np.ndarray[Any, Any]
    rank: np.ndarray[Any, Any]
    finite: np.ndarray[Any, Any]


class EvaluationCutShort(Exception):
    """The session is to end."""


def evaluate(
    model: SwinTransformer, loader: Loader, max_errors: int = 16, over: Callable[[], bool] = lambda: False
) -> Evaluation:
    """Run ``model`` in evaluation mode over every batch of ``loader``; each module's mode is put back afterwards.

    Args:
        model: as it is trained.
        loader: of what is evaluated.
        max_errors: how many of the surest wrong answers are listed.
        over: asked before each batch.

    Raises:
        EvaluationCutShort: once ``over`` is true.
        NonFiniteError: if a logit is NaN or infinite: the largest of such is no answer. The message counts the images.
    """
    kept = []
    with in_mode(model, training=False), ag.no_grad(), closing(loader.epoch(0)) as batches:
        for batch in batches:
            if over():
                raise EvaluationCutShort
            answers, outputs = _batch(model, batch)
            kept.append(answers)
    whole = _Answers(*(np.concatenate(column) for column in zip(*kept, strict=True)))
    _require_finite(whole)
    return _summarise(whole, loader.dataset.num_classes, outputs, max_errors)


def _batch(model: SwinTransformer, batch: Batch) -> tuple[_Answers, int]:
    """The answers to a batch, and how many classes they are chosen from."""
    images = ag.Tensor(batch.images.astype(model.dtype, copy=False)).to(model.device)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is counted
        output = model(images)
        logits, log_probs = output.numpy(), ag.log_softmax(output).numpy().astype(np.float64)
    rows = np.arange(len(logits))
    own, answer = log_probs[rows, batch.labels], log_probs.argmax(axis=1)
    rank = (log_probs > own[:, None]).sum(axis=1)
    finite = np.isfinite(logits).all(axis=1) & np.isfinite(own)
    return _Answers(batch.indices, batch.labels, answer, log_probs[rows, answer], own, rank, finite), logits.shape[1]


def _require_finite(answers: _Answers) -> None:
    bad = answers.number[~answers.finite]
    if len(bad):
        first = ", ".join(str(int(i)) for i in bad[:4])
        raise NonFiniteError(
            f"evaluate: expected finite logits; got NaN or infinity for {len(bad)} of {len(answers.number)} images "
            f"({first}{' ...' if len(bad) > 4 else ''})."
        )


def _summarise(answers: _Answers, classes: int, outputs: int, max_errors: int) -> Evaluation:
    number, label, answer, sure, own, rank, _ = answers
    confusion = np.zeros((classes, classes), np.int64)
    named = answer < classes
    np.add.at(confusion, (label[named], answer[named]), 1)
    wrong = np.flatnonzero(answer != label)
    surest = wrong[np.argsort(-sure[wrong], kind="stable")][:max_errors]
    return Evaluation(
        loss=float(-own.mean()),
        top1=float(100 * (answer == label).mean()),
        top5=float(100 * (rank < 5).mean()) if outputs > 5 else None,
        confusion=confusion,
        errors=[(int(number[i]), int(label[i]), int(answer[i]), float(np.exp(sure[i]))) for i in surest],
    )
