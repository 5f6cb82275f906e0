"""The geometry of shifted windows: pure functions of a few integers, cached, outside the modules.

A map is padded at the right and bottom to whole windows, rolled by -shift, and partitioned into windows. (In timm's
order, ``roll_first``, the roll comes before the padding.) After the roll, the last ``shift`` rows (columns) come from
the other edge and must not be seen by their new neighbours. So each axis has up to three bands, and tokens attend
within their region, a band of rows crossed with a band of columns.

In code, a map's geometry is called its ``cut``: how it is cut into windows.

Source: Liu et al. 2021, "Swin Transformer", section 3.2 and figure 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from autograd.extend import array_module, device_scope

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Coordinates",
    "Geometry",
    "Pair",
    "PositionIndex",
    "ShiftRule",
    "SmallMap",
    "attention_mask",
    "coordinates_like",
    "dropped_shift",
    "geometry",
    "log_coordinates",
    "on_device",
    "position_index",
    "relative_position_index",
    "shift_regions",
    "window_tokens",
]

Pair: TypeAlias = tuple[int, int]
SmallMap: TypeAlias = Literal["clamp", "clamp_axis", "clamp_height", "clamp_forward", "pad"]
ShiftRule: TypeAlias = Literal["axis", "map", "height", "never"]
Coordinates: TypeAlias = Literal["code", "paper"]


@dataclass(frozen=True)
class Geometry:
    """How a map of ``size`` tokens is cut into windows.

    Attributes:
        size: (H, W) of the map.
        window: (wh, ww).
        shift: (sh, sw), 0 <= shift < window.
        roll_first: roll the map before padding it, as timm does. A fault: its first rows then stand beside its last
            ones in the same region.
    """

    size: Pair
    window: Pair
    shift: Pair
    roll_first: bool = False

    @property
    def padded(self) -> Pair:
        """(H', W') of the padded map, multiples of the window."""
        (h, w), (wh, ww) = self.size, self.window
        return -(-h // wh) * wh, -(-w // ww) * ww

    @property
    def windows(self) -> Pair:
        """Number of windows down and across."""
        return self.padded[0] // self.window[0], self.padded[1] // self.window[1]

    @property
    def tokens(self) -> int:
        """Tokens in a window."""
        return self.window[0] * self.window[1]


_ONE_WINDOW: dict[str, Callable[[bool, bool], tuple[bool, bool]]] = {
    "axis": lambda rows, columns: (rows, columns),
    "map": lambda rows, columns: (rows or columns, rows or columns),
    "height": lambda rows, columns: (rows, rows),
    "never": lambda rows, columns: (False, False),
}


def dropped_shift(size: Pair, window: Pair, shift: Pair, rule: ShiftRule = "axis") -> Pair:
    """The shift that is left where a map is not larger than the window.

    Args:
        size: (H, W) of the map.
        window: (wh, ww).
        shift: (sh, sw).
        rule: drop it along that "axis"; along both if either is so ("map"); along both if the "height" is so; "never".
    """
    one_window = _ONE_WINDOW[rule](size[0] <= window[0], size[1] <= window[1])
    sh, sw = (0 if one else d for one, d in zip(one_window, shift, strict=True))
    return sh, sw


def geometry(
    size: Pair,
    window: Pair,
    shift: Pair,
    small_map: SmallMap = "clamp",
    shift_rule: ShiftRule = "axis",
    roll_first: bool = False,
) -> Geometry:
    """How a map is cut into windows, one axis at a time.

    Where the map is not larger than the window there is nothing to shift (``shift_rule``, see :func:`dropped_shift`). A
    smaller map either is padded up to the window ("pad", as torchvision does) or shrinks the window to itself (the
    others, which differ only when a model is built).

    Raises:
        ValueError: for an empty map.
    """
    if min(size) < 1:
        raise ValueError(f"window: expected a map of at least 1x1 tokens; got {size[0]}x{size[1]}.")
    wh, ww = (w if small_map == "pad" else min(n, w) for n, w in zip(size, window, strict=True))
    return Geometry(size, (wh, ww), dropped_shift(size, window, shift, shift_rule), roll_first)


def _frozen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


def _partition(grid: np.ndarray[Any, Any], window: Pair) -> np.ndarray[Any, Any]:
    """(H, W) to (nW, N)."""
    height, width = grid.shape
    blocks = grid.reshape(height // window[0], window[0], width // window[1], window[1])
    return blocks.transpose(0, 2, 1, 3).reshape(-1, window[0] * window[1])


@lru_cache(maxsize=256)
def relative_position_index(window: Pair, table_window: Pair) -> np.ndarray[Any, Any]:
    """Row of the bias table for each pair of tokens of a window, int64 (N, N).

    The offset (dy, dx) of query and key is row (dy + Wh - 1) * (2 Ww - 1) + dx + Ww - 1 of the table of a window
    (Wh, Ww). A smaller window uses the central offsets of the table.

    Raises:
        ValueError: if the window is larger than the table's.
    """
    if window[0] > table_window[0] or window[1] > table_window[1]:
        raise ValueError(f"relative_position_index: expected a window of at most {table_window}; got {window}.")
    y, x = (c.reshape(-1) for c in np.indices(window))
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return _frozen((dy + table_window[0] - 1) * (2 * table_window[1] - 1) + dx + table_window[1] - 1)


@dataclass(frozen=True, eq=False)
class PositionIndex:
    """Which row of a bias table each pair of tokens reads, checked once, and what its gradient needs to know of it.

    Attributes:
        index: integers (N, M), at least 0; kept as a read-only int64 copy.

    Raises:
        TypeError: for what are no integers.
        ValueError: for another number of axes.
        IndexError: for a row below 0.
    """

    index: np.ndarray[Any, Any]

    def __post_init__(self) -> None:
        if self.index.dtype.kind not in "iu":
            raise TypeError(f"PositionIndex: expected an index of integers; got {self.index.dtype}.")
        if self.index.ndim != 2:
            raise ValueError(f"PositionIndex: expected an index (N, M); got {self.index.shape}.")
        if self.index.size and self.index.min() < 0:
            raise IndexError(f"PositionIndex: expected rows from 0 on; got {self.index.min()}.")
        object.__setattr__(self, "index", _frozen(np.array(self.index, np.int64, order="C")))

    @property
    def rows(self) -> int:
        """How many rows a table must have."""
        return len(self.places)

    @cached_property
    def places(self) -> np.ndarray[Any, Any]:
        """The places (n * M + m) that read each row, in ascending order and filled up with -1, int64 (rows, most)."""
        flat = self.index.reshape(-1)
        counts = np.bincount(flat)
        used = np.arange(counts.max(initial=0)) < counts[:, None]
        places = np.full(used.shape, -1, np.int64)
        places[used] = np.argsort(flat, kind="stable")
        return _frozen(places)


@lru_cache(maxsize=64)
def position_index(window: Pair, table_window: Pair) -> PositionIndex:
    """:func:`relative_position_index` as :func:`swinpy.ops.position_bias` takes it."""
    return PositionIndex(relative_position_index(window, table_window))


@lru_cache(maxsize=64)
def log_coordinates(window: Pair, pretrained: Pair, formula: Coordinates = "code") -> np.ndarray[Any, Any]:
    """Log-spaced coordinates of each row of a bias table, float64 ((2 Wh - 1) (2 Ww - 1), 2).

    The offset D along an axis becomes sign(D) log2(1 + |8 D / (w - 1)|) / log2(8), w being the pretrained window: the
    offsets of that window fill [-1.06, 1.06]. A window of one token has only the offset 0. The paper prints
    sign(D) log(1 + |D|) instead, which depends on no window.

    Source: Liu et al. 2022, "Swin Transformer V2", equation 4 (``paper``); the published code (``code``).
    """
    axes = []
    for side, learned in zip(window, pretrained, strict=True):
        offset = np.arange(1 - side, side, dtype=np.float64)
        if formula == "code":
            offset *= 8 / max(learned - 1, 1)
            axes.append(np.sign(offset) * np.log2(1 + np.abs(offset)) / 3)
        else:
            axes.append(np.sign(offset) * np.log1p(np.abs(offset)))
    return _frozen(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2))


def coordinates_like(window: Pair, pretrained: Pair, formula: Coordinates, like: Any) -> Any:
    """:func:`log_coordinates` in the dtype of ``like`` and where it is; copied to a GPU once."""
    xp = array_module(like)
    return _coordinates(window, pretrained, formula, like.dtype, xp, None if xp is np else like.device.id)


@lru_cache(maxsize=64)
def _coordinates(
    window: Pair, pretrained: Pair, formula: Coordinates, dtype: np.dtype[Any], xp: Any, device: int | None
) -> Any:
    rounded = _frozen(log_coordinates(window, pretrained, formula).astype(dtype))
    if device is None:
        return rounded
    with xp.cuda.Device(device):
        return xp.asarray(rounded)


def _bands(n: int, window: int, shift: int) -> np.ndarray[Any, Any]:
    """Band along one axis after the roll: 0, then 1 in the last window, 2 for what came from the other edge.

    Two tokens of a window are neighbours in the map if their bands are equal. Band 0 ends before the last window, so it
    could bear the number of band 1; the paper's figure 4 tells them apart.
    """
    position = np.arange(n)
    if shift == 0:
        return np.zeros(n, int)
    return (position >= n - window).astype(int) + (position >= n - shift)


@lru_cache(maxsize=256)
def shift_regions(cut: Geometry) -> np.ndarray[Any, Any]:
    """Region of each token of each window after padding and roll, int64 (nW, N)."""
    (h, w), (wh, ww), (sh, sw) = cut.padded, cut.window, cut.shift
    grid = 3 * _bands(h, wh, sh)[:, None] + _bands(w, ww, sw)[None, :]
    return _frozen(_partition(grid, cut.window))


@lru_cache(maxsize=64)
def attention_mask(cut: Geometry, mask_value: float) -> np.ndarray[Any, Any] | None:
    """What is added to the scores: 0 within a region, ``mask_value`` across, float32 (nW, N, N); None without a shift.

    The published models add -100; -inf forbids exactly.
    """
    if cut.shift == (0, 0):
        return None
    regions = shift_regions(cut)
    same = regions[:, :, None] == regions[:, None, :]
    return _frozen(np.where(same, np.float32(0), np.float32(mask_value)))


def _rolled_then_padded(n: int, padded: int, shift: int) -> np.ndarray[Any, Any]:
    """Source of each place along an axis that is rolled, then padded; ``n`` or more for padding."""
    place = np.arange(padded)
    return np.where(place < n, (place + shift) % n, place)


@lru_cache(maxsize=256)
def window_tokens(cut: Geometry) -> np.ndarray[Any, Any]:
    """Pixel (row * W + column) of each token of each window, int64 (nW, N); -1 for a token added by padding.

    Pad, roll and partition in one table: token t of window w reads pixel ``table[w, t]`` and writes back there.
    """
    (h, w), (padded_h, padded_w), (sh, sw) = cut.size, cut.padded, cut.shift
    if cut.roll_first:
        y, x = _rolled_then_padded(h, padded_h, sh), _rolled_then_padded(w, padded_w, sw)
    else:
        y, x = (np.arange(padded_h) + sh) % padded_h, (np.arange(padded_w) + sw) % padded_w
    grid = np.where((y < h)[:, None] & (x < w)[None, :], y[:, None] * w + x[None, :], -1)
    return _frozen(_partition(grid, cut.window))


def on_device(table: np.ndarray[Any, Any] | None, like: Any) -> Any:
    """A geometry table where ``like`` is."""
    if table is None:
        return None
    with device_scope(like):
        return array_module(like).asarray(table)
