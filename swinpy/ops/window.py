"""Window partition and reverse, as ops on the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import autograd as ag

if TYPE_CHECKING:
    from autograd.extend import TensorLike
    from swinpy.geometry import Pair

__all__ = ["window_partition", "window_reverse"]


def window_partition(x: TensorLike, window: Pair) -> ag.Tensor:
    """Partition a map into windows, as a view.

    Args:
        x: (B, H, W, C) with H and W multiples of the window.
        window: (wh, ww).

    Returns:
        (B, H/wh, W/ww, wh, ww, C), sharing x's memory.

    Raises:
        ValueError: if the map is not a whole number of windows.
    """
    x = x if isinstance(x, ag.Tensor) else ag.Tensor(x)
    if x.ndim != 4 or x.shape[1] % window[0] or x.shape[2] % window[1]:
        raise ValueError(
            f"window_partition: expected x (B, H, W, C) with H, W multiples of {window}; got {x.shape}. Pad first."
        )
    views = ag.sliding_window_view(x, window, axis=(1, 2), step=window)  # (B, nH, nW, C, wh, ww)
    return views.transpose(0, 1, 2, 4, 5, 3)


def window_reverse(windows: TensorLike) -> ag.Tensor:
    """Undo :func:`window_partition`: (B, nH, nW, wh, ww, C) to (B, nH*wh, nW*ww, C)."""
    windows = windows if isinstance(windows, ag.Tensor) else ag.Tensor(windows)
    if windows.ndim != 6:
        raise ValueError(f"window_reverse: expected (B, nH, nW, wh, ww, C); got {windows.shape}.")
    batch, down, across, wh, ww, channels = windows.shape
    return windows.transpose(0, 1, 3, 2, 4, 5).reshape(batch, down * wh, across * ww, channels)
