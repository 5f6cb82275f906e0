"""What is switched on at the moment: one immutable State in one ContextVar.

A ContextVar makes every switch local to the thread or task that set it; one variable instead of five makes the cost
of reading them one lookup an op. Each public context manager replaces one field and puts the old State back.
"""

from __future__ import annotations

import inspect
from contextlib import ContextDecorator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np

from autograd import dtypes
from autograd.backend import device_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from autograd.backend import Array
    from autograd.tensor import Tensor, Version

__all__ = [
    "OpEvent",
    "ReadListener",
    "State",
    "autocast",
    "autocast_dtype",
    "detect_anomaly",
    "enable_grad",
    "kernel_mode",
    "no_grad",
    "notify",
    "observe",
]

KernelMode = Literal["auto", "reference", "cuda", "cpu", "validate"]
KERNEL_MODES: tuple[KernelMode, ...] = ("auto", "reference", "cuda", "cpu", "validate")


@dataclass(frozen=True, slots=True)
class OpEvent:
    """What an observer is told about one op.

    Attributes:
        name: the primitive.
        phase: "forward" or "backward".
        inputs: the arrays that went in (constants and None included); in backward the output gradients.
        outputs: the arrays that came out; in backward the input gradients (None where nobody asked).
        static: the keyword arguments of the op.
        results: in forward the Tensors that the caller gets (an observer may watch their gradients with
            ``register_grad_hook``); in backward none.
    """

    name: str
    phase: Literal["forward", "backward"]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    static: dict[str, Any]
    results: tuple[Tensor, ...] = ()


class ReadListener(Protocol):
    """Is told what a function reads while it runs."""

    def note(self, inputs: Iterable[Any]) -> None:
        """An op is about to run on these inputs."""

    def note_generator(self, generator: Any) -> None:
        """A random generator is about to draw, or to be set."""


@dataclass(frozen=True, slots=True)
class State:
    """Every switch of the engine.

    Attributes:
        grad: "on" records nodes; "off" records nothing; "propagate" records nothing either, but marks each output
            that would need a gradient (checkpoint runs its function so).
        autocast: the low-precision dtype of "low" ops, or None.
        kernels: which implementation of a kernel runs.
        observers: called after each op, forward and backward.
        replay: whether backward runs a checkpoint's function again.
        reads: in "propagate" mode, is told the inputs of every op and the random generators that are used.
        casts: what :mod:`autograd.casts` made in this autocast block: by the id of a leaf's array, (array, the leaf's
            version, the version's count, the array in the autocast dtype).
        before: the State to go back to where the innermost block ends; None outside of all blocks.
    """

    grad: Literal["on", "off", "propagate"] = "on"
    autocast: np.dtype[Any] | None = None
    kernels: KernelMode = "auto"
    observers: tuple[Callable[[OpEvent], None], ...] = ()
    replay: bool = False
    reads: ReadListener | None = None
    casts: dict[int, tuple[Array, Version, int, Array]] = field(default_factory=dict)
    before: State | None = field(default=None, repr=False)


STATE: ContextVar[State] = ContextVar("autograd_state", default=State())  # noqa: B039 (State is frozen)


_F = TypeVar("_F", bound="Callable[..., Any]")


class _Switch(ContextDecorator):
    """A context manager and decorator that changes fields of the State.

    It keeps nothing itself: the State of a block knows the one before it. So one object can be entered again inside
    its own block, and by several threads and tasks at once.
    """

    def __init__(self, name: str, changes: Callable[[State], dict[str, Any]]) -> None:
        """``changes`` takes the State before the block and gives the fields that are others in it."""
        self._name, self._changes = name, changes

    def __call__(self, function: _F) -> _F:
        """Decorate a function.

        Raises:
            TypeError: for a generator or coroutine function: calling it runs nothing yet, so the switch would be off
                again before its body begins.
        """
        if any(
            kind(function)
            for kind in (inspect.isgeneratorfunction, inspect.isasyncgenfunction, inspect.iscoroutinefunction)
        ):
            name = getattr(function, "__name__", function)
            raise TypeError(
                f"{self._name}: expected a plain function to decorate; got {name!r}, a generator "
                "or coroutine function. Put a with-block inside it."
            )
        return super().__call__(function)

    def __enter__(self) -> None:
        before = STATE.get()
        STATE.set(replace(before, before=before, **self._changes(before)))

    def __exit__(self, *_: object) -> None:
        before = STATE.get().before
        if before is None:
            raise RuntimeError(
                f"{self._name}: expected to be left by the thread or task that entered it; got another one. "
                "Use a with-block."
            )
        STATE.set(before)


def no_grad() -> _Switch:
    """Record no graph inside the block (or the decorated function)."""
    return _Switch("no_grad", lambda _: {"grad": "off"})


def enable_grad() -> _Switch:
    """Record the graph again inside a :func:`no_grad` block."""
    return _Switch("enable_grad", lambda _: {"grad": "on"})


def autocast_dtype() -> np.dtype[Any] | None:
    """The 16-bit dtype of the autocast block in force; None outside of one."""
    return STATE.get().autocast


def autocast(dtype: str | np.dtype[Any] | None = "float16", enabled: bool = True) -> _Switch:
    """Run matmul, linear and attention in ``dtype`` and softmax, norms, losses and reductions in float32.

    float64 operands are left alone. Each op's policy is its primitive's ``autocast`` attribute. On a GPU a model's
    parameters are cast once a block: write to them by ``assign_``, not into ``.data``, which goes unseen.

    Args:
        dtype: "float16" (or "bfloat16" where ml_dtypes is installed); None switches autocast off.
        enabled: False makes the block a plain one, so that a flag can be passed through.

    Raises:
        ValueError: for a dtype that is not a 16-bit float.
    """
    resolved = dtypes.as_dtype(dtype) if enabled and dtype is not None else None
    if resolved is not None and not (dtypes.is_float(resolved) and resolved.itemsize == 2):
        raise ValueError(f"autocast: expected a 16-bit float dtype; got {resolved}. Pass 'float16' or 'bfloat16'.")
    return _Switch("autocast", lambda _: {"autocast": resolved, "casts": {}})  # casts of this block alone


def kernel_mode(mode: KernelMode) -> _Switch:
    """Choose the implementation of every kernel in the block: auto, reference, cuda, cpu or validate."""
    if mode not in KERNEL_MODES:
        raise ValueError(f"kernel_mode: expected one of {', '.join(KERNEL_MODES)}; got {mode!r}.")
    return _Switch("kernel_mode", lambda _: {"kernels": mode})


def notify(observers: tuple[Callable[[OpEvent], None], ...], event: OpEvent) -> None:
    """Tell every observer what happened."""
    for observer in observers:
        observer(event)


def observe(on_op: Callable[[OpEvent], None]) -> _Switch:
    """Call ``on_op`` with an :class:`OpEvent` after every op of the block, in forward and in backward."""
    return _Switch("observe", lambda state: {"observers": (*state.observers, on_op)})


def _non_finite(array: Any) -> bool:
    dtype = getattr(array, "dtype", None)
    if dtype is None or dtype.kind not in "fV" or array.size == 0:
        return False
    with device_scope(array):
        return not bool(np.isfinite(float(abs(array.astype("float64")).max())))


def _trap(event: OpEvent) -> None:
    if any(map(_non_finite, event.outputs)) and not any(map(_non_finite, event.inputs)):
        what = "gradient" if event.phase == "backward" else "result"
        raise FloatingPointError(
            f"{event.name}: expected finite numbers; got a {what} with NaN or inf from finite inputs "
            f"({event.phase}). This is the first op where it happened."
        )


def detect_anomaly() -> _Switch:
    """Stop at the first op, forward or backward, that makes a NaN or inf out of finite inputs, and name it.

    Raises:
        FloatingPointError: inside the block, when it happens.
    """
    return observe(_trap)
