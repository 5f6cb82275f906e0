"""Kernels: one room (folder) for each, and what they share.

A room has ``reference.py``, which defines the results; ``cpu.py``, the twins that Numba compiles; and ``cuda.py`` with
its ``*.cu``, the twins for GPUs. ``registry`` says what a kernel is, ``call`` how one of its implementations is chosen.
"""

from autograd.context import kernel_mode
from autograd.kernels import adamw, casts, cross_entropy, dropout, gelu, layer_norm, linear, mlp, patches, softmax
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
    "adamw",
    "casts",
    "cross_entropy",
    "dropout",
    "explain",
    "gelu",
    "get_num_threads",
    "kernel",
    "kernel_mode",
    "layer_norm",
    "linear",
    "mlp",
    "patches",
    "register_implementation",
    "register_kernel",
    "set_num_threads",
    "softmax",
    "validation",
    "warmup",
]
