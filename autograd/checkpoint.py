"""Recomputation: keep a function's inputs instead of everything that it saves, and run it again in backward.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autograd import random
from autograd.context import STATE
from autograd.graph import Node, accumulate, backward_leaves
from autograd.primitive import Ctx, Primitive
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from autograd.backend import Array

__all__ = ["checkpoint"]


def _refuse(ctx: Ctx, *arrays: Array, **static: Any) -> Any:
    raise AssertionError("checkpoint: expected to be called as a function of a function")


def _vjp(ctx: Ctx, *grads: Array) -> tuple[Array | None, ...]:
    """Replay with the forward's random numbers, dtype policy and kernels; then walk back through the replay."""
    fn, arrays, generator, state = ctx.replay  # type: ignore[attr-defined]
    inputs = [Tensor(a, requires_grad=need) for a, need in zip(arrays, ctx.needs, strict=True)]
    token = STATE.set(replace(state, grad="on", trace=None))
    try:
        with random.fork_rng(generator):
            result = fn(*inputs)
    finally:
        STATE.reset(token)
    outputs = result if isinstance(result, tuple) else (result,)
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.needs_grad]
    leaves = backward_leaves(pairs, retain_graph=False)
    found = [leaves.pop(x, None) for x in inputs]
    accumulate(leaves)  # what the function read besides its inputs: parameters
    return tuple(None if f is None else f.grads[0] for f in found)


_checkpoint = Primitive("checkpoint", _refuse, _vjp)


def checkpoint(fn: Callable[..., Any], *inputs: Tensor) -> Any:
    """``fn(*inputs)``, keeping only the inputs for backward; what ``fn`` saves is computed again there.

    Random ops draw the same numbers again, and the autocast dtype is that of forward. Leaves that ``fn`` reads without
    being handed them (a module's parameters) receive their gradients, also if no input needs one.

    Args:
        fn: returns a Tensor or a tuple of Tensors; must do the same when called again.
        inputs: Tensors. They are kept by reference.

    Returns:
        What ``fn`` returns.

    Raises:
        RuntimeError: in backward, if a leaf that ``fn`` read was written to since forward.
    """
    state = STATE.get()
    if state.grad == "off":
        return fn(*inputs)
    trace: list[Any] = []
    generator = random.default_generator.state()
    token = STATE.set(replace(state, grad="trace", trace=trace))
    try:
        result = fn(*inputs)
    finally:
        STATE.reset(token)
    outputs = result if isinstance(result, tuple) else (result,)
    if not any(o.needs_grad for o in outputs):
        return result
    if state.grad == "trace":  # inside another checkpoint, which will call this function again
        if state.trace is not None:
            state.trace.extend(trace)
        return result
    node = _node(fn, inputs, trace, outputs, generator)
    tensors = tuple(
        Tensor.from_op(o.data, (node, i, o.shape, o.dtype) if o.needs_grad else None, o.needs_grad)
        for i, o in enumerate(outputs)
    )
    return tensors if isinstance(result, tuple) else tensors[0]


def _node(
    fn: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    trace: list[Any],
    outputs: tuple[Tensor, ...],
    generator: dict[str, int],
) -> Node:
    ctx = Ctx(tuple(x.needs_grad for x in inputs))
    arrays = tuple(x.data for x in inputs)
    ctx.save(*arrays)
    ctx.replay = (fn, arrays, generator, STATE.get())  # type: ignore[attr-defined]
    sources = tuple((x.edge or (x, 0, x.shape, x.dtype)) if x.needs_grad else None for x in inputs)
    node = Node(_checkpoint, ctx, sources, tuple(trace))
    node.outputs = tuple((o.shape, o.dtype) for o in outputs)
    return node
