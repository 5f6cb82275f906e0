"""Rows of autograd/ops/reduce.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

import autograd as ag

from .opinfo import BadCall, Kink, OpInfo, Sample, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .opinfo import Source


def _cases(values: Callable[[Source, tuple[int, ...]], Any]) -> dict[str, Callable[[Source], Sample]]:
    def drawn(s: Source) -> Sample:
        shape = s.shape(3)
        return Sample((values(s, shape),), {"axis": s.axis(3), "keepdims": s.choice((False, True))})

    return {
        "all": lambda s: Sample((values(s, s.shape(3, low=2)),)),
        "axis": drawn,
        "kept": lambda s: Sample((values(s, (3, 4)),), {"axis": 1, "keepdims": True}),
        "axes": lambda s: Sample((values(s, (2, 3, 4)),), {"axis": (-1, 0), "keepdims": s.choice((False, True))}),
        "no_axis": lambda s: Sample((values(s, (2, 3)),), {"axis": ()}),
        "scalar": lambda s: Sample((values(s, ()),)),
        "empty": lambda s: Sample((values(s, (0, 3)),), {"axis": 1}),
    }


def _bad(op: Callable[..., Any], identity: bool = False) -> tuple[BadCall, ...]:
    calls = (
        BadCall(lambda: op(np.ones((2, 3)), axis=2), IndexError, "axis in [-2, 1]"),
        BadCall(lambda: op("x"), TypeError, "str"),
    )
    if not identity:
        calls += (
            BadCall(lambda: op(np.ones((2, 0)), axis=1), ValueError, "non-empty axis"),
            BadCall(lambda: op(np.ones((0,))), ValueError, "non-empty axis"),
        )
    return calls


def _repeated(op: Callable[..., Any]) -> tuple[BadCall, ...]:
    return (BadCall(lambda: op(np.ones((2, 3)), axis=(0, -2)), ValueError, "distinct axes"),)


def _normal(s: Source, shape: tuple[int, ...]) -> Any:
    return s.normal(shape) + 0.5


def _logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """With the peak of everything taken off as a constant."""
    peak = float(x.data.max(initial=0.0))
    return ag.log(ag.sum(ag.exp(x - peak), axis, keepdims)) + peak


def _variance(x: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    axes = tuple(range(x.ndim)) if axis is None else axis
    n = int(np.prod([x.shape[a] for a in ((axes,) if isinstance(axes, int) else axes)]))
    centred = x - ag.mean(x, axes, keepdims=True)
    return ag.sum(centred * centred, axes, keepdims) / (n - ddof)


register(
    OpInfo("sum", ag.sum, _cases(_normal), np.sum, linear=True, errors=_bad(ag.sum, identity=True) + _repeated(ag.sum)),
    OpInfo(
        "mean",
        ag.mean,
        _cases(_normal),
        np.mean,
        composite=lambda x, axis=None, keepdims=False: ag.sum(x, axis, keepdims) * (x_count(x, axis)),
        linear=True,
        errors=_bad(ag.mean) + _repeated(ag.mean),
    ),
    OpInfo(
        "var",
        ag.var,
        {
            **_cases(_normal),
            "ddof": lambda s: Sample((_normal(s, (3, 4)),), {"axis": 0, "ddof": 1, "keepdims": True}),
        },
        np.var,
        composite=_variance,
        errors=(
            *_bad(ag.var),
            *_repeated(ag.var),
            BadCall(lambda: ag.var(np.ones((1, 2)), axis=0, ddof=1), ValueError, "ddof=1"),
        ),
    ),
)


def x_count(x: Any, axis: Any) -> float:
    """1 / the number of elements that each result is over."""
    axes = range(x.ndim) if axis is None else ((axis,) if isinstance(axis, int) else axis)
    return 1 / float(np.prod([x.shape[a] for a in axes]))


for _name in ("max", "min"):
    _op = getattr(ag, _name)
    _sign = 1.0 if _name == "max" else -1.0
    register(
        OpInfo(
            _name,
            _op,
            _cases(lambda s, shape: s.spread(shape)),
            getattr(np, _name),
            errors=_bad(_op) + _repeated(_op),
            elementwise=True,
            kinks=(
                Kink(
                    (_sign * np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]),),
                    ([[0, 0.5, 0.5], [1 / 3] * 3],),
                    {"axis": 1},
                ),
                Kink((_sign * np.array([[1.0, 3.0], [3.0, 2.0]]),), ([[0, 0.5], [0.5, 0]],)),
            ),
        )
    )

register(
    OpInfo(
        "logsumexp",
        ag.logsumexp,
        {
            **_cases(_normal),
            "large": lambda s: Sample((s.normal((3, 4)) + 200.0,), {"axis": 0}),
        },
        scipy.special.logsumexp,
        composite=_logsumexp,
        errors=_bad(ag.logsumexp) + _repeated(ag.logsumexp),
    ),
    OpInfo(
        "argmax",
        ag.argmax,
        {
            "axis": lambda s: Sample((s.normal(s.shape(3)),), {"axis": s.axis(3)}),
            "all": lambda s: Sample((s.normal(s.shape(2)),)),
            "kept": lambda s: Sample((s.normal((2, 3)),), {"axis": 1, "keepdims": True}),
            "ties": lambda s: Sample((s.integers(0, 2, (3, 5)).astype(float),), {"axis": 1}),
            "scalar": lambda s: Sample((s.normal(()),)),
            "empty": lambda s: Sample((s.normal((0, 3)),), {"axis": 1}),
        },
        np.argmax,
        differentiable=False,
        result_dtype=lambda dtype: np.dtype(np.int64),
        errors=_bad(ag.argmax),
    ),
)
