"""The kernel registry: a kernel is a reference that is called by its own name, and the faster twins of it.

The reference is plain NumPy/CuPy code and defines the results. ``cuda`` and ``cpu`` implementations are optional. Each
can say why it does not take given arguments, and :func:`explain` shows that reason. The ``kernel_mode`` in force
decides which one runs:

    auto        the implementation for the arrays' device if it takes them, else the reference
    reference   the reference
    cuda, cpu   that implementation; an error if it does not take the arguments
    validate    both what auto would run and the reference; an error that names the kernel if they differ
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import numpy as np

from autograd.backend import device_scope
from autograd.kernels.call import first_array, kind_of, refusal_of, run

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "KERNELS",
    "Cost",
    "Implementation",
    "Kernel",
    "elementwise",
    "explain",
    "kernel",
    "register_implementation",
    "register_kernel",
]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Cost:
    """The least that one call must do.

    Attributes:
        flops: arithmetic operations, 2 for a multiply-add.
        bytes: read and written, each array once.
    """

    flops: int
    bytes: int


@dataclass(frozen=True)
class Implementation:
    """A faster twin of a reference.

    Attributes:
        run: same signature and results as the reference.
        can_run: same arguments; None if ``run`` takes them, else the reason why not.
        way: same arguments; which of several algorithms ``run`` takes. None if it has one.
    """

    run: Callable[..., Any]
    can_run: Callable[..., str | None]
    way: Callable[..., str] | None = None


@dataclass(eq=False)
class Kernel(Generic[P, R]):
    """A reference and its twins. A call has the reference's arguments and runs what the kernel mode chooses.

    A reference that needs another kernel calls that kernel's ``.reference``. Called by its name, the kernel would run
    the twin that the mode chooses, and the result would not be the reference's.

    Attributes:
        name: ``<op>_fwd`` or ``<op>_bwd``; the name of the reference function.
        reference: plain ``xp`` code.
        cost: takes the same arguments; returns the :class:`Cost` of the call.
        cuda: a handwritten kernel for arrays on a GPU.
        cpu: a compiled twin for NumPy arrays.
        writes: indices of arguments (arrays, or lists of arrays) that are updated in place.
    """

    name: str
    reference: Callable[P, R]
    cost: Callable[..., Cost]
    cuda: Implementation | None = None
    cpu: Implementation | None = None
    writes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        update_wrapper(self, self.reference, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The results that the reference defines.

        Raises:
            KernelUnavailableError: in modes cuda and cpu, with the reason.
            KernelMismatchError: in mode validate.
        """
        first = first_array(args)
        if first is None or isinstance(first, np.ndarray):
            return run(self, "cpu", args, kwargs)
        with device_scope(first):
            return run(self, kind_of(first), args, kwargs)

    def __repr__(self) -> str:
        return f"Kernel({self.name!r})"


KERNELS: dict[str, Kernel[..., Any]] = {}


def kernel(cost: Callable[..., Cost], writes: tuple[int, ...] = ()) -> Callable[[Callable[P, R]], Kernel[P, R]]:
    """Make the decorated reference a kernel, and register it.

    Args:
        cost: takes the same arguments; returns the :class:`Cost` of the call.
        writes: indices of arguments that are updated in place.
    """
    return lambda reference: register_kernel(Kernel(reference.__name__, reference, cost, writes=writes))


def elementwise(flops: int, reads: int, writes: int = 1) -> Callable[..., Cost]:
    """A cost function: ``flops`` operations per element of the first argument, and ``reads`` and ``writes`` arrays of
    its size."""
    return lambda x, *_, **__: Cost(flops * x.size, (reads + writes) * x.nbytes)


def register_kernel(kernel: Kernel[P, R]) -> Kernel[P, R]:
    """Add a kernel.

    Raises:
        ValueError: if the name is taken.
    """
    if kernel.name in KERNELS:
        raise ValueError(f"register_kernel: expected a new name; got {kernel.name!r}, which exists.")
    KERNELS[kernel.name] = kernel
    return kernel


def register_implementation(
    kernel: Kernel[..., Any] | str, *, cuda: Implementation | None = None, cpu: Implementation | None = None
) -> None:
    """Give a kernel a faster implementation.

    Args:
        kernel: itself or its name.
        cuda: for arrays on a GPU; None to leave what it has.
        cpu: for NumPy arrays; None to leave what it has.

    Raises:
        KeyError: for an unknown kernel, listing the known ones.
    """
    known = _known("register_implementation", kernel)
    known.cuda, known.cpu = cuda or known.cuda, cpu or known.cpu


def _known(caller: str, kernel: Kernel[..., Any] | str) -> Kernel[..., Any]:
    if isinstance(kernel, Kernel):
        return kernel
    if kernel not in KERNELS:
        raise KeyError(f"{caller}: expected one of {', '.join(sorted(KERNELS))}; got {kernel!r}.")
    return KERNELS[kernel]


def explain(kernel: Kernel[..., Any] | str, *args: Any, **kwargs: Any) -> str:
    """Say which implementation of a kernel runs on the given arguments in mode auto, and why not the others.

    Args:
        kernel: itself or its name.
        *args: of the kernel.
        **kwargs: of the kernel.

    Raises:
        KeyError: for an unknown kernel, listing the known ones.
    """
    known = _known("explain", kernel)
    device = kind_of(first_array(args))
    reasons = {kind: refusal_of(known, kind, device, args, kwargs) for kind in ("cuda", "cpu")}
    chosen = next((kind for kind, reason in reasons.items() if reason is None), "reference")
    way = chosen != "reference" and getattr(known, chosen).way
    lines = [f"{known.name}: runs {chosen}" + (f", {way(*args, **kwargs)}" if way else "")]
    lines += [f"  {kind}: {reason}" for kind, reason in reasons.items() if reason is not None]
    return "\n".join(lines)
