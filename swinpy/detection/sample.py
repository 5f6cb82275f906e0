"""The anchors or proposals that a loss is made of: some positives, and negatives to fill up.

A draw is a function of (seed, step, image, purpose). It is made on the host, in a time that depends on how many are
drawn and not on how many there are, and is the same on every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from autograd.extend import array_module
from autograd.random import bits
from swinpy.detection.assign import NEGATIVE

if TYPE_CHECKING:
    from autograd.extend import Array

__all__ = ["Draw", "SampleRule", "Sampled", "choose", "sample"]

_PURPOSES = 1 << 8  # the streams of datasets lie below: their upper halves are small numbers


@dataclass(frozen=True)
class SampleRule:
    """How many.

    Attributes:
        count: of an image; 256 anchors, 512 proposals.
        fraction: at most ``int(count * fraction)`` are positive: 0.5 and 0.25.
    """

    count: int
    fraction: float


class Draw(NamedTuple):
    """What a draw depends on.

    Attributes:
        seed: of the run.
        step: of training, counted from 0.
        image: its place in the batch, over all devices and accumulation steps.
        purpose: 0 for the RPN, 1 + s for stage s of the box heads; below 2^16.
    """

    seed: int
    step: int
    image: int
    purpose: int = 0


class Sampled(NamedTuple):
    """Indices of boxes, int64, ascending."""

    positive: Array
    negative: Array


def choose(count: int, total: int, draw: Draw, kind: int = 0) -> Array:
    """``count`` different numbers of ``range(total)``, ascending; int64, on the host.

    The first ``count`` places of a shuffle (Fisher and Yates), of which only what was moved is kept.

    Args:
        count: at most ``total``.
        total: below 2^32.
        draw: what the numbers depend on.
        kind: a number below 256 that tells draws with one :class:`Draw` apart.
    """
    stream = ((_PURPOSES + draw.purpose * 256 + kind) << 32) | draw.image
    words = bits(draw.seed, draw.step << 32, 2 * count, stream=stream).astype(np.uint64).reshape(count, 2)
    wide = (words[:, 0] << np.uint64(32)) | words[:, 1]
    places = (np.arange(count, dtype=np.uint64) + wide % np.arange(total, total - count, -1, dtype=np.uint64)).tolist()
    moved: dict[int, int] = {}
    chosen = np.empty(count, np.int64)
    for i, place in enumerate(places):
        chosen[i] = moved.get(place, place)
        moved[place] = moved.get(i, i)
    return np.sort(chosen)


def sample(truth: Array, rule: SampleRule, draw: Draw) -> Sampled:
    """Choose positives and negatives of one image.

    Where there are too few positives, negatives take their places; where there are too few of these, the sample is
    smaller. On a GPU the numbers of positives and negatives are read.

    Args:
        truth: (N,) of :func:`swinpy.detection.assign`.
        rule: how many.
        draw: what the choice depends on.
    """
    xp = array_module(truth)
    positive, negative = xp.nonzero(truth >= 0)[0], xp.nonzero(truth == NEGATIVE)[0]
    most = int(rule.count * rule.fraction)
    if len(positive) > most:
        positive = positive[xp.asarray(choose(most, len(positive), draw, 0))]
    rest = rule.count - len(positive)
    if len(negative) > rest:
        negative = negative[xp.asarray(choose(rest, len(negative), draw, 1))]
    return Sampled(positive, negative)
