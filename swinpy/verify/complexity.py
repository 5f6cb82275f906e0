"""complexity: parameters, multiply-adds and activation memory of each layer, counted on a real run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from autograd.extend import Node, graph_nodes
from swinpy.models.cost import macs_of
from swinpy.probe import watching
from swinpy.verify.foreign import require_module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from swinpy.nn import Module

__all__ = ["Complexity", "LayerCost", "complexity"]


@dataclass(frozen=True)
class LayerCost:
    """One module, what lies below it included.

    Attributes:
        name: its path; "" for the whole model.
        kind: its class.
        output: shape of what it returns, or () where that is no single array.
        parameters: numbers in its parameters.
        macs: multiply-adds of products in forward (the papers call them FLOPs).
        activation_bytes: what the graph keeps for backward because of it, parameters and the input not counted.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Complexity:
    """The result of :func:`complexity`; prints as a table of the upper levels.

    Attributes:
        layers: every module in the order of the model's attributes, the whole model first.
        input: shape of the input.
    """

    layers: tuple[LayerCost, ...]
    input: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Numbers in the model's parameters."""
        return self.layers[0].parameters

    @property
    def macs(self) -> int:
        """Of the whole input batch; what papers call FLOPs for a batch of one."""
        return self.layers[0].macs

    @property
    def flops(self) -> int:
        """2 * macs."""
        return 2 * self.macs

    @property
    def activation_bytes(self) -> int:
        """What the whole graph keeps for backward."""
        return self.layers[0].activation_bytes

    def __getitem__(self, name: str) -> LayerCost:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"Complexity: expected the path of a module; got {name!r}.")

    def table(self, depth: int = 4) -> str:
        """The layers whose path has at most ``depth`` components ("layers.0.blocks.1" has 4; 0 is the whole model).

        Raises:
            ValueError: for a negative depth.
        """
        if depth < 0:
            raise ValueError(f"Complexity.table: expected a depth of 0 or more; got {depth}.")
        lines = [f"{'layer':<34}{'output':>20}{'parameters':>14}{'MMACs':>11}{'activations MiB':>17}"]
        for layer in self.layers:
            level = len(layer.name.split(".")) if layer.name else 0
            if level <= depth and layer.kind != "ModuleList":
                name = layer.name or f"{layer.kind} {'x'.join(map(str, self.input))}"
                shape = "x".join(map(str, layer.output)) or "-"
                lines.append(
                    f"{name:<34}{shape:>20}{layer.parameters:>14,}{layer.macs / 1e6:>11,.1f}"
                    f"{layer.activation_bytes / 2**20:>17,.2f}"
                )
        return "\n".join(lines)

    def summary(self) -> str:
        """The totals in a line."""
        giga = self.macs >= 10**8
        macs = f"{self.macs / 1e9:.2f} GMACs" if giga else f"{self.macs / 1e6:.2f} MMACs"
        total = f"{self.parameters:,} parameters, {macs}, "
        return f"{total}{self.activation_bytes / 2**20:.1f} MiB kept for backward"

    def __str__(self) -> str:
        return f"{self.table()}\n{self.summary()}"


class _Counter:
    """Which module each op and each node belongs to."""

    def __init__(self, model: Module) -> None:
        self.paths = {id(m): path for path, m in model.named_modules()}
        self.owners = {id(p.data): name.rpartition(".")[0] for name, p in model.named_parameters()}
        self.stack: list[str] = []
        self.macs: dict[str, int] = {}
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.nodes: dict[int, str] = {}

    def entered(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.stack.append(self.paths.get(id(module), ""))

    def returned(self, module: Any, result: Any) -> None:
        first = result[0] if isinstance(result, tuple) and result else result
        self.outputs.setdefault(self.stack[-1], getattr(first, "shape", ()))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, ag.Tensor) and tensor.edge is not None:  # nodes that no op told of: checkpoints
                self.nodes.setdefault(tensor.edge[0].number, self.stack[-1])

    def left(self, module: Any) -> None:
        self.stack.pop()

    def tapped(self, name: str, value: Any) -> None: ...

    def on_op(self, event: ag.OpEvent) -> None:
        scope = self.stack[-1] if self.stack else ""
        # a layer whose parameters an op reads, though the layer was not called, is the op's owner
        below = list(dict.fromkeys(o for a in event.inputs if (o := self.owners.get(id(a))) is not None))
        if event.name == "mlp" and len(below) == 2:  # two layers in one op
            rows = event.results[0].size // event.results[0].shape[-1]
            for layer, weight in zip(below, (event.inputs[1], event.inputs[3]), strict=True):
                self.outputs.setdefault(layer, (*event.results[0].shape[:-1], weight.shape[0]))
                self.macs[layer] = self.macs.get(layer, 0) + rows * weight.size
        else:
            if below and below[0].startswith(scope):
                scope = below[0]
                self.outputs.setdefault(scope, event.results[-1].shape)
            self.macs[scope] = self.macs.get(scope, 0) + macs_of(event)
        for tensor in event.results:
            if tensor.edge is not None:
                self.nodes[tensor.edge[0].number] = scope


def _kept(value: Any) -> Iterator[Any]:
    """The arrays in what a node keeps."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _kept(item)
    elif hasattr(value, "nbytes") and hasattr(value, "base"):
        yield value


def _buffer(array: Any) -> Any:
    """The array that owns the memory of a view."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array


def _activations(nodes: list[Node], owner: dict[int, str], known: set[int]) -> dict[str, int]:
    """Bytes kept by the nodes of each module. A buffer counts once, for the first node that keeps it."""
    bytes_of: dict[str, int] = {}
    for node in nodes:
        scope = owner.get(node.number, "")
        for array in _kept(tuple(vars(node.ctx).values()) if node.ctx is not None else ()):
            buffer = _buffer(array)
            if id(buffer) not in known:
                known.add(id(buffer))
                bytes_of[scope] = bytes_of.get(scope, 0) + int(buffer.nbytes)
    return bytes_of


def complexity(model: Module, input_size: int | tuple[int, ...], batch: int = 1) -> Complexity:
    """Count what one forward costs and what it keeps for backward.

    Products count (linear, convolution, q k^T and p v), as in the papers' "FLOPs": Swin-T at 224 has 4.5 G. For V2 they
    include the small MLP of the position bias, which the official count leaves out (1% at window 16).

    Activation memory is the sum over the arrays that the graph of a training step saves, each buffer once. The model
    runs in the mode and dtype that it is in. Geometry tables, which are cached outside the graph, are not counted.

    Args:
        model: a Module for images (B, in_chans, H, W).
        input_size: pixels a side, (H, W), or the whole shape of an input.
        batch: images, where ``input_size`` does not say.

    Returns:
        A :class:`Complexity`.

    Raises:
        TypeError: for what is no Module.

    >>> import swinpy
    >>> c = complexity(swinpy.create_model("swin_cifar_nano"), 32)
    >>> c.parameters, c.macs
    (100808, 3916416)
    """
    require_module("complexity", model)
    sides = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    channels = getattr(getattr(model, "config", None), "in_chans", 3)
    shape = sides if len(sides) > 2 else (batch, channels, *sides)
    counter = _Counter(model)
    image = ag.Tensor(np.zeros(shape, model.dtype)).to(model.device)
    with ag.enable_grad(), ag.fork_rng(), ag.observe(counter.on_op), watching(counter):
        result = model(image)
    known = {id(_buffer(p.data)) for p in model.parameters()} | {id(_buffer(image.data))}
    outputs = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, ag.Tensor)]
    kept = _activations(graph_nodes(outputs), counter.nodes, known)
    layers = [
        LayerCost(
            path,
            type(module).__name__,
            counter.outputs.get(path, ()),
            module.num_parameters(),
            _below(counter.macs, path),
            _below(kept, path),
        )
        for path, module in model.named_modules()
    ]
    return Complexity(tuple(layers), shape)


def _below(counts: dict[str, int], path: str) -> int:
    return sum(n for scope, n in counts.items() if not path or scope == path or scope.startswith(f"{path}."))
