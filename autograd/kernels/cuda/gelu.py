"""Launching gelu.cu."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autograd.backend import array_module
from autograd.kernels.cuda.budget import Budget
from autograd.kernels.cuda.launch import contiguous, launch
from autograd.kernels.cuda.source import TYPE_NAMES, program

if TYPE_CHECKING:
    from autograd.backend import Array
    from autograd.kernels.cuda.source import Program

__all__ = ["BUDGETS", "bias_gelu_fwd", "gelu_fwd", "variants"]

BUDGETS = {"gelu_fwd": Budget(registers=48), "gelu_bwd": Budget(registers=64)}
_THREADS = 256
_ITEM_BYTES = {"float": 4, "f16": 2, "bf16": 2}


def variants() -> list[Program]:
    """What there is to compile: each type, 16 bytes and one value a thread."""
    return [program("gelu.cu", T=kind, N=n) for kind, item in _ITEM_BYTES.items() for n in (16 // item, 1)]


def _program(x: Array) -> tuple[Program, int]:
    """16 bytes a thread where rows allow it, else one value."""
    width = 16 // x.itemsize
    width = width if x.shape and x.shape[-1] % width == 0 else 1
    return program("gelu.cu", T=TYPE_NAMES[x.dtype.name], N=width), width


def _forward(x: Array, bias: Array | None) -> Array:
    x = contiguous(x)
    y = array_module(x).empty(x.shape, x.dtype)
    code, width = _program(x)
    if x.size:
        blocks = -(-x.size // (width * _THREADS))
        launch(code, "gelu_fwd", blocks, _THREADS, (x, bias, y, x.size, x.shape[-1] if x.ndim else 1))
    return y


def gelu_fwd(x: Array) -> Array:
    return _forward(x, None)


def bias_gelu_fwd(x: Array, bias: Array) -> Array:
    return _forward(x, contiguous(bias))
