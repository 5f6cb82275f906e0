"""Rows of autograd/ops/resize.py, by loops over the pixels of the result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag

from .opinfo import BadCall, Kink, OpInfo, Sample, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .opinfo import Source

MAP = np.ones((2, 4, 4, 6))
_NO_SCALAR = {"scalar": "maps are (B, C, H, W); the error is checked"}


def _of_size(height: int, width: int, **static: Any) -> Callable[[Source], Sample]:
    return lambda s: Sample((s.normal((2, 3, height, width)),), static)


def _channels_last(s: Source, shape: tuple[int, ...] = (2, 5, 4, 3), **static: Any) -> Sample:
    """(B, C, H, W) as a convolution leaves it."""
    return Sample((s.normal(shape).transpose(0, 3, 1, 2),), static)


# ---- interpolation


def _places(n: int, size: int, mode: str, align_corners: bool) -> list[tuple[int, int, float]]:
    """Of each new place two old ones and the weight of the second."""
    found = []
    for i in range(size):
        if mode == "nearest":
            found.append((min(math.floor(i * n / size), n - 1),) * 2 + (0.0,))
            continue
        at = i * (n - 1) / max(size - 1, 1) if align_corners else max((i + 0.5) * n / size - 0.5, 0)
        low = min(math.floor(at), n - 1)
        found.append((low, min(low + 1, n - 1), at - low))
    return found


def _interpolate(x: Any, *, size: Any, mode: str = "nearest", align_corners: bool = False) -> Any:
    height, width = np.broadcast_to(size, 2)
    out = np.zeros((*x.shape[:2], height, width), x.dtype)
    for i, (top, bottom, down) in enumerate(_places(x.shape[2], height, mode, align_corners)):
        for j, (left, right, along) in enumerate(_places(x.shape[3], width, mode, align_corners)):
            upper = x[:, :, top, left] * (1 - along) + x[:, :, top, right] * along
            lower = x[:, :, bottom, left] * (1 - along) + x[:, :, bottom, right] * along
            out[:, :, i, j] = upper * (1 - down) + lower * down
    return out


# ---- means and maxima


def _adaptive(x: Any, *, output_size: Any) -> Any:
    sizes = np.broadcast_to(output_size, 2)
    out = np.zeros((*x.shape[:2], *sizes), x.dtype)
    for i, j in np.ndindex(*sizes):
        (top, bottom), (left, right) = (
            (k * n // size, math.ceil((k + 1) * n / size))
            for k, n, size in zip((i, j), x.shape[2:], sizes, strict=True)
        )
        out[:, :, i, j] = x[:, :, top:bottom, left:right].mean(axis=(2, 3))
    return out


def _max_pool(x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Any:
    (kh, kw), (sh, sw) = np.broadcast_to(kernel_size, 2), np.broadcast_to(kernel_size if stride is None else stride, 2)
    (ph, pw), (height, width) = np.broadcast_to(padding, 2), x.shape[2:]
    out = np.zeros((*x.shape[:2], (height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1), x.dtype)
    for i, j in np.ndindex(*out.shape[2:]):
        top, left = i * sh - ph, j * sw - pw
        out[:, :, i, j] = x[:, :, max(top, 0) : top + kh, max(left, 0) : left + kw].max(axis=(2, 3))
    return out


def _apart(shape: tuple[int, ...], **static: Any) -> Callable[[Source], Sample]:
    return lambda s: Sample((s.spread(shape),), static)


register(
    OpInfo(
        "interpolate",
        ag.interpolate,
        {
            "doubled": _of_size(3, 2, size=(6, 4)),
            "nearest": _of_size(5, 4, size=(7, 3)),
            "nearest_down": _of_size(7, 5, size=(2, 9)),
            "bilinear": _of_size(3, 4, size=(5, 7), mode="bilinear"),
            "bilinear_down": _of_size(7, 5, size=(3, 4), mode="bilinear"),
            "one_axis": _of_size(3, 4, size=(3, 9), mode="bilinear"),
            "corners": _of_size(4, 3, size=(7, 2), mode="bilinear", align_corners=True),
            "corners_to_one": _of_size(4, 3, size=1, mode="bilinear", align_corners=True),
            "from_one": _of_size(1, 1, size=(3, 2), mode="bilinear"),
            "same": _of_size(3, 2, size=(3, 2), mode="bilinear"),
            "channels_last": lambda s: _channels_last(s, size=(9, 3), mode="bilinear"),
            "channels_last_nearest": lambda s: _channels_last(s, size=(9, 8)),
            "empty": lambda s: Sample((s.normal((2, 0, 3, 3)),), {"size": 5, "mode": "bilinear"}),
        },
        _interpolate,
        linear=True,
        exempt=_NO_SCALAR,
        errors=(
            BadCall(lambda: ag.interpolate(MAP[0], 3), ValueError, "(B, C, H, W)"),
            BadCall(lambda: ag.interpolate(MAP[:, :, :0], 3), ValueError, "H, W > 0"),
            BadCall(lambda: ag.interpolate(np.ones(()), 3), ValueError, "(B, C, H, W)"),
            BadCall(lambda: ag.interpolate(MAP, (3, 0)), ValueError, "size as one or two integers of 1 or more"),
            BadCall(lambda: ag.interpolate(MAP, 1.5), TypeError, "size as an integer"),
            BadCall(lambda: ag.interpolate(MAP, 3, mode="bicubic"), ValueError, "mode nearest or bilinear"),
            BadCall(lambda: ag.interpolate(MAP, 3, align_corners=True), ValueError, "with bilinear alone"),
        ),
    ),
    OpInfo(
        "adaptive_avg_pool2d",
        ag.adaptive_avg_pool2d,
        {
            "whole": _of_size(4, 3, output_size=1),
            "parts": _of_size(4, 6, output_size=2),
            "shared": _of_size(5, 7, output_size=(3, 2)),
            "repeated": _of_size(2, 3, output_size=(6, 5)),
            "same": _of_size(3, 3, output_size=3),
            "channels_last": lambda s: _channels_last(s, output_size=(3, 4)),
            "empty": lambda s: Sample((s.normal((0, 2, 3, 3)),), {"output_size": 2}),
        },
        _adaptive,
        linear=True,
        exempt=_NO_SCALAR,
        errors=(
            BadCall(lambda: ag.adaptive_avg_pool2d(MAP[0], 3), ValueError, "(B, C, H, W)"),
            BadCall(lambda: ag.adaptive_avg_pool2d(MAP[..., :0], 3), ValueError, "H, W > 0"),
            BadCall(lambda: ag.adaptive_avg_pool2d(np.ones(()), 3), ValueError, "(B, C, H, W)"),
            BadCall(lambda: ag.adaptive_avg_pool2d(MAP, 0), ValueError, "output_size as one or two integers"),
        ),
    ),
    OpInfo(
        "max_pool2d",
        ag.max_pool2d,
        {
            "halves": _apart((2, 3, 4, 6), kernel_size=2),
            "overlapping": _apart((1, 2, 7, 5), kernel_size=3, stride=2, padding=1),
            "every_second": _apart((2, 2, 5, 4), kernel_size=1, stride=2),
            "oblong": _apart((1, 2, 5, 6), kernel_size=(2, 4), stride=(1, 3), padding=(1, 2)),
            "far": _apart((1, 2, 3, 3), kernel_size=4, stride=5, padding=2),
            "sparse": _apart((1, 2, 7, 8), kernel_size=2, stride=3),
            "channels_last": lambda s: Sample(
                (s.spread((1, 5, 4, 3)).transpose(0, 3, 1, 2),), {"kernel_size": 3, "stride": 2, "padding": 1}
            ),
            "many": _apart((1, 1, 17, 17), kernel_size=17),
            "empty": lambda s: Sample((s.normal((2, 0, 3, 3)),), {"kernel_size": 2}),
        },
        _max_pool,
        exempt=_NO_SCALAR,
        kinks=(
            Kink((np.ones((1, 1, 2, 2)),), ([[[[1, 0], [0, 0]]]],), {"kernel_size": 2}),
            Kink((np.array([[[[0.0, 2], [2, 2]]]]),), ([[[[0, 1], [0, 0]]]],), {"kernel_size": 2}),
            Kink(
                (np.full((1, 1, 2, 2), -np.inf),),
                ([[[[4, 0], [0, 0]]]],),
                {"kernel_size": 3, "padding": 1, "stride": 1},
            ),
        ),
        errors=(
            BadCall(lambda: ag.max_pool2d(MAP[0], 2), ValueError, "(B, C, H, W)"),
            BadCall(lambda: ag.max_pool2d(np.ones(()), 2), ValueError, "(B, C, H, W)"),
            BadCall(lambda: ag.max_pool2d(MAP, 5), ValueError, "at least the kernel's size (5, 5)"),
            BadCall(lambda: ag.max_pool2d(MAP, 2, padding=2), ValueError, "half the kernel"),
            BadCall(lambda: ag.max_pool2d(MAP, 2, stride=0), ValueError, "stride as one or two integers of 1"),
            BadCall(lambda: ag.max_pool2d(MAP, (2, 2, 2)), ValueError, "kernel_size as one or two integers"),
        ),
    ),
)


# ---- pixels out of channels


def _shuffled(x: Any, r: int) -> Any:
    batch, channels, height, width = x.shape
    out = np.zeros((batch, channels // r**2, height * r, width * r), x.dtype)
    for c, i, j in np.ndindex(channels // r**2, r, r):
        out[:, c, i::r, j::r] = x[:, c * r * r + i * r + j]
    return out


def _unshuffled(x: Any, r: int) -> Any:
    return np.concatenate([x[:, c, None, i::r, j::r] for c, i, j in np.ndindex(x.shape[1], r, r)], axis=1)


register(
    OpInfo(
        "pixel_shuffle",
        ag.pixel_shuffle,
        {
            "two": lambda s: Sample((s.normal((2, 8, 3, 2)),), {"upscale_factor": 2}),
            "three": lambda s: Sample((s.normal((1, 9, 2, 2)),), {"upscale_factor": 3}),
            "one": lambda s: Sample((s.normal((2, 3, 2, 2)),), {"upscale_factor": 1}),
            "empty": lambda s: Sample((s.normal((0, 4, 2, 2)),), {"upscale_factor": 2}),
        },
        lambda x, *, upscale_factor: _shuffled(x, upscale_factor),
        linear=True,
        exempt=_NO_SCALAR,
        errors=(
            BadCall(lambda: ag.pixel_shuffle(MAP, 3), ValueError, "C a multiple of 9"),
            BadCall(lambda: ag.pixel_shuffle(MAP[0], 2), ValueError, "(B, C, H, W)"),
            BadCall(lambda: ag.pixel_shuffle(np.ones(()), 2), ValueError, "(B, C, H, W)"),
            BadCall(lambda: ag.pixel_shuffle(MAP, 0), ValueError, "upscale_factor of 1 or more"),
            BadCall(lambda: ag.pixel_shuffle(MAP, 0.5), TypeError, "upscale_factor as an integer"),
        ),
    ),
    OpInfo(
        "pixel_unshuffle",
        ag.pixel_unshuffle,
        {
            "two": lambda s: Sample((s.normal((2, 3, 4, 6)),), {"downscale_factor": 2}),
            "three": lambda s: Sample((s.normal((1, 2, 3, 6)),), {"downscale_factor": 3}),
            "empty": lambda s: Sample((s.normal((2, 3, 0, 4)),), {"downscale_factor": 2}),
        },
        lambda x, *, downscale_factor: _unshuffled(x, downscale_factor),
        linear=True,
        exempt=_NO_SCALAR,
        errors=(
            BadCall(lambda: ag.pixel_unshuffle(MAP, 4), ValueError, "multiples of 4"),
            BadCall(lambda: ag.pixel_unshuffle(np.ones(()), 2), ValueError, "(B, C, H, W)"),
            BadCall(lambda: ag.pixel_unshuffle(MAP, -2), ValueError, "downscale_factor of 1 or more"),
        ),
    ),
)
