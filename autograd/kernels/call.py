"""The choice of the implementation that runs: by kernel mode, by the arrays' device and by what each twin takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.backend import device_of
from autograd.context import STATE
from autograd.kernels.validate import KernelCheck, arrays_in, checks_in_force, noted, validated

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.kernels.registry import Implementation, Kernel

__all__ = ["KernelUnavailableError", "first_array", "kind_of", "refusal_of", "run"]


class KernelUnavailableError(RuntimeError):
    """The implementation that was asked for does not take these arguments; the message says why."""


def first_array(args: tuple[Any, ...]) -> Array | None:
    """The first array among the arguments, lists included; all arrays are on its device. None without one."""
    for arg in args:
        if isinstance(arg, np.ndarray):
            return arg
        for array in arrays_in(arg):
            return array
    return None


def kind_of(array: Array | None) -> str:
    """Of the device of an array: "cuda" on a GPU, else "cpu"."""
    return "cpu" if array is None or device_of(array) == "cpu" else "cuda"


def refusal_of(
    kernel: Kernel[..., Any], kind: str, device: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """Why the ``kind`` implementation does not take the arguments, whose arrays are on ``device`` ("cpu" or "cuda");
    None if it does."""
    implementation: Implementation | None = getattr(kernel, kind)
    if implementation is None:
        return f"no {kind} implementation"
    if device != kind:
        return f"the arrays are on the {'GPU' if kind == 'cpu' else 'CPU'}"
    return implementation.can_run(*args, **kwargs)


def run(kernel: Kernel[..., Any], device: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the implementation that the mode chooses, on arguments whose arrays are on ``device`` ("cpu" or "cuda").

    Raises:
        KernelUnavailableError: in modes cuda and cpu, with the reason.
        KernelMismatchError: in mode validate.
    """
    mode = STATE.get().kernels
    if mode == "reference" or (mode == "auto" and kernel.cpu is None and kernel.cuda is None):
        return kernel.reference(*args, **kwargs)
    kind = mode if mode in ("cuda", "cpu") else device
    refusal = refusal_of(kernel, kind, device, args, kwargs)
    checks = checks_in_force() if mode == "validate" else None
    if checks is not None:
        return noted(kernel, checks.setdefault(kernel.name, KernelCheck(kernel.name, kind)), refusal, args, kwargs)
    if refusal is None:
        implementation: Implementation = getattr(kernel, kind)
        if mode == "validate":
            return validated(kernel, implementation, args, kwargs)
        return implementation.run(*args, **kwargs)
    if mode == kind:
        raise KernelUnavailableError(
            f"{kernel.name}: expected the {kind} implementation to run; got a refusal: {refusal}. "
            "Use kernel_mode('auto')."
        )
    return kernel.reference(*args, **kwargs)
