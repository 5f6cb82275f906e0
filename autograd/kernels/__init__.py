"""Kernels: the registry, and the engine's own rows."""

from autograd.context import kernel_mode
from autograd.kernels import rows as _rows  # noqa: F401 (registers the rows)
from autograd.kernels.registry import (
    KERNELS,
    Cost,
    Implementation,
    Kernel,
    KernelCheck,
    KernelMismatchError,
    KernelUnavailableError,
    call_kernel,
    explain,
    register_implementation,
    register_kernel,
    validation,
)

__all__ = [
    "KERNELS",
    "Cost",
    "Implementation",
    "Kernel",
    "KernelCheck",
    "KernelMismatchError",
    "KernelUnavailableError",
    "call_kernel",
    "explain",
    "kernel_mode",
    "register_implementation",
    "register_kernel",
    "validation",
]
