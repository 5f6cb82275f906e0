"""Rows of cross_entropy, of autograd/ops/dropout.py, and of checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag

from . import references
from .opinfo import BadCall, OpInfo, Sample, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .opinfo import Source

X = np.ones((2, 3))


# ---- loss


def _soft(s: Source, **static: Any) -> Sample:
    target = s.between(0.1, 1, (4, 3))
    return Sample((s.normal((4, 3)),), {"target": target / target.sum(axis=1, keepdims=True), **static})


def _hard(s: Source, **static: Any) -> Sample:
    return Sample((s.normal((5, 4)) * 2,), {"target": s.integers(0, 4, (5,)), **static})


def _label_map(s: Source, ignored: int = 255, **static: Any) -> Sample:
    labels = s.integers(0, 3, (2, 3, 2))
    labels[s.booleans(labels.shape)] = ignored
    labels[0, 0], labels[1, 1, 0] = 2, ignored
    return Sample((s.normal((2, 3, 3, 2)) * 2,), {"target": labels, "ignore_index": ignored, **static})


def _loss_composite(
    x: Any,
    *,
    target: Any,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    ignore_index: int | None = None,
    divisor: float | None = None,
) -> Any:
    soft, kept = references.soft_labels(target, x.shape, label_smoothing, ignore_index)
    losses = -ag.sum(ag.log_softmax(x, 1) * ag.Tensor((soft * kept[:, None]).astype(x.dtype)), 1)
    if reduction == "mean":
        return ag.sum(losses) / float(divisor or kept.sum())
    return losses if reduction == "none" else ag.sum(losses)


def _loss(**static: Any) -> Callable[[], Any]:
    arguments = {"target": np.zeros(2, int), **static}
    return lambda: ag.cross_entropy(X, **arguments)


register(
    OpInfo(
        "cross_entropy",
        ag.cross_entropy,
        {
            "hard": _hard,
            "smoothed": lambda s: _hard(s, label_smoothing=0.1),
            "soft": lambda s: _soft(s, label_smoothing=0.2, reduction="sum"),
            "each": lambda s: _soft(s, reduction="none"),
            "unnormalised": lambda s: Sample((s.normal((3, 4)),), {"target": s.between(0, 2, (3, 4))}),
            "one_class": lambda s: Sample((s.normal((2, 1)),), {"target": np.zeros(2, int)}),
            "ignoring": lambda s: Sample(
                (s.normal((4, 3)),), {"target": np.array([1, -100, 0, 2]), "ignore_index": -100}
            ),
            "map": _label_map,
            "map_each": lambda s: _label_map(s, ignored=1, reduction="none", label_smoothing=0.1),
            "map_divided": lambda s: _label_map(s, divisor=12, label_smoothing=0.3),
            "map_sum": lambda s: _label_map(s, ignored=-1, reduction="sum"),
            "map_all": lambda s: Sample((s.normal((2, 4, 3)),), {"target": s.integers(0, 4, (2, 3)).astype(np.uint8)}),
            "map_soft": lambda s: Sample(
                (s.normal((2, 3, 2, 2)),), {"target": s.between(0, 1, (2, 3, 2, 2)), "divisor": 5}
            ),
            "all_ignored": lambda s: Sample(
                (s.normal((2, 3)),), {"target": np.array([9, 9]), "ignore_index": 9, "divisor": 2}
            ),
            "empty": lambda s: Sample((s.normal((0, 3)),), {"target": np.zeros(0, int), "reduction": "sum"}),
            "empty_each": lambda s: Sample((s.normal((0, 3)),), {"target": np.zeros((0, 3)), "reduction": "none"}),
        },
        references.cross_entropy,
        composite=_loss_composite,
        exempt={"scalar": "logits are (B, K); the error is checked"},
        errors=(
            BadCall(_loss(target=np.array([0, 3])), ValueError, "labels in [0, 2]"),
            BadCall(_loss(target=np.array([0, -1])), ValueError, "labels in [0, 2]"),
            BadCall(_loss(target=np.zeros(3, int)), ValueError, "integer labels (2,)"),
            BadCall(_loss(target=np.zeros((2, 4))), ValueError, "soft labels (2, 3)"),
            BadCall(_loss(reduction="max"), ValueError, "mean, sum or none"),
            BadCall(_loss(label_smoothing=1.5), ValueError, "label_smoothing in [0, 1]"),
            BadCall(lambda: ag.cross_entropy(np.ones((0, 3)), np.zeros(0, int)), ValueError, "non-empty batch"),
            BadCall(lambda: ag.cross_entropy(np.ones(3), np.zeros(3, int)), ValueError, "(B, K)"),
            BadCall(_loss(target=np.array([0, 255])), ValueError, "labels in [0, 2]; got 0 to 255"),
            BadCall(_loss(target=np.array([255, 7]), ignore_index=255), ValueError, "got 7 to 7"),
            BadCall(_loss(target=np.array([9, 9]), ignore_index=9), ValueError, "got 2 of ignore_index=9"),
            BadCall(_loss(target=X, ignore_index=9), ValueError, "integer labels with an ignore_index"),
            BadCall(_loss(divisor=0), ValueError, "divisor above 0"),
            BadCall(_loss(divisor=np.nan), ValueError, "divisor above 0"),
            BadCall(_loss(divisor=2, reduction="none"), ValueError, "reduction mean"),
            BadCall(
                lambda: ag.cross_entropy(np.ones((2, 3, 4)), np.zeros((4, 2), int)), ValueError, "integer labels (2, 4)"
            ),
            BadCall(lambda: ag.cross_entropy(np.ones((2, 0)), np.zeros(2, int)), ValueError, "K > 0"),
        ),
    )
)


# ---- random ops: the generator is made anew at each call, so that each is a function of its arguments


def _generator() -> ag.Generator:
    return ag.Generator(seed=(7 << 32) + 11, offset=(1 << 32) - 2)


def _drop_reference(axes: int | None = None) -> Callable[..., Any]:
    """``axes``: one draw for each place on so many leading axes (default: on all)."""

    def reference(x: Any, *, p: float) -> Any:
        shape = x.shape[:axes]
        scales = references.drop_scales((7 << 32) + 11, (1 << 32) - 2, shape, p)
        return x * scales.reshape(shape + (1,) * (x.ndim - len(shape))).astype(x.dtype)

    return reference


def _rate(op: Callable[..., Any]) -> tuple[BadCall, ...]:
    return (
        BadCall(lambda: op(ag.Tensor(X), 1.0), ValueError, "rate in [0, 1)"),
        BadCall(lambda: op(ag.Tensor(X), -0.1), ValueError, "rate in [0, 1)"),
    )


register(
    OpInfo(
        "dropout",
        lambda x, *, p: ag.dropout(x, p, generator=_generator()),
        {
            "matrix": lambda s: Sample((s.normal((5, 7)),), {"p": 0.3}),
            "drawn": lambda s: Sample((s.normal(s.shape(3)),), {"p": s.choice((0.1, 0.5, 0.9))}),
            "scalar": lambda s: Sample((s.normal(()),), {"p": 0.5}),
            "empty": lambda s: Sample((s.normal((0, 3)),), {"p": 0.5}),
        },
        _drop_reference(),
        linear=True,
        errors=_rate(ag.dropout),
    ),
    OpInfo(
        "dropout2d",
        lambda x, *, p: ag.dropout2d(x, p, generator=_generator()),
        {
            "map": lambda s: Sample((s.normal((3, 4, 2, 3)),), {"p": 0.4}),
            "drawn": lambda s: Sample((s.normal(s.shape(3)),), {"p": s.choice((0.1, 0.5, 0.9))}),
            "matrix": lambda s: Sample((s.normal((5, 3)),), {"p": 0.5}),
            "empty": lambda s: Sample((s.normal((2, 0, 3)),), {"p": 0.5}),
        },
        _drop_reference(2),
        linear=True,
        exempt={"scalar": "needs a batch and channels; the error is checked"},
        errors=(
            *_rate(ag.dropout2d),
            BadCall(lambda: ag.dropout2d(ag.Tensor(np.ones(3)), 0.5), ValueError, "(B, C, ...)"),
        ),
    ),
    OpInfo(
        "drop_path",
        lambda x, *, p: ag.drop_path(x, p, generator=_generator()),
        {
            "map": lambda s: Sample((s.normal((9, 2, 3)),), {"p": 0.4}),
            "vector": lambda s: Sample((s.normal((6,)),), {"p": 0.5}),
            "empty": lambda s: Sample((s.normal((0, 3)),), {"p": 0.5}),
        },
        _drop_reference(1),
        linear=True,
        exempt={"scalar": "needs a batch axis; the error is checked"},
        errors=(
            *_rate(ag.drop_path),
            BadCall(lambda: ag.drop_path(ag.Tensor(np.ones(())), 0.5), ValueError, "batch axis"),
        ),
    ),
    OpInfo(
        "drop_path_keep",
        lambda x, *, p: ag.Tensor(ag.drop_path_keep(x, p, generator=_generator())),
        {
            "map": lambda s: Sample((s.normal((9, 2, 3)),), {"p": 0.4}),
            "empty": lambda s: Sample((s.normal((0, 3)),), {"p": 0.5}),
        },
        lambda x, *, p: references.drop_scales((7 << 32) + 11, (1 << 32) - 2, x.shape[:1], p).astype(x.dtype),
        differentiable=False,
        exempt={"scalar": "needs a batch axis; the error is checked"},
        errors=(
            *_rate(ag.drop_path_keep),
            BadCall(lambda: ag.drop_path_keep(ag.Tensor(np.ones(())), 0.5), ValueError, "batch axis"),
        ),
    ),
)


# ---- recomputation


def _two_layers(x: Any, w: Any) -> tuple[Any, Any]:
    hidden = ag.tanh(ag.matmul(x, w))
    return ag.dropout(hidden, 0.5) * 2.0, ag.sum(hidden)


def _drawing(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` with the default generator where :func:`_generator` is. Backward runs with it somewhere else."""

    def run(*args: Any) -> Any:
        with ag.fork_rng(_generator().state()):
            return fn(*args)

    return run


def _two_layers_reference(x: Any, w: Any) -> tuple[Any, Any]:
    hidden = np.tanh(x @ w)
    return _drop_reference()(hidden, p=0.5) * 2, hidden.sum()


register(
    OpInfo(
        "checkpoint",
        _drawing(lambda x, w: ag.checkpoint(_two_layers, x, w)),
        {
            "matrix": lambda s: Sample((s.normal((3, 4)), s.normal((4, 2)))),
            "empty": lambda s: Sample((s.normal((0, 4)), s.normal((4, 2)))),
        },
        _two_layers_reference,
        composite=_drawing(_two_layers),
        exempt={"scalar": "the checkpointed function is a product", "errors": "no argument of its own to refuse"},
    )
)
