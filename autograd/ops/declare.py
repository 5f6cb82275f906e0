"""Writes an op once: from its forward on arrays come the primitive and the public function on Tensors.

For ops whose public function would only call the primitive. One that checks or prepares its arguments is written as a
function beside its primitive, as in ``reduce.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from autograd.primitive import Ctx, Primitive

if TYPE_CHECKING:
    from collections.abc import Callable

    from autograd.backend import Array
    from autograd.tensor import Tensor, TensorLike

__all__ = ["op", "public"]

_P = ParamSpec("_P")


def op(
    vjp: Callable[..., Any] | None, **switches: Any
) -> Callable[[Callable[Concatenate[Ctx, _P], Array]], Callable[_P, Tensor]]:
    """Declare the op whose forward on arrays is the decorated function ``(ctx, x)`` or ``(ctx, x, y)``.

    The forward gives the primitive and the public function their name, and the function its docstring. Its operands
    are annotated as callers see them (``TensorLike``); it gets arrays, or numbers beside an array.

    Args:
        vjp: see :class:`autograd.primitive.Primitive`, as for ``switches``.
    """

    def declare(forward: Callable[Concatenate[Ctx, _P], Array]) -> Callable[_P, Tensor]:
        return public(Primitive(forward.__name__, forward, vjp, **switches), forward)

    return declare


def public(primitive: Primitive, like: Callable[Concatenate[Any, _P], Array]) -> Callable[_P, Tensor]:
    """The function that calls ``primitive``, with the name, place and docstring of ``like`` and its parameters but one.

    Raises:
        TypeError: for other parameters than x, or x and y.
    """

    # As one would write them by hand: *inputs would cost time at every call, and hide the signature.
    def of_one(x: TensorLike) -> Tensor:
        return primitive(x)

    def of_two(x: TensorLike, y: TensorLike) -> Tensor:
        return primitive(x, y)

    code = like.__code__
    parameters = code.co_varnames[1 : code.co_argcount]
    forms: dict[tuple[str, ...], Any] = {("x",): of_one, ("x", "y"): of_two}
    if parameters not in forms:
        raise TypeError(f"op: expected a forward of x, or of x and y; got {like.__name__}{parameters}.")
    function = forms[parameters]
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(function, name, getattr(like, name))
    return function
