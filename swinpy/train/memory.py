"""What is said when memory is full: advice that helps for what was being done."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

__all__ = ["OutOfMemoryError", "evaluation_advice", "out_of_memory", "training_advice"]

# How libraries of CUDA say that memory is full; CuPy's own allocator raises a MemoryError.
_CUDA = ("cudaErrorMemoryAllocation", "CUBLAS_STATUS_ALLOC_FAILED")
_SMALLER = "Choose a smaller --model or --img-size, or a device with more memory."


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
