"""The kernel registry: one row a kernel, with its reference, its faster implementations and its cost.

The reference is plain NumPy/CuPy code and defines what is right. ``cuda`` and ``cpu`` implementations are optional;
each can say why it does not take given arguments, and :func:`explain` shows the user that reason. Which one runs is
the ``kernel_mode`` in force:

    auto        the implementation for the arrays' device if it takes them, else the reference
    reference   the reference
    cuda, cpu   that implementation; an error where it does not take the arguments
    validate    what auto would run and the reference, compared; an error that names the kernel where they differ

Inside :func:`validation` the comparisons are written down instead, one :class:`KernelCheck` a kernel, and a run goes on
past a difference with the reference's results.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module, device_of, device_scope, is_array
from autograd.context import STATE, kernel_mode
from autograd.dtypes import accumulator, is_float

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autograd.backend import Array

__all__ = [
    "KERNELS",
    "Cost",
    "Implementation",
    "Kernel",
    "KernelCheck",
    "KernelMismatchError",
    "KernelUnavailableError",
    "arrays_in",
    "call_kernel",
    "explain",
    "register_implementation",
    "register_kernel",
    "validation",
]


class KernelUnavailableError(RuntimeError):
    """The implementation that was asked for does not take these arguments; the message says why."""


class KernelMismatchError(AssertionError):
    """In ``validate`` mode: an implementation and the reference differ."""


@dataclass(frozen=True)
class Cost:
    """What one call must do at the least: arithmetic operations (2 for a multiply-add) and bytes moved."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class Implementation:
    """A faster twin of a reference.

    Attributes:
        run: same signature and results as the reference.
        can_run: same arguments; None if ``run`` takes them, else the reason why not.
    """

    run: Callable[..., Any]
    can_run: Callable[..., str | None]


@dataclass(frozen=True)
class Kernel:
    """One row.

    Attributes:
        name: ``<op>_fwd`` or ``<op>_bwd``; also the name of the reference function.
        reference: plain ``xp`` code.
        cost: same arguments; the :class:`Cost` of the call.
        cuda: a handwritten kernel for arrays on a GPU.
        cpu: a compiled twin for NumPy arrays.
        writes: indices of arguments (arrays, or lists of arrays) that are updated in place.
    """

    name: str
    reference: Callable[..., Any]
    cost: Callable[..., Cost]
    cuda: Implementation | None = None
    cpu: Implementation | None = None
    writes: tuple[int, ...] = ()


@dataclass
class KernelCheck:
    """What :func:`validation` saw of one kernel.

    Attributes:
        kernel: its name.
        kind: "cpu" or "cuda", the device that it was called for.
        compared: calls in which the implementation and the reference both ran.
        largest: the largest difference of a call that passed, relative to the largest value of the output.
        refused: why the reference ran alone, with the number of calls.
        faults: each distinct difference beyond tolerance, or error of the implementation, in words.
        failed: calls with a fault.
    """

    kernel: str
    kind: str
    compared: int = 0
    largest: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    failed: int = 0


KERNELS: dict[str, Kernel] = {}
_CHECKS: ContextVar[dict[str, KernelCheck] | None] = ContextVar("autograd_kernel_checks", default=None)


def register_kernel(kernel: Kernel) -> Kernel:
    """Add a row.

    Raises:
        ValueError: if the name is taken.
    """
    if kernel.name in KERNELS:
        raise ValueError(f"register_kernel: expected a new name; got {kernel.name!r}, which exists.")
    KERNELS[kernel.name] = kernel
    return kernel


def register_implementation(
    name: str, *, cuda: Implementation | None = None, cpu: Implementation | None = None
) -> None:
    """Put a faster implementation behind an existing row.

    Raises:
        KeyError: for an unknown kernel, listing the known ones.
    """
    row = _known("register_implementation", name)
    KERNELS[name] = replace(row, cuda=cuda or row.cuda, cpu=cpu or row.cpu)


def _known(caller: str, name: str) -> Kernel:
    if name not in KERNELS:
        raise KeyError(f"{caller}: expected one of {', '.join(sorted(KERNELS))}; got {name!r}.")
    return KERNELS[name]


def arrays_in(value: Any) -> list[Array]:
    """The arrays of an argument or a result: itself, or those of a list or tuple."""
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in arrays_in(item)]
    return [value] if is_array(value) else []


def _home(args: tuple[Any, ...]) -> Array | None:
    """The first array among the arguments: all of them are where it is."""
    for arg in args:
        if isinstance(arg, np.ndarray):
            return arg
        for array in arrays_in(arg):
            return array
    return None


def _kind(home: Array | None) -> str:
    return "cpu" if home is None or device_of(home) == "cpu" else "cuda"


def _refusal(kernel: Kernel, kind: str, there: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Why the ``kind`` implementation does not run on arguments that are ``there`` (cpu or cuda); None if it does."""
    implementation: Implementation | None = getattr(kernel, kind)
    if implementation is None:
        return f"no {kind} implementation"
    if there != kind:
        return f"the arrays are on the {'GPU' if kind == 'cpu' else 'CPU'}"
    return implementation.can_run(*args, **kwargs)


def call_kernel(name: str, *args: Any, **kwargs: Any) -> Any:
    """Run kernel ``name`` by the implementation that the kernel mode in force chooses.

    Raises:
        KernelUnavailableError: in modes cuda and cpu, with the reason.
        KernelMismatchError: in mode validate.
    """
    home = _home(args)
    if home is None or isinstance(home, np.ndarray):
        return _call(KERNELS[name], "cpu", args, kwargs)
    with device_scope(home):
        return _call(KERNELS[name], _kind(home), args, kwargs)


def _call(kernel: Kernel, there: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode = STATE.get().kernels
    if mode == "reference" or (mode == "auto" and kernel.cpu is None and kernel.cuda is None):
        return kernel.reference(*args, **kwargs)
    kind = mode if mode in ("cuda", "cpu") else there
    refusal = _refusal(kernel, kind, there, args, kwargs)
    checks = _CHECKS.get() if mode == "validate" else None
    if checks is not None:
        return _noted(kernel, checks.setdefault(kernel.name, KernelCheck(kernel.name, kind)), refusal, args, kwargs)
    if refusal is None:
        implementation: Implementation = getattr(kernel, kind)
        if mode == "validate":
            return _validated(kernel, implementation, args, kwargs)
        return implementation.run(*args, **kwargs)
    if mode == kind:
        raise KernelUnavailableError(
            f"{kernel.name}: expected the {kind} implementation to run; got a refusal: {refusal}. "
            "Use kernel_mode('auto')."
        )
    return kernel.reference(*args, **kwargs)


def explain(name: str, *args: Any, **kwargs: Any) -> str:
    """Which implementation of ``name`` runs on these arguments in mode auto, and why not the others.

    Raises:
        KeyError: for an unknown kernel, listing the known ones.
    """
    kernel = _known("explain", name)
    there = _kind(_home(args))
    reasons = {kind: _refusal(kernel, kind, there, args, kwargs) for kind in ("cuda", "cpu")}
    chosen = next((kind for kind, reason in reasons.items() if reason is None), "reference")
    lines = [f"{name}: runs {chosen}"]
    lines += [f"  {kind}: {reason}" for kind, reason in reasons.items() if reason is not None]
    return "\n".join(lines)


# Allowed difference from the reference, relative to the largest value of an output: summation order over at most
# some thousand terms in the dtype that accumulates (float32 for 16-bit floats, whose own rounding then dominates).
_TOLERANCE = {"float64": 1e-11, "float32": 2e-4, "float16": 4e-3, "bfloat16": 3e-2}


def _precision(want: Array, args: tuple[Any, ...]) -> np.dtype[Any]:
    """The dtype that ``want`` was computed in: not its own where it is wider than what its operands add up in."""
    made = next((accumulator(a.dtype) for a in arrays_in(args) if is_float(a.dtype)), want.dtype)
    return made if made.itemsize < want.dtype.itemsize else want.dtype


def _largest(x: Array) -> float:
    return float(x.max()) if x.size else 0.0  # CuPy's max has no initial=


def _compare(kernel: Kernel, expected: list[Array], got: list[Array], args: tuple[Any, ...]) -> float:
    """The largest difference, relative to the largest value of its output.

    A statistic that a forward kernel hands to backward (an output after the first) rounds by its operand: the mean of
    rows that have none is noise, and is held to the size of the rows.

    Raises:
        KernelMismatchError: if it is beyond tolerance, or the outputs differ in number, shape or dtype.
    """
    if len(got) != len(expected):
        raise KernelMismatchError(f"{kernel.name}: expected {len(expected)} outputs; got {len(got)}.")
    worst = 0.0
    for i, (want, have) in enumerate(zip(expected, got, strict=True)):
        if want.shape != have.shape or want.dtype != have.dtype:
            raise KernelMismatchError(
                f"{kernel.name}: output {i}: expected shape {want.shape} and dtype {want.dtype}; "
                f"got {have.shape} and {have.dtype}."
            )
        xp = array_module(want)
        a, b = want.astype(np.float64), have.astype(np.float64)
        same = (a == b) | (xp.isnan(a) & xp.isnan(b))  # infinities and NaNs in the same places are no difference
        size = _largest(xp.where(xp.isfinite(a), abs(a), 0))
        if i and kernel.name.endswith("_fwd"):
            x = next(arg for arg in args if is_array(arg)).astype(np.float64)
            size = max(size, _largest(xp.where(xp.isfinite(x), abs(x), 0)))
        limit = _TOLERANCE.get(_precision(want, args).name, 0.0) * size
        error = _largest(xp.where(same, 0, abs(xp.where(same, 0, a) - xp.where(same, 0, b))))
        if not error <= limit:
            raise KernelMismatchError(
                f"{kernel.name}: output {i}: expected the reference's values to {limit:.2e}; "
                f"got a difference of {error:.2e}. The implementation is at fault."
            )
        worst = max(worst, error / size if size else 0.0)
    return worst


def _reference(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Array], list[Any]]:
    """The reference on copies of what it writes to: its result, all of its outputs, its arguments."""
    own = [_copied(a) if i in kernel.writes else a for i, a in enumerate(args)]
    result = kernel.reference(*own, **kwargs)
    return result, _outputs(kernel, result, own), own


def _copied(arg: Any) -> Any:
    return [a.copy() for a in arg] if isinstance(arg, (list, tuple)) else arg.copy()


def _outputs(kernel: Kernel, result: Any, args: Sequence[Any]) -> list[Array]:
    """The arrays that a call returned, and those that it wrote to."""
    return [*arrays_in(result), *arrays_in([args[i] for i in kernel.writes])]


def _validated(kernel: Kernel, implementation: Implementation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _, expected, _ = _reference(kernel, args, kwargs)
    result = implementation.run(*args, **kwargs)
    _compare(kernel, expected, _outputs(kernel, result, args), args)
    return result


def _noted(
    kernel: Kernel, check: KernelCheck, refusal: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """As :func:`_validated`, but differences go into ``check``; the reference's results are what counts."""
    if refusal is not None:
        check.refused[refusal] = check.refused.get(refusal, 0) + 1
        return kernel.reference(*args, **kwargs)
    check.compared += 1
    result, expected, own = _reference(kernel, args, kwargs)
    try:
        twin = getattr(kernel, check.kind).run(*args, **kwargs)
        check.largest = max(check.largest, _compare(kernel, expected, _outputs(kernel, twin, args), args))
    except Exception as error:
        words = str(error) if isinstance(error, KernelMismatchError) else f"{kernel.name}: raised {error!r}"
        check.failed += 1
        if words not in check.faults:
            check.faults.append(words)
    for i in kernel.writes:
        for target, value in zip(arrays_in(args[i]), arrays_in(own[i]), strict=True):
            target[...] = value
    return result


@contextmanager
def validation() -> Iterator[dict[str, KernelCheck]]:
    """Mode ``validate``, but write every comparison down and go on: one :class:`KernelCheck` for each kernel called.

    After a difference, and after a right result too, the reference's values are what the caller gets.
    """
    checks: dict[str, KernelCheck] = {}
    token = _CHECKS.set(checks)
    try:
        with kernel_mode("validate"):
            yield checks
    finally:
        _CHECKS.reset(token)
