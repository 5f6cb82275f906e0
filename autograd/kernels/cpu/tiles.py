"""Products of small matrices that lie in the cache: the inner loops of compiled attention.

BLAS is made for large matrices; a 49 x 32 one costs it more to set up than to multiply. ``multiply`` covers the result
with tiles of ROWS x COLUMNS numbers. A tile stays in registers while the inner index runs: each step loads one row of
B (two vectors) and, one after another, ROWS numbers of A, each spread over a vector. LLVM does not find that shape by
itself, so it is written in its own language.

A matrix is an array's memory from an offset on. Sizes of the result are rounded up to whole tiles, so scratch arrays
are padded (:func:`padded_rows`, :func:`padded_columns`), and what lies in the padding must be finite.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from autograd.kernels.cpu.toolkit import jit

__all__ = ["COLUMNS", "ROWS", "add_product", "largest", "multiply", "multiply_to", "padded_columns", "padded_rows"]


def _lanes() -> int:
    """float32 numbers in a vector register of this processor."""
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # llvmlite cannot tell on this platform
        return 4
    return 16 if features.get("avx512f") else 8 if features.get("avx2") or features.get("avx") else 4


_LANES = _lanes()
_VECTORS = 2  # of B, side by side
ROWS = 4  # ROWS * _VECTORS = 8 sums at once hide the latency of a multiply-add and fit 16 registers
COLUMNS = _LANES * _VECTORS


def padded_rows(n: int) -> int:
    return -(-n // ROWS) * ROWS


def padded_columns(n: int) -> int:
    return -(-n // COLUMNS) * COLUMNS


def _tile(accumulate: bool) -> Any:
    """A compiled function: C = A B, or C += A B, for one tile.

    Its arguments: A, offset, distance of its rows, distance of its columns; B, offset, distance of its rows;
    C, offset, distance of its rows; and the inner size.
    """

    @intrinsic
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
        size = types.intp
        signature = types.void(a, size, size, size, b, size, size, c, size, size, size)
        kind, align = (ir.FloatType(), 4) if a.dtype == types.float32 else (ir.DoubleType(), 8)
        vector = ir.VectorType(kind, _LANES)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, a_at, a_row, a_column, b, b_at, b_row, c, c_at, c_row, depth = args

            def start(array_type: Any, array: Any, at: Any) -> Any:
                return builder.gep(context.make_array(array_type)(context, builder, array).data, [at])

            def fixed(n: int) -> Any:
                return ir.Constant(ir.IntType(64), n)

            def vector_at(pointer: Any, offset: Any) -> Any:
                return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())

            a_start = start(signature.args[0], a, a_at)
            b_start = start(signature.args[4], b, b_at)
            c_start = start(signature.args[7], c, c_at)
            name = f"llvm.fma.v{_LANES}f{8 * align}"
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            places = [
                [
                    vector_at(c_start, builder.add(builder.mul(c_row, fixed(i)), fixed(_LANES * n)))
                    for n in range(_VECTORS)
                ]
                for i in range(ROWS)
            ]
            zero = ir.Constant(vector, [0.0] * _LANES)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(_VECTORS)] for _ in range(ROWS)]
            for i in range(ROWS):
                for n in range(_VECTORS):
                    first = builder.load(places[i][n], align=align) if accumulate else zero
                    builder.store(first, sums[i][n])
            steps = [builder.mul(a_row, fixed(i)) for i in range(ROWS)]
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
            nothing = ir.Constant(vector, ir.Undefined)
            with cgutils.for_range(builder, depth) as loop:
                b_here, a_here = builder.mul(loop.index, b_row), builder.mul(loop.index, a_column)
                row = [
                    builder.load(vector_at(b_start, builder.add(b_here, fixed(_LANES * n))), align=align)
                    for n in range(_VECTORS)
                ]
                for i in range(ROWS):
                    number = builder.load(builder.gep(a_start, [builder.add(steps[i], a_here)]))
                    spread = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
                    spread = builder.shuffle_vector(spread, nothing, lanes)
                    for n in range(_VECTORS):
                        builder.store(builder.call(fma, [spread, row[n], builder.load(sums[i][n])]), sums[i][n])
            for i in range(ROWS):
                for n in range(_VECTORS):
                    builder.store(builder.load(sums[i][n]), places[i][n], align=align)
            return context.get_dummy_value()

        return signature, generate

    return tile


_tile_set = _tile(accumulate=False)
_tile_add = _tile(accumulate=True)


@intrinsic
def largest(context: Any, x: Any, at: Any, count: Any) -> Any:
    """The largest of ``count`` numbers from place ``at`` of an array; count is a multiple of COLUMNS.

    LLVM vectorises a maximum only where it may take NaN for impossible.
    """
    kind, align = (ir.FloatType(), 4) if x.dtype == types.float32 else (ir.DoubleType(), 8)
    vector = ir.VectorType(kind, _LANES)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, at, count = args
        start = builder.gep(context.make_array(signature.args[0])(context, builder, x).data, [at])
        lanes = ir.Constant(ir.IntType(64), _LANES)

        def load(index: Any) -> Any:
            pointer = builder.bitcast(builder.gep(start, [builder.mul(index, lanes)]), vector.as_pointer())
            return builder.load(pointer, align=align)

        best = cgutils.alloca_once_value(builder, load(ir.Constant(ir.IntType(64), 0)))
        with cgutils.for_range(builder, builder.udiv(count, lanes)) as loop:
            here, so_far = load(loop.index), builder.load(best)
            builder.store(builder.select(builder.fcmp_ordered(">", here, so_far), here, so_far), best)
        name = f"llvm.vector.reduce.fmax.v{_LANES}f{8 * align}"
        reduce = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [vector]), name)
        return builder.call(reduce, [builder.load(best)])

    return x.dtype(x, types.intp, types.intp), generate


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
