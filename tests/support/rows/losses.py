"""Rows of autograd/ops/losses.py but cross_entropy's: formulas as their papers have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

import autograd as ag

from .opinfo import BadCall, Kink, OpInfo, Sample, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .opinfo import Source

X = np.ones((2, 3))
_EACH: dict[str, Any] = {"reduction": "none"}


def _reduce(losses: Any, reduction: str, divisor: float | None) -> Any:
    if divisor is not None:
        return losses.sum() / divisor
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


def _bad(op: Callable[..., Any], good: Any = X) -> tuple[BadCall, ...]:
    nothing = good[:0]
    return (
        BadCall(lambda: op(good, good[:1]), ValueError, str(good.shape)),
        BadCall(lambda: op(good, good, reduction="max"), ValueError, "mean, sum or none"),
        BadCall(lambda: op(good, good, reduction="mean", divisor=0), ValueError, "divisor above 0"),
        BadCall(lambda: op(good, good, reduction="sum", divisor=2), ValueError, "reduction mean"),
        BadCall(lambda: op(nothing, nothing, reduction="mean"), ValueError, "Give a divisor"),
    )


# ---- of logits


def _labelled(s: Source, **static: Any) -> Sample:
    return Sample((s.normal((3, 4)) * 2,), {"target": s.booleans((3, 4)), **static})


def _soft(s: Source, **static: Any) -> Sample:
    return Sample((s.normal((2, 5)) * 2,), {"target": s.between(0, 1, (2, 5)), **static})


def _of_logits() -> dict[str, Callable[[Source], Sample]]:
    return {
        "labels": lambda s: _labelled(s, reduction="mean"),
        "soft": lambda s: _soft(s, **_EACH),
        "integers": lambda s: Sample((s.normal((6,)),), {"target": s.integers(0, 2, (6,)), "reduction": "sum"}),
        "divided": lambda s: _soft(s, reduction="mean", divisor=3.5),
        "scalar": lambda s: Sample((s.normal(()),), {"target": np.array(1.0), **_EACH}),
        "empty": lambda s: Sample((s.normal((0, 3)),), {"target": np.zeros((0, 3)), "divisor": 2, "reduction": "mean"}),
    }


def _binary(z: Any, target: Any) -> Any:
    t = target.astype(z.dtype)
    return -t * scipy.special.log_expit(z) - (1 - t) * scipy.special.log_expit(-z)


def _bce_reference(z: Any, *, target: Any, reduction: str = "mean", divisor: float | None = None) -> Any:
    return _reduce(_binary(z, target), reduction, divisor)


def _bce_composite(z: Any, *, target: Any, reduction: str = "mean", divisor: float | None = None) -> Any:
    t = ag.Tensor(target.astype(z.dtype))
    return _reduce((1 - t) * z + ag.softplus(-z, threshold=np.inf), reduction, divisor)


def _focal_reference(
    z: Any,
    *,
    target: Any,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    divisor: float | None = None,
) -> Any:
    t = target.astype(z.dtype)
    wrong = scipy.special.expit(z) * (1 - t) + scipy.special.expit(-z) * t
    weight = 1 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    return _reduce(weight * wrong**gamma * _binary(z, target), reduction, divisor)


def _focal_composite(
    z: Any,
    *,
    target: Any,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    divisor: float | None = None,
) -> Any:
    p, t = ag.sigmoid(z), ag.Tensor(target.astype(z.dtype))
    weight = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    wrong = p * (1 - t) + ag.sigmoid(-z) * t
    return _reduce(weight * wrong**gamma * _bce_composite(z, target=target, reduction="none"), reduction, divisor)


register(
    OpInfo(
        "binary_cross_entropy_with_logits",
        ag.binary_cross_entropy_with_logits,
        _of_logits(),
        _bce_reference,
        composite=_bce_composite,
        errors=_bad(ag.binary_cross_entropy_with_logits),
    ),
    OpInfo(
        "sigmoid_focal_loss",
        ag.sigmoid_focal_loss,
        {
            **_of_logits(),
            "unweighted": lambda s: _labelled(s, alpha=None, gamma=1.5),
            "unfocused": lambda s: _soft(s, alpha=0.6, gamma=0),
            "steep": lambda s: _labelled(s, gamma=0.5),
        },
        _focal_reference,
        composite=_focal_composite,
        errors=(
            *_bad(ag.sigmoid_focal_loss),
            BadCall(lambda: ag.sigmoid_focal_loss(X, X, alpha=-1), ValueError, "alpha in [0, 1] or None"),
            BadCall(lambda: ag.sigmoid_focal_loss(X, X, gamma=-0.5), ValueError, "gamma >= 0"),
        ),
    ),
)


# ---- of differences


def _apart(s: Source, shape: tuple[int, ...], **static: Any) -> Sample:
    """Differences away from 0 and from 1, where the slope changes."""
    x = s.normal(shape)
    return Sample((x, x + s.away(shape) * s.choice((0.35, 6.0))), static)


def _smooth(x: Any, y: Any, beta: float) -> Any:
    d = abs(x - y)
    return np.where(d < beta, d * d / (2 * (beta or 1)), d - beta / 2)


def _smooth_composite(x: Any, y: Any, beta: float = 1.0, reduction: str = "mean", divisor: float | None = None) -> Any:
    d = ag.absolute(x - y)
    return _reduce(ag.where(d.data < beta, d * d / (2 * (beta or 1)), d - beta / 2), reduction, divisor)


_PAIRS: dict[str, Callable[[Source], Sample]] = {
    "matrix": lambda s: _apart(s, (3, 4)),
    "each": lambda s: _apart(s, (2, 3, 2), **_EACH),
    "sum": lambda s: _apart(s, (5,), reduction="sum"),
    "divided": lambda s: _apart(s, (5,), divisor=7),
    "scalar": lambda s: _apart(s, (), **_EACH),
    "empty": lambda s: _apart(s, (0, 4), divisor=1),
}

register(
    OpInfo(
        "smooth_l1_loss",
        ag.smooth_l1_loss,
        {
            **_PAIRS,
            "narrow": lambda s: _apart(s, (3, 4), beta=0.01),
            "wide": lambda s: _apart(s, (3, 4), beta=20, **_EACH),
            "sharp": lambda s: _apart(s, (3, 4), beta=0),
        },
        lambda x, y, beta=1.0, reduction="mean", divisor=None: _reduce(_smooth(x, y, beta), reduction, divisor),
        composite=_smooth_composite,
        kinks=(
            Kink((np.array([2.0, 2.0, 2.0]), np.array([2.0, 1.0, 3.0])), ([0, 1, -1], [0, -1, 1]), _EACH),
            Kink((np.array([2.0]), np.array([2.0])), ([0], [0]), {"beta": 0}),
        ),
        errors=(
            *_bad(ag.smooth_l1_loss),
            BadCall(lambda: ag.smooth_l1_loss(X, X, beta=-1), ValueError, "beta of 0 or more"),
        ),
    ),
    OpInfo(
        "l1_loss",
        ag.l1_loss,
        _PAIRS,
        lambda x, y, reduction="mean", divisor=None: _reduce(abs(x - y), reduction, divisor),
        composite=lambda x, y, reduction="mean", divisor=None: _reduce(ag.absolute(x - y), reduction, divisor),
        kinks=(Kink((np.array([2.0]), np.array([2.0])), ([0], [0])),),
        errors=_bad(ag.l1_loss),
    ),
)


# ---- of boxes


def _boxes(s: Source, lead: tuple[int, ...] = (6,), **static: Any) -> Sample:
    """Pairs whose edges are apart: nothing is at a kink of min or max."""
    edges = np.sort(s.spread((2, *lead, 2, 2)), axis=-1)  # of both boxes: (low, high) in x and y
    return Sample(tuple(np.moveaxis(edges, -1, -2).reshape(2, *lead, 4)), static)


def _giou(a: Any, b: Any, eps: float, eps_mode: str, xp: Any) -> Any:
    """``xp``: NumPy for arrays, the engine for Tensors."""
    ax0, ay0, ax1, ay1 = (a[..., i] for i in range(4))
    bx0, by0, bx1, by1 = (b[..., i] for i in range(4))
    width = xp.minimum(ax1, bx1) - xp.maximum(ax0, bx0)
    height = xp.minimum(ay1, by1) - xp.maximum(ay0, by0)
    inter = xp.maximum(width, 0.0) * xp.maximum(height, 0.0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inter
    hull = (xp.maximum(ax1, bx1) - xp.minimum(ax0, bx0)) * (xp.maximum(ay1, by1) - xp.minimum(ay0, by0))
    if eps_mode == "add":
        return 1 - (inter / (union + eps) - (hull - union) / (hull + eps))
    union, hull = xp.maximum(union, eps), xp.maximum(hull, eps)
    return 1 - (inter / union - (hull - union) / hull)


def _giou_by(xp: Any) -> Callable[..., Any]:
    def giou(
        a: Any, b: Any, eps: float = 1e-7, eps_mode: str = "add", reduction: str = "none", divisor: Any = None
    ) -> Any:
        return _reduce(_giou(a, b, eps, eps_mode, xp), reduction, divisor)

    return giou


BOXES = np.array([[0.0, 0, 2, 2]])

register(
    OpInfo(
        "giou_loss",
        ag.giou_loss,
        {
            "pairs": _boxes,
            "floor": lambda s: _boxes(s, eps_mode="floor", reduction="sum"),
            "large_eps": lambda s: _boxes(s, (3, 2), eps=20.0, eps_mode="floor"),
            "added": lambda s: _boxes(s, (3, 2), eps=0.5),
            "divided": lambda s: _boxes(s, reduction="mean", divisor=4),
            "one": lambda s: _boxes(s, (), reduction="mean"),
            "empty": lambda s: _boxes(s, (0,), reduction="mean", divisor=1),
        },
        _giou_by(np),
        composite=_giou_by(ag),
        exempt={"scalar": "a box has four numbers; the error is checked"},
        errors=(
            *_bad(ag.giou_loss, np.ones((2, 4))),
            BadCall(lambda: ag.giou_loss(X, X), ValueError, "boxes (..., 4)"),
            BadCall(lambda: ag.giou_loss(np.ones(()), np.ones(())), ValueError, "boxes (..., 4)"),
            BadCall(lambda: ag.giou_loss(BOXES, BOXES, eps=0), ValueError, "eps above 0"),
            BadCall(lambda: ag.giou_loss(BOXES, BOXES, eps_mode="max"), ValueError, "add or floor"),
        ),
    ),
)
