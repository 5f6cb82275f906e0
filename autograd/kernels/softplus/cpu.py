"""Softplus, compiled.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.core import types

from autograd.kernels.buffers import empty
from autograd.kernels.compiled.pieces import row_pieces, run_pieces
from autograd.kernels.compiled.toolkit import compiled, exp, jit, plain, read, write

__all__ = ["softplus_bwd", "softplus_fwd"]

# log1p(x) = 2 artanh(s) with s = x / (2 + x): 2 s (1 + s^2 / 3 + s^4 / 5 + ...). For x in [0, 1], s^2 is at most 1/9,
# and eight terms leave 1e-9 of the value.
_T15, _T13, _T11, _T9, _T7, _T5, _T3 = (np.float32(1 / n) for n in (15, 13, 11, 9, 7, 5, 3))
_TWO = np.float32(2)


def log1p(x: Any) -> Any:
    """log(1 + x) for x in [0, 1], in compiled code; float32 by a polynomial, which vectorises."""
    raise NotImplementedError("log1p: expected to be called from compiled code.")


@compiled(log1p)
def _log1p(x: Any) -> Any:
    if x != types.float32:
        return lambda x: math.log1p(x)

    def log1p32(x: Any) -> Any:
        s = x / (_TWO + x)
        z = s * s
        p = ((((((_T15 * z + _T13) * z + _T11) * z + _T9) * z + _T7) * z + _T5) * z + _T3) * z
        return _TWO * (s + s * p)

    return log1p32


@jit
def _forward(x: Any, beta: Any, threshold: Any, out: Any, _: int, start: int, stop: int) -> None:
    zero = x.dtype.type(0)
    for i in range(start, stop):
        v = beta * read(x, i)
        y = (max(v, zero) + log1p(exp(-abs(v)))) / beta
        write(out, i, read(x, i) if v > threshold else y)


@jit
def _backward(g: Any, x: Any, beta: Any, threshold: Any, gx: Any, _: int, start: int, stop: int) -> None:
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(start, stop):
        v = beta * read(x, i)
        e = exp(-abs(v))
        slope = (e if v < zero else one) / (one + e)
        write(gx, i, read(g, i) * (one if v > threshold else slope))


def softplus_fwd(x: Any, beta: float, threshold: float) -> Any:
    """One pass; in float32 log1p is a polynomial."""
    flat = plain(x).reshape(-1)
    out = empty(flat.shape, x.dtype)
    kind = x.dtype.type
    run_pieces(_forward, row_pieces(flat.size, 2 * x.itemsize), flat, kind(beta), kind(threshold), out)
    return out.reshape(x.shape)


def softplus_bwd(g: Any, x: Any, beta: float, threshold: float) -> Any:
    """One pass over g and x."""
    flat, flat_g = plain(x).reshape(-1), plain(g).reshape(-1)
    gx = empty(flat.shape, x.dtype)
    kind = x.dtype.type
    run_pieces(_backward, row_pieces(flat.size, 3 * x.itemsize), flat_g, flat, kind(beta), kind(threshold), gx)
    return gx.reshape(x.shape)
