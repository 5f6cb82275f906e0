"""Primitive: an op on raw arrays with its vector-Jacobian product, and the call that records it.

A primitive's ``forward(ctx, *arrays, **static)`` computes, and calls ``ctx.save`` with exactly what its
``vjp(ctx, *output_gradients)`` will want. Both see raw arrays, never Tensors: there is no second derivative.
Differentiable operands are positional; everything else (axes, indices, masks, flags) is static, by keyword.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd import casts, dtypes
from autograd.backend import array_module, device_of, device_scope, is_array
from autograd.context import STATE, OpEvent, notify
from autograd.graph import Node
from autograd.shapes import check_broadcast
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from autograd.backend import Array
    from autograd.context import State
    from autograd.tensor import Version

__all__ = ["PRIMITIVES", "Ctx", "Primitive", "cast", "constant"]

PRIMITIVES: dict[str, Primitive] = {}

_ndarray = np.ndarray


class Ctx:
    """What one application of a primitive keeps for its vjp.

    Attributes:
        needs: for each input, whether anyone wants its gradient.
        saved: what ``save`` was given. Static values may be set as further attributes.
        uncast: set by forward where vjp will leave a leaf's gradient in the dtype of the result. Backward casts all
            such gradients together, at its end (:mod:`autograd.casts`).
    """

    saved: tuple[Any, ...] = ()
    uncast = False

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs = needs

    def save(self, *arrays: Any) -> None:
        """Keep arrays for backward. Inputs are kept by reference: no op may write to its inputs."""
        self.saved = arrays

    def nbytes(self) -> int:
        """Bytes that the saved arrays occupy."""
        return sum(getattr(a, "nbytes", 0) for a in self.saved)

    if TYPE_CHECKING:  # each primitive sets static values of its own

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class Primitive:
    """An op with a derivative.

    Args:
        name: the public function's name; used in messages, observers and tests.
        forward: ``(ctx, *arrays, **static) -> array | tuple``.
        vjp: ``(ctx, *output_gradients) -> one gradient or None per input`` (a tuple, or the one gradient of a
            single input). None for an op without a derivative.
        broadcasts: operands broadcast together; the engine sums each gradient back to its operand's shape.
        autocast: "low" (matmul, linear, attention), "f32" (softmax, norms, losses, reductions), "widest" (operands of
            mixed dtype are promoted) or "keep". Or a tuple with the policy of each input: the first is the op's, and
            an input with "f32_or_low" stays in autocast's dtype where it has it.
        floats: the result is always made of floats: where no operand is a float, all are cast to float64
            (:func:`autograd.dtypes.as_float`).
        fresh: every gradient that vjp returns is a new array that nothing else holds, so that the engine may keep it
            as ``.grad`` or add into it without a copy; or, for each input, whether that holds for its gradient.
    """

    def __init__(
        self,
        name: str,
        forward: Callable[..., Any],
        vjp: Callable[..., Any] | None,
        *,
        broadcasts: bool = False,
        autocast: dtypes.Policy | tuple[dtypes.Policy, ...] = "keep",
        floats: bool = False,
        fresh: bool | tuple[bool, ...] = False,
    ) -> None:
        if name in PRIMITIVES:
            raise ValueError(f"Primitive: expected a new name; got {name!r}, which exists.")
        self.name = name
        self.forward = forward
        self.vjp: Callable[..., Any] = vjp if vjp is not None else _no_vjp
        self.differentiable = vjp is not None
        self.broadcasts = broadcasts
        self.autocast = autocast
        self.floats = floats
        self.fresh = fresh
        PRIMITIVES[name] = self

    def __repr__(self) -> str:
        return f"Primitive({self.name!r})"

    def __call__(self, *inputs: Any, **static: Any) -> Any:
        """Apply to Tensors, arrays, Python numbers or None; returns a Tensor or a tuple of them."""
        state = STATE.get()
        arrays: list[Any] = []
        needs: list[bool] = []
        needed = False
        first = None
        uniform = state.autocast is None
        for x in inputs:
            if isinstance(x, Tensor):
                data = x.data
                arrays.append(data)
                needs.append(x.needs_grad)
                needed = needed or x.needs_grad
                if first is None:
                    first = data
                elif data.dtype is not first.dtype or not (
                    type(data) is type(first) is _ndarray or device_of(data) == device_of(first)
                ):
                    uniform = False
            elif type(x) in (float, int) or (x is None and not self.broadcasts):
                arrays.append(x)
                needs.append(False)
            else:
                return self(*self._operands(inputs), **static)
        if first is None:
            return self(*_at_least_one_tensor(self.name, inputs), **static)
        if not uniform or (self.floats and first.dtype.kind in "iub"):
            operands = self._harmonise(inputs, state)
            if operands is not None:
                return self(*operands, **static)
        if not (needed and self.differentiable) or state.grad == "off":
            needed = False
            ctx = Ctx((False,) * len(needs))
        else:
            ctx = Ctx(tuple(needs))
        if state.reads is not None:
            state.reads.note(inputs)
        try:
            result = (self.forward if type(first) is _ndarray else self._forward_there)(ctx, *arrays, **static)
        except (ValueError, AttributeError) as error:
            self._explain(error, arrays, static)
            raise
        if needed:
            out = self._wrap(result, self._record(ctx, inputs) if state.grad == "on" else None, True)
        else:
            out = self._wrap(result, None, False)
            out = out if type(result) is not tuple and result.base is None else _sharing_versions(out, inputs)
        if state.observers:
            self._tell(state, arrays, out, static)
        return out

    def _forward_there(self, ctx: Ctx, *arrays: Any, **static: Any) -> Any:
        """:meth:`forward` on the device of the operands."""
        with device_scope(next(a for a in arrays if is_array(a))):
            return self.forward(ctx, *arrays, **static)

    def _tell(self, state: State, arrays: list[Any], out: Any, static: dict[str, Any]) -> None:
        results = out if type(out) is tuple else (out,)
        outputs = tuple(t.data for t in results)
        notify(state.observers, OpEvent(self.name, "forward", tuple(arrays), outputs, static, results))

    def _explain(self, error: Exception, arrays: list[Any], static: dict[str, Any]) -> None:
        """Raise the engine's own message if forward failed for shapes that do not broadcast, or a number as array."""
        numbers = [x for x in arrays if isinstance(x, (int, float))]
        if numbers and isinstance(error, AttributeError):
            raise TypeError(f"{self.name}: expected Tensors or arrays; got the number {numbers[0]}.") from None
        if self.broadcasts and isinstance(error, ValueError):
            check_broadcast(self.name, [a.shape for a in (*arrays, *static.values()) if is_array(a)])

    def _operands(self, inputs: tuple[Any, ...]) -> list[Any]:
        """Tensors, Python numbers and (where an operand is optional) None, from what a caller may pass.

        In arithmetic a 0-d array beside another operand is a constant like a NumPy scalar: it must not widen.
        """
        if self.broadcasts and any(x is None for x in inputs):
            raise TypeError(f"{self.name}: expected a Tensor, an array or a number; got None.")
        constants = self.broadcasts and not all(is_array(x) and x.ndim == 0 for x in inputs)
        return [
            constant(self.name, x) if constants and is_array(x) and x.ndim == 0 else _as_operand(self.name, x)
            for x in inputs
        ]

    def _record(self, ctx: Ctx, inputs: tuple[Any, ...]) -> Node:
        # gradient_edge(x), spelled out: this runs for every op
        edges = [
            (x.edge or (x, 0, x.data.shape, x.data.dtype)) if need else None
            for x, need in zip(inputs, ctx.needs, strict=True)
        ]
        return Node(self, ctx, tuple(edges), _versions(inputs))

    def _wrap(self, result: Any, node: Node | None, needed: bool) -> Any:
        if type(result) is not tuple:
            if not is_array(result):  # NumPy returns scalars for 0-d results
                result = array_module(result).asarray(result)
            return Tensor.from_op(result, None if node is None else (node, 0, result.shape, result.dtype), needed)
        if node is None:
            return tuple(Tensor.from_op(r, None, needed) for r in result)
        node.outputs = tuple((r.shape, r.dtype) for r in result)
        return tuple(Tensor.from_op(r, (node, i, r.shape, r.dtype), needed) for i, r in enumerate(result))

    def _harmonise(self, inputs: tuple[Any, ...], state: State) -> list[Any] | None:
        """The inputs cast to one dtype; None if they are as they should be.

        Raises:
            ValueError: for operands on several devices.
            TypeError: for mixed dtypes where the op does not promote.
        """
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        devices = sorted({device_of(t.data) for t in tensors})
        if len(devices) > 1:
            raise ValueError(f"{self.name}: expected operands on one device; got {' and '.join(devices)}. Use .to().")
        found = [t.dtype for t in tensors]
        if self.floats and not any(map(dtypes.is_float, found)):
            return [cast(x, dtype=dtypes.FLOAT64) if isinstance(x, Tensor) else x for x in inputs]
        policy = self.autocast[0] if isinstance(self.autocast, tuple) else self.autocast
        target = dtypes.cast_target(policy, found, state.autocast)
        if target is None:
            if len(set(found)) > 1 and policy != "keep":
                names = ", ".join(str(d) for d in found)
                raise TypeError(f"{self.name}: expected operands of one dtype; got {names}. Cast with .astype.")
            return None
        wrong = [
            isinstance(x, Tensor) and x.dtype != target and (dtypes.is_float(x.dtype) or policy == "widest")
            for x in inputs
        ]
        if isinstance(self.autocast, tuple):
            for i, own in enumerate(self.autocast):
                wrong[i] = wrong[i] and not (own == "f32_or_low" and inputs[i].dtype == state.autocast)
        if not any(wrong):
            return None
        return [_cast_operand(x, target) if w else x for x, w in zip(inputs, wrong, strict=True)]


def _cast_forward(ctx: Ctx, x: Array, *, dtype: np.dtype[Any], ready: Array | None = None) -> Array:
    """``ready``: the result, where it was made ahead; then the gradient is left for backward to cast."""
    ctx.dtype, ctx.uncast = x.dtype, ready is not None
    return x.astype(dtype) if ready is None else ready


def _cast_vjp(ctx: Ctx, g: Array) -> Array:
    return g if ctx.uncast else g.astype(ctx.dtype)


# The one op that every primitive needs: ``autograd.ops.astype`` for callers.
cast = Primitive("astype", _cast_forward, _cast_vjp, fresh=True)


def _cast_operand(x: Tensor, dtype: np.dtype[Any]) -> Any:
    """``x`` cast to ``dtype`` by an op of the graph, which takes a result that was made ahead."""
    ready = casts.ready(x, dtype)
    return cast(x, dtype=dtype, **({} if ready is None else {"ready": ready}))


def _versions(inputs: tuple[Any, ...]) -> tuple[tuple[Version, int], ...]:
    """How often each leaf among the inputs has been written to so far."""
    return tuple([(x.version, x.version.count) for x in inputs if isinstance(x, Tensor) and x.version is not None])


def _sharing_versions(result: Any, inputs: tuple[Any, ...]) -> Any:
    """``result``, made without a graph: a view of a leaf gets the leaf's version, so that a write is noticed."""
    for out in result if type(result) is tuple else (result,):
        if out.data.base is None:
            continue
        xp = array_module(out.data)
        for x in inputs:
            if isinstance(x, Tensor) and x.version is not None and type(x.data) is type(out.data):
                out.version = x.version if xp.may_share_memory(out.data, x.data) else out.version
    return result


def _no_vjp(ctx: Ctx, *grads: Array) -> Any:
    raise AssertionError("an op without a derivative was recorded")


def _as_operand(op: str, x: Any) -> Any:
    """A Tensor, None or Python number from what a caller may pass."""
    if x is None or isinstance(x, Tensor):
        return x
    if isinstance(x, (np.generic, float, int)):
        return constant(op, x)
    if is_array(x) or isinstance(x, (list, tuple)):
        return Tensor(x)
    raise TypeError(f"{op}: expected a Tensor, an array or a number; got {type(x).__name__}.")


def constant(op: str, x: Any) -> float | int:
    """A number as Python's float or int, which widens no array (NumPy's scalars and 0-d arrays would).

    Raises:
        TypeError: for what is no real number.
    """
    value = x.item() if isinstance(x, np.generic) or (is_array(x) and x.ndim == 0) else x
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):  # booleans too
        return int(value)
    raise TypeError(f"{op}: expected a number; got {type(x).__name__}.")


def _at_least_one_tensor(op: str, inputs: tuple[Any, ...]) -> list[Any]:
    """Inputs that are all plain numbers, with the first one made a (0-d) Tensor."""
    if all(x is None for x in inputs):
        raise TypeError(f"{op}: expected a Tensor, an array or a number; got None.")
    index = next(i for i, x in enumerate(inputs) if x is not None)
    return [Tensor(x) if i == index else x for i, x in enumerate(inputs)]
