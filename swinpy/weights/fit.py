"""How one array of a file is made to fit one parameter: resized, cast, checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from swinpy.models.resample import resize_absolute_position, resize_bias_table
from swinpy.weights.given import is_floating

if TYPE_CHECKING:
    from swinpy.geometry import Pair

__all__ = ["Channels", "Misfit", "Resize", "cast", "fit_channels", "fit_position", "fit_table", "square_window"]

Array = np.ndarray[Any, Any]
Resize = Literal["bicubic", "geometric"] | None
Channels = Literal["keep", "repeat"]


class Misfit(ValueError):
    """One parameter's problem, in the words of the message that collects them."""


def square_window(rows: int) -> int:
    """Side of the square window with a bias table of ``rows``; 0 if there is none."""
    side = math.isqrt(rows)
    return (side + 1) // 2 if side * side == rows and side % 2 else 0


def _size(pair: Pair) -> str:
    return f"{pair[0]}x{pair[1]}"


def fit_table(array: Array, shape: tuple[int, ...], window: Pair, resize: Resize) -> tuple[Array, str]:
    """A bias table at the model's window, and what was done.

    Args:
        array: ((2 w - 1)^2, heads) of the file.
        shape: of the parameter.
        window: of the parameter.
        resize: how.
    """
    came = square_window(array.shape[0]) if array.ndim == 2 else 0
    if not came or array.shape[1] != shape[1]:
        raise Misfit(f"expected {shape}, or a table of another square window for {shape[1]} heads; got {array.shape}")
    if resize is None:
        raise Misfit(
            f"expected {shape} (window {_size(window)}); got {array.shape} (window {_size((came, came))}). Pass "
            f"resize='bicubic' or 'geometric', or build the model with window_size={came}"
        )
    text = f"window {_size((came, came))} to {_size(window)}, {resize}"
    return resize_bias_table(array, (came, came), window, resize), text


def fit_position(
    array: Array, shape: tuple[int, ...], given: Pair | None, wanted: Pair, resize: Resize
) -> tuple[Array, str]:
    """Absolute positions on the model's map, and what was done.

    Args:
        array: (1, H * W, C) of the file.
        shape: of the parameter.
        given: (H, W) of the file, or None for a square.
        wanted: (H, W) of the model.
        resize: how; positions are always resampled bicubically.
    """
    if array.ndim != 3 or array.shape[0] != 1 or array.shape[2] != shape[2]:
        raise Misfit(f"expected {shape}, or other positions of {shape[2]} channels; got {array.shape}")
    side = math.isqrt(array.shape[1])
    came = given or (side, side)
    if came[0] * came[1] != array.shape[1]:
        raise Misfit(
            f"expected the positions of a square map; got {array.shape[1]} positions, from which the model's "
            f"{_size(wanted)} cannot be reached. Build the model with the img_size that the file was trained at"
        )
    if resize is None:
        raise Misfit(
            f"expected {shape} (map {_size(wanted)}); got {array.shape} (map {_size(came)}). Pass resize='bicubic', or "
            "build the model with the img_size that the file was trained at"
        )
    return resize_absolute_position(array, came, wanted), f"map {_size(came)} to {_size(wanted)}, bicubic"


def fit_channels(array: Array, shape: tuple[int, ...], how: Channels) -> tuple[Array, str]:
    """The first convolution for another number of input channels, and what was done.

    The rule is timm's (``adapt_input_conv``): one channel gets the sum, n of them the three in turn, times 3 / n.

    Args:
        array: (C, 3, P, P) of the file.
        shape: (C, n, P, P) of the parameter.
        how: "repeat", or "keep" to refuse.
    """
    if array.ndim != 4 or (array.shape[0], *array.shape[2:]) != (shape[0], *shape[2:]):
        raise Misfit(f"expected {shape}; got {array.shape}")
    came, wanted = array.shape[1], shape[1]
    build = f"build the model with in_chans={came}"
    if came != 3:
        raise Misfit(f"expected {shape}, for {wanted} input channels; got {array.shape}, for {came}: {build}")
    if how == "keep":
        raise Misfit(
            f"expected {shape}, for {wanted} input channels; got {array.shape}, for {came}. Pass in_chans='repeat' "
            f"(timm's rule: the sum for one channel, the three in turn and scaled for more), or {build}"
        )
    if wanted == 1:
        return array.sum(axis=1, keepdims=True), "3 input channels to 1, summed"
    turns = array[:, np.arange(wanted) % 3]
    return turns * array.dtype.type(3 / wanted), f"3 input channels to {wanted}, in turn and scaled by 3/{wanted}"


def cast(array: Array, dtype: np.dtype[Any]) -> tuple[Array, str]:
    """The array in the parameter's dtype, and what was done ("" if it needed no change).

    Raises:
        Misfit: for what is no float, for NaN and infinity, and for values that the dtype cannot hold.
    """
    if not is_floating(array.dtype):
        raise Misfit(f"expected floats; got {array.dtype}. Convert the file's tensor to float32")
    _finite(array if array.dtype.kind == "f" else array.astype(np.float32), "in the file. Its weights are damaged")
    if array.dtype == dtype:
        return array, ""
    with np.errstate(over="ignore"):
        out = array.astype(dtype)
    _finite(out, f"after casting {array.dtype} to {dtype}. Build the model with dtype='float32'")
    return out, f"{array.dtype} to {dtype}"


def _finite(array: Array, where: str) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        count = array.size - int(np.count_nonzero(finite))
        raise Misfit(f"expected finite numbers; got {count} NaN or infinite of {array.size} {where}")
