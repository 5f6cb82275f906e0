"""What handwritten CUDA kernels share, and the decorator by which a room registers its launchers.

``device.cuh`` holds all that kernels use of CUDA. ``source`` puts a program together, ``launch`` checks and starts it,
``checks`` says what kernels take, and ``layout`` divides rows and matrices among threads. In this folder and in rooms'
``cuda.py``, a block is a thread block, and a chunk is what one of them works on. A room's ``cuda.py`` is imported with
the room; CuPy compiles a kernel when it first runs.
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
    """Make the decorated launcher a kernel's implementation for arrays on a GPU.

    Args:
        kernel: has the launcher's arguments and results.
        accepts: called with arguments that are on a GPU; None if the launcher takes them, else why not.
    """

    def decorate(launcher: Callable[P, R]) -> Callable[P, R]:
        register_implementation(kernel, cuda=Implementation(launcher, accepts))
        return launcher

    return decorate
