"""Launches dropout.cu.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module
from autograd.kernels.cuda import register_cuda
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.checks import cuda_dtype
from autograd.kernels.cuda.launch import contiguous, launch
from autograd.kernels.cuda.source import TYPE_NAMES, program
from autograd.kernels.dropout import reference

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "dropout", "keep_scale", "variants"]

_FILE = Path(__file__).with_name("dropout.cu")
BUDGETS = {"dropout": Budget(registers=48), "drop_together": Budget(registers=32), "keep_scale": Budget(registers=32)}
_THREADS = 256
_WIDTH = {"float": 4, "f16": 8, "bf16": 8}
_MASK = 2**64 - 1


def variants() -> list[Program]:
    """The programs to compile: each type, with 16 bytes and with one value per thread."""
    return [program(_FILE, T=kind, N=n) for kind, width in _WIDTH.items() for n in (width, 1)]


def _draw(x: Array, seed: int, offset: int, p: float) -> tuple[int, int, int, float]:
    """seed, offset, threshold and scale as the kernels take them; the scale is rounded as in the reference."""
    scale = float(np.asarray(1 / (1 - p)).astype(x.dtype))
    return seed & _MASK, offset & _MASK, math.ceil(p * 2**24), scale


def _chance(p: float) -> str | None:
    return None if 0 <= p < 1 else f"expected p in [0, 1); got {p}"


def _takes_dropout(x: Array, *, seed: int, offset: int, p: float, together: int = 1) -> str | None:
    if together < 1 or x.size % together:
        return f"expected `together` to divide the {x.size} values of x; got {together}"
    return cuda_dtype(x) or _chance(p)


@register_cuda(reference.dropout, _takes_dropout)
def dropout(x: Array, *, seed: int, offset: int, p: float, together: int = 1) -> Array:
    """One launch; each thread draws the mask of the values that it loads."""
    x = contiguous(x)
    y = array_module(x).empty(x.shape, x.dtype)
    if not x.size:
        return y
    kind = TYPE_NAMES[x.dtype.name]
    width = _WIDTH[kind] if together == 1 or together % _WIDTH[kind] == 0 else 1
    code, blocks = program(_FILE, T=kind, N=width), -(-x.size // (width * _THREADS))
    draw = _draw(x, seed, offset, p)
    if together == 1:
        launch(code, "dropout", blocks, _THREADS, (x, y, x.size, *draw))
    else:
        launch(code, "drop_together", blocks, _THREADS, (x, y, x.size, together, *draw))
    return y


def _takes_keep_scale(like: Array, *, seed: int, offset: int, p: float) -> str | None:
    return cuda_dtype(like) or _chance(p) or (None if like.ndim else "expected (B, ...); got a 0-d array")


@register_cuda(reference.keep_scale, _takes_keep_scale)
def keep_scale(like: Array, *, seed: int, offset: int, p: float) -> Array:
    """One launch, a thread for each sample."""
    count = like.shape[0]
    y = array_module(like).empty(count, like.dtype)
    if count:
        code = program(_FILE, T=TYPE_NAMES[like.dtype.name], N=1)
        launch(code, "keep_scale", -(-count // _THREADS), _THREADS, (y, count, *_draw(like, seed, offset, p)))
    return y
