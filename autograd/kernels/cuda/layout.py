"""How matrices are shared out among threads: values a load, threads a row, rows a chunk."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LONGEST_ROW", "RowLayout", "TileLayout", "row_layout", "tile_layout", "vector_width", "vector_widths"]

LONGEST_ROW = 1 << 16  # 256 threads with 256 values each; far past their registers, slow but right
_THREADS = 128
_MOST_LANES = 256
_TILE_THREADS = 256
_CHUNKS, _LEAST_CHUNK = 512, 256


def vector_widths(itemsize: int) -> tuple[int, int]:
    """Values of a load of 16 bytes, and of 8."""
    return 16 // itemsize, 8 // itemsize


def vector_width(columns: int, widths: tuple[int, ...]) -> int:
    """The first of ``widths`` that rows of ``columns`` allow, else 1."""
    return next((n for n in widths if columns % n == 0), 1)


@dataclass(frozen=True)
class RowLayout:
    """Rows held in registers, as ``Row`` in rows.cuh.

    Attributes:
        lanes: threads a row, 8 to 256.
        width: values of a load.
        per: loads of a thread for a row.
    """

    lanes: int
    width: int
    per: int

    @property
    def threads(self) -> int:
        """Threads a block."""
        return max(_THREADS, self.lanes)

    @property
    def rows(self) -> int:
        """Rows that a block has at a time."""
        return self.threads // self.lanes

    @property
    def scratch(self) -> int:
        """Bytes of shared memory for sums over a row."""
        return 4 * self.threads // 32

    @property
    def defines(self) -> dict[str, int]:
        return {"LANES": self.lanes, "N": self.width, "PER": self.per, "THREADS": self.threads}


def _lanes(columns: int) -> int:
    """8 for up to 128 columns, 16 for up to 256, 32 for up to 1024; then so many that each has at most 32 values."""
    for lanes, values in ((8, 16), (16, 16), (32, 32), (128, 32)):
        if columns <= lanes * values:
            return lanes
    return _MOST_LANES


def row_layout(columns: int, widths: tuple[int, ...]) -> RowLayout:
    """The layout of rows of ``columns``: the first of ``widths`` that leaves no thread without work, else the first
    that rows allow."""
    lanes = _lanes(columns)
    exact = (n for n in widths if columns % (lanes * n) == 0)
    width = next(exact, vector_width(columns, widths))
    return RowLayout(lanes, width, -(-columns // (lanes * width)))


@dataclass(frozen=True)
class TileLayout:
    """A matrix cut into tiles of columns and chunks of rows, as ``add_up_columns`` in rows.cuh takes it.

    Attributes:
        lanes: threads across.
        width: values of a load.
        chunk: rows of a block.
        grid: tiles and chunks.
    """

    lanes: int
    width: int
    chunk: int
    grid: tuple[int, int]
    threads: int = _TILE_THREADS

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return 4 * self.threads * self.width


def tile_layout(rows: int, columns: int, itemsize: int) -> TileLayout:
    """The cut depends on sizes alone: sums have the same bits on every device."""
    width = vector_width(columns, vector_widths(itemsize))
    loads = columns // width
    lanes = min((32, 16, 8), key=lambda n: -(-loads // n) * n)  # the one that leaves the fewest without a column
    chunk = max(1, rows) if rows <= 2 * _CHUNKS else max(_LEAST_CHUNK, -(-rows // _CHUNKS))
    return TileLayout(lanes, width, chunk, (-(-loads // lanes), max(1, -(-rows // chunk))))
