"""AdamW with the no-decay groups of Swin, and gradient clipping by the global norm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from autograd.extend import array_module, device_of, device_scope
from autograd.kernels import adamw as kernels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autograd import Tensor
    from autograd.extend import Array
    from swinpy.nn import Parameter

__all__ = ["AdamW", "grad_norm"]


def _zeros_like(array: Array) -> Array:
    with device_scope(array):
        return array_module(array).zeros_like(array)


def grad_norm(parameters: Iterable[Tensor]) -> float:
    """Euclidean norm of all gradients together; parameters without one count as 0."""
    return float(kernels.grad_norm([p.grad for p in parameters if p.grad is not None]))


class AdamW:
    """AdamW (decoupled weight decay) over named parameters.

    Args:
        named_parameters: name and parameter; names key the state.
        no_decay: names that are not decayed (norms, biases, position tables).
        betas: decay rates of the first and the second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: for the other parameters, a step: times lr.

    Raises:
        ValueError: for options out of range, or names in ``no_decay`` that are no parameters.

    Source: Loshchilov & Hutter 2019, algorithm 2.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        no_decay: Iterable[str] = (),
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
    ) -> None:
        if not all(0 <= b < 1 for b in betas) or eps <= 0 or weight_decay < 0:
            raise ValueError(
                "AdamW: expected betas in [0, 1), eps > 0 and weight_decay >= 0; got "
                f"{betas}, {eps} and {weight_decay}."
            )
        self.parameters = dict(named_parameters)
        unknown = set(no_decay) - set(self.parameters)
        if unknown:
            raise ValueError(f"AdamW: expected no_decay among the parameters; got {', '.join(sorted(unknown))}.")
        self.no_decay = frozenset(no_decay)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self._count(0)
        self.moments = {name: (_zeros_like(p.data), _zeros_like(p.data)) for name, p in self.parameters.items()}

    @property
    def steps(self) -> int:
        """Updates made so far."""
        return int(self._next) - 1

    def _count(self, steps: int) -> None:
        """Set the number of the next update. On a GPU it is kept there, since the GPU decides whether to update."""
        some = [p.data for p in self.parameters.values()][:1]
        self._next: int | Array = steps + 1
        if some and device_of(some[0]) != "cpu":
            with device_scope(some[0]):
                self._next = array_module(some[0]).asarray(steps + 1, dtype="int64")

    def step(self, lr: float, clip_grad: float | None = None, grad_divisor: float = 1.0) -> float | Array:
        """Update every parameter that has a gradient.

        Args:
            lr: learning rate of this step.
            clip_grad: scale all gradients down so that their norm is at most this; None for no clipping.
            grad_divisor: gradients are divided by it first (the factor of loss scaling).

        Returns:
            The norm before clipping and after the division: a float, or for parameters on a GPU a 0-d array there,
            which ``float`` waits for. If it is not finite nothing is updated.
        """
        updated = {name: p for name, p in self.parameters.items() if p.grad is not None}
        norm: float | Array = 0.0
        if updated:
            norm = kernels.multi_adamw(
                [p.data for p in updated.values()],
                [p.grad for p in updated.values()],
                [self.moments[name][0] for name in updated],
                [self.moments[name][1] for name in updated],
                [0.0 if name in self.no_decay else self.weight_decay for name in updated],
                lr=lr,
                beta1=self.betas[0],
                beta2=self.betas[1],
                eps=self.eps,
                step=self._next,
                clip_grad=clip_grad,
                grad_divisor=grad_divisor,
            )
        if isinstance(self._next, int):
            norm = float(norm)
            if not math.isfinite(norm):
                return norm
            self._next += 1
        else:
            with device_scope(self._next):
                self._next += array_module(self._next).isfinite(norm)
        for p in updated.values():
            p.written()
        return norm

    def zero_grad(self) -> None:
        """Forget every gradient."""
        for p in self.parameters.values():
            p.grad = None

    def state_arrays(self) -> dict[str, Any]:
        """The moments by name: ``exp_avg.<parameter>`` and ``exp_avg_sq.<parameter>``."""
        arrays = {}
        for name, (first, second) in self.moments.items():
            arrays[f"exp_avg.{name}"] = first
            arrays[f"exp_avg_sq.{name}"] = second
        return arrays

    def load_state(self, arrays: Mapping[str, Any], steps: int) -> None:
        """Put moments back in place. All or nothing.

        Raises:
            ValueError: if names or shapes differ from the parameters'.
        """
        own = self.state_arrays()
        wrong = sorted(set(own) ^ set(arrays)) or [k for k in own if own[k].shape != arrays[k].shape]
        if wrong:
            raise ValueError(
                f"AdamW: expected the moments of {len(self.parameters)} parameters; got a state that differs at "
                f"{', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}. Was it saved from another model?"
            )
        for key, target in own.items():
            with device_scope(target):
                target[...] = array_module(target).asarray(arrays[key])
        self._count(steps)
