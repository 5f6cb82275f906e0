"""Launching dropout.cu."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from autograd.backend import array_module
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.launch import contiguous, launch
from autograd.kernels.cuda.source import TYPE_NAMES, program

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "dropout", "keep_scale", "variants"]

BUDGETS = {"dropout": Budget(registers=48), "drop_together": Budget(registers=32), "keep_scale": Budget(registers=32)}
_THREADS = 256
_WIDTH = {"float": 4, "f16": 8, "bf16": 8}
_MASK = 2**64 - 1


def variants() -> list[Program]:
    """What there is to compile: each type, 16 bytes and one value a thread."""
    return [program("dropout.cu", T=kind, N=n) for kind, width in _WIDTH.items() for n in (width, 1)]


def _draw(x: Array, seed: int, offset: int, p: float) -> tuple[int, int, int, float]:
    """seed, offset, threshold and scale as the kernels take them; the scale rounded as the reference rounds it."""
    scale = float(np.asarray(1 / (1 - p)).astype(x.dtype))
    return seed & _MASK, offset & _MASK, math.ceil(p * 2**24), scale


def dropout(x: Array, *, seed: int, offset: int, p: float, together: int = 1) -> Array:
    x = contiguous(x)
    y = array_module(x).empty(x.shape, x.dtype)
    if not x.size:
        return y
    kind = TYPE_NAMES[x.dtype.name]
    width = _WIDTH[kind] if together == 1 or together % _WIDTH[kind] == 0 else 1
    code, blocks = program("dropout.cu", T=kind, N=width), -(-x.size // (width * _THREADS))
    draw = _draw(x, seed, offset, p)
    if together == 1:
        launch(code, "dropout", blocks, _THREADS, (x, y, x.size, *draw))
    else:
        launch(code, "drop_together", blocks, _THREADS, (x, y, x.size, together, *draw))
    return y


def keep_scale(like: Array, *, seed: int, offset: int, p: float) -> Array:
    count = like.shape[0]
    y = array_module(like).empty(count, like.dtype)
    if count:
        code = program("dropout.cu", T=TYPE_NAMES[like.dtype.name], N=1)
        launch(code, "keep_scale", -(-count // _THREADS), _THREADS, (y, count, *_draw(like, seed, offset, p)))
    return y
