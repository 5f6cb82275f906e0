"""The division of rows and matrices among threads: values per load, threads per row, rows per chunk."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LONGEST_ROW", "RowLayout", "TileLayout", "row_layout", "tile_layout", "vector_width", "vector_widths"]

LONGEST_ROW = 1 << 16  # 256 threads with 256 values each: far more than their registers hold, slow but correct
_THREADS = 128
_MOST_LANES = 256
_TILE_THREADS = 256
_CHUNKS, _LEAST_CHUNK = 512, 256


def vector_widths(itemsize: int) -> tuple[int, int]:
    """The number of values in a load of 16 bytes, and of 8."""
    return 16 // itemsize, 8 // itemsize


def vector_width(columns: int, widths: tuple[int, ...]) -> int:
    """The first of ``widths`` that divides ``columns``, else 1."""
    return next((n for n in widths if columns % n == 0), 1)


@dataclass(frozen=True)
class RowLayout:
    """Rows held in registers, as ``Row`` in rows.cuh.

    Attributes:
        lanes: threads per row, 8 to 256.
        width: values per load.
        per: loads per thread and row.
    """

    lanes: int
    width: int
    per: int

    @property
    def threads(self) -> int:
        """Threads per block."""
        return max(_THREADS, self.lanes)

    @property
    def rows(self) -> int:
        """Rows per block."""
        return self.threads // self.lanes

    @property
    def scratch(self) -> int:
        """Bytes of shared memory for sums over a row."""
        return 4 * self.threads // 32

    @property
    def defines(self) -> dict[str, int]:
        """The macros that rows.cuh takes."""
        return {"LANES": self.lanes, "N": self.width, "PER": self.per, "THREADS": self.threads}


def _lanes(columns: int) -> int:
    """Threads per row: 8 for up to 128 columns, 16 for up to 256, 32 for up to 1024; then enough for 32 values each."""
    for lanes, values in ((8, 16), (16, 16), (32, 32), (128, 32)):
        if columns <= lanes * values:
            return lanes
    return _MOST_LANES


def row_layout(columns: int, widths: tuple[int, ...]) -> RowLayout:
    """The layout of rows of ``columns`` values.

    Args:
        columns: values of a row.
        widths: values per load, in order of preference. The first that gives every thread equal work is taken, else the
            first that divides ``columns``, else 1.
    """
    lanes = _lanes(columns)
    exact = (n for n in widths if columns % (lanes * n) == 0)
    width = next(exact, vector_width(columns, widths))
    return RowLayout(lanes, width, -(-columns // (lanes * width)))


@dataclass(frozen=True)
class TileLayout:
    """A matrix divided into tiles of columns and chunks of rows, as ``add_up_columns`` in rows.cuh takes it.

    Attributes:
        lanes: threads across a tile.
        width: values per load.
        chunk: rows per block.
        grid: the number of tiles, and of chunks.
        threads: per block.
    """

    lanes: int
    width: int
    chunk: int
    grid: tuple[int, int]
    threads: int = _TILE_THREADS

    @property
    def shared(self) -> int:
        """Bytes of shared memory per block."""
        return 4 * self.threads * self.width


def tile_layout(rows: int, columns: int, itemsize: int) -> TileLayout:
    """The layout of a matrix. It depends on sizes alone, so that sums have the same bits on every device."""
    width = vector_width(columns, vector_widths(itemsize))
    loads = columns // width
    lanes = min(
        (32, 16, 8), key=lambda n: -(-loads // n) * n
    )  # the number that leaves the fewest threads without a column
    chunk = max(1, rows) if rows <= 2 * _CHUNKS else max(_LEAST_CHUNK, -(-rows // _CHUNKS))
    return TileLayout(lanes, width, chunk, (-(-loads // lanes), max(1, -(-rows // chunk))))
