"""Products of small matrices that lie in the cache: the inner loops of compiled attention and linear layers.

BLAS is made for large matrices; for one of 49 x 32 it takes longer to set up than to multiply. ``multiply`` covers the
result with tiles of ROWS x COLUMNS elements. A tile stays in registers while the inner index runs (register blocking).
Each step loads one row of B (two vectors) and, one after another, ROWS elements of A, each broadcast to the lanes of a
vector. LLVM does not find this shape by itself, so the tile is written in LLVM's language.

A matrix is an array's memory from an offset on. Sizes of the result are rounded up to whole tiles. So scratch arrays
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
    "Matrix",
    "add_product",
    "copy_vectors",
    "fused_multiply_add",
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
    """The number of float32 lanes in a vector register of this processor."""
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # llvmlite cannot tell on this platform
        return 4
    return 16 if features.get("avx512f") else 8 if features.get("avx2") or features.get("avx") else 4


LANES = _lanes()
_VECTORS = 2  # in a row of a tile
ROWS = 4  # ROWS * _VECTORS = 8 sums at once hide the latency of a multiply-add and fit 16 registers
COLUMNS = LANES * _VECTORS
HEIGHT = 6  # rows of a tile of larger products: 12 sums, which is what 16 registers leave room for


def padded_rows(n: int) -> int:
    """``n`` rounded up to whole tiles of ROWS rows."""
    return -(-n // ROWS) * ROWS


def padded_columns(n: int) -> int:
    """``n`` rounded up to whole tiles of COLUMNS columns."""
    return -(-n // COLUMNS) * COLUMNS


def _constant(n: int) -> Any:
    return ir.Constant(ir.IntType(64), n)


class Matrix:
    """A matrix argument in LLVM's language: its address, and loads and stores of its vectors."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any, at: Any) -> None:
        self.builder, number = builder, ir.FloatType() if kind.dtype == types.float32 else ir.DoubleType()
        self.align = 4 if kind.dtype == types.float32 else 8
        self.vector = ir.VectorType(number, LANES)
        self.start = builder.gep(context.make_array(kind)(context, builder, array).data, [at])

    def pointer(self, offset: Any, n: int) -> Any:
        """The address of the n-th vector from an offset."""
        there = self.builder.gep(self.start, [self.builder.add(offset, _constant(LANES * n))])
        return self.builder.bitcast(there, self.vector.as_pointer())

    def load(self, offset: Any, n: int) -> Any:
        return self.builder.load(self.pointer(offset, n), align=self.align)

    def store(self, value: Any, offset: Any, n: int) -> None:
        self.builder.store(value, self.pointer(offset, n), align=self.align)

    def broadcast(self, offset: Any) -> Any:
        """One element of the matrix in all lanes of a vector."""
        return self.fill(self.builder.load(self.builder.gep(self.start, [offset])))

    def fill(self, number: Any) -> Any:
        """A number in all lanes of a vector."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, nothing, lanes)


def fused_multiply_add(builder: Any, vector: Any) -> Any:
    """The function a b + c of vectors, with one rounding."""
    bits = 32 if vector.element == ir.FloatType() else 64
    name = f"llvm.fma.v{vector.count}f{bits}"
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)


def _generate(context: Any, builder: Any, signature: Any, args: Any, rows: int, start: str) -> Any:
    """Generate the code of a tile: its sums stay in registers over the loop of the inner index, and then go to C.

    Args:
        context: Numba's.
        builder: Numba's.
        signature: Numba's.
        args: of the compiled function.
        rows: of the tile.
        start: what the sums begin with: "zero", "result" (C, which is added to) or "bias" (a row of one more array).
            "apart" begins with zero and adds the sums to C at the end, which rounds less over many products.
    """
    a, a_at, a_row, a_column, b, b_at, b_row, c, c_at, c_row, depth = args[:11]
    left = Matrix(context, builder, signature.args[0], a, a_at)
    right = Matrix(context, builder, signature.args[4], b, b_at)
    result = Matrix(context, builder, signature.args[7], c, c_at)
    bias = Matrix(context, builder, signature.args[11], args[11], args[12]) if start == "bias" else result
    fma = fused_multiply_add(builder, left.vector)
    zero = ir.Constant(left.vector, [0.0] * LANES)
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
            number = left.broadcast(builder.add(a_rows[i], a_here))
            for n in range(_VECTORS):
                builder.store(builder.call(fma, [number, row[n], builder.load(sums[i, n])]), sums[i, n])
    for (i, n), total in sums.items():
        value = builder.load(total)
        result.store(builder.fadd(value, result.load(c_rows[i], n)) if start == "apart" else value, c_rows[i], n)
    return context.get_dummy_value()


def make_tile(rows: int, start: str = "zero") -> Any:
    """A compiled function for one tile of ``rows`` by COLUMNS: C = A B, or C += A B (``start`` "result" or "apart").

    Its arguments are A, its offset, row stride and column stride; B, its offset and row stride; C, its offset and row
    stride; and the inner size. Strides are in elements.
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
    """As :func:`make_tile`, but C = A B + bias in every row. Two more arguments: the bias, and its offset."""

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
    """C = A B, with ``rows`` and ``columns`` rounded up to whole tiles.

    Args:
        a: element (i, k) lies at a_at + i * a_row + k * a_column.
        a_at: offset of A.
        a_row: row stride of A, in elements.
        a_column: column stride of A.
        b: element (k, j) lies at k * b_row + j; padded to whole tiles.
        b_row: row stride of B.
        c: element (i, j) lies at c_at + i * c_row + j; padded to whole tiles.
        c_at: offset of C.
        c_row: row stride of C.
        rows: of C.
        columns: of C.
        depth: inner size, which is not rounded.
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
    """As :func:`multiply_to`, with C at the start of its array."""
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
    """C += A B, as :func:`multiply`, with B at offset b_at."""
    for i in range(0, rows, ROWS):
        for j in range(0, columns, COLUMNS):
            _tile_add(a, a_at + i * a_row, a_row, a_column, b, b_at + j, b_row, c, i * c_row + j, c_row, depth)


def _generate_row(context: Any, builder: Any, signature: Any, args: Any, add_up: bool) -> Any:
    """Generate to = (source + bias) * scale; with ``add_up`` to = source * scale, bias += to."""
    source, s_at, bias, b_at, scale, to, t_at, vectors = args
    left = Matrix(context, builder, signature.args[0], source, s_at)
    right = Matrix(context, builder, signature.args[2], bias, b_at)
    result = Matrix(context, builder, signature.args[5], to, t_at)
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
    """A compiled function on a row of whole vectors.

    In a plain loop over a row as short as a head's, LLVM's check that the arrays do not overlap takes longer than the
    row.

    Its arguments are source and offset, bias and offset, scale, target and offset, and the number of vectors.
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
    """Copy ``vectors`` vectors of LANES elements from source at s_at to another array at t_at."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left = Matrix(context, builder, signature.args[0], args[0], args[1])
        right = Matrix(context, builder, signature.args[2], args[2], args[3])
        with cgutils.for_range(builder, args[4]) as loop:
            at = builder.mul(loop.index, _constant(LANES))
            right.store(left.load(at, 0), at, 0)
        return context.get_dummy_value()

    n = types.intp
    return types.void(source, n, to, n, n), generate


scaled_row = _row(add_up=False)
scaled_row_and_sum = _row(add_up=True)
