"""Rows of autograd/ops/elementwise.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special

import autograd as ag

from ..tolerances import ERF32
from .opinfo import BadCall, Kink, OpInfo, Sample, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .opinfo import Source

    Values = Callable[[Source, tuple[int, ...]], Any]


def _normal(s: Source, shape: tuple[int, ...]) -> Any:
    return s.normal(shape)


def _positive(s: Source, shape: tuple[int, ...]) -> Any:
    return s.between(0.3, 3, shape)


def _away(s: Source, shape: tuple[int, ...]) -> Any:
    return s.away(shape)


# ---- two operands


def _binary(left: Values, right: Values) -> dict[str, Callable[[Source], Sample]]:
    def same(s: Source) -> Sample:
        shape = s.shape(2)
        return Sample((left(s, shape), right(s, shape)))

    def narrow_right(s: Source) -> Sample:
        shape = s.shape(3)
        return Sample((left(s, shape), right(s, s.part_of(shape))))

    def narrow_left(s: Source) -> Sample:
        shape = s.shape(3)
        return Sample((left(s, s.part_of(shape)), right(s, shape)))

    return {
        "same": same,
        "narrow_right": narrow_right,
        "narrow_left": narrow_left,
        "both_stretched": lambda s: Sample((left(s, (3, 1, 2)), right(s, (4, 1)))),
        "scalar": lambda s: Sample((left(s, ()), right(s, ()))),
        "scalar_with_array": lambda s: Sample((left(s, ()), right(s, s.shape(2)))),
        "number_right": lambda s: Sample((left(s, s.shape(2)), 1.75)),
        "number_left": lambda s: Sample((1.75, right(s, s.shape(2)))),
        "number_and_scalar": lambda s: Sample((left(s, ()), 2)),
        "empty": lambda s: Sample((left(s, (0, 3)), right(s, (1, 3)))),
    }


def _bad_pair(op: Callable[..., Any]) -> tuple[BadCall, ...]:
    return (
        BadCall(lambda: op(np.ones((2, 3)), np.ones(4)), ValueError, "(2, 3) and (4,)"),
        BadCall(lambda: op(np.ones(2), "two"), TypeError, "str"),
        BadCall(lambda: op(None, None), TypeError, "None"),
    )


def _lattice(s: Source, shape: tuple[int, ...]) -> Any:
    return np.round(s.between(-2, 2, shape) * 2) / 2


def _off_lattice(s: Source, shape: tuple[int, ...]) -> Any:
    """At least 0.1 from every value of :func:`_lattice`: no ties."""
    return _lattice(s, shape) + s.between(0.1, 0.4, shape)


for _name, _left, _right, _linear in (
    ("add", _normal, _normal, True),
    ("subtract", _normal, _normal, True),
    ("multiply", _normal, _normal, False),
    ("divide", _normal, _away, False),
    ("power", _positive, _normal, False),
):
    _op = getattr(ag, _name)
    register(
        OpInfo(
            _name,
            _op,
            _binary(_left, _right),
            getattr(np, _name),
            linear=_linear,
            elementwise=True,
            errors=_bad_pair(_op),
            kinks=(
                (
                    Kink((np.array([0.0, 0.0, 2.0]), np.array([0.0, 2.0, 0.0])), (np.zeros(3), [0, 0, np.log(2)])),
                    Kink((np.array([-2.0, 0.0]), 2), ([-4.0, 0.0], None)),
                    Kink((np.array([-2.0, 0.0]), 0), ([0.0, 0.0], None)),
                )
                if _name == "power"
                else ()
            ),
        )
    )

for _name in ("maximum", "minimum"):
    _op = getattr(ag, _name)
    register(
        OpInfo(
            _name,
            _op,
            _binary(_lattice, _off_lattice),
            getattr(np, _name),
            elementwise=True,
            errors=_bad_pair(_op),
            kinks=(
                Kink((np.array([1.0, 2.0]), np.array([1.0, 2.0])), ([0.5, 0.5], [0.5, 0.5])),
                Kink((np.array([1.0, 2.0]), 2.0), ([0.0, 0.5] if _name == "maximum" else [1.0, 0.5], None)),
            ),
        )
    )


# ---- one operand


def _unary(values: Values, **kwargs: Any) -> dict[str, Callable[[Source], Sample]]:
    return {
        "matrix": lambda s: Sample((values(s, s.shape(2)),), kwargs),
        "rank4": lambda s: Sample((values(s, s.shape(4, high=3)),), kwargs),
        "scalar": lambda s: Sample((values(s, ()),), kwargs),
        "empty": lambda s: Sample((values(s, (2, 0, 3)),), kwargs),
    }


def _wide(s: Source, shape: tuple[int, ...]) -> Any:
    return s.between(-7, 7, shape)


def _tiny(s: Source, shape: tuple[int, ...]) -> Any:
    return s.between(-1e-4, 1e-4, shape)


def _expit(x: Any) -> Any:
    return scipy.special.expit(x).astype(x.dtype)


def _sigmoid_slope(x: Any) -> Any:
    y = 1 / (1 + np.exp(-x))
    return y * (1 - y)


_ZERO = np.array([0.0, -0.0])
_UNARY: tuple[tuple[str, Values, Any, dict[str, Any]], ...] = (
    ("negative", _normal, np.negative, {"linear": True}),
    ("absolute", _away, np.absolute, {"kinks": (Kink((_ZERO,), ([0.0, 0.0],)),)}),
    ("exp", _normal, np.exp, {}),
    ("expm1", _normal, np.expm1, {}),
    ("log", _positive, np.log, {}),
    ("log1p", _positive, np.log1p, {}),
    ("sqrt", _positive, np.sqrt, {}),
    ("square", _normal, np.square, {}),
    ("sin", _normal, np.sin, {}),
    ("cos", _normal, np.cos, {}),
    ("tanh", _wide, np.tanh, {"naive_slope": lambda x: 1 - np.tanh(x) ** 2}),
    ("sigmoid", _wide, _expit, {"naive_slope": _sigmoid_slope}),
    ("relu", _away, lambda x: np.maximum(x, 0), {"kinks": (Kink((_ZERO,), ([0.0, 0.0],)),)}),
    ("erf", _normal, lambda x: scipy.special.erf(x).astype(x.dtype), {"low_bound": ERF32}),
)

for _name, _values, _reference, _more in _UNARY:
    _op = getattr(ag, _name)
    _cases = _unary(_values)
    if _name in ("expm1", "log1p", "tanh", "sin", "erf"):
        _cases["tiny"] = lambda s: Sample((_tiny(s, (2, 5)),))
    register(
        OpInfo(
            _name,
            _op,
            _cases,
            _reference,
            elementwise=True,
            errors=(
                BadCall(lambda op=_op: op("one"), TypeError, "str"),
                BadCall(lambda op=_op: op(None), TypeError, "None"),
            ),
            **_more,
        )
    )


def _inside_or_out(s: Source, shape: tuple[int, ...]) -> Any:
    return s.choice((-1.0, 0.5)) + s.away(shape, 0.15) * 0.3  # at least 0.045 from the bounds -1 and 0.5


register(
    OpInfo(
        "clip",
        ag.clip,
        {
            **_unary(_inside_or_out, min=-1.0, max=0.5),
            "below": lambda s: Sample((_inside_or_out(s, s.shape(2)),), {"min": -1.0}),
            "above": lambda s: Sample((_inside_or_out(s, s.shape(2)),), {"max": 0.5}),
        },
        lambda x, min=None, max=None: np.clip(x, min, max),
        kinks=(Kink((np.array([-1.0, 0.5, 0.0, 2.0]),), ([1.0, 1.0, 1.0, 0.0],), {"min": -1.0, "max": 0.5}),),
        elementwise=True,
        errors=(
            BadCall(lambda: ag.clip(np.ones(3)), ValueError, "got neither"),
            BadCall(lambda: ag.clip("x", 0, 1), TypeError, "str"),
        ),
    )
)
