"""Matrix products of the size of a block of rows, written for vector registers.

On such sizes they are faster than BLAS, which packs its arguments first, and they bring no second set of threads.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,call-arg"
from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic

from accel.cpu.compile import pointer

VECTOR = 32  # bytes: one AVX register, two of NEON's
WIDE = 64 if get_host_cpu_features().get("avx512f") else VECTOR  # where a register holds them: `multiply`


def tile(height: int, width: int, size: int = VECTOR) -> Any:
    """The compiled product C = D + A B on a tile of `height` rows and `width` vectors of `size` bytes, summed in
    registers.

    Its arguments: C with the index of the tile's corner and the length of a row; D likewise; A with the index
    of its first element and the steps to the next row and column; B like C; the number of terms k. D may be C,
    or have row length 0 (one row for all: a bias).
    """

    @intrinsic
    def product(typing, c, c_at, c_row, d, d_at, d_row, a, a_at, a_row, a_col, b, b_at, b_row, k):
        def codegen(context, builder, signature, args):
            c, c_at, c_row, d, d_at, d_row, a, a_at, a_row, a_col, b, b_at, b_row, k = args
            number = context.get_data_type(signature.args[0].dtype)
            bits = signature.args[0].dtype.bitwidth
            lanes = size * 8 // bits
            vector = ir.VectorType(number, lanes)
            multiply_add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f{bits}"
            )

            def data(position, array):
                return cgutils.create_struct_proxy(signature.args[position])(context, builder, array).data

            def index(start, step, count):
                return builder.add(start, builder.mul(step, ir.Constant(step.type, count)))

            def address(base, at, j):
                at = builder.add(at, ir.Constant(at.type, j * lanes))
                return builder.bitcast(builder.gep(base, [at]), vector.as_pointer())

            def spread(value):
                first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
                zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
                return builder.shuffle_vector(first, first, zeros)

            c, d, a, b = data(0, c), data(3, d), data(6, a), data(10, b)
            sums = {}
            for i in range(height):
                for j in range(width):
                    start = builder.load(address(d, index(d_at, d_row, i), j), align=bits // 8)
                    sums[i, j] = cgutils.alloca_once_value(builder, start)  # LLVM keeps it in a register
            rows = [builder.gep(a, [index(a_at, a_row, i)]) for i in range(height)]
            with cgutils.for_range(builder, k) as loop:
                row = builder.add(b_at, builder.mul(loop.index, b_row))
                right = [builder.load(address(b, row, j), align=bits // 8) for j in range(width)]
                column = builder.mul(loop.index, a_col)
                for i in range(height):
                    left = spread(builder.load(builder.gep(rows[i], [column])))
                    for j in range(width):
                        total = builder.call(multiply_add, [left, right[j], builder.load(sums[i, j])])
                        builder.store(total, sums[i, j])
            for (i, j), total in sums.items():
                builder.store(builder.load(total), address(c, index(c_at, c_row, i), j), align=bits // 8)
            return context.get_dummy_value()

        integer = types.intp
        steps = (integer, integer)
        return types.void(c, *steps, d, *steps, a, *steps, integer, b, *steps, integer), codegen

    return product


tile_6x2, tile_4x2, tile_1x2 = tile(6, 2), tile(4, 2), tile(1, 2)
wide_5x2, wide_4x2, wide_1x2 = tile(5, 2, WIDE), tile(4, 2, WIDE), tile(1, 2, WIDE)
wide_8x1, wide_1x1 = tile(8, 1, WIDE), tile(1, 1, WIDE)


def multiply(c, c_at, c_row, d, d_at, d_row, a, a_at, a_row, a_col, b, b_at, b_row, m, n, k):
    """C = D + A B with C (m, n), A (m, k), B (k, n); n a multiple of WIDE's numbers. See `tile`."""
    lanes = WIDE // c.itemsize
    for j in range(0, n - lanes, 2 * lanes):
        i = 0
        while i < m:
            ci, di, ai, rest = c_at + i * c_row + j, d_at + i * d_row + j, a_at + i * a_row, m - i
            if rest >= 5 and rest not in (8, 12, 16):  # those are fours
                wide_5x2(c, ci, c_row, d, di, d_row, a, ai, a_row, a_col, b, b_at + j, b_row, k)
                i += 5
            elif rest >= 4:
                wide_4x2(c, ci, c_row, d, di, d_row, a, ai, a_row, a_col, b, b_at + j, b_row, k)
                i += 4
            else:
                wide_1x2(c, ci, c_row, d, di, d_row, a, ai, a_row, a_col, b, b_at + j, b_row, k)
                i += 1
    if n // lanes % 2:
        j, i = n - lanes, 0
        while i < m:
            ci, di, ai = c_at + i * c_row + j, d_at + i * d_row + j, a_at + i * a_row
            if m - i >= 8:
                wide_8x1(c, ci, c_row, d, di, d_row, a, ai, a_row, a_col, b, b_at + j, b_row, k)
                i += 8
            else:
                wide_1x1(c, ci, c_row, d, di, d_row, a, ai, a_row, a_col, b, b_at + j, b_row, k)
                i += 1


@lru_cache(maxsize=2)
def matmul(dtype: str) -> Any:
    """`multiply` as a function pointer: compiled once, not again within each function that calls it."""
    array, integer = types.Array(from_dtype(np.dtype(dtype)), 1, "C"), types.intp
    steps = (integer, integer)
    return pointer(
        types.void(array, *steps, array, *steps, array, *steps, integer, array, *[integer] * 5), multiply
    )


def multiply_panels(c, c_at, c_row, d, d_at, d_row, a, a_at, a_row, a_col, b, b_at, b_panel, m, n, k):
    """C = D + A B as `multiply`, with B in panels: two vectors of each row, one row after the other, in b_panel
    numbers a panel. n a multiple of two vectors. Tall B keeps its place in the first-level cache that way."""
    width = 2 * VECTOR // c.itemsize
    for j in range(0, n, width):
        at, i = b_at + j // width * b_panel, 0
        while i < m:
            ci, di, ai, rest = c_at + i * c_row + j, d_at + i * d_row + j, a_at + i * a_row, m - i
            if rest >= 6 and rest != 8:
                tile_6x2(c, ci, c_row, d, di, d_row, a, ai, a_row, a_col, b, at, width, k)
                i += 6
            elif rest >= 4:
                tile_4x2(c, ci, c_row, d, di, d_row, a, ai, a_row, a_col, b, at, width, k)
                i += 4
            else:
                tile_1x2(c, ci, c_row, d, di, d_row, a, ai, a_row, a_col, b, at, width, k)
                i += 1


@lru_cache(maxsize=2)
def product(dtype: str) -> Any:
    """`multiply_panels` as a function pointer."""
    array, integer = types.Array(from_dtype(np.dtype(dtype)), 1, "C"), types.intp
    steps = (integer, integer)
    # fmt: off
    return pointer(types.void(array, *steps, array, *steps, array, *steps, integer, array, *[integer] * 5),
                   multiply_panels)
    # fmt: on


@intrinsic
def row_products(typing, c, a, a_at, a_row, x, x_at, m, k):
    """c[i] = sum_j A[i, j] x[j] for the rows i < m of A at a[a_at], `a_row` numbers a row; k whole vectors."""

    def codegen(context, builder, signature, args):
        _, _, a_at, a_row, _, x_at, m, k = args
        number, bits = context.get_data_type(signature.args[0].dtype), signature.args[0].dtype.bitwidth
        lanes = VECTOR * 8 // bits
        vector = ir.VectorType(number, lanes)
        multiply_add, add_up = (
            cgutils.get_or_insert_function(builder.module, ir.FunctionType(*kind), f"llvm.{name}v{lanes}f{bits}")
            for name, kind in (
                ("fma.", (vector, [vector] * 3)),
                ("vector.reduce.fadd.", (number, [number, vector])),
            )
        )

        def vector_at(base, at):
            return builder.load(builder.bitcast(builder.gep(base, [at]), vector.as_pointer()), align=bits // 8)

        data = [cgutils.create_struct_proxy(signature.args[i])(context, builder, args[i]).data for i in (0, 1, 4)]
        zeros = ir.Constant(vector, [0.0] * lanes)
        total = cgutils.alloca_once(builder, vector)
        with cgutils.for_range(builder, m) as row:
            start = builder.add(a_at, builder.mul(row.index, a_row))
            builder.store(zeros, total)
            with cgutils.for_range_slice(builder, k.type(0), k, k.type(lanes), k.type) as (j, _):
                left, right = vector_at(data[1], builder.add(start, j)), vector_at(data[2], builder.add(x_at, j))
                builder.store(builder.call(multiply_add, [left, right, builder.load(total)]), total)
            value = builder.call(add_up, [ir.Constant(number, -0.0), builder.load(total)], fastmath=["reassoc"])
            builder.store(value, builder.gep(data[0], [row.index]))
        return context.get_dummy_value()

    integer = types.intp
    return types.void(c, a, integer, integer, x, integer, integer, integer), codegen
