"""The inner loop of products: a tile of sums in vector registers, fed through tables of offsets.

Every product of this package, whether correlation, gradient or dense layer, is the same sum::

    C[m, n] = sum_k  A[m, k] B[k, n]        with   A[m, k] = a[rows[m] + columns[k]]

A is not stored.  Its entry is where the offset of row m and the offset of column k add up: for a correlation, the
pixel's place and the place of a filter cell within its patch; that is the Toeplitz matrix of the picture.  Exchange
rows and columns, and it is that matrix turned over, which the gradient by filters wants.  A matrix that is stored is
the case ``rows[m] = m * width``, ``columns[k] = k``.  Strides, dilation and groups only change the tables.

A tile keeps ROWS x (VECTORS x LANES) sums in registers::

                          B, row k of a panel:   [ b0 .. b7 ][ b8 .. b15 ]      two loads
                                                      |           |
    a[rows[0] + columns[k]]  -> spread over 8 lanes -> fma         fma
    a[rows[1] + columns[k]]  -> spread ------------->  fma         fma            12 sums of 8 numbers,
      ...                                                                         all in registers
    a[rows[5] + columns[k]]  -> spread ------------->  fma         fma

With 16 registers of 256 bits (AVX2) that is 12 for sums, 2 for B and 1 for A; each step has 12 multiply-adds, which
take six cycles, for 9 loads, of which the core could do 18: the multipliers are the bound.  With the 32 registers of
AVX-512, a tile has four vectors in a row where there are as many: 24 for sums, 4 for B and 1 for A.  Goto and van de
Geijn, "Anatomy of high-performance matrix multiplication" (2008).

Besides these 20 instructions a step has two that load offsets and three of the loop: little for a core that begins six
in a cycle, but not where two threads share one.  So the loop takes two steps at a time, and four where columns of A and
rows of B lie side by side by fours, as the channels under one filter cell do: then one offset of each serves all four.

The code is written by an intrinsic rather than left to the compiler's vectoriser, which keeps neither the sums in
registers nor this shape.  It is LLVM's own vector language, so that the same source becomes AVX-512, AVX2, NEON or
plain SSE; only the shape of the tile comes from the processor.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .builders import keep_loop, multiply_add, spread
from .fetching import emit_fetch
from .processor import DOUBLE_ROWS, FUSED, LANEWISE_ROWS, NARROW_ROWS, REGISTER_BYTES, WIDE_ROWS, WIDEST_ROWS

# Columns of A and rows of B that may share one offset each: see `product.in_fours`.
FOUR = 4

_I64 = ir.IntType(64)


def _tile(rows_of_tile, vectors, lanewise=False, unrolled=False):
    """The intrinsic for a tile of so many rows and vectors.

    `lanewise`: with an A of its own for each lane.  `unrolled`: with several columns in a turn of its loop, for which
    sums, B and A must leave a register, since LLVM mixes the columns' instructions.
    """

    @intrinsic
    def tile(
        typing, a, a_origin, rows, row, columns, b, b_origin, b_rows, fours,
        bias, bias_origin, floor, c, c_origin, c_rows, b_last, bias_last, c_last, add, source, ahead, ahead_step,
    ):  # fmt: skip
        """Sums of the rows ``row .. row + rows_of_tile - 1``; beyond the table's end, its last row again and again.

        Parameters
        ----------
        a, b, bias, c : contiguous one-dimensional arrays of float32 or float64
        a_origin, b_origin, bias_origin, c_origin : int
            Where the sums' part of each array starts.
        rows, columns, b_rows, c_rows : arrays of int64
            Offsets: of the rows and columns of A, of the rows of B, and of the rows of C.
        fours : bool
            Whether columns of A, and rows of B in a panel, lie side by side within all whole fours, counted from the
            first: then one offset of each table serves four.
        row : int
            First row that the tile takes.
        floor : number
            Results below it become it: 0 for ReLU, -infinity for none; NaN stays NaN.
        b_last, bias_last, c_last : int
            From the first vector of a row to the last one.  Of three, the second lies right behind the first; of four,
            the third lies right before the last, too.
        add : bool
            Add to C, without bias and floor, instead of writing it.
        source : array or None
            With `fours`, each turn of the loop asks for a line of this array, the first for that of ``source[ahead]``,
            the next for the one `ahead_step` further, and so on.
        """
        integer = types.intp
        signature = types.void(
            a, integer, rows, integer, columns, b, integer, b_rows, types.boolean,
            bias, integer, a.dtype, c, integer, c_rows, integer, integer, integer, types.boolean,
            source, integer, integer,
        )  # fmt: skip

        def code(context, builder, signature, arguments):
            values = dict(zip(TILE_ARGUMENTS, arguments, strict=True))
            arrays = {
                name: context.make_array(kind)(context, builder, values[name])
                for name, kind in zip(TILE_ARGUMENTS, signature.args, strict=True)
                if isinstance(kind, types.Array)
            }
            pointers = {name: array.data for name, array in arrays.items()}
            values["depth"] = builder.extract_value(arrays["columns"].shape, 0)
            values["last_row"] = builder.sub(builder.extract_value(arrays["rows"].shape, 0), ir.Constant(_I64, 1))
            _emit(builder, context.get_value_type(a.dtype), a.dtype.bitwidth // 8, values, pointers)
            return context.get_dummy_value()

        return signature, code

    def _emit(builder, number, size, values, pointers):
        vector = ir.VectorType(number, REGISTER_BYTES // size)

        def load(pointer, step):
            place = builder.bitcast(builder.gep(pointer, [step]), vector.as_pointer())
            return builder.load(place, align=size)

        def store(value, pointer, step):
            place = builder.bitcast(builder.gep(pointer, [step]), vector.as_pointer())
            builder.store(value, place, align=size)

        def everywhere(pointer, step):
            return spread(builder, builder.load(builder.gep(pointer, [step])), vector.count)

        def offset(table, place):
            return builder.load(builder.gep(pointers[table], [place]))

        tile_rows = range(rows_of_tile)
        first, second = ir.Constant(_I64, 0), ir.Constant(_I64, vector.count)

        def steps(last):
            third = builder.sub(last, second)
            return {1: [first], 2: [first, last], 3: [first, second, last], 4: [first, second, third, last]}[vectors]

        b_steps, bias_steps, c_steps = (steps(values[f"{name}_last"]) for name in ("b", "bias", "c"))
        places = []
        for r in tile_rows:
            place = builder.add(values["row"], ir.Constant(_I64, r))
            beyond = builder.icmp_signed(">", place, values["last_row"])
            places.append(builder.select(beyond, values["last_row"], place))
        a_rows = [builder.gep(pointers["a"], [builder.add(values["a_origin"], offset("rows", p))]) for p in places]
        c_rows = [builder.gep(pointers["c"], [builder.add(values["c_origin"], offset("c_rows", p))]) for p in places]
        b_first = builder.gep(pointers["b"], [values["b_origin"]])

        fetching = "source" in pointers
        if fetching:
            fetched = cgutils.alloca_once_value(builder, builder.gep(pointers["source"], [values["ahead"]]))

        # Sums live in memory as far as this code is concerned; LLVM moves them into registers.
        zero = ir.Constant(vector, [0.0] * vector.count)
        sums = [[cgutils.alloca_once(builder, vector) for _ in b_steps] for _ in tile_rows]
        for line in sums:
            for place in line:
                builder.store(zero, place)

        def add_columns(first, end, count, together):
            """Add the products of columns of A with rows of B, so many in a turn of the loop.

            `together`: they lie side by side, so that one offset of each table serves all.
            """
            with cgutils.for_range_slice(builder, first, end, ir.Constant(_I64, count), intp=_I64) as (k, _):
                for number in range(count):
                    place = k if together else builder.add(k, ir.Constant(_I64, number))
                    further = number if together else 0
                    b_shift = builder.add(offset("b_rows", place), ir.Constant(_I64, further * 2 * vector.count))
                    b_row = builder.gep(b_first, [b_shift])
                    b_values = [load(b_row, step) for step in b_steps]
                    shift = builder.add(offset("columns", place), ir.Constant(_I64, further))
                    for a_row, line in zip(a_rows, sums, strict=True):
                        a_value = load(a_row, shift) if lanewise else everywhere(a_row, shift)
                        for b_value, total in zip(b_values, line, strict=True):
                            builder.store(multiply_add(builder, a_value, b_value, builder.load(total)), total)
                if together and fetching:
                    line = builder.load(fetched)
                    emit_fetch(builder, line, 0)
                    builder.store(builder.gep(line, [values["ahead_step"]]), fetched)
                keep_loop(builder)

        depth, begin = values["depth"], ir.Constant(_I64, 0)
        if unrolled and FUSED:
            whole = builder.select(values["fours"], builder.and_(depth, ir.Constant(_I64, -FOUR)), begin)
            add_columns(begin, whole, FOUR, together=True)
            begin = whole
        for count in (2, 1) if unrolled and FUSED else (1,):
            end = builder.and_(depth, ir.Constant(_I64, -count))
            add_columns(begin, end, count, together=False)
            begin = end

        totals = [[builder.load(place) for place in line] for line in sums]
        with builder.if_else(values["add"]) as (adding, finishing):
            with adding:  # all loads come before all stores, since the last row may stand in several lines
                added = [
                    [builder.fadd(load(c_row, step), total) for step, total in zip(c_steps, line, strict=True)]
                    for c_row, line in zip(c_rows, totals, strict=True)
                ]
                for c_row, line in zip(c_rows, added, strict=True):
                    for step, total in zip(c_steps, line, strict=True):
                        store(total, c_row, step)
            with finishing:
                bias = builder.gep(pointers["bias"], [values["bias_origin"]])
                bias_values = [load(bias, step) for step in bias_steps]
                floor = spread(builder, values["floor"], vector.count)
                for c_row, line in zip(c_rows, totals, strict=True):
                    for step, total, addend in zip(c_steps, line, bias_values, strict=True):
                        result = builder.fadd(total, addend)
                        below = builder.fcmp_ordered("<", result, floor)
                        store(builder.select(below, floor, result), c_row, step)

    return tile


TILE_ARGUMENTS = (
    "a a_origin rows row columns b b_origin b_rows fours "
    "bias bias_origin floor c c_origin c_rows b_last bias_last c_last add source ahead ahead_step"
).split()

# Two whole panels.
double_tile = _tile(DOUBLE_ROWS, 4, unrolled=True)
wide_tile = _tile(WIDE_ROWS, 2, unrolled=True)
widest_tile = _tile(WIDEST_ROWS, 3)
narrow_tile = _tile(NARROW_ROWS, 1)
lanewise_tile = _tile(LANEWISE_ROWS, 1, lanewise=True)
