"""A small reverse-mode engine over NumPy and CuPy arrays.

>>> import autograd as ag, numpy as np
>>> x = ag.Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad
array([2., 4., 6.])
"""

# swinpy looks for this: another distribution on PyPI has the import name `autograd` too.
__swinpy_engine__ = True

from autograd import kernels, methods, random
from autograd.backend import DeviceError, describe_device, has_gpu, resolve_device, use_device
from autograd.checkpoint import checkpoint
from autograd.context import OpEvent, autocast, detect_anomaly, enable_grad, kernel_mode, no_grad, observe
from autograd.gradcheck import GradcheckError, gradcheck
from autograd.graph import grad
from autograd.kernels.conv import conv_algorithm
from autograd.kernels.threads import get_num_threads, set_num_threads
from autograd.ops import __all__ as _ops
from autograd.ops._all import *  # noqa: F403 (the names are in autograd.ops.__all__)
from autograd.random import Generator, default_generator, fork_rng, manual_seed
from autograd.settings import settings_kept
from autograd.tensor import Tensor, TensorLike

__all__ = [
    "DeviceError",
    "Generator",
    "GradcheckError",
    "OpEvent",
    "Tensor",
    "TensorLike",
    "autocast",
    "checkpoint",
    "conv_algorithm",
    "default_generator",
    "describe_device",
    "detect_anomaly",
    "enable_grad",
    "fork_rng",
    "get_num_threads",
    "grad",
    "gradcheck",
    "has_gpu",
    "kernel_mode",
    "kernels",
    "manual_seed",
    "methods",
    "no_grad",
    "observe",
    "random",
    "resolve_device",
    "set_num_threads",
    "settings_kept",
    "use_device",
    *_ops,
]
