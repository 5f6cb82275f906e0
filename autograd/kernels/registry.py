"""The kernel registry: a kernel is a reference that is called by its own name, and the faster twins put behind it.

The reference is plain NumPy/CuPy code and defines what is right. ``cuda`` and ``cpu`` implementations are optional;
each can say why it does not take given arguments, and :func:`explain` shows the user that reason. Which one runs is
the ``kernel_mode`` in force:

    auto        the implementation for the arrays' device if it takes them, else the reference
    reference   the reference
    cuda, cpu   that implementation; an error where it does not take the arguments
    validate    what auto would run and the reference, compared; an error that names the kernel where they differ
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import numpy as np

from autograd.backend import device_scope
from autograd.kernels.call import home_of, kind_of, refusal_of, run

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
    """What one call must do at the least: arithmetic operations (2 for a multiply-add) and bytes moved."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class Implementation:
    """A faster twin of a reference.

    Attributes:
        run: same signature and results as the reference.
        can_run: same arguments; None if ``run`` takes them, else the reason why not.
    """

    run: Callable[..., Any]
    can_run: Callable[..., str | None]


@dataclass(eq=False)
class Kernel(Generic[P, R]):
    """A reference and its twins. A call runs the one that the kernel mode chooses; arguments are the reference's.

    A reference that needs another kernel's definition calls that kernel's ``.reference``: by its name it would run
    whatever twin the mode chooses, and mode "reference" would be none.

    Attributes:
        name: ``<op>_fwd`` or ``<op>_bwd``; the name of the reference function.
        reference: plain ``xp`` code.
        cost: same arguments; the :class:`Cost` of the call.
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
        home = home_of(args)
        if home is None or isinstance(home, np.ndarray):
            return run(self, "cpu", args, kwargs)
        with device_scope(home):
            return run(self, kind_of(home), args, kwargs)

    def __repr__(self) -> str:
        return f"Kernel({self.name!r})"


KERNELS: dict[str, Kernel[..., Any]] = {}


def kernel(cost: Callable[..., Cost], writes: tuple[int, ...] = ()) -> Callable[[Callable[P, R]], Kernel[P, R]]:
    """Make the decorated reference a kernel.

    Args:
        cost: the :class:`Cost` of a call, from the same arguments.
        writes: indices of arguments that are updated in place.
    """
    return lambda reference: register_kernel(Kernel(reference.__name__, reference, cost, writes=writes))


def elementwise(flops: int, reads: int, writes: int = 1) -> Callable[..., Cost]:
    """The cost of ``flops`` operations an element of the first argument, and of arrays of its size read and written."""
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
    """Put a faster implementation behind a kernel, given itself or by name.

    Raises:
        KeyError: for an unknown kernel, listing the known ones.
    """
    row = _known("register_implementation", kernel)
    row.cuda, row.cpu = cuda or row.cuda, cpu or row.cpu


def _known(caller: str, kernel: Kernel[..., Any] | str) -> Kernel[..., Any]:
    if isinstance(kernel, Kernel):
        return kernel
    if kernel not in KERNELS:
        raise KeyError(f"{caller}: expected one of {', '.join(sorted(KERNELS))}; got {kernel!r}.")
    return KERNELS[kernel]


def explain(kernel: Kernel[..., Any] | str, *args: Any, **kwargs: Any) -> str:
    """Which implementation of a kernel, given itself or by name, runs on these arguments in mode auto, and why not the
    others.

    Raises:
        KeyError: for an unknown kernel, listing the known ones.
    """
    row = _known("explain", kernel)
    there = kind_of(home_of(args))
    reasons = {kind: refusal_of(row, kind, there, args, kwargs) for kind in ("cuda", "cpu")}
    chosen = next((kind for kind, reason in reasons.items() if reason is None), "reference")
    lines = [f"{row.name}: runs {chosen}"]
    lines += [f"  {kind}: {reason}" for kind, reason in reasons.items() if reason is not None]
    return "\n".join(lines)
