"""Module: a tree of parameters, found by walking attributes.

Attribute names are the parameter names of the official Swin checkpoints. A module never changes itself in forward.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

import autograd as ag
from autograd.extend import device_scope
from swinpy.probe import watched_call, watchers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Module", "ModuleList", "Parameter", "StateDictError", "in_mode"]


class Parameter(ag.Tensor):
    """A leaf that an optimiser updates: a Tensor that wants a gradient."""

    __slots__ = ()

    def __init__(self, array: Any) -> None:
        super().__init__(array, requires_grad=True)


class MismatchedKeys(NamedTuple):
    """Keys that :meth:`Module.load_state_dict` did not find in a state, and keys that no parameter has."""

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


class Module:
    """Base of all layers and models."""

    training: bool = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a call of the module computes; subclasses define it."""
        raise TypeError(f"{type(self).__name__}: expected a subclass that defines forward.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        active = watchers()
        return watched_call(active, self, args, kwargs) if active else self.forward(*args, **kwargs)

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

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, by dotted name."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{prefix}.{name}" if prefix else name), value

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(p.size for p in self.parameters())

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """The parameters' own arrays (not copies) by name."""
        return {name: p.data for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> MismatchedKeys:
        """Write arrays into the parameters. All or nothing.

        Args:
            state: arrays by name, on the CPU or the parameter's device; cast to the parameter's dtype.
            strict: False allows missing and unexpected keys (never a wrong shape).

        Returns:
            The missing and the unexpected keys, both empty if ``strict``.

        Raises:
            StateDictError: naming every key that is missing, unexpected or has another shape.
            TypeError: for a value that holds no numbers.
        """
        own = dict(self.named_parameters())
        missing = [k for k in own if k not in state]
        unexpected = [k for k in state if k not in own]
        shapes = [
            f"{k}: expected {own[k].shape}; got {_shape(state[k])}"
            for k in own
            if k in state and _shape(state[k]) != own[k].shape
        ]
        problems = [f"missing: {', '.join(missing)}"] * bool(strict and missing)
        problems += [f"unexpected: {', '.join(unexpected)}"] * bool(strict and unexpected)
        problems += [f"shapes: {'; '.join(shapes)}"] * bool(shapes)
        if problems:
            raise StateDictError(
                f"load_state_dict: expected the {len(own)} parameters of {type(self).__name__}; got "
                f"{len(state)} keys that differ. " + ". ".join(problems) + ". Nothing was loaded."
            )
        for parameter, value in [(own[k], _as_number(k, state[k], own[k].device)) for k in own if k in state]:
            parameter.assign_(value)
        return MismatchedKeys(missing, unexpected)

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
        """The tree of submodules with the shapes of their own parameters."""
        own = [f"{n}{tuple(p.shape)}" for n, p in vars(self).items() if isinstance(p, Parameter)]
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
        """Move every parameter to "cpu", "gpu", "cuda" or "cuda:N", in place; gradients are dropped."""
        target = ag.resolve_device(device)
        for parameter in self.parameters():
            parameter.data = ag.Tensor(parameter.data).to(target).data
            parameter.grad = None
        return self

    def astype(self, dtype: Any) -> Self:
        """Cast every parameter to another float dtype, in place; gradients are dropped."""
        try:
            target = np.dtype(dtype)
        except TypeError:
            target = None
        if target is None or target.kind != "f":
            raise TypeError(f"astype: expected float64, float32 or float16 for a module; got {dtype}.")
        for parameter in self.parameters():
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
