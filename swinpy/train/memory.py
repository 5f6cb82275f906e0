"""Memory: what a run needs, against what there is, before anything is built; and what is said when it is full."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from autograd.extend import device_memory
from swinpy.models.cost import activations_of, parameters_of
from swinpy.train.options import UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from swinpy.models import SwinConfig

__all__ = [
    "OutOfMemoryError",
    "evaluation_advice",
    "host_memory",
    "out_of_memory",
    "require_memory",
    "step_bytes",
    "training_advice",
]

# How libraries of CUDA say that memory is full; CuPy's own allocator raises a MemoryError.
_CUDA = ("cudaErrorMemoryAllocation", "CUBLAS_STATUS_ALLOC_FAILED")
_SMALLER = "Choose a smaller --model or --img-size, or a device with more memory."
_SMALLER_MODEL = "Lower --embed-dim, --depths, --patch-size or --num-classes, or choose a smaller --model."


class OutOfMemoryError(MemoryError):
    """Memory is full; the message says what to lower."""


def training_advice(options: Namespace) -> str:
    """What makes a training step smaller. A run may be resumed with --grad-checkpointing, not with another batch."""
    ways = []
    if not options.grad_checkpointing:
        ways.append("Add --grad-checkpointing (a run may be resumed with it).")
    if options.batch_size > 1:
        ways.append(f"Lower --batch-size (it is {options.batch_size}) and raise --grad-accum-steps by as much.")
    return " Or: ".join(ways) or _SMALLER


def evaluation_advice(options: Namespace) -> str:
    """What makes an evaluation smaller."""
    if options.val_batch_size > 1:
        return f"Lower --val-batch-size (it is {options.val_batch_size}; a run may be resumed with another)."
    return _SMALLER


@contextmanager
def out_of_memory(advice: str = _SMALLER) -> Iterator[None]:
    """A block in which full memory, of the host or of a GPU, is said with this advice; of nested blocks the inner's.

    Raises:
        OutOfMemoryError: for MemoryError, and for what CUDA's libraries raise.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(name in str(error) for name in _CUDA):
            raise
        what = f"out of memory: {str(error).rstrip('.')}" if str(error) else "out of memory"
        raise OutOfMemoryError(f"{what}. {advice}") from error


def step_bytes(config: SwinConfig, options: Namespace, batch: int) -> tuple[int, int]:
    """Estimated bytes of a run of this model: of its weights and what belongs to them, and of a batch.

    Weights come with gradients and two moments, a batch with what backward needs; an evaluation has neither. The
    estimate is from below: 0.5 to 1.1 of what was measured.
    """
    itemsize = 4  # float32
    parameters = parameters_of(config) * itemsize
    if options.eval_only:
        return parameters, 0
    image, shared = activations_of(config, options.grad_checkpointing)
    return 4 * parameters, (batch * image + shared) * (2 if options.amp else itemsize)


def require_memory(config: SwinConfig, options: Namespace, batch: int) -> None:
    """Refuse a model that cannot be trained, or evaluated, in the memory there is, before it is built.

    Raises:
        UsageError: saying what it needs and what there is.
    """
    state, activations = step_bytes(config, options, batch)
    weights = parameters_of(config) * 4
    places = [("this machine", host_memory(), weights, 0)]  # where they are made
    if options.device == "cpu":
        places = [("this machine", host_memory(), state, activations)]
    else:
        places.append((options.device, device_memory(options.device), state, activations))
    for where, there_is, fixed, moving in places:
        if there_is is not None and fixed + moving > there_is:
            advice = training_advice(options) if fixed <= there_is else _SMALLER_MODEL
            raise UsageError(
                f"--model: expected one that fits the {_gib(there_is)} of memory of {where}; got one that needs at "
                f"least {_gib(fixed + moving)} ({_gib(fixed)} for its parameters, {_gib(moving)} for a batch of "
                f"{batch}). {advice}"
            )


def _gib(count: int) -> str:
    """As it is said, up to 2^40 GiB, which is "at least" as true of whatever is more."""
    return f"{min(count, 1 << 70) / 2**30:.3g} GiB"


def host_memory() -> int | None:
    """Bytes that this process may have at most: the machine's, its control groups' or its own; None if unknown."""
    limits = list(_cgroup_limits())
    with suppress(AttributeError, ValueError, OSError):  # on Windows
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ImportError):
        import resource

        limits += [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
    return min((limit for limit in limits if limit > 0), default=None)


def _cgroup_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Of the process's control group and those around it, of either version."""
    lines = []
    with suppress(OSError):
        lines = own.read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = top / path.lstrip("/")
        for place in (group, *group.parents):
            with suppress(OSError, ValueError):  # no such group in this container, or "max"
                yield int((place / name).read_text())
            if place == top:
                break
