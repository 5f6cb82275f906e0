"""What handwritten CUDA kernels share; and the door by which a room puts its launchers behind its kernels.

``device.cuh`` holds all that kernels use of CUDA, ``source`` puts a program together, ``launch`` checks and starts it,
``checks`` says what kernels take, ``layout`` how rows and matrices are shared out among threads. A room's ``cuda.py``
is imported with the room; CuPy compiles a kernel when it first runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

from autograd.kernels.cuda.checks import cuda_dtype
from autograd.kernels.registry import Implementation, register_implementation

if TYPE_CHECKING:
    from collections.abc import Callable

    from autograd.kernels.registry import Kernel

__all__ = ["cuda_dtype", "register_cuda"]

P = ParamSpec("P")
R = TypeVar("R")


def register_cuda(
    kernel: Kernel[P, R], accepts: Callable[..., str | None] = cuda_dtype
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Put the decorated launcher behind a kernel, for arrays on a GPU.

    Args:
        kernel: with the launcher's arguments and results.
        accepts: None if the launcher takes the arguments (which are on a GPU), else why not.
    """

    def decorate(launcher: Callable[P, R]) -> Callable[P, R]:
        register_implementation(kernel, cuda=Implementation(launcher, accepts))
        return launcher

    return decorate
