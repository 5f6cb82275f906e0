"""Kernels: the registry, and the engine's own rows."""

from autograd.context import kernel_mode
from autograd.kernels import cpu as _cpu  # noqa: F401 (puts compiled twins behind them)
from autograd.kernels import cuda as _cuda  # noqa: F401 (and handwritten kernels for GPUs)
from autograd.kernels import rows as _rows  # noqa: F401 (registers the rows)
from autograd.kernels.cpu import warmup
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
from autograd.kernels.threads import get_num_threads, set_num_threads

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
    "get_num_threads",
    "kernel_mode",
    "register_implementation",
    "register_kernel",
    "set_num_threads",
    "validation",
    "warmup",
]
