"""Mode ``validate``: a kernel's implementation and its reference both run, and their results are compared.

In this mode a difference raises. Inside :func:`validation` it does not: comparisons are recorded, one
:class:`KernelCheck` per kernel, and the run goes on with the reference's results.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import array_module, is_array
from autograd.context import kernel_mode
from autograd.dtypes import accumulator, is_float

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autograd.backend import Array
    from autograd.kernels.registry import Implementation, Kernel

__all__ = ["KernelCheck", "KernelMismatchError", "arrays_in", "checks_in_force", "noted", "validated", "validation"]


class KernelMismatchError(AssertionError):
    """In ``validate`` mode: an implementation and the reference differ."""


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


_CHECKS: ContextVar[dict[str, KernelCheck] | None] = ContextVar("autograd_kernel_checks", default=None)


def checks_in_force() -> dict[str, KernelCheck] | None:
    """The record of comparisons by kernel name; None outside :func:`validation`."""
    return _CHECKS.get()


def arrays_in(value: Any) -> list[Array]:
    """The arrays of an argument or a result: itself, or those of a list or tuple, nested ones included."""
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in arrays_in(item)]
    return [value] if is_array(value) else []


# Allowed difference from the reference, relative to the largest value of an output. It covers another order of a sum of
# some thousand terms in the accumulation dtype. That is float32 for 16-bit floats, whose own rounding dominates.
_TOLERANCE = {"float64": 1e-11, "float32": 2e-4, "float16": 4e-3, "bfloat16": 3e-2}


def _precision(want: Array, args: tuple[Any, ...]) -> np.dtype[Any]:
    """The dtype whose precision ``want`` has: its own, or the operands' accumulation dtype if that is narrower."""
    acc = next((accumulator(a.dtype) for a in arrays_in(args) if is_float(a.dtype)), want.dtype)
    return acc if acc.itemsize < want.dtype.itemsize else want.dtype


def _largest(x: Array) -> float:
    return float(x.max()) if x.size else 0.0  # CuPy's max has no initial=


def _compare(kernel: Kernel[..., Any], expected: list[Array], got: list[Array], args: tuple[Any, ...]) -> float:
    """The largest difference, relative to the largest value of its output.

    A forward kernel's outputs after the first are statistics for backward. Their rounding error is relative to the
    operand: the mean of rows whose mean is zero is noise. So they are compared relative to the first operand, too.

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


def _reference(
    kernel: Kernel[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, list[Array], list[Any]]:
    """Run the reference on copies of what it writes to: its result, all of its outputs, and its arguments."""
    own = [_copied(a) if i in kernel.writes else a for i, a in enumerate(args)]
    result = kernel.reference(*own, **kwargs)
    return result, _outputs(kernel, result, own), own


def _copied(arg: Any) -> Any:
    return [a.copy() for a in arg] if isinstance(arg, (list, tuple)) else arg.copy()


def _outputs(kernel: Kernel[..., Any], result: Any, args: Sequence[Any]) -> list[Array]:
    """The arrays that a call returned, then those that it wrote to."""
    return [*arrays_in(result), *arrays_in([args[i] for i in kernel.writes])]


def validated(
    kernel: Kernel[..., Any], implementation: Implementation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The implementation's result, after it was compared with the reference's.

    Raises:
        KernelMismatchError: if they differ.
    """
    _, expected, _ = _reference(kernel, args, kwargs)
    result = implementation.run(*args, **kwargs)
    _compare(kernel, expected, _outputs(kernel, result, args), args)
    return result


def noted(
    kernel: Kernel[..., Any], check: KernelCheck, refusal: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The reference's result. The comparison with the implementation's is recorded in ``check``."""
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
    """Mode ``validate``, but every comparison is recorded and the run goes on.

    Callers get the reference's values, whether or not the implementation's differ.

    Yields:
        A :class:`KernelCheck` for each kernel that has been called, by name.
    """
    checks: dict[str, KernelCheck] = {}
    token = _CHECKS.set(checks)
    try:
        with kernel_mode("validate"):
            yield checks
    finally:
        _CHECKS.reset(token)
