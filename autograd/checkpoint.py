"""Recomputation: keep a function's inputs instead of everything that it saves, and run it again in backward.

Forward runs the function on stand-ins of its inputs without recording a graph. A :class:`ReadSet` notes what else the
function reads: parameters, and results of ops outside. Those become further inputs of the checkpoint's node, so that
their gradients take the same way as any other. Backward runs the function once more and records its graph this time. It
walks back through that graph to where it began, and returns the gradients that arrived there.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from autograd import random
from autograd.context import STATE, State
from autograd.deferred import DeferredBias
from autograd.graph import Node, backward_leaves, gradient_edge, mark
from autograd.primitive import Ctx, Primitive
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from autograd.backend import Array
    from autograd.graph import GradientEdge
    from autograd.tensor import Version

__all__ = ["ReadSet", "checkpoint", "replaying"]


class ReadSet:
    """What a function reads while it runs.

    Attributes:
        versions: (version, count) of every leaf that an op read.
        captured: the tensors from outside that want a gradient, in the order of reading.
        generators: the state in which the function found each random generator that it used.
    """

    def __init__(self, stand_ins: tuple[Tensor, ...]) -> None:
        self.versions: dict[tuple[Version, int], None] = {}
        self.captured: dict[Tensor, None] = {}
        self.generators: dict[random.Generator, dict[str, int]] = {}
        self._stand_ins = set(stand_ins)
        self._start = mark()

    def note(self, inputs: Iterable[Any]) -> None:
        """Add the inputs of an op."""
        for x in inputs:
            if not isinstance(x, Tensor):
                continue
            if x.version is not None:
                self.versions[x.version, x.version.count] = None
            if x.needs_grad and self._is_outside(x):
                self.captured[x] = None

    def note_generator(self, generator: random.Generator) -> None:
        """Add a random generator with its state, unless it is known from an earlier draw."""
        self.generators.setdefault(generator, {"seed": generator.seed, "offset": generator.offset})

    def include(self, inner: ReadSet) -> None:
        """Add what another checkpoint inside this function read."""
        self.note(inner.captured)
        self.versions |= inner.versions
        self.generators = inner.generators | self.generators  # the earlier state counts

    def _is_outside(self, x: Tensor) -> bool:
        if x.edge is not None:
            return x.edge[0].number < self._start
        return x.version is not None and x not in self._stand_ins


class _Replay(NamedTuple):
    """How to run the function again.

    Attributes:
        fn: the function.
        arrays: its arguments.
        captured: where the gradients of what else it reads go.
        generators: the state that each random generator had.
        state: the switches of forward.
    """

    fn: Callable[..., Any]
    arrays: tuple[Array, ...]
    captured: tuple[GradientEdge, ...]
    generators: dict[random.Generator, dict[str, int]]
    state: State


def _refuse(ctx: Ctx, *arrays: Array, **static: Any) -> Any:
    raise AssertionError("checkpoint: expected to be called as a function of a function")


def _vjp(ctx: Ctx, *grads: Array) -> tuple[Array | None, ...]:
    """Replay with the forward's random numbers, dtype policy and kernels; then walk back through the replay."""
    replay: _Replay = ctx.replay
    start = mark()
    inputs = [Tensor(a, requires_grad=need) for a, need in zip(replay.arrays, ctx.needs, strict=True)]
    token = STATE.set(replace(replay.state, grad="on", replay=True, reads=None, observers=STATE.get().observers))
    try:
        with random.rewound(replay.generators):
            outputs = _outputs(replay.fn(*inputs))
    finally:
        STATE.reset(token)
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.needs_grad]
    ends = backward_leaves(pairs, retain_graph=False, since=start)
    places = [*((x, 0) for x in inputs), *(edge[:2] for edge in replay.captured)]
    return tuple(ends[target].own(index) if target in ends else None for target, index in places)


_checkpoint = Primitive("checkpoint", _refuse, _vjp, fresh=True)


def _outputs(result: Any) -> tuple[Tensor, ...]:
    outputs = result if isinstance(result, tuple) else (result,)
    for o in outputs:
        if not isinstance(o, Tensor):
            raise TypeError(f"checkpoint: expected fn to return a Tensor or a tuple of them; got {type(o).__name__}.")
    return outputs


def checkpoint(fn: Callable[..., Any], *inputs: Tensor) -> Any:
    """``fn(*inputs)``, keeping only the inputs for backward; what ``fn`` saves is computed again there.

    Ops that draw random numbers draw the same ones again, whichever generator they draw from, and the autocast dtype is
    that of forward.
    Tensors that ``fn`` reads without being handed them (a module's parameters, results of ops outside) receive their
    gradients, also if no input needs one.

    Args:
        fn: returns a Tensor or a tuple of Tensors; must do the same when called again.
        inputs: Tensors. They are kept by reference.

    Returns:
        What ``fn`` returns.

    Raises:
        TypeError: for an input or result that is no Tensor.
        RuntimeError: in backward, if a leaf that ``fn`` read was written to since forward.
    """
    for x in inputs:
        if not isinstance(x, Tensor):
            raise TypeError(f"checkpoint: expected Tensors as inputs; got {type(x).__name__}. Wrap it in ag.Tensor.")
    state = STATE.get()
    if state.grad == "off":
        return fn(*inputs)
    if any(isinstance(x, DeferredBias) for x in inputs):
        return _of_products(fn, inputs)
    stand_ins = tuple(map(_stand_in, inputs))
    reads = ReadSet(stand_ins)
    token = STATE.set(replace(state, grad="propagate", reads=reads))
    try:
        result = fn(*stand_ins)
    finally:
        STATE.reset(token)
    outputs = _outputs(result)
    reads.note(outputs)
    node = None
    if isinstance(state.reads, ReadSet):  # inside another checkpoint, which will call this function again
        state.reads.note(inputs)
        state.reads.include(reads)
    elif any(o.needs_grad for o in outputs):
        captured = tuple(map(gradient_edge, reads.captured))
        arrays = tuple(x.data for x in inputs)
        ctx = Ctx(tuple(x.needs_grad for x in inputs))
        ctx.save(*arrays)
        ctx.replay = _Replay(fn, arrays, captured, reads.generators, state)
        edges = tuple(gradient_edge(x) if x.needs_grad else None for x in inputs)
        node = Node(_checkpoint, ctx, (*edges, *captured), tuple(reads.versions))
        node.outputs = tuple((o.shape, o.dtype) for o in outputs)
    tensors = tuple(_output(o, node, i) for i, o in enumerate(outputs))
    return tensors if isinstance(result, tuple) else tensors[0]


def replaying() -> bool:
    """Whether backward is running a checkpoint's function for the second time: who counts calls leaves this one out."""
    return STATE.get().replay


def _of_products(fn: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Any:
    """:func:`checkpoint` for inputs with deferred biases: it keeps their products, and no sum is made."""
    pairs = [x.parts() if isinstance(x, DeferredBias) else (x, None) for x in inputs]

    def deferred(*products: Tensor) -> Any:
        biases = (bias for _, bias in pairs)
        return fn(*(p if b is None else DeferredBias(p, b) for p, b in zip(products, biases, strict=True)))

    return checkpoint(deferred, *(product for product, _ in pairs))


def _stand_in(x: Tensor) -> Tensor:
    """A tensor like ``x`` for ``fn``, but another object, so that a :class:`ReadSet` can tell the two apart."""
    twin = Tensor.from_op(x.data, None, x.needs_grad)
    twin.version = x.version
    return twin


def _output(o: Tensor, node: Node | None, index: int) -> Tensor:
    if not o.needs_grad:
        return o
    return Tensor.from_op(o.data, None if node is None else (node, index, o.shape, o.dtype), True)
