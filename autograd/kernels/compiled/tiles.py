"""Products of small matrices that lie in the cache: the inner loops of compiled attention.

BLAS is made for large matrices; a 49 x 32 one costs it more to set up than to multiply. ``multiply`` covers the result
with tiles of ROWS x COLUMNS numbers. A tile stays in registers while the inner index runs: each step loads one row of
B (two vectors) and, one after another, ROWS numbers of A, each spread over a vector. LLVM does not find that shape by
itself, so it is written in its own language.

A matrix is an array's memory from an offset on. Sizes of the result are rounded up to whole tiles, so scratch arrays
are padded (:func:`padded_rows`, :func:`padded_columns`), and what lies in the padding must be finite.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types

from autograd.kernels.compiled.toolkit import instruction, jit

__all__ = [
    "COLUMNS",
    "HEIGHT",
    "LANES",
    "ROWS",
    "add_product",
    "copy_vectors",
    "make_tile",
    "make_tile_on_bias",
    "multiply",
    "multiply_to",
    "padded_columns",
    "padded_rows",
    "scaled_row",
    "scaled_row_and_sum",
]


def _lanes() -> int:
    """float32 numbers in a vector register of this processor."""
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # llvmlite cannot tell on this platform
        return 4
    return 16 if features.get("avx512f") else 8 if features.get("avx2") or features.get("avx") else 4


LANES = _lanes()
_VECTORS = 2  # of B, side by side
ROWS = 4  # ROWS * _VECTORS = 8 sums at once hide the latency of a multiply-add and fit 16 registers
COLUMNS = LANES * _VECTORS
HEIGHT = 6  # rows of tiles of larger products: with two vectors a row 12 sums, what 16 registers leave room for


def padded_rows(n: int) -> int:
    return -(-n // ROWS) * ROWS


def padded_columns(n: int) -> int:
    return -(-n // COLUMNS) * COLUMNS


def _constant(n: int) -> Any:
    return ir.Constant(ir.IntType(64), n)


class _Matrix:
    """A matrix argument of the tile in LLVM's language: where it starts, and vectors of it."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any, at: Any) -> None:
        self.builder, number = builder, ir.FloatType() if kind.dtype == types.float32 else ir.DoubleType()
        self.align = 4 if kind.dtype == types.float32 else 8
        self.vector = ir.VectorType(number, LANES)
        self.start = builder.gep(context.make_array(kind)(context, builder, array).data, [at])

    def place(self, offset: Any, n: int) -> Any:
        """Of the n-th vector from an offset."""
        there = self.builder.gep(self.start, [self.builder.add(offset, _constant(LANES * n))])
        return self.builder.bitcast(there, self.vector.as_pointer())

    def load(self, offset: Any, n: int) -> Any:
        return self.builder.load(self.place(offset, n), align=self.align)

    def store(self, value: Any, offset: Any, n: int) -> None:
        self.builder.store(value, self.place(offset, n), align=self.align)

    def spread(self, offset: Any) -> Any:
        """One number of the matrix in all lanes of a vector."""
        return self.fill(self.builder.load(self.builder.gep(self.start, [offset])))

    def fill(self, number: Any) -> Any:
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, nothing, lanes)


def _generate(context: Any, builder: Any, signature: Any, args: Any, rows: int, start: str) -> Any:
    """The tile's code: sums in registers, one step of the inner index after another, then the sums to C.

    Args:
        context: Numba's; likewise builder and signature.
        builder: see context.
        signature: see context.
        args: of the compiled function.
        rows: of the tile.
        start: what the sums begin with: "zero", "result" (C is added to) or "bias" (a further array and offset: a row).
            "apart" begins with zero, too, and adds the sums to C at the end: of many products, that rounds less.
    """
    a, a_at, a_row, a_column, b, b_at, b_row, c, c_at, c_row, depth = args[:11]
    left = _Matrix(context, builder, signature.args[0], a, a_at)
    right = _Matrix(context, builder, signature.args[4], b, b_at)
    result = _Matrix(context, builder, signature.args[7], c, c_at)
    bias = _Matrix(context, builder, signature.args[11], args[11], args[12]) if start == "bias" else result
    vector = left.vector
    name = f"llvm.fma.v{LANES}f{8 * left.align}"
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    zero = ir.Constant(vector, [0.0] * LANES)
    a_rows = [builder.mul(a_row, _constant(i)) for i in range(rows)]
    c_rows = [builder.mul(c_row, _constant(i)) for i in range(rows)]
    sums = {(i, n): cgutils.alloca_once_value(builder, zero) for i in range(rows) for n in range(_VECTORS)}
    for (i, n), total in sums.items():
        at = c_rows[i] if start == "result" else _constant(0)
        builder.store(zero if start in ("zero", "apart") else bias.load(at, n), total)
    with cgutils.for_range(builder, depth) as loop:
        b_here, a_here = builder.mul(loop.index, b_row), builder.mul(loop.index, a_column)
        row = [right.load(b_here, n) for n in range(_VECTORS)]
        for i in range(rows):
            number = left.spread(builder.add(a_rows[i], a_here))
            for n in range(_VECTORS):
                builder.store(builder.call(fma, [number, row[n], builder.load(sums[i, n])]), sums[i, n])
    for (i, n), total in sums.items():
        value = builder.load(total)
        result.store(builder.fadd(value, result.load(c_rows[i], n)) if start == "apart" else value, c_rows[i], n)
    return context.get_dummy_value()


def make_tile(rows: int, start: str = "zero") -> Any:
    """A compiled function: C = A B, or C += A B (``start`` "result" or "apart"), for one tile of ``rows`` by COLUMNS.

    Its arguments: A, offset, distance of its rows, distance of its columns; B, offset, distance of its rows; C, offset,
    distance of its rows; and the inner size.
    """

    @instruction
    def tile(
        context: Any,
        a: Any,
        a_at: Any,
        a_row: Any,
        a_column: Any,
        b: Any,
        b_at: Any,
        b_row: Any,
        c: Any,
        c_at: Any,
        c_row: Any,
        depth: Any,
    ) -> Any:
        n = types.intp
        return types.void(a, n, n, n, b, n, n, c, n, n, n), partial(_generate, rows=rows, start=start)

    return tile


def make_tile_on_bias(rows: int) -> Any:
    """As :func:`make_tile`, C = A B + bias in every row; two more arguments: the array of the bias, and an offset."""

    @instruction
    def tile(
        context: Any,
        a: Any,
        a_at: Any,
        a_row: Any,
        a_column: Any,
        b: Any,
        b_at: Any,
        b_row: Any,
        c: Any,
        c_at: Any,
        c_row: Any,
        depth: Any,
        bias: Any,
        bias_at: Any,
    ) -> Any:
        n = types.intp
        arguments = types.void(a, n, n, n, b, n, n, c, n, n, n, bias, n)
        return arguments, partial(_generate, rows=rows, start="bias")

    return tile


_tile_set = make_tile(ROWS)
_tile_add = make_tile(ROWS, start="result")


@jit
def multiply_to(
    a: Any,
    a_at: int,
    a_row: int,
    a_column: int,
    b: Any,
    b_row: int,
    c: Any,
    c_at: int,
    c_row: int,
    rows: int,
    columns: int,
    depth: int,
) -> None:
    """C = A B for ``rows`` and ``columns`` rounded up to whole tiles, B from the start of its array.

    Args:
        a: element (i, k) lies at a_at + i * a_row + k * a_column.
        a_at: see a.
        a_row: see a.
        a_column: see a.
        b: row-major with b_row numbers from row to row; columns up to whole tiles.
        b_row: see b.
        c: row-major from c_at on with c_row numbers from row to row; rows and columns up to whole tiles.
        c_at: see c.
        c_row: see c.
        rows: of C.
        columns: of C.
        depth: inner size, exact.
    """
    for i in range(0, rows, ROWS):
        for j in range(0, columns, COLUMNS):
            _tile_set(a, a_at + i * a_row, a_row, a_column, b, j, b_row, c, c_at + i * c_row + j, c_row, depth)


@jit
def multiply(
    a: Any,
    a_at: int,
    a_row: int,
    a_column: int,
    b: Any,
    b_row: int,
    c: Any,
    c_row: int,
    rows: int,
    columns: int,
    depth: int,
) -> None:
    """:func:`multiply_to` with C from the start of its array."""
    multiply_to(a, a_at, a_row, a_column, b, b_row, c, 0, c_row, rows, columns, depth)


@jit
def add_product(
    a: Any,
    a_at: int,
    a_row: int,
    a_column: int,
    b: Any,
    b_at: int,
    b_row: int,
    c: Any,
    c_row: int,
    rows: int,
    columns: int,
    depth: int,
) -> None:
    """C += A B; as :func:`multiply`, with B from b_at on."""
    for i in range(0, rows, ROWS):
        for j in range(0, columns, COLUMNS):
            _tile_add(a, a_at + i * a_row, a_row, a_column, b, b_at + j, b_row, c, i * c_row + j, c_row, depth)


def _generate_row(context: Any, builder: Any, signature: Any, args: Any, add_up: bool) -> Any:
    """to = (source + bias) * scale, a vector at a time; or to = source * scale, added to ``bias`` as well."""
    source, s_at, bias, b_at, scale, to, t_at, vectors = args
    left = _Matrix(context, builder, signature.args[0], source, s_at)
    right = _Matrix(context, builder, signature.args[2], bias, b_at)
    result = _Matrix(context, builder, signature.args[5], to, t_at)
    factor = left.fill(scale)
    with cgutils.for_range(builder, vectors) as loop:
        at = builder.mul(loop.index, _constant(LANES))
        if add_up:
            value = builder.fmul(left.load(at, 0), factor)
            right.store(builder.fadd(right.load(at, 0), value), at, 0)
        else:
            value = builder.fmul(builder.fadd(left.load(at, 0), right.load(at, 0)), factor)
        result.store(value, at, 0)
    return context.get_dummy_value()


def _row(add_up: bool) -> Any:
    """A compiled function on a row of whole vectors: loops on rows as short as a head's spend more time on finding out
    that their arrays do not overlap than on the row.

    Its arguments: source and offset, bias and offset, scale, target and offset, and the number of vectors.
    """

    @instruction
    def row(
        context: Any, source: Any, s_at: Any, bias: Any, b_at: Any, scale: Any, to: Any, t_at: Any, vectors: Any
    ) -> Any:
        n = types.intp
        return types.void(source, n, bias, n, source.dtype, to, n, n), partial(_generate_row, add_up=add_up)

    return row


@instruction
def copy_vectors(context: Any, source: Any, s_at: Any, to: Any, t_at: Any, vectors: Any) -> Any:
    """``vectors`` times LANES numbers from one place to another, of arrays that do not overlap."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left = _Matrix(context, builder, signature.args[0], args[0], args[1])
        right = _Matrix(context, builder, signature.args[2], args[2], args[3])
        with cgutils.for_range(builder, args[4]) as loop:
            at = builder.mul(loop.index, _constant(LANES))
            right.store(left.load(at, 0), at, 0)
        return context.get_dummy_value()

    n = types.intp
    return types.void(source, n, to, n, n), generate


scaled_row = _row(add_up=False)
scaled_row_and_sum = _row(add_up=True)
