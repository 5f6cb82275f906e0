"""Masks as runs (COCO's RLE): encoded, decoded, intersected and written as text, by NumPy alone.

An image is walked down its columns, from left to right; the runs are lengths of zeros and ones in turn, zeros first.
Only polygons need pycocotools (extra ``detection``), whose rasterising is COCO's definition.

Source: the format of pycocotools' ``maskApi.c`` (Lin et al., "Microsoft COCO", 2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Rle", "intersections", "rasterise"]

_DIGITS = 7  # characters of five bits: as many as a run of 2^32 pixels needs
_LARGEST = 1 << 26  # pixels of a mask, as of an image


@dataclass(frozen=True, eq=False)
class Rle:
    """A mask.

    Attributes:
        size: (H, W).
        counts: lengths of runs down the columns, zeros first, int64 ``(R,)``.

    Raises:
        ValueError: for runs that are negative or do not fill the image.
    """

    size: tuple[int, int]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        height, width = self.size
        if not (height >= 1 and width >= 1 and height * width <= _LARGEST):
            raise ValueError(f"expected a mask of 1 to 2^26 pixels; got (H, W) = {self.size}")
        if len(self.counts) and (self.counts.min() < 0 or self.counts.max() > _LARGEST):
            worst = self.counts[(self.counts < 0) | (self.counts > _LARGEST)][0]
            raise ValueError(f"expected runs of 0 to {height * width} pixels; got one of {worst}")
        total = int(self.counts.sum())
        if total != height * width:
            raise ValueError(f"expected runs that fill {height}x{width} = {height * width} pixels; got {total}")

    @classmethod
    def encode(cls, mask: NDArray[Any]) -> Rle:
        """The runs of a mask ``(H, W)``, whose values other than 0 are ones."""
        flat = np.asarray(mask).astype(bool).T.reshape(-1)
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        edges = np.concatenate([[0], *([[0]] if flat[0] else []), changes, [flat.size]])
        return cls((mask.shape[0], mask.shape[1]), np.diff(edges).astype(np.int64))

    def decode(self) -> NDArray[np.bool_]:
        """The mask, bool ``(H, W)``."""
        height, width = self.size
        ones = (np.arange(len(self.counts)) & 1).astype(bool)
        return np.ascontiguousarray(np.repeat(ones, self.counts).reshape(width, height).T)

    @property
    def area(self) -> int:
        """How many pixels are ones."""
        return int(self.counts[1::2].sum())

    @classmethod
    def from_text(cls, text: str | bytes, size: tuple[int, int]) -> Rle:
        """COCO's compressed runs.

        Five bits a character from "0" on, the sixth bit says that more follow; from the fourth run on it is the
        difference to the run before the last that is kept.

        Raises:
            ValueError: for text that holds no runs, or runs that do not fill the image.
        """
        raw = text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
        digits = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
        if len(digits) and not 0 <= digits.min() <= digits.max() < 64:
            raise ValueError(f"expected characters of compressed runs; got {raw[:40]!r}")
        ends = np.flatnonzero(digits < 32) + 1
        if len(digits) and (not len(ends) or ends[-1] != len(digits)):
            raise ValueError(f"expected compressed runs to end; got the end of the text within a run, {raw[-8:]!r}")
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)]
        lengths = ends - starts
        if len(lengths) and lengths.max() > _DIGITS:
            raise ValueError(f"expected at most {_DIGITS} characters a run; got {lengths.max()}")
        values = np.zeros(len(ends), np.int64)
        for place in range(int(lengths.max()) if len(lengths) else 0):
            there = lengths > place
            values[there] |= (digits[starts[there] + place] & 31) << (5 * place)
        last = digits[ends - 1] if len(ends) else digits
        values[(last & 16) > 0] -= 1 << (5 * lengths[(last & 16) > 0])
        values[1::2], values[2::2] = values[1::2].cumsum(), values[2::2].cumsum()
        return cls(size, values)

    def text(self) -> str:
        """COCO's compressed runs; see :meth:`from_text`."""
        values = self.counts.copy()
        values[3:] -= self.counts[1:-2]
        out = bytearray()
        for value in values.tolist():
            more = True
            while more:
                low, value = value & 31, value >> 5
                more = value != (-1 if low & 16 else 0)
                out.append(48 + (low | 32 if more else low))
        return out.decode("ascii")


def intersections(these: Sequence[Rle], those: Sequence[Rle]) -> NDArray[np.int64]:
    """Pixels that each pair of masks shares, int64 ``(len(these), len(those))``, without decoding any.

    Raises:
        ValueError: for masks of several sizes.
    """
    out = np.zeros((len(these), len(those)), np.int64)
    sizes = {mask.size for mask in (*these, *those)}
    if len(sizes) > 1:
        raise ValueError(f"intersections: expected masks of one size; got {sorted(sizes)}. Compare those of one image.")
    if not len(these) or not len(those):
        return out
    edges = [mask.counts.cumsum() for mask in those]
    lengths = [len(e) // 2 for e in edges]
    begins = np.concatenate([e[0 : 2 * n : 2] for e, n in zip(edges, lengths, strict=True)])
    ends = np.concatenate([e[1 : 2 * n : 2] for e, n in zip(edges, lengths, strict=True)])
    owner = np.repeat(np.arange(len(those)), lengths)
    for row, mask in enumerate(these):
        shared = _ones_before(mask, ends) - _ones_before(mask, begins)
        out[row] = np.bincount(owner, shared, minlength=len(those)).astype(np.int64)  # exact: below 2^53
    return out


def _ones_before(mask: Rle, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many ones a mask has before each of the places along its columns."""
    ends = mask.counts.cumsum()
    ones = np.where(np.arange(len(ends)) & 1, mask.counts, 0)
    run = np.minimum(np.searchsorted(ends, places, side="right"), len(ends) - 1)
    within = np.where(run & 1, places - (ends[run] - mask.counts[run]), 0)
    return ones.cumsum()[run] - ones[run] + within


def rasterise(polygons: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> Rle:
    """The union of polygons, each ``x0, y0, x1, y1, ...`` in pixels, in an image of ``size`` (H, W).

    Raises:
        ImportError: without pycocotools, which says what a polygon's pixels are.
        ValueError: for fewer than three points, an odd number of coordinates, or one that is not finite or lies
            further outside the image than the image is long.
    """
    check_polygons(polygons, size)
    try:
        from pycocotools import mask as coco_mask
    except ImportError as error:
        raise ImportError(
            f"polygons: expected pycocotools, which rasterises them; got {error}. Run pip install 'swinpy[detection]'."
        ) from None
    height, width = size
    drawn = coco_mask.frPyObjects([p.tolist() for p in polygons], height, width)
    return Rle.from_text(coco_mask.merge(drawn)["counts"], size)


def check_polygons(polygons: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> None:
    """Refuse what :func:`rasterise` refuses."""
    reach = 2 * max(size)
    if not polygons:
        raise ValueError("expected at least one polygon; got none")
    for polygon in polygons:
        if polygon.ndim != 1 or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"expected polygons of three points or more, x and y each; got {polygon.size} numbers")
        low, high = float(polygon.min()), float(polygon.max())
        if not (math.isfinite(low) and math.isfinite(high)) or low < -reach / 2 or high > reach:
            raise ValueError(
                f"expected a polygon about the image of {size[0]}x{size[1]} pixels; got coordinates {low:g}..{high:g}"
            )
