"""Kernels: one room (folder) for each, and what they share.

A room has ``reference.py``, which defines the results. It may have ``cpu.py``, the twins that Numba compiles, and
``cuda.py`` with its ``*.cu``, the twins for GPUs. ``registry`` says what a kernel is, ``call`` how one of its
implementations is chosen. An op imports the rooms of its kernels, so that they are registered with it.
"""

from autograd.context import kernel_mode
from autograd.kernels import adamw as _adamw  # noqa: F401 (has no op, so nothing else of the engine imports its room)
from autograd.kernels.bits import numerics
from autograd.kernels.call import KernelUnavailableError
from autograd.kernels.compiled import warmup
from autograd.kernels.registry import (
    KERNELS,
    Cost,
    Implementation,
    Kernel,
    explain,
    kernel,
    register_implementation,
    register_kernel,
)
from autograd.kernels.threads import get_num_threads, set_num_threads
from autograd.kernels.validate import KernelCheck, KernelMismatchError, validation

__all__ = [
    "KERNELS",
    "Cost",
    "Implementation",
    "Kernel",
    "KernelCheck",
    "KernelMismatchError",
    "KernelUnavailableError",
    "explain",
    "get_num_threads",
    "kernel",
    "kernel_mode",
    "numerics",
    "register_implementation",
    "register_kernel",
    "set_num_threads",
    "validation",
    "warmup",
]
