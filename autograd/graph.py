"""The graph that forward records, and the walk back through it.

A node is one application of a primitive. It knows where each input came from (an :data:`Edge`, or a leaf) and what
its vjp saved; it does not know its outputs, so dropping the last tensor of a graph drops the graph. Nodes are
numbered as they are made, which is a topological order. Backward keeps the nodes that have a gradient in a heap and
always takes the youngest. It does not recurse, so that a graph may be of any depth.

Gradients arriving at a node or leaf are summed. The first is taken as it is; a second makes a copy unless the vjp that
made the first promised that nobody else holds it (``Primitive.fresh``); later ones are added in place.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from autograd.backend import array_module, device_of, device_scope, is_array
from autograd.context import STATE, OpEvent, notify
from autograd.kernels.casts import multi_cast
from autograd.shapes import unbroadcast
from autograd.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from autograd.backend import Array
    from autograd.primitive import Ctx, Primitive
    from autograd.tensor import Version

__all__ = [
    "Edge",
    "GradientEdge",
    "Node",
    "backward",
    "backward_leaves",
    "grad",
    "gradient_edge",
    "graph_nodes",
    "mark",
]

# Where a tensor came from: (node, which of its outputs, shape, dtype). Where a gradient goes: the same, or for a leaf
# (tensor, 0, shape, dtype). Plain tuples, because one is made for every op.
Edge: TypeAlias = "tuple[Node, int, tuple[int, ...], np.dtype[Any]]"
GradientEdge: TypeAlias = "tuple[Node | Tensor, int, tuple[int, ...], np.dtype[Any]]"

_numbers = count()


def mark() -> int:
    """A number between those of the nodes made so far and those made later."""
    return next(_numbers)


def gradient_edge(tensor: Tensor) -> GradientEdge:
    """Where a tensor's gradient goes: into the graph, or to the leaf itself."""
    return tensor.edge or (tensor, 0, tensor.data.shape, tensor.data.dtype)


class Node:
    """One recorded op.

    Attributes:
        edges: for each input, where its gradient goes; None where none is wanted.
        ctx: what the vjp needs; None once it was freed.
        versions: (version, count) of each leaf among the inputs at the time of forward.
        outputs: shape and dtype of each of several outputs, to make zeros for those that receive no gradient; empty
            for a single output.
        hooks: by output index.
    """

    __slots__ = ("__weakref__", "ctx", "edges", "hooks", "number", "outputs", "primitive", "versions")

    def __init__(
        self,
        primitive: Primitive,
        ctx: Ctx,
        edges: tuple[GradientEdge | None, ...],
        versions: tuple[tuple[Version, int], ...],
    ) -> None:
        self.primitive = primitive
        self.ctx: Ctx | None = ctx
        self.edges = edges
        self.versions = versions
        self.number = next(_numbers)
        self.outputs: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...] = ()
        self.hooks: dict[int, list[Callable[[Array], Array | None]]] = {}

    def __repr__(self) -> str:
        return f"Node({self.primitive.name!r}, {self.number})"

    def free(self) -> None:
        """Drop what was saved, and the way on into the graph."""
        self.ctx = None
        self.edges = ()


def graph_nodes(outputs: Iterable[Tensor]) -> list[Node]:
    """Every node that a backward from ``outputs`` would come to, in the order of forward.

    Each ``node.ctx`` holds what the node keeps for backward (None once it was freed). Do not change it.
    """
    waiting = [t.edge[0] for t in outputs if t.edge is not None]
    found: dict[int, Node] = {}
    while waiting:
        node = waiting.pop()
        if node.number not in found:
            found[node.number] = node
            waiting += [e[0] for e in node.edges if e is not None and isinstance(e[0], Node)]
    return [found[number] for number in sorted(found)]


class _Pending:
    """The gradients that have reached the outputs of one node (or one leaf) so far."""

    __slots__ = ("grads", "owned")

    def __init__(self, outputs: int) -> None:
        self.grads: list[Array | None] = [None] * outputs
        self.owned = [False] * outputs

    def add(self, index: int, grad: Array, fresh: bool) -> None:
        have = self.grads[index]
        if have is None:
            self.grads[index] = grad
            self.owned[index] = fresh
        else:
            with device_scope(have):
                if self.owned[index]:
                    have += grad
                    return
                total = have + grad
                self.grads[index] = total if total.shape else array_module(total).asarray(total)  # NumPy's 0-d scalars
            self.owned[index] = True

    def own(self, index: int = 0) -> Array | None:
        """The finished gradient, if any, as an array that nobody else holds: a second call gives a copy."""
        grad = self.grads[index]
        if grad is not None and not self.owned[index]:
            with device_scope(grad):
                return array_module(grad).array(grad, copy=True)
        self.owned[index] = False  # from here on it is the caller's
        return grad


def _check_fresh_graph(node: Node) -> Ctx:
    """The node's ctx, unless the graph was freed or a leaf was written to since forward."""
    ctx = node.ctx
    if ctx is None:
        raise RuntimeError(
            f"backward: graph through '{node.primitive.name}' was already freed; pass retain_graph=True "
            "to the first backward."
        )
    for version, seen in node.versions:
        if version.count != seen:
            raise RuntimeError(
                f"backward of '{node.primitive.name}': expected its inputs as they were in forward; got one that "
                f"was written to {version.count - seen} time(s) since. Call backward before the write."
            )
    return ctx


def _complete(node: Node, pending: _Pending) -> list[Array]:
    """The gradient of every output: zeros where none arrived, hooks applied."""
    grads = pending.grads
    if len(grads) > 1:
        like = next(g for g in grads if g is not None)
        xp = array_module(like)
        for i, (shape, dtype) in enumerate(node.outputs):
            if grads[i] is None:
                grads[i] = xp.zeros(shape, dtype)
    for index, hooks in node.hooks.items():
        grads[index] = _apply_hooks(hooks, grads[index])
    return grads


def _apply_hooks(hooks: list[Callable[[Array], Array | None]], grad: Array) -> Array:
    for hook in tuple(hooks):
        replacement = hook(grad)
        if replacement is not None:
            if isinstance(replacement, np.generic):  # NumPy's 0-d arithmetic
                replacement = np.asarray(replacement)
            if not is_array(replacement) or replacement.shape != grad.shape or replacement.dtype != grad.dtype:
                raise ValueError(
                    f"register_grad_hook: expected the hook to return None or an array of shape {grad.shape} and "
                    f"dtype {grad.dtype}; got {type(replacement).__name__} of shape "
                    f"{getattr(replacement, 'shape', None)} and dtype {getattr(replacement, 'dtype', None)}."
                )
            grad = replacement
    return grad


def _checked(primitive: Primitive, grad: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if not is_array(grad):  # 0-d results of NumPy arithmetic are scalars
        grad = array_module(grad).asarray(grad)
    if grad.shape != shape or grad.dtype != dtype:
        raise AssertionError(
            f"vjp of '{primitive.name}': expected a gradient of shape {shape} and dtype {dtype}; "
            f"got {grad.shape} and {grad.dtype}. This is a fault of the primitive."
        )
    return grad


def _input_gradients(
    node: Node, pending: _Pending, observers: tuple[Callable[[OpEvent], None], ...]
) -> tuple[Array | None, ...]:
    """What the node's vjp makes of the gradients of its outputs: one for each input, or None."""
    ctx = _check_fresh_graph(node)
    with device_scope(next(g for g in pending.grads if g is not None)):
        grads = _complete(node, pending) if node.outputs or node.hooks else pending.grads
        results: Any = node.primitive.vjp(ctx, *grads)
    if type(results) is not tuple:
        results = (results,)
    if len(results) != len(node.edges):
        raise AssertionError(
            f"vjp of '{node.primitive.name}': expected {len(node.edges)} gradients; got {len(results)}. "
            "This is a fault of the primitive."
        )
    if observers:
        notify(observers, OpEvent(node.primitive.name, "backward", tuple(grads), results, {}))
    return results


def backward_leaves(
    roots: Sequence[tuple[Tensor, Array]], retain_graph: bool, since: int = 0
) -> dict[Node | Tensor, _Pending]:
    """Walk back from ``roots``.

    Args:
        roots: tensors and their gradients.
        retain_graph: keep what the graph saved.
        since: go no further than nodes older than this :func:`mark`.

    Returns:
        What arrived at each leaf, and at each node older than ``since``.
    """
    arrived: dict[Node | Tensor, _Pending] = {}
    ends: dict[Node | Tensor, _Pending] = {}
    uncast: list[tuple[GradientEdge, Array]] = []
    heap: list[tuple[int, Node]] = []

    def deliver(target: Node | Tensor, index: int, grad: Array, fresh: bool) -> None:
        pending = arrived.get(target)
        if pending is None:
            if isinstance(target, Tensor):
                pending = ends[target] = _Pending(1)
            else:
                pending = _Pending(len(target.outputs) or 1)
                if target.number < since:
                    ends[target] = pending
                else:
                    heapq.heappush(heap, (-target.number, target))
            arrived[target] = pending
        pending.add(index, grad, fresh)

    for tensor, grad in roots:
        deliver(*gradient_edge(tensor)[:2], grad, False)
    observers = STATE.get().observers
    while heap:
        node = heapq.heappop(heap)[1]
        primitive = node.primitive
        results = _input_gradients(node, arrived.pop(node), observers)
        for i, (edge, result) in enumerate(zip(node.edges, results, strict=True)):
            if edge is None or result is None:
                continue
            target, index, shape, dtype = edge
            fresh = primitive.fresh[i] if isinstance(primitive.fresh, tuple) else primitive.fresh
            if result.shape != shape:
                if primitive.broadcasts:
                    result, fresh = unbroadcast(result, shape), True
                result = _checked(primitive, result, shape, dtype)
            elif result.dtype != dtype or not shape:
                if result.dtype != dtype and node.ctx is not None and node.ctx.uncast:
                    uncast.append((edge, result))
                    continue
                result = _checked(primitive, result, shape, dtype)
            deliver(target, index, result, fresh)
        if not retain_graph:
            node.free()
        del results
    for leaf, result in _cast_together(uncast):
        deliver(leaf, 0, result, True)
    return ends


def _cast_together(uncast: list[tuple[GradientEdge, Array]]) -> Iterator[tuple[Node | Tensor, Array]]:
    """Leaves and their gradients, cast by one kernel to the leaves' dtype, which is the same for all of them."""
    if uncast:
        results = multi_cast([grad for _, grad in uncast], uncast[0][0][3])
        yield from zip((edge[0] for edge, _ in uncast), results, strict=True)


def _seed(op: str, tensor: Tensor, gradient: Array | None) -> Array:
    """The gradient to start from, checked."""
    if not tensor.needs_grad:
        raise RuntimeError(
            f"{op}: expected a tensor that depends on one with requires_grad=True; got one that does not "
            "(was it made under no_grad, or detached?)."
        )
    if gradient is None:
        if tensor.size != 1:
            raise ValueError(f"{op}: expected a tensor of size 1; got shape {tensor.shape}. Pass gradient=.")
        with device_scope(tensor.data):
            return array_module(tensor.data).ones(tensor.shape, tensor.dtype)
    if isinstance(gradient, Tensor):
        gradient = gradient.data
    if not is_array(gradient) or gradient.shape != tensor.shape or gradient.dtype != tensor.dtype:
        raise ValueError(
            f"{op}: expected a gradient of shape {tensor.shape} and dtype {tensor.dtype}; got "
            f"{getattr(gradient, 'shape', type(gradient).__name__)} and {getattr(gradient, 'dtype', None)}."
        )
    if device_of(gradient) != tensor.device:
        raise ValueError(f"{op}: expected a gradient on {tensor.device}; got one on {device_of(gradient)}.")
    return gradient


def _leaf_gradients(roots: Sequence[tuple[Tensor, Array]], retain_graph: bool) -> dict[Tensor, _Pending]:
    """The complete gradient of every leaf, its hooks applied."""
    leaves: dict[Tensor, _Pending] = backward_leaves(roots, retain_graph)  # type: ignore[assignment]
    for leaf, pending in leaves.items():
        if leaf.hooks:
            # a hook may have kept what it was given or what it returned
            pending.grads[0], pending.owned[0] = _apply_hooks(leaf.hooks, pending.grads[0]), False
    return leaves


def backward(self: Tensor, gradient: Array | None = None, retain_graph: bool = False) -> None:
    """Add this tensor's gradient with respect to every leaf to the leaf's ``.grad``: all of them, or none on an error.

    Args:
        self: the tensor; this is ``Tensor.backward``.
        gradient: of the same shape and dtype; may be left out for a tensor of size 1 (then 1).
        retain_graph: keep what the graph saved, for a second backward.

    Raises:
        RuntimeError: if no gradient is wanted, the graph was freed, or a leaf was written to since forward.
        ValueError: for a gradient of another shape, dtype or device, or a missing one.
    """
    leaves = _leaf_gradients([(self, _seed("backward", self, gradient))], retain_graph)
    added = [(leaf, p.own() if leaf.grad is None else p.grads[0]) for leaf, p in leaves.items()]
    for leaf, array in added:
        if leaf.grad is None:
            leaf.grad = array
        else:
            with device_scope(array):
                leaf.grad += array


def _tensors(given: Any) -> list[Tensor]:
    """The outputs or inputs that :func:`grad` was given, one or several, as a list."""
    tensors = [given] if isinstance(given, Tensor) or is_array(given) else list(given)
    for t in tensors:
        if not isinstance(t, Tensor):
            raise TypeError(f"grad: expected Tensors as outputs and inputs; got {type(t).__name__}.")
    return tensors


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Array | Sequence[Array | None] | None = None,
    retain_graph: bool = False,
) -> tuple[Array | None, ...]:
    """Gradients of ``outputs`` with respect to the leaves ``inputs``, without touching any ``.grad``.

    Args:
        outputs: one tensor or several; their gradients add up.
        inputs: leaves with requires_grad.
        grad_outputs: one gradient for each output (may be None for outputs of size 1).
        retain_graph: keep what the graph saved.

    Returns:
        One raw array per input, None where the outputs do not depend on it.

    Raises:
        RuntimeError: as :func:`backward`.
        TypeError: for outputs and inputs that are no Tensors.
        ValueError: as :func:`backward`; for inputs that are no leaves with requires_grad.
    """
    outputs, inputs = _tensors(outputs), _tensors(inputs)
    grads: Iterable[Array | None]
    grads = [None] * len(outputs) if grad_outputs is None else grad_outputs
    grads = [grads] if is_array(grads) else list(grads)
    for leaf in inputs:
        if leaf.edge is not None or not leaf.needs_grad:
            got = "one without it" if leaf.edge is None else "the result of an op"
            raise ValueError(f"grad: expected leaves with requires_grad as inputs; got {got}.")
    seeds = [(t, _seed("grad", t, g)) for t, g in zip(outputs, grads, strict=True)]
    leaves = _leaf_gradients(seeds, retain_graph)
    return tuple(leaves[leaf].own() if leaf in leaves else None for leaf in inputs)
