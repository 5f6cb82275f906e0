"""Rows of autograd/ops/nn.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

import autograd as ag

from . import references
from .opinfo import BadCall, Kink, OpInfo, Sample, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .opinfo import Source

X = np.ones((2, 3))


def _along(spread: float = 1.0) -> dict[str, Callable[[Source], Sample]]:
    def drawn(s: Source) -> Sample:
        return Sample((s.normal(s.shape(3, low=2)) * spread,), {"axis": s.axis(3)})

    return {
        "last": lambda s: Sample((s.normal((3, 5)) * spread,)),
        "first": lambda s: Sample((s.normal((4, 3)) * spread,), {"axis": 0}),
        "drawn": drawn,
        "vector": lambda s: Sample((s.normal((6,)) * spread,)),
        "empty": lambda s: Sample((s.normal((0, 3)),)),
    }


def _bad_axis(op: Callable[..., Any]) -> tuple[BadCall, ...]:
    return (
        BadCall(lambda: op(X, axis=2), IndexError, "axis in [-2, 1]"),
        BadCall(lambda: op(np.ones((2, 0))), ValueError, "non-empty axis"),
        BadCall(lambda: op(np.ones(())), IndexError, "a 0-d tensor"),
    )


# ---- softmax


def _softmax(x: Any, axis: int = -1) -> Any:
    """exp / sum, with the peak taken off as a constant."""
    peak = x.data.max(axis=axis, keepdims=True)
    e = ag.exp(x - ag.Tensor(peak))
    return e / ag.sum(e, axis, keepdims=True)


def _added(mask: Any, dtype: Any = np.float64) -> Any:
    return np.where(mask, 0.0, -np.inf).astype(dtype) if mask.dtype == bool else mask


def _masked_reference(x: Any, mask: Any, axis: int = -1) -> Any:
    """softmax over the places that are left, each row by itself; nothing left gives zeros."""
    z = np.moveaxis(np.broadcast_to(x + _added(mask, x.dtype), x.shape).astype(x.dtype), axis, -1)
    out = np.zeros_like(z)
    for row in np.ndindex(*z.shape[:-1]):
        left = np.isfinite(z[row])
        if left.any():
            out[row][left] = scipy.special.softmax(z[row][left])
    return np.moveaxis(out, -1, axis)


def _masked_composite(x: Any, mask: Any, axis: int = -1) -> Any:
    return _softmax(x + ag.Tensor(_added(mask).astype(x.dtype)), axis)


def _bool_mask(s: Source) -> Sample:
    mask = s.booleans((2, 3, 4))
    mask[..., 1] = True
    return Sample((s.normal((2, 3, 4)),), {"mask": mask})


def _swin_mask(s: Source) -> Sample:
    mask = np.where(s.booleans((1, 4, 4)), 0.0, -100.0)
    mask[:, range(4), range(4)] = 0
    return Sample((s.normal((3, 4, 4)),), {"mask": mask})


register(
    OpInfo(
        "softmax",
        ag.softmax,
        {**_along(2.0), "large": lambda s: Sample((s.normal((3, 4)) + 300.0,))},
        lambda x, axis=-1: scipy.special.softmax(x, axis),
        composite=_softmax,
        exempt={"scalar": "needs an axis; the error is checked"},
        errors=_bad_axis(ag.softmax),
    ),
    OpInfo(
        "masked_softmax",
        ag.masked_softmax,
        {
            "boolean": _bool_mask,
            "swin": _swin_mask,
            "minus_inf": lambda s: Sample((s.normal((2, 3)),), {"mask": np.array([0.0, -np.inf, 0.5])}),
            "axis": lambda s: Sample(
                (s.normal((3, 2, 2)),), {"mask": np.array([[[1.0]], [[0.0]], [[2.0]]]), "axis": 0}
            ),
            "along": lambda s: Sample((s.normal((3, 4)),), {"mask": s.normal((3, 1))}),
            "vector": lambda s: Sample((s.normal((5,)),), {"mask": np.array([True, True, False, True, False])}),
            "empty": lambda s: Sample((s.normal((0, 3)),), {"mask": np.array([True, True, False])}),
        },
        _masked_reference,
        composite=_masked_composite,
        exempt={"scalar": "needs an axis; the error is checked"},
        kinks=(
            Kink((np.array([[1.0, 2.0]]),), ([[0.0, 0.0]],), {"mask": np.array([False, False])}),
            Kink((np.array([1.0, 2.0]),), ([0.0, 0.0],), {"mask": np.array([-np.inf, -np.inf])}),
        ),
        errors=(
            *_bad_axis(lambda x, axis=-1: ag.masked_softmax(x, np.zeros(x.shape), axis)),
            BadCall(lambda: ag.masked_softmax(X, np.zeros(4)), ValueError, "broadcasts to (2, 3)"),
            BadCall(lambda: ag.masked_softmax(X, np.zeros((2, 2, 3))), ValueError, "broadcasts to (2, 3)"),
        ),
    ),
    OpInfo(
        "log_softmax",
        ag.log_softmax,
        {**_along(2.0), "large": lambda s: Sample((s.normal((3, 4)) * 100.0,))},
        lambda x, axis=-1: scipy.special.log_softmax(x, axis),
        composite=lambda x, axis=-1: x - ag.logsumexp(x, axis, keepdims=True),
        exempt={"scalar": "needs an axis; the error is checked"},
        errors=_bad_axis(ag.log_softmax),
    ),
)


# ---- norms


def _norm(s: Source, lead: tuple[int, ...], channels: int = 6, **static: Any) -> Sample:
    args = (s.normal((*lead, channels)) + 0.5, s.between(0.5, 1.5, (channels,)), s.normal((channels,)))
    return Sample(args, static)


def _norm_composite(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Any:
    centred = x - ag.mean(x, -1, keepdims=True)
    return centred / ag.sqrt(ag.mean(centred * centred, -1, keepdims=True) + eps) * weight + bias


def _residual(
    s: Source, keep: bool, lead: tuple[int, ...] = (3, 2), branch_bias: bool = False, **static: Any
) -> Sample:
    x, weight, bias = _norm(s, lead).args
    scales = s.choice((0.0, 1.25)) * np.ones(lead[0]) if keep else None
    if scales is not None and lead[0] > 1:
        scales[:2] = 1.25, 0.0
    branch, extra = s.normal(x.shape), (s.normal(weight.shape),) if branch_bias else ()
    return Sample((x, branch, weight, bias, *extra), {"keep": scales, **static})


def _scaled(branch: Any, keep: Any) -> Any:
    if keep is None:
        return branch
    return branch * keep.astype(branch.dtype).reshape((-1,) + (1,) * (branch.ndim - 1))


def _residual_reference(
    x: Any, branch: Any, weight: Any, bias: Any, branch_bias: Any = 0.0, *, keep: Any, eps: float = 1e-5
) -> Any:
    total = x + _scaled(branch + branch_bias, keep)
    return total, references.layer_norm(total, weight, bias, eps=eps)


def _residual_composite(
    x: Any, branch: Any, weight: Any, bias: Any, branch_bias: Any = 0.0, *, keep: Any, eps: float = 1e-5
) -> Any:
    total = x + _scaled(branch + branch_bias, keep)
    return total, ag.layer_norm(total, weight, bias, eps)


def _residual_call(
    x: Any, branch: Any, weight: Any, bias: Any, branch_bias: Any = None, *, keep: Any, **static: Any
) -> Any:
    return ag.residual_layer_norm(x, branch, keep, weight, bias, **static, branch_bias=branch_bias)


def _l2_composite(x: Any, axis: int = -1, eps: float = 1e-12) -> Any:
    return x / ag.maximum(ag.sqrt(ag.sum(x * x, axis, keepdims=True)), eps)


C = np.ones(3)

register(
    OpInfo(
        "layer_norm",
        ag.layer_norm,
        {
            "matrix": lambda s: _norm(s, (4,)),
            "map": lambda s: _norm(s, s.shape(3), s.integer(4, 9)),
            "vector": lambda s: _norm(s, ()),
            "eps": lambda s: _norm(s, (3,), eps=0.5),
            "one_channel": lambda s: _norm(s, (3,), 1),
            "many_rows": lambda s: _norm(s, (2100,), 8),
            "empty": lambda s: _norm(s, (0, 2)),
        },
        references.layer_norm,
        composite=_norm_composite,
        joint=True,
        exempt={
            "scalar": "x has channels; the error is checked",
            "constant": "of a row of equal numbers nothing but rounding is left, times 1 / sqrt(eps)",
        },
        errors=(
            BadCall(lambda: ag.layer_norm(X, np.ones(2), C), ValueError, "(2, 3), (2,) and (3,)"),
            BadCall(lambda: ag.layer_norm(X, C, np.ones((1, 3))), ValueError, "(1, 3)"),
            BadCall(lambda: ag.layer_norm(np.ones((2, 0)), np.ones(0), np.ones(0)), ValueError, "C > 0"),
            BadCall(lambda: ag.layer_norm(np.ones(()), C, C), ValueError, "got ()"),
            BadCall(lambda: ag.layer_norm(X, C, C.astype("float32")), TypeError, "one dtype"),
        ),
    ),
    OpInfo(
        "residual_layer_norm",
        _residual_call,
        {
            "plain": lambda s: _residual(s, False),
            "keep": lambda s: _residual(s, True, (3, 2, 2)),
            "keep_one": lambda s: _residual(s, True, (1, 2)),
            "eps": lambda s: _residual(s, True, eps=0.5),
            "matrix": lambda s: _residual(s, True, (4,)),
            "empty": lambda s: _residual(s, True, (0, 2)),
            "branch_bias": lambda s: _residual(s, False, branch_bias=True),
            "branch_bias_keep": lambda s: _residual(s, True, (3, 2, 2), branch_bias=True),
            "branch_bias_many_rows": lambda s: _residual(s, True, (3, 700), branch_bias=True),
            "branch_bias_empty": lambda s: _residual(s, True, (0, 2), branch_bias=True),
        },
        _residual_reference,
        composite=_residual_composite,
        joint=True,
        exempt={
            "scalar": "x has a batch axis and channels; the error is checked",
            "constant": "of a row of equal numbers nothing but rounding is left, times 1 / sqrt(eps)",
        },
        errors=(
            BadCall(lambda: ag.residual_layer_norm(X, X[:1], None, C, C), ValueError, "branch (2, 3)"),
            BadCall(lambda: ag.residual_layer_norm(X, X, np.ones(3), C, C), ValueError, "keep of shape (2,)"),
            BadCall(lambda: ag.residual_layer_norm(C, C, C, C, C), ValueError, "x (B, ..., C); got (3,) for x (3,)"),
            BadCall(lambda: ag.residual_layer_norm(X, X, None, C, np.ones(2)), ValueError, "(2,)"),
            BadCall(lambda: ag.residual_layer_norm(np.ones(()), np.ones(()), None, C, C), ValueError, "()"),
            BadCall(
                lambda: ag.residual_layer_norm(X, X, None, C, C, branch_bias=np.ones(2)),
                ValueError,
                "branch_bias (3,) for branch (2, 3); got (2,)",
            ),
        ),
    ),
    OpInfo(
        "l2_normalize",
        ag.l2_normalize,
        {
            **_along(),
            "eps": lambda s: Sample((s.normal((3, 4)) * 0.1,), {"eps": 5.0}),
        },
        references.normalize,
        composite=_l2_composite,
        exempt={"scalar": "needs an axis; the error is checked"},
        kinks=(Kink((np.zeros((1, 2)),), ([[0.5, 0.5]],), {"eps": 2.0}),),
        errors=(
            BadCall(lambda: ag.l2_normalize(X, axis=-3), IndexError, "axis in [-2, 1]"),
            BadCall(lambda: ag.l2_normalize(np.ones(())), IndexError, "a 0-d tensor"),
        ),
    ),
)


# ---- activations


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1 + ag.erf(x * math.sqrt(0.5)))


register(
    OpInfo(
        "gelu",
        ag.gelu,
        {
            "matrix": lambda s: Sample((s.normal(s.shape(2)),)),
            "wide": lambda s: Sample((s.between(-7, 7, (4, 9)),)),
            "scalar": lambda s: Sample((s.normal(()),)),
            "empty": lambda s: Sample((s.normal((2, 0)),)),
        },
        references.gelu,
        composite=_gelu,
        errors=(BadCall(lambda: ag.gelu("x"), TypeError, "str"),),
    ),
    OpInfo(
        "bias_gelu",
        ag.bias_gelu,
        {
            "matrix": lambda s: Sample((s.normal((3, 4)), s.normal((4,)))),
            "map": lambda s: Sample((s.normal((*s.shape(3), 5)), s.normal((5,)))),
            "vector": lambda s: Sample((s.normal((4,)), s.normal((4,)))),
            "many_rows": lambda s: Sample((s.normal((1100, 8)), s.normal((8,)))),
            "empty": lambda s: Sample((s.normal((0, 4)), s.normal((4,)))),
        },
        lambda x, bias: references.gelu(x + bias),
        composite=lambda x, bias: _gelu(x + bias),
        joint=True,
        exempt={"scalar": "x has channels; the error is checked"},
        errors=(
            BadCall(lambda: ag.bias_gelu(X, np.ones(2)), ValueError, "(2, 3) and (2,)"),
            BadCall(lambda: ag.bias_gelu(X, np.ones((2, 3))), ValueError, "(2, 3) and (2, 3)"),
            BadCall(lambda: ag.bias_gelu(np.ones(()), np.ones(())), ValueError, "() and ()"),
            BadCall(lambda: ag.bias_gelu(X, np.ones(3, np.float32)), TypeError, "one dtype"),
        ),
    ),
)


def _drawn_options(s: Source) -> Sample:
    return Sample((s.normal(s.shape(3)),), {"beta": s.between(0.3, 3.0, ()).item(), "threshold": math.inf})


register(
    OpInfo(
        "softplus",
        ag.softplus,
        {
            "matrix": lambda s: Sample((s.normal(s.shape(2)),)),
            "wide": lambda s: Sample((s.between(-19, 19, (4, 9)),)),
            "exact": lambda s: Sample((s.between(-45, 45, (4, 9)),), {"threshold": math.inf}),
            "linear": lambda s: Sample((s.between(3, 9, (5,)),), {"beta": 2.0, "threshold": 5.0}),
            "drawn": _drawn_options,
            "scalar": lambda s: Sample((s.normal(()),)),
            "empty": lambda s: Sample((s.normal((2, 0)),)),
        },
        lambda x, beta=1.0, threshold=20.0: np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta),
        composite=lambda x, beta=1.0, threshold=20.0: ag.where(
            x.data * beta > threshold, x, (ag.relu(x * beta) + ag.log1p(ag.exp(-ag.absolute(x * beta)))) / beta
        ),
        errors=(
            BadCall(lambda: ag.softplus(X, beta=0), ValueError, "beta above 0; got 0"),
            BadCall(lambda: ag.softplus("x"), TypeError, "str"),
        ),
    ),
)
