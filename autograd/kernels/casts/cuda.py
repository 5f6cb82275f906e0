"""Launches casts.cu.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograd.backend import array_module
from autograd.kernels.casts import reference
from autograd.kernels.cuda import register_cuda
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.checks import cuda_dtype, too_old
from autograd.kernels.cuda.launch import contiguous, launch
from autograd.kernels.cuda.source import FLOAT_NAMES, TYPE_NAMES, program
from autograd.kernels.cuda.tables import CHUNK, address_table, chunk_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from autograd.backend import Array
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "multi_cast", "takes_multi_cast", "variants"]

_FILE = Path(__file__).with_name("casts.cu")
BUDGETS = {"multi_cast": Budget(registers=48)}
_THREADS = 256
_ALIGNED = 8  # values; results begin at multiples of it, which are multiples of 16 bytes in any type


def _program(kind: str, out: str) -> Program:
    return program(_FILE, T=kind, OUT=out, CHUNK=CHUNK)


def variants() -> list[Program]:
    """The programs to compile: float32 to the 16-bit types, and back."""
    return [_program(*pair) for pair in (("float", "f16"), ("f16", "float"), ("float", "bf16"), ("bf16", "float"))]


def takes_multi_cast(arrays: Sequence[Array], dtype: np.dtype[Any]) -> str | None:
    """None if the CUDA kernel casts the arrays to ``dtype``, else why not."""
    refusal = cuda_dtype(arrays)
    if refusal:
        return refusal
    pair = {dtype.name, arrays[0].dtype.name}
    if len(pair) != 2 or "float32" not in pair or not pair <= set(FLOAT_NAMES):
        return f"CUDA casts between float32 and 16-bit floats; got {arrays[0].dtype} to {dtype}"
    return too_old(pair, arrays[0])


@register_cuda(reference.multi_cast, takes_multi_cast)
def multi_cast(arrays: Sequence[Array], dtype: np.dtype[Any]) -> list[Array]:
    """One launch; the results are views of one array."""
    arrays = [contiguous(a) for a in arrays]
    first, sizes = arrays[0], [a.size for a in arrays]
    starts = list(accumulate((-(-n // _ALIGNED) * _ALIGNED for n in sizes), initial=0))
    with first.device:
        out = array_module(first).empty(starts[-1], dtype)
        if starts[-1]:
            chunks = chunk_table(tuple(sizes), first.device.id)
            rows = address_table([a.data.ptr for a in arrays], sizes, starts[:-1], device=first.device.id)
            code = _program(TYPE_NAMES[first.dtype.name], TYPE_NAMES[out.dtype.name])
            launch(code, "multi_cast", len(chunks), _THREADS, (rows, chunks, out))
    return [out[at : at + a.size].reshape(a.shape) for at, a in zip(starts[:-1], arrays, strict=True)]
