"""Elementwise ops: arithmetic and functions of one array.

Names and broadcasting are NumPy's. Mixed dtypes are promoted to the widest float; Python numbers and NumPy scalars are
constants that never widen. Functions whose results are no integers (``exp`` and ``divide``, not ``square``) turn
integers and booleans into float64. "Saves" in a docstring says what an op keeps for backward.

An op is written once here, and named in ``__all__``: ``@op`` and ``@_unary`` make the public function of what stands
below them, which computes on arrays.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from autograd.backend import array_module, is_array
from autograd.kernels.gelu.erf import erf as erf_reference
from autograd.ops.declare import op, public
from autograd.primitive import Ctx, Primitive, constant

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Concatenate, Literal, ParamSpec

    from autograd.backend import Array
    from autograd.tensor import Tensor, TensorLike

    P = ParamSpec("P")

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
    """numpy or cupy, of operands of which at least one is an array."""
    return next(array_module(x) for x in operands if is_array(x))


# ---- arithmetic


def _add_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None]:
    return (g if ctx.needs[0] else None, g if ctx.needs[1] else None)


@op(_add_vjp, broadcasts=True, autocast="widest")
def add(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x + y``. Saves nothing."""
    return x + y


def _subtract_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None]:
    return (g if ctx.needs[0] else None, -g if ctx.needs[1] else None)


@op(_subtract_vjp, broadcasts=True, autocast="widest")
def subtract(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x - y``. Saves nothing."""
    return x - y


@op(lambda ctx, g: -g, fresh=True)
def negative(ctx: Ctx, x: TensorLike) -> Array:
    """``-x``. Saves nothing."""
    return -x


def _multiply_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None]:
    x, y = ctx.saved
    return (None if y is None else g * y, None if x is None else g * x)


@op(_multiply_vjp, broadcasts=True, autocast="widest", fresh=True)
def multiply(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x * y``. Saves each operand whose partner needs a gradient."""
    needs = ctx.needs
    ctx.saved = (x if needs[1] else None, y if needs[0] else None)
    return x * y


def _divide_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None]:
    y, out = ctx.saved
    gx = g / y
    return (gx if ctx.needs[0] else None, None if out is None else -gx * out)


@op(_divide_vjp, broadcasts=True, autocast="widest", floats=True, fresh=True)
def divide(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x / y``. Saves ``y``, and the result if ``y`` needs a gradient."""
    out = x / y
    ctx.save(y, out if ctx.needs[1] else None)
    return out


def _power_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None]:
    x, y, out = ctx.saved
    gx = gy = None
    if ctx.needs[0]:
        if is_array(y):
            xp = _xp(y)
            # x**0 is constant: no gradient, also where x = 0 (0 * 0**-1 would be NaN) or where g is infinite
            zero = xp.zeros_like(y)
            gx = xp.where(y == 0, zero, g) * (y * x ** xp.where(y == 0, zero, y - 1))
        else:
            gx = g * (y * x ** (y - 1)) if y != 0 else _xp(g).zeros_like(g)
    if ctx.needs[1]:
        xp = _xp(y)
        base = xp.asarray(x, dtype=g.dtype)
        none = base <= 0  # chosen, not multiplied by log(1): 0 ** -1 is inf, and inf * 0 NaN
        gy = xp.where(none, 0, g * out * xp.log(xp.where(none, 1, base)))
    return gx, gy


@op(_power_vjp, broadcasts=True, autocast="widest", fresh=True)
def power(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """``x ** y``. Saves both, and the result if ``y`` needs a gradient.

    The gradient for ``y`` where ``x <= 0`` is 0, also where the result is infinite (0 ** -1) or NaN ((-2) ** 0.5), and
    for ``x`` where ``y == 0`` is 0.
    """
    out = x**y
    ctx.save(x, y, out if ctx.needs[1] else None)
    return out


def _extremum_vjp(ctx: Ctx, g: Array) -> tuple[Array | None, Array | None]:
    x, y = ctx.saved
    half = 0.5 * g
    where = _xp(g).where
    loses, tie = ctx.loses, x == y
    gx = where(tie, half, where(loses(x, y), 0, g)) if ctx.needs[0] else None
    gy = where(tie, half, where(loses(y, x), 0, g)) if ctx.needs[1] else None
    return gx, gy


@op(_extremum_vjp, broadcasts=True, autocast="widest", fresh=True)
def maximum(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """The larger of two, elementwise; a tie sends half of the gradient each way, NaN all of it. Saves both."""
    ctx.save(x, y)
    ctx.loses = operator.lt
    return _xp(x, y).maximum(x, y)


@op(_extremum_vjp, broadcasts=True, autocast="widest", fresh=True)
def minimum(ctx: Ctx, x: TensorLike, y: TensorLike) -> Array:
    """The smaller of two, elementwise; a tie sends half of the gradient each way, NaN all of it. Saves both."""
    ctx.save(x, y)
    ctx.loses = operator.gt
    return _xp(x, y).minimum(x, y)


# ---- functions of one array: forward, what is saved, and the gradient from it


def _unary(
    saves: Literal["x", "y"], gradient: Callable[[Array, Array, Any], Array], floats: bool = True
) -> Callable[[Callable[Concatenate[Any, P], Array]], Callable[P, Tensor]]:
    """Declare the function of one array whose forward is the decorated ``(xp, x)``, xp being NumPy or CuPy.

    Args:
        saves: what is kept for backward, the input "x" or the result "y": the one that gives the gradient in fewer
            steps and with more digits.
        gradient: ``(g, what was saved, xp) -> the gradient of x``.
        floats: whether it turns integers into float64.
    """

    def declare(forward: Callable[Concatenate[Any, P], Array]) -> Callable[P, Tensor]:
        compute: Callable[..., Any] = forward

        def from_input(ctx: Ctx, x: Array) -> Array:
            ctx.save(x)
            return compute(array_module(x), x)

        def from_result(ctx: Ctx, x: Array) -> Array:
            y = compute(array_module(x), x)
            ctx.save(y)
            return y

        def vjp(ctx: Ctx, g: Array) -> Array:
            (saved,) = ctx.saved
            return gradient(g, saved, array_module(saved))

        run = from_input if saves == "x" else from_result
        return public(Primitive(forward.__name__, run, vjp, floats=floats, fresh=True), forward)

    return declare


@_unary("x", lambda g, x, xp: g * xp.sign(x), floats=False)
def absolute(xp: Any, x: TensorLike) -> Array:
    """``|x|``; the derivative at 0 is 0, at NaN it is NaN. Saves ``x``."""
    return abs(x)


@_unary("y", lambda g, y, xp: g * y)
def exp(xp: Any, x: TensorLike) -> Array:
    """``e ** x``. Saves the result."""
    return xp.exp(x)


@_unary("y", lambda g, y, xp: g * (y + 1))
def expm1(xp: Any, x: TensorLike) -> Array:
    """``e ** x - 1``, exact near 0. Saves the result."""
    return xp.expm1(x)


@_unary("x", lambda g, x, xp: g * (1 / x))
def log(xp: Any, x: TensorLike) -> Array:
    """Natural logarithm. Saves ``x``."""
    return xp.log(x)


@_unary("x", lambda g, x, xp: g * (1 / (1 + x)))
def log1p(xp: Any, x: TensorLike) -> Array:
    """``log(1 + x)``, exact near 0. Saves ``x``."""
    return xp.log1p(x)


@_unary("y", lambda g, y, xp: g * (0.5 / y))
def sqrt(xp: Any, x: TensorLike) -> Array:
    """Square root. Saves the result."""
    return xp.sqrt(x)


@_unary("x", lambda g, x, xp: g * (2 * x), floats=False)
def square(xp: Any, x: TensorLike) -> Array:
    """``x * x``; of booleans int8, as in NumPy. Saves ``x``."""
    return xp.square(x)


@_unary("x", lambda g, x, xp: g * xp.cos(x))
def sin(xp: Any, x: TensorLike) -> Array:
    """Sine, radians. Saves ``x``."""
    return xp.sin(x)


@_unary("x", lambda g, x, xp: g * -xp.sin(x))
def cos(xp: Any, x: TensorLike) -> Array:
    """Cosine, radians. Saves ``x``."""
    return xp.cos(x)


@_unary("y", lambda g, y, xp: g * (1 - y * y))
def tanh(xp: Any, x: TensorLike) -> Array:
    """Hyperbolic tangent. Saves the result."""
    return xp.tanh(x)


@_unary("y", lambda g, y, xp: g * (y * (1 - y)))
def sigmoid(xp: Any, x: TensorLike) -> Array:
    """``1 / (1 + exp(-x))`` without overflow. Saves the result."""
    e = xp.exp(-abs(x))  # of a number that is not positive: no overflow on either side
    return xp.where(x >= 0, 1 / (1 + e), e / (1 + e))


@_unary("y", lambda g, y, xp: xp.where(y <= 0, 0, g), floats=False)  # g * (y > 0) would be NaN for inf * 0
def relu(xp: Any, x: TensorLike) -> Array:
    """``max(x, 0)``; the derivative at 0 is 0, at NaN it is 1. Saves the result."""
    return xp.maximum(x, 0)


_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)


@_unary("x", lambda g, x, xp: g * (_TWO_OVER_SQRT_PI * xp.exp(-x * x)))
def erf(xp: Any, x: TensorLike) -> Array:
    """The error function, to 2 ulp in float64 and 1e-6 in float32. Saves ``x``."""
    return erf_reference(x)


# ---- with bounds


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
    return _clip(x, low=low, high=high)
