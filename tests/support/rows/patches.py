"""Rows of autograd/ops/patches.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import autograd as ag

from .opinfo import BadCall, OpInfo, Sample, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from .opinfo import Source

X = np.ones((2, 3))
IMAGES = np.zeros((1, 3, 4, 4), np.uint8)


def _merged(x: Any) -> Any:
    """Pixel by pixel."""
    batch, h, w, channels = x.shape
    out = np.zeros((batch, (h + 1) // 2, (w + 1) // 2, 4 * channels), x.dtype)
    for i in range(h):
        for j in range(w):
            at = channels * (i % 2 + 2 * (j % 2))
            out[:, i // 2, j // 2, at : at + channels] = x[:, i, j]
    return out


def _merge_composite(x: Any) -> Any:
    padded = ag.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    return ag.concatenate([padded[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)


def _map(*shape: int) -> Callable[[Source], Sample]:
    return lambda s: Sample((s.normal(shape),))


def _images(s: Source) -> Sample:
    batch, _, height, width = s.shape(4, high=7)
    options = {"patch_size": s.shape(2), "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}
    return Sample((s.integers(0, 128, (batch, 3, height, width)).astype(float),), options)  # fit int8 too


def _rows(x: Any, *, patch_size: Any, mean: Any, std: Any) -> Any:
    """Patch by patch."""
    ph, pw = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    channels, height, width = x.shape[1:]
    rows = []
    for image in x:
        normal = np.zeros((channels, height + ph, width + pw), x.dtype)
        for c in range(channels):
            normal[c, :height, :width] = (image[c] / 255 - mean[c]) / std[c]
        for top in range(0, height, ph):
            rows += [normal[:, top : top + ph, left : left + pw].reshape(-1) for left in range(0, width, pw)]
    return np.array(rows, x.dtype).reshape(len(rows), channels * ph * pw)


def _bad(error: type[Exception], words: str, *args: Any, **kwargs: Any) -> BadCall:
    return BadCall(lambda: ag.patch_rows(*args, **kwargs), error, words)


HALF = (0.5, 0.5, 0.5)

register(
    OpInfo(
        "patch_merge",
        ag.patch_merge,
        {
            "even": _map(2, 4, 2, 3),
            "odd": _map(2, 3, 5, 2),
            "one": _map(1, 1, 1, 3),
            "drawn": lambda s: Sample((s.normal(s.shape(4)),)),
            "empty": _map(0, 3, 4, 2),
            "no_channels": _map(2, 3, 4, 0),
        },
        _merged,
        composite=_merge_composite,
        linear=True,
        exempt={"scalar": "needs a map; the error is checked"},
        errors=(BadCall(lambda: ag.patch_merge(X), ValueError, "(B, H, W, C); got (2, 3)"),),
    ),
    OpInfo(
        "patch_rows",
        lambda x, **options: ag.patch_rows(ag.astype(x, "uint8"), dtype="float64", **options),
        {
            "drawn": _images,
            "drawn_again": lambda s: _images(s),
            "bright": lambda s: Sample(
                (s.integers(128, 256, (1, 3, 3, 5)).astype(float),), {"patch_size": 2, "mean": HALF, "std": HALF}
            ),
            "square": lambda s: Sample(
                (s.integers(0, 128, (2, 1, 4, 8)).astype(float),), {"patch_size": 4, "mean": (0.5,), "std": (0.2,)}
            ),
            "empty": lambda s: Sample((np.zeros((0, 3, 4, 4)),), {"patch_size": 2, "mean": HALF, "std": HALF}),
        },
        _rows,
        differentiable=False,
        dtypes=(np.float64,),
        exempt={"scalar": "needs images; the error is checked"},
        errors=(
            _bad(TypeError, "uint8 images", X, 2, HALF, HALF),
            _bad(TypeError, "a float dtype", IMAGES, 2, HALF, HALF, dtype="int32"),
            _bad(ValueError, "(B, C, H, W); got (3, 4, 4)", IMAGES[0], 2, HALF, HALF),
            _bad(ValueError, "1 or more; got 0", IMAGES, 0, HALF, HALF),
            _bad(ValueError, "3 means and positive stds", IMAGES, 2, (0.5,), HALF),
            _bad(ValueError, "3 means and positive stds", IMAGES, 2, HALF, (0.5, 0.0, 0.5)),
        ),
    ),
)
