"""Convolution, compiled: Winograd's minimal filtering where it is possible, else products of gathered fields.

Each twin has the contract of its namesake in reference.py; what is said here is how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autograd.kernels.compiled.toolkit import plain
from autograd.kernels.conv import cpu_direct, cpu_winograd, reference
from autograd.kernels.conv.choice import only_direct
from autograd.kernels.linear.cpu import linear_bwd, linear_fwd

if TYPE_CHECKING:
    from autograd.kernels.conv.reference import Pair

__all__ = ["conv2d_bwd", "conv2d_fwd", "way"]

_LEAST_PIXELS = 64  # of a map: below, packing the weight takes longer than BLAS


def way(x: Any, weight: Any, stride: Pair, padding: Pair) -> str:
    """How maps x (B, C, H, W) are convolved: "winograd", "rows" (a linear layer), "direct", or "reference"."""
    if (*weight.shape[2:], *stride, *padding) == (1, 1, 1, 1, 0, 0):
        return "rows"
    if not x.size or not weight.size:
        return "reference"
    if not only_direct() and cpu_winograd.suits(x, weight, stride, padding):
        return "winograd"
    large = x.shape[2] * x.shape[3] >= _LEAST_PIXELS
    return "direct" if large and x.dtype == np.float32 else "reference"


def _last(maps: Any) -> Any:
    """(B, C, H, W) as (B, H, W, C), C-ordered."""
    return plain(maps.transpose(0, 2, 3, 1))


def _rows(maps: Any) -> Any:
    """(B, C, H, W) as (B H W, C), C-ordered."""
    last = _last(maps)
    return last.reshape(last.size // max(1, last.shape[3]), last.shape[3])


def conv2d_fwd(x: Any, weight: Any, bias: Any | None, stride: Pair, padding: Pair) -> Any:
    """By Winograd, as a linear layer, by gathered fields, or by the reference: see :func:`way`."""
    how = way(x, weight, stride, padding)
    if how == "reference":
        return reference.conv2d_fwd.reference(x, weight, bias, stride, padding)
    if how == "rows":
        out = linear_fwd(_rows(x), weight[:, :, 0, 0], bias)
        return out.reshape(len(x), *x.shape[2:], len(weight)).transpose(0, 3, 1, 2)
    if how == "winograd":
        return cpu_winograd.convolve(_last(x), plain(weight), bias).transpose(0, 3, 1, 2)
    return cpu_direct.convolve(_last(x), weight.transpose(2, 3, 1, 0), bias, stride, padding).transpose(0, 3, 1, 2)


def conv2d_bwd(
    g: Any, x: Any, weight: Any, stride: Pair, padding: Pair, needs: tuple[bool, ...]
) -> tuple[Any | None, Any | None, Any | None]:
    """The same way as the forward; the map's gradient of a stride beyond 1 by the reference."""
    how = way(x, weight, stride, padding)
    if how == "reference":
        return reference.conv2d_bwd.reference(g, x, weight, stride, padding, needs)
    if how == "rows":
        gx, gw, gb = linear_bwd(_rows(g), _rows(x), weight[:, :, 0, 0], needs)
        gx = None if gx is None else gx.reshape(len(x), *x.shape[2:], x.shape[1]).transpose(0, 3, 1, 2)
        return gx, None if gw is None else gw[:, :, None, None], gb
    gx = gw = None
    gb = reference.conv2d_bwd.reference(g, x, weight, stride, padding, (False, False, needs[2]))[2]
    kernel = (weight.shape[2], weight.shape[3])
    if needs[0]:
        inside = tuple(k - 1 - p for k, p in zip(kernel, padding, strict=True))
        if how == "winograd":
            gx = cpu_winograd.convolve(_last(g), plain(weight), None, turned=True).transpose(0, 3, 1, 2)
        elif stride == (1, 1) and min(inside) >= 0:
            turned = weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
            gx = cpu_direct.convolve(_last(g), turned, None, stride, (inside[0], inside[1])).transpose(0, 3, 1, 2)
        else:
            gx = reference.conv2d_bwd.reference(g, x, weight, stride, padding, (True, False, False))[0]
    if needs[1]:
        gw = (
            cpu_winograd.weight_gradient(_last(g), _last(x))
            if how == "winograd"
            else cpu_direct.weight_gradient(_last(g), _last(x), kernel, stride, padding).transpose(3, 2, 0, 1)
        )
    return gx, gw, gb
