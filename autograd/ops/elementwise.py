"""Elementwise ops: arithmetic and functions of one array.

Names and broadcasting are NumPy's. Mixed dtypes are promoted to the widest float; Python numbers and NumPy scalars are
constants that never widen. Functions whose results are no integers (``exp`` and ``divide``, not ``square``) make
float64 of integers and booleans. "Saves" in a docstring says what an op keeps for backward, in units of its operands'
bytes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from autograd.backend import array_module, is_array
from autograd.kernels.gelu.erf import erf as erf_reference
from autograd.primitive import Ctx, Primitive, constant

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.tensor import Tensor, TensorLike

__all__ = [
    "absolute",
    "add",
    "clip",
    "cos",
    "divide",
    "erf",
    "exp",
    "expm1",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "power",
    "relu",
    "sigmoid",
    "sin",
    "sqrt",
    "square",
    "subtract",
    "tanh",
]


def _xp(*operands: Any) -> Any:
    return next(array_module(x) for x in operands if is_array(x))


# ---- arithmetic


def _add_vjp(ctx: Ctx, g: Array) -> tuple[Any, Any]:
    return (g if ctx.needs[0] else None, g if ctx.needs[1] else None)


_add = Primitive("add", lambda ctx, x, y: x + y, _add_vjp, broadcasts=True, autocast="widest")
_subtract = Primitive(
    "subtract",
    lambda ctx, x, y: x - y,
    lambda ctx, g: (g if ctx.needs[0] else None, -g if ctx.needs[1] else None),
    broadcasts=True,
    autocast="widest",
)


def _multiply_forward(ctx: Ctx, x: Any, y: Any) -> Array:
    needs = ctx.needs
    ctx.saved = (x if needs[1] else None, y if needs[0] else None)
    return x * y


def _multiply_vjp(ctx: Ctx, g: Array) -> tuple[Any, Any]:
    x, y = ctx.saved
    return (None if y is None else g * y, None if x is None else g * x)


_multiply = Primitive("multiply", _multiply_forward, _multiply_vjp, broadcasts=True, autocast="widest", fresh=True)


def _divide_forward(ctx: Ctx, x: Any, y: Any) -> Array:
    out = x / y
    ctx.save(y, out if ctx.needs[1] else None)
    return out


def _divide_vjp(ctx: Ctx, g: Array) -> tuple[Any, Any]:
    y, out = ctx.saved
    gx = g / y
    return (gx if ctx.needs[0] else None, None if out is None else -gx * out)


_divide = Primitive("divide", _divide_forward, _divide_vjp, broadcasts=True, autocast="widest", floats=True, fresh=True)


def _power_forward(ctx: Ctx, x: Any, y: Any) -> Array:
    out = x**y
    ctx.save(x, y, out if ctx.needs[1] else None)
    return out


def _power_vjp(ctx: Ctx, g: Array) -> tuple[Any, Any]:
    x, y, out = ctx.saved
    gx = gy = None
    if ctx.needs[0]:
        if is_array(y):
            xp = _xp(y)
            # x**0 is constant, also at x = 0, where 0 * 0**-1 would be NaN, and whatever g is
            zero = xp.zeros_like(y)
            gx = xp.where(y == 0, zero, g) * (y * x ** xp.where(y == 0, zero, y - 1))
        else:
            gx = g * (y * x ** (y - 1)) if y != 0 else _xp(g).zeros_like(g)
    if ctx.needs[1]:
        xp = _xp(y)
        base = xp.asarray(x, dtype=g.dtype)
        gy = g * out * xp.log(xp.where(base > 0, base, xp.ones_like(base)))
    return gx, gy


_power = Primitive("power", _power_forward, _power_vjp, broadcasts=True, autocast="widest", fresh=True)


def _extremum_vjp(ctx: Ctx, g: Array) -> tuple[Any, Any]:
    x, y = ctx.saved
    half = 0.5 * g
    where = _xp(g).where
    wins, equal_ = ctx.wins(x, y), x == y
    gx = where(equal_, half, where(wins, g, 0)) if ctx.needs[0] else None
    gy = where(equal_, half, where(wins, 0, g)) if ctx.needs[1] else None
    return gx, gy


def _extremum(name: str, wins: Any) -> Primitive:
    def forward(ctx: Ctx, x: Any, y: Any) -> Array:
        ctx.save(x, y)
        ctx.wins = wins
        return getattr(_xp(x, y), name)(x, y)

    return Primitive(name, forward, _extremum_vjp, broadcasts=True, autocast="widest", fresh=True)


_maximum = _extremum("maximum", lambda x, y: x > y)
_minimum = _extremum("minimum", lambda x, y: x < y)


def add(x: TensorLike, y: TensorLike) -> Tensor:
    """``x + y``. Saves nothing."""
    return _add(x, y)  # type: ignore[no-any-return]


def subtract(x: TensorLike, y: TensorLike) -> Tensor:
    """``x - y``. Saves nothing."""
    return _subtract(x, y)  # type: ignore[no-any-return]


def multiply(x: TensorLike, y: TensorLike) -> Tensor:
    """``x * y``. Saves each operand whose partner needs a gradient."""
    return _multiply(x, y)  # type: ignore[no-any-return]


def divide(x: TensorLike, y: TensorLike) -> Tensor:
    """``x / y``. Saves ``y``, and the result if ``y`` needs a gradient."""
    return _divide(x, y)  # type: ignore[no-any-return]


def power(x: TensorLike, y: TensorLike) -> Tensor:
    """``x ** y``. Saves both, and the result if ``y`` needs a gradient.

    The gradient for ``y`` where ``x <= 0`` is 0, and for ``x`` where ``y == 0`` is 0.
    """
    return _power(x, y)  # type: ignore[no-any-return]


def maximum(x: TensorLike, y: TensorLike) -> Tensor:
    """The larger of two, elementwise; a tie sends half of the gradient each way. Saves both."""
    return _maximum(x, y)  # type: ignore[no-any-return]


def minimum(x: TensorLike, y: TensorLike) -> Tensor:
    """The smaller of two, elementwise; a tie sends half of the gradient each way. Saves both."""
    return _minimum(x, y)  # type: ignore[no-any-return]


# ---- functions of one array


def _from_input(name: str, forward: Any, slope: Any, floats: bool = True) -> Primitive:
    """A function of one array whose derivative is ``slope(x, xp)``; saves the input."""

    def run(ctx: Ctx, x: Array) -> Array:
        ctx.save(x)
        return forward(x, array_module(x))

    def vjp(ctx: Ctx, g: Array) -> Array:
        (x,) = ctx.saved
        return g * slope(x, array_module(x))

    return Primitive(name, run, vjp, floats=floats, fresh=True)


def _from_output(name: str, forward: Any, slope: Any) -> Primitive:
    """A function of one array whose derivative is ``slope(y, xp)`` of the result; saves the result."""

    def run(ctx: Ctx, x: Array) -> Array:
        y = forward(x, array_module(x))
        ctx.save(y)
        return y

    def vjp(ctx: Ctx, g: Array) -> Array:
        (y,) = ctx.saved
        return g * slope(y, array_module(y))

    return Primitive(name, run, vjp, floats=True, fresh=True)


def _sigmoid_array(x: Array, xp: Any) -> Array:
    # exp of a non-positive number only: no overflow on either side
    e = xp.exp(-abs(x))
    return xp.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _relu_forward(ctx: Ctx, x: Array) -> Array:
    y = array_module(x).maximum(x, 0)
    ctx.save(y)
    return y


def _relu_vjp(ctx: Ctx, g: Array) -> Array:
    (y,) = ctx.saved
    return array_module(g).where(y > 0, g, 0)  # chosen, not multiplied by the mask: inf * 0 would be NaN


_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)

_negative = Primitive("negative", lambda ctx, x: -x, lambda ctx, g: -g, fresh=True)
_absolute = _from_input("absolute", lambda x, xp: abs(x), lambda x, xp: xp.sign(x), floats=False)
_exp = _from_output("exp", lambda x, xp: xp.exp(x), lambda y, xp: y)
_expm1 = _from_output("expm1", lambda x, xp: xp.expm1(x), lambda y, xp: y + 1)
_log = _from_input("log", lambda x, xp: xp.log(x), lambda x, xp: 1 / x)
_log1p = _from_input("log1p", lambda x, xp: xp.log1p(x), lambda x, xp: 1 / (1 + x))
_sqrt = _from_output("sqrt", lambda x, xp: xp.sqrt(x), lambda y, xp: 0.5 / y)
_square = _from_input("square", lambda x, xp: x * x, lambda x, xp: 2 * x, floats=False)
_sin = _from_input("sin", lambda x, xp: xp.sin(x), lambda x, xp: xp.cos(x))
_cos = _from_input("cos", lambda x, xp: xp.cos(x), lambda x, xp: -xp.sin(x))
_tanh = _from_output("tanh", lambda x, xp: xp.tanh(x), lambda y, xp: 1 - y * y)
_sigmoid = _from_output("sigmoid", _sigmoid_array, lambda y, xp: y * (1 - y))
_relu = Primitive("relu", _relu_forward, _relu_vjp, fresh=True)
_erf = _from_input("erf", lambda x, xp: erf_reference(x), lambda x, xp: _TWO_OVER_SQRT_PI * xp.exp(-x * x))


def negative(x: TensorLike) -> Tensor:
    """``-x``. Saves nothing."""
    return _negative(x)  # type: ignore[no-any-return]


def absolute(x: TensorLike) -> Tensor:
    """``|x|``; the derivative at 0 is 0. Saves ``x``."""
    return _absolute(x)  # type: ignore[no-any-return]


def exp(x: TensorLike) -> Tensor:
    """``e ** x``. Saves the result."""
    return _exp(x)  # type: ignore[no-any-return]


def expm1(x: TensorLike) -> Tensor:
    """``e ** x - 1``, exact near 0. Saves the result."""
    return _expm1(x)  # type: ignore[no-any-return]


def log(x: TensorLike) -> Tensor:
    """Natural logarithm. Saves ``x``."""
    return _log(x)  # type: ignore[no-any-return]


def log1p(x: TensorLike) -> Tensor:
    """``log(1 + x)``, exact near 0. Saves ``x``."""
    return _log1p(x)  # type: ignore[no-any-return]


def sqrt(x: TensorLike) -> Tensor:
    """Square root. Saves the result."""
    return _sqrt(x)  # type: ignore[no-any-return]


def square(x: TensorLike) -> Tensor:
    """``x * x``. Saves ``x``."""
    return _square(x)  # type: ignore[no-any-return]


def sin(x: TensorLike) -> Tensor:
    """Sine, radians. Saves ``x``."""
    return _sin(x)  # type: ignore[no-any-return]


def cos(x: TensorLike) -> Tensor:
    """Cosine, radians. Saves ``x``."""
    return _cos(x)  # type: ignore[no-any-return]


def tanh(x: TensorLike) -> Tensor:
    """Hyperbolic tangent. Saves the result."""
    return _tanh(x)  # type: ignore[no-any-return]


def sigmoid(x: TensorLike) -> Tensor:
    """``1 / (1 + exp(-x))`` without overflow. Saves the result."""
    return _sigmoid(x)  # type: ignore[no-any-return]


def relu(x: TensorLike) -> Tensor:
    """``max(x, 0)``; the derivative at 0 is 0. Saves the result."""
    return _relu(x)  # type: ignore[no-any-return]


def erf(x: TensorLike) -> Tensor:
    """The error function, to 2 ulp in float64 and 1e-6 in float32. Saves ``x``."""
    return _erf(x)  # type: ignore[no-any-return]


def _clip_forward(ctx: Ctx, x: Array, *, low: float | None, high: float | None) -> Array:
    ctx.save(x)
    ctx.bounds = (-math.inf if low is None else low, math.inf if high is None else high)
    return array_module(x).clip(x, low, high)


def _clip_vjp(ctx: Ctx, g: Array) -> Array:
    (x,) = ctx.saved
    low, high = ctx.bounds
    return array_module(g).where((x >= low) & (x <= high), g, 0)


_clip = Primitive("clip", _clip_forward, _clip_vjp, fresh=True)


def clip(x: TensorLike, min: float | None = None, max: float | None = None) -> Tensor:
    """``x`` limited to [min, max]; the gradient passes inside, bounds included. Saves ``x``.

    Raises:
        TypeError: for a bound that is no number.
        ValueError: if neither bound is given.
    """
    if min is None and max is None:
        raise ValueError("clip: expected min, max or both; got neither.")
    low, high = (None if b is None else constant("clip", b) for b in (min, max))
    return _clip(x, low=low, high=high)  # type: ignore[no-any-return]
