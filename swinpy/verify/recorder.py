"""trace: run a model once, forward and backward, and keep every named value on the way.

Names come from three places. A module call: its dotted path. An op that reads a layer's parameters, where a model calls
the op and not the layer (``fc1`` inside a fused op): the layer's path. A tap in the code: the path of the module that
runs, and the tap's name. Fused ops (window attention, MLP) have no inner values to keep. So the same computation from
simple ops runs beside them, on the same inputs and with the same output gradient, and is watched in their place.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag
from autograd.extend import DeferredBias
from swinpy.models.parts import Stream
from swinpy.nn import Module
from swinpy.ops import window_attention_composite
from swinpy.probe import watching
from swinpy.verify.foreign import as_array, kind_of, require_callable
from swinpy.verify.trace_file import Trace, fixed_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Array = np.ndarray[Any, Any]

__all__ = ["trace"]

# Ops that stand for a layer: which result is the layer's output. Their first Parameter that is a weight names it.
_LAYER_OPS = {"linear": 0, "conv2d": 0, "layer_norm": 0, "residual_layer_norm": 1}
_ACTIVATIONS = {"gelu", "bias_gelu", "relu"}


def _host(array: Any) -> Array:
    """A copy in NumPy."""
    copied: Array = np.array(array.get() if hasattr(array, "get") else array, copy=True)
    return copied


class Recorder:
    """Watches modules, taps and ops, and builds a :class:`Trace`."""

    def __init__(self, model: Any, patterns: Sequence[str] | None) -> None:
        self.trace = Trace({})
        self.patterns = patterns
        self.active = True
        self.shadowed = False  # a composite twin runs in place of a fused op
        self.paths: dict[int, str] = {}
        self.parameters: dict[int, tuple[str, Any]] = {}
        self.biases: dict[str, Any] = {}
        self.stack: list[str] = []
        self.known: dict[int, tuple[Any, Array]] = {}  # array -> (itself, so that its id is not used again; copy)
        self.named: set[tuple[str, int]] = set()
        if isinstance(model, Module):
            self.paths = {id(m): path for path, m in model.named_modules()}
            self.parameters = {id(p.data): (name, p) for name, p in model.named_parameters()}
            self.biases = {path: getattr(m, "bias", None) for path, m in model.named_modules()}

    # ---- keeping

    def add(self, name: str, value: Any, shown: Any = None) -> None:
        """Keep a Tensor or array and watch its gradient. ``shown`` replaces the value where both have one gradient."""
        data = value.data if isinstance(value, ag.Tensor) else value
        if data is None or (name, id(data)) in self.named:
            return
        self.named.add((name, id(data)))
        base, n = name, 1
        while name in self.trace.values:
            n += 1
            name = f"{base}#{n}"
        if self.patterns is not None and not any(fnmatch.fnmatchcase(name, p) for p in self.patterns):
            return
        if id(data) not in self.known:
            self.known[id(data)] = (data, _host(data))
        self.trace.values[name] = self.known[id(data)][1] if shown is None else _host(shown)
        if isinstance(value, ag.Tensor) and value.requires_grad:
            self.watch(name, value)

    def watch(self, name: str, tensor: ag.Tensor) -> None:
        """Keep the tensor's gradient under ``name``, when backward comes to it."""

        def keep(gradient: Any) -> None:
            self.trace.gradients[name] = _host(gradient)

        tensor.register_grad_hook(keep)

    def scoped(self, name: str) -> str:
        """``name`` under the path of the module that runs."""
        scope = self.stack[-1] if self.stack else ""
        return f"{scope}.{name}" if scope else name

    # ---- what a probe tells

    def entered(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See :class:`swinpy.probe.Watcher`."""
        self.stack.append(self.paths.get(id(module), ""))
        if not self.active or not self.stack[-1]:
            return
        for x in args:  # an input without a name yet was made between modules: gathered, pooled, reshaped
            if isinstance(x, ag.Tensor) and id(x.data) not in self.known:
                self.add(self.scoped("input"), x)

    def returned(self, module: Any, result: Any) -> None:
        """See :class:`swinpy.probe.Watcher`."""
        if self.active:
            self._result(self.stack[-1] or "output", result)

    def left(self, module: Any) -> None:
        """See :class:`swinpy.probe.Watcher`."""
        self.stack.pop()

    def _result(self, name: str, result: Any) -> None:
        if isinstance(result, Stream):  # x is read by the sum alone, so that both have one gradient
            with self.paused(), ag.no_grad():
                total = result.copy().value()
            self.add(name, result.x, shown=None if total is result.x else total.data)
        elif isinstance(result, DeferredBias):  # likewise
            with self.paused(), ag.no_grad():
                total = result.product + result.bias
            self.add(name, result.product, shown=total.data)
        elif isinstance(result, ag.Tensor):
            self.add(name, result)
        elif isinstance(result, dict):
            for key, value in result.items():
                self._result(f"{name}.{key}", value)
        elif isinstance(result, Iterable) and not isinstance(result, (str, bytes, np.ndarray)):
            for i, value in enumerate(result):
                self._result(f"{name}.{i}", value)

    def tapped(self, name: str, value: Any) -> None:
        """See :class:`swinpy.probe.Watcher`."""
        if self.active and not (self.shadowed and name == "map"):  # the fused op's own map follows
            self.add(self.scoped(name), value)

    # ---- what an observer is told

    def on_op(self, event: ag.OpEvent) -> None:
        """Keep the parameters that an op reads, and what it makes, under the name of its layer."""
        if not self.active or self.shadowed or event.phase == "backward":
            return
        for array in event.inputs:
            if id(array) in self.parameters:
                self.add(*self.parameters[id(array)])
        if event.name == "astype" and id(event.inputs[0]) in self.parameters:  # autocast
            self.parameters[id(event.outputs[0])] = self.parameters[id(event.inputs[0])]
            self.known.setdefault(id(event.outputs[0]), (event.outputs[0], _host(event.outputs[0])))
        if event.name in _LAYER_OPS:
            self._layer(event)
        elif event.name in _ACTIVATIONS:
            self.add(self._activation(event), event.results[0])
        elif event.name == "window_attention":
            self._attention(event)
        elif event.name == "mlp":
            self._mlp(event)

    def _layer(self, event: ag.OpEvent) -> None:
        names = [self.parameters[id(a)][0] for a in event.inputs if id(a) in self.parameters]
        layer = next((n.rpartition(".")[0] for n in names if n.endswith(".weight")), None)
        if layer is None:
            return
        result = event.results[_LAYER_OPS[event.name]]
        bias = self.biases.get(layer)
        if event.name == "linear" and bias is not None and len(names) == 1:
            # the model adds this bias later, inside a fused op; the gradient is that of the sum
            self.add(f"{layer}.bias", bias)
            self.add(layer, result, shown=_plus(result, bias))
        else:
            self.add(layer, result)

    def _activation(self, event: ag.OpEvent) -> str:
        """``act`` beside the layer whose bias the op adds, else in the module that runs."""
        names = [self.parameters[id(a)][0] for a in event.inputs if id(a) in self.parameters]
        parent = names[0].rpartition(".")[0].rpartition(".")[0] if names else ""
        return f"{parent}.act" if parent else self.scoped("act")

    def _attention(self, event: ag.OpEvent) -> None:
        self.trace.meta.setdefault("windows", {})[self.stack[-1] if self.stack else ""] = _cut(event.static["spec"])
        self._twin(event, window_attention_composite)
        self.add(self.scoped("map"), event.results[0])

    def _mlp(self, event: ag.OpEvent) -> None:
        """fc1, act and fc2 of an MLP in one op, by the names of its weights."""
        names = [self.parameters[id(a)][0] for a in event.inputs if id(a) in self.parameters]
        layers = [n.rpartition(".")[0] for n in names if n.endswith(".weight")]
        if len(layers) != 2:
            return
        first, second = layers

        # the model may add the last bias later; the gradient is that of the sum
        bias = self.biases.get(second) if event.inputs[4] is None else None

        def composite(x: Any, w1: Any, b1: Any, w2: Any, b2: Any, **_: Any) -> Any:
            hidden = ag.linear(x, w1, b1)
            self.add(first, hidden)
            active = ag.gelu(hidden)
            self.add(f"{first.rpartition('.')[0]}.act", active)
            return ag.linear(active, w2, b2)

        self._twin(event, composite)
        result = event.results[0]
        if bias is not None:
            self.add(f"{second}.bias", bias)
        self.add(second, result, shown=_plus(result, bias))

    def _twin(self, event: ag.OpEvent, composite: Callable[..., ag.Tensor]) -> None:
        """Run ``composite`` on the op's inputs; its inner gradients come from the op's output gradient."""
        (real,) = event.results
        wants = real.requires_grad
        inputs: list[Any] = [None if a is None else ag.Tensor(a, requires_grad=wants) for a in event.inputs]
        self.shadowed = True
        try:
            with ag.enable_grad() if wants else ag.no_grad():
                twin = composite(*inputs, **event.static)
        finally:
            self.shadowed = False
        if wants:
            real.register_grad_hook(lambda g: twin.backward(g.astype(twin.dtype, copy=False)))

    def paused(self) -> _Paused:
        """A block in which nothing is kept."""
        return _Paused(self)


class _Paused:
    """A block in which a recorder keeps nothing."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __enter__(self) -> None:
        self.before, self.recorder.active = self.recorder.active, False

    def __exit__(self, *_: object) -> None:
        self.recorder.active = self.before


def _plus(product: ag.Tensor, bias: ag.Tensor | None) -> Any:
    """The array of their sum, None if there is no bias."""
    return None if bias is None else product.data + bias.data.astype(product.dtype, copy=False)


def _cut(spec: Any) -> dict[str, list[int]]:
    return {"size": list(spec.geometry.size), "window": list(spec.geometry.window), "shift": list(spec.geometry.shift)}


def trace(
    model: Callable[..., Any],
    x: Any,
    *,
    loss: Callable[[Any], ag.Tensor] | None = None,
    gradients: bool = True,
    names: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Trace:
    """Run ``model(x)`` once and record every named intermediate and its gradient.

    The result of the model, its parameters' ``.grad`` and the default random generator are left as they were. Names, in
    the order of execution: ``input``; each module's path for its output; ``<path>.input`` for what was made between
    modules; parameters before their first use; within attention ``windows q k v position_bias scores mask probs
    attended map``; what :func:`swinpy.verify.tap` names in your own code; ``output`` and ``loss``. A module that runs
    again gets ``#2``.

    Where activations are checkpointed, values inside are recorded and their gradients are not.

    Args:
        model: a Module, or any function of a Tensor on the engine.
        x: the input, an array or a Tensor in the model's dtype.
        loss: output to scalar Tensor; default the sum of the outputs times :func:`fixed_weights`.
        gradients: whether to run backward.
        names: shell patterns of what to keep; default all.
        seed: of the default random generator during the run (dropout, DropPath).

    Returns:
        The :class:`Trace`, in NumPy arrays.

    Raises:
        TypeError: for a model of another framework; if the model returns nothing that a loss can be made of.
    """
    require_callable("trace", model)
    given = (
        x
        if isinstance(x, ag.Tensor)
        else ag.Tensor(as_array(x) if hasattr(x, "detach") or isinstance(x, (list, tuple)) else x)
    )
    leaf = ag.Tensor(given.data, requires_grad=gradients and given.dtype.kind == "f")
    recorder = Recorder(model, [names] if isinstance(names, str) else names)
    frozen = [p for p in _parameters(model) if not p.requires_grad]
    leaves = [p for p in (leaf, *_parameters(model)) if p.requires_grad]
    hooks = [None if p.hooks is None else list(p.hooks) for p in leaves]
    recorder.add("input", leaf)
    try:
        with ag.fork_rng({"seed": seed, "offset": 0}), ag.observe(recorder.on_op), watching(recorder):
            with ag.enable_grad() if gradients else ag.no_grad():
                output = model(leaf)
                if loss is None:
                    _require_tensors(output)
                recorder._result("output", output)
                scalar = (loss or _weighted_sum)(output)
                recorder.add("loss", scalar)
            recorder.active = False
            if gradients and scalar.requires_grad:
                ag.grad(scalar, leaves)
    finally:
        for p, before in zip(leaves, hooks, strict=True):
            p.hooks = before
    made = recorder.trace
    made.meta |= {"model": type(model).__name__, "dtype": str(given.dtype), "input": list(given.shape), "seed": seed}
    if frozen:
        made.meta["frozen_parameters"] = len(frozen)
    return made


def _parameters(model: Any) -> list[ag.Tensor]:
    return list(model.parameters()) if isinstance(model, Module) else []


def _tensors(result: Any) -> list[ag.Tensor]:
    if isinstance(result, ag.Tensor):
        return [result]
    if isinstance(result, dict):
        result = list(result.values())
    return [t for item in result for t in _tensors(item)] if isinstance(result, (list, tuple)) else []


def _require_tensors(output: Any) -> None:
    if not any(t.dtype.kind == "f" for t in _tensors(output)):
        raise TypeError(f"trace: expected a model that returns Tensors; got {kind_of(output)}. Pass loss=.")


def _weighted_sum(output: Any) -> ag.Tensor:
    total: Any = 0.0
    for t in (t for t in _tensors(output) if t.dtype.kind == "f"):
        weights = ag.Tensor(fixed_weights(t.shape)).astype(t.dtype).to(t.device)
        total = total + (t * weights).sum()
    return total
