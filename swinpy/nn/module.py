"""Module: a tree of parameters and buffers, found by walking attributes.

Attribute names are the parameter names of the official Swin checkpoints. No module changes its state in forward: batch
norms in training take statistics, which :meth:`Module.commit_statistics` makes theirs.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np

import autograd as ag
from autograd.extend import device_scope
from swinpy.probe import watched_call, watchers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Buffer", "LayerError", "Module", "ModuleList", "Parameter", "StateDictError", "in_mode"]

T = TypeVar("T", bound=ag.Tensor)


class Parameter(ag.Tensor):
    """A leaf that an optimiser updates: a Tensor that wants a gradient."""

    __slots__ = ()

    def __init__(self, array: Any) -> None:
        super().__init__(array, requires_grad=True)


class Buffer(ag.Tensor):
    """A leaf that belongs to a module's state and is not learned, such as running statistics.

    It is saved, loaded, moved, cast and copied with the parameters; no optimiser sees it.
    """

    __slots__ = ()

    def __init__(self, array: Any) -> None:
        super().__init__(array)


class LayerError(ValueError):
    """A layer refuses its input. The modules that it is a part of tell its name.

    Args:
        layer: that refuses.
        text: the message, with "{layer}" where its name goes.
    """

    def __init__(self, layer: Module, text: str) -> None:
        super().__init__(text.format(layer=type(layer).__name__))
        self.layer, self.text = layer, text

    def within(self, module: Module) -> None:
        """Name the layer as ``module`` does."""
        for name, part in module.named_modules():
            if part is self.layer and name:
                self.args = (self.text.format(layer=name),)


class MismatchedKeys(NamedTuple):
    """Keys that :meth:`Module.load_state_dict` did not find in a state, and keys of which the module has none."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class StateDictError(ValueError):
    """A state dict does not fit the module; the message lists every missing, unexpected and mis-shaped key."""


def _as_number(name: str, value: Any, device: str) -> Any:
    """An entry of a state dict as an array on ``device``."""
    try:
        return ag.Tensor(value).to(device).data
    except TypeError as error:
        raise TypeError(f"load_state_dict: expected numbers; got something else for {name}: {error}") from None


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of an array on any device, or of a nested list."""
    return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


def _counts_batches(key: str, own: Mapping[str, Any]) -> bool:
    """Whether it is a counter beside running statistics, which torch looks at for averages without a momentum alone."""
    layer, _, leaf = key.rpartition("num_batches_tracked")
    return not leaf and f"{layer}running_mean" in own


class Module:
    """Base of all layers and models."""

    training: bool = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a call of the module computes; subclasses define it."""
        raise TypeError(f"{type(self).__name__}: expected a subclass that defines forward.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        active = watchers()
        try:
            return watched_call(active, self, args, kwargs) if active else self.forward(*args, **kwargs)
        except LayerError as error:
            error.within(self)
            raise

    # ---- walking

    def children(self) -> Iterator[tuple[str, Module]]:
        """Direct submodules by attribute name."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below, by dotted name."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def _leaves(self, kind: type[T] | tuple[type[T], ...]) -> Iterator[tuple[str, T]]:
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, kind) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{prefix}.{name}" if prefix else name), value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, by dotted name."""
        return self._leaves(Parameter)

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Every buffer once, by dotted name."""
        return self._leaves(Buffer)

    def named_state(self) -> Iterator[tuple[str, Parameter | Buffer]]:
        """Every parameter and buffer once, by dotted name."""
        return self._leaves((Parameter, Buffer))

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(p.size for p in self.parameters())

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """The own arrays (not copies) of parameters and buffers by name."""
        return {name: leaf.data for name, leaf in self.named_state()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> MismatchedKeys:
        """Write arrays into parameters and buffers. All or nothing; statistics that wait for a commit are dropped.

        Args:
            state: arrays by name, on the CPU or the parameter's device; cast to the parameter's dtype. torch's counters
                of batches (``num_batches_tracked``) beside running statistics are passed over.
            strict: False allows missing and unexpected keys (never a wrong shape).

        Returns:
            The missing and the unexpected keys, both empty if ``strict``.

        Raises:
            StateDictError: naming every key that is missing, unexpected or has another shape.
            TypeError: for a value that holds no numbers.
        """
        own = dict(self.named_state())
        missing = [k for k in own if k not in state]
        unexpected = [k for k in state if k not in own and not _counts_batches(k, own)]
        shapes = [
            f"{k}: expected {own[k].shape}; got {_shape(state[k])}"
            for k in own
            if k in state and _shape(state[k]) != own[k].shape
        ]
        problems = [f"missing: {', '.join(missing)}"] * bool(strict and missing)
        problems += [f"unexpected: {', '.join(unexpected)}"] * bool(strict and unexpected)
        problems += [f"shapes: {'; '.join(shapes)}"] * bool(shapes)
        if problems:
            kinds = "parameters and buffers" if any(isinstance(leaf, Buffer) for leaf in own.values()) else "parameters"
            raise StateDictError(
                f"load_state_dict: expected the {len(own)} {kinds} of {type(self).__name__}; got "
                f"{len(state)} keys that differ. " + ". ".join(problems) + ". Nothing was loaded."
            )
        for parameter, value in [(own[k], _as_number(k, state[k], own[k].device)) for k in own if k in state]:
            parameter.assign_(value)
        self.drop_statistics()
        return MismatchedKeys(missing, unexpected)

    def commit_statistics(self) -> None:
        """Take the statistics of all batches since the last commit into the running ones of batch norms.

        To be called once a step that counts, after backward, as :class:`swinpy.train.trainer.Trainer` does. A batch
        that went forward several times, under gradient accumulation or through a shared layer, counts each time, in
        order, as in torch; the second run of a checkpointed function does not.
        """
        for _, module in self.named_modules():
            module._settle(commit=True)

    def drop_statistics(self) -> None:
        """Forget the statistics since the last commit, as those of a step that is left out."""
        for _, module in self.named_modules():
            module._settle(commit=False)

    def _settle(self, commit: bool) -> None:
        """Commit or drop this module's own statistics, if it takes any."""

    def zero_grad(self) -> None:
        """Forget every gradient."""
        for parameter in self.parameters():
            parameter.grad = None

    def requires_grad_(self, flag: bool = True) -> Self:
        """Let every parameter want a gradient, or none; returns the module."""
        for parameter in self.parameters():
            parameter.requires_grad = flag
        return self

    def __repr__(self) -> str:
        """The tree of submodules with the shapes of their own parameters and buffers."""
        own = [f"{n}{tuple(p.shape)}" for n, p in vars(self).items() if isinstance(p, (Parameter, Buffer))]
        lines = [", ".join(own)] if own else []
        lines += [f"({name}): {child!r}" for name, child in self.children()]
        if len(lines) == len(own) == 0 or (own and len(lines) == 1):
            return f"{type(self).__name__}({', '.join(lines)})"
        inner = "\n".join(lines).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {inner}\n)"

    # ---- mode, device, dtype

    def train(self, mode: bool = True) -> Self:
        """Put this module and all below into training mode (or evaluation mode); returns the module."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Put this module and all below into evaluation mode; returns the module."""
        return self.train(False)

    def to(self, device: str) -> Self:
        """Move parameters and buffers to "cpu", "gpu", "cuda" or "cuda:N", in place.

        Gradients and statistics that wait for a commit are dropped.
        """
        target = ag.resolve_device(device)
        self.drop_statistics()
        for _, parameter in self.named_state():
            parameter.data = ag.Tensor(parameter.data).to(target).data
            parameter.grad = None
        return self

    def astype(self, dtype: Any) -> Self:
        """Cast parameters and buffers to another float dtype, in place.

        Gradients and statistics that wait for a commit are dropped.
        """
        try:
            target = np.dtype(dtype)
        except TypeError:
            target = None
        if target is None or target.kind != "f":
            raise TypeError(f"astype: expected float64, float32 or float16 for a module; got {dtype}.")
        self.drop_statistics()
        for _, parameter in self.named_state():
            with device_scope(parameter.data):
                parameter.data = parameter.data.astype(target, copy=False)
            parameter.grad = None
        return self

    @property
    def device(self) -> str:
        """Of the first parameter."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the first parameter."""
        return next(self.parameters()).dtype


class ModuleList(Module):
    """Submodules in order; their names are their indices."""

    def __init__(self, modules: list[Any]) -> None:
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def __len__(self) -> int:
        return len(vars(self)) - ("training" in vars(self))

    def __getitem__(self, index: int) -> Any:
        return vars(self)[str(range(len(self))[index])]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


@contextmanager
def in_mode(module: Module, training: bool) -> Iterator[None]:
    """A block in which ``module`` and all below are in training mode, or all in evaluation mode.

    Afterwards each of them is in its own mode again, also where the block raises: a frozen part may have another than
    the whole.
    """
    modes = [(part, part.training) for _, part in module.named_modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
