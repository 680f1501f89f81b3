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
take six cycles, for 9 loads, of which the core could do 18: the multipliers are the bound.  Goto and van de Geijn,
"Anatomy of high-performance matrix multiplication" (2008).

Besides these 20 instructions a step has two that load offsets and three of the loop: little for a core that begins six
in a cycle, but not where two threads share one.  So the loop takes two steps at a time, and four where columns of A and
rows of B lie side by side by fours, as the channels under one filter cell do: then one offset of each serves all four.

The code is written by an intrinsic rather than left to the compiler's vectoriser, which keeps neither the sums in
registers nor this shape.  It is LLVM's own vector language, so that the same source becomes AVX-512, AVX2, NEON or
plain SSE; only the shape of the tile comes from the processor.
"""

import contextlib

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_triple, _, _features = cpu_target.target_context.codegen().magic_tuple()
_features = set(_features.split(","))
_ARM = _triple.startswith(("aarch64", "arm64"))

# Bytes of a vector register, and rows of the wide, the widest, the narrow and the lanewise tile: as many as leave all
# sums, and the addresses of all rows, in registers.  The gradient of depthwise 3 x 3 filters has nine rows.
SHAPES = {
    "AVX-512": (64, 6, 4, 8, 9),
    "AVX2": (32, 6, 4, 8, 9),
    "NEON": (16, 12, 8, 12, 9),
    "SSE2": (16, 6, 3, 8, 9),
}

_KIND = "NEON" if _ARM else "AVX-512" if "+avx512f" in _features else "AVX2" if "+avx2" in _features else "SSE2"
REGISTER_BYTES, WIDE_ROWS, WIDEST_ROWS, NARROW_ROWS, LANEWISE_ROWS = SHAPES[_KIND]

# Whether a multiply-add is one instruction; where it is not, LLVM's fma would be a call of the C library.
FUSED = _ARM or "+fma" in _features

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
        bias, bias_origin, floor, c, c_origin, c_rows, b_last, bias_last, c_last, add,
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
            From the first vector of a row to the last one; of three, the second lies right behind the first.
        add : bool
            Add to C, without bias and floor, instead of writing it.
        """
        integer = types.intp
        signature = types.void(
            a, integer, rows, integer, columns, b, integer, b_rows, types.boolean,
            bias, integer, a.dtype, c, integer, c_rows, integer, integer, integer, types.boolean,
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
        suffix = f"v{vector.count}f{8 * size}"
        fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.{suffix}"
        )

        def multiply_add(factor, other, addend):
            if FUSED:
                return builder.call(fused, [factor, other, addend])
            return builder.fadd(builder.fmul(factor, other), addend)

        def load(pointer, step):
            place = builder.bitcast(builder.gep(pointer, [step]), vector.as_pointer())
            return builder.load(place, align=size)

        def store(value, pointer, step):
            place = builder.bitcast(builder.gep(pointer, [step]), vector.as_pointer())
            builder.store(value, place, align=size)

        def spread(value):
            empty = ir.Constant(vector, ir.Undefined)
            first = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
            everywhere = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
            return builder.shuffle_vector(first, empty, everywhere)

        def offset(table, place):
            return builder.load(builder.gep(pointers[table], [place]))

        tile_rows = range(rows_of_tile)
        inner = [ir.Constant(_I64, number * vector.count) for number in range(max(vectors - 1, 1))]
        b_steps, bias_steps, c_steps = ([*inner, values[f"{name}_last"]][:vectors] for name in ("b", "bias", "c"))
        places = []
        for r in tile_rows:
            place = builder.add(values["row"], ir.Constant(_I64, r))
            beyond = builder.icmp_signed(">", place, values["last_row"])
            places.append(builder.select(beyond, values["last_row"], place))
        a_rows = [builder.gep(pointers["a"], [builder.add(values["a_origin"], offset("rows", p))]) for p in places]
        c_rows = [builder.gep(pointers["c"], [builder.add(values["c_origin"], offset("c_rows", p))]) for p in places]
        b_first = builder.gep(pointers["b"], [values["b_origin"]])

        # Sums live in memory as far as this code is concerned; LLVM moves them into registers.
        zero = ir.Constant(vector, [0.0] * vector.count)
        sums = [[cgutils.alloca_once(builder, vector) for _ in b_steps] for _ in tile_rows]
        for line in sums:
            for place in line:
                builder.store(zero, place)

        def row_of_b(shift):
            b_row = builder.gep(b_first, [shift])
            return [load(b_row, step) for step in b_steps]

        def add_column(shift, b_values):
            """Add the products of a column of A with a row of B."""
            for a_row, line in zip(a_rows, sums, strict=True):
                a_value = load(a_row, shift) if lanewise else spread(builder.load(builder.gep(a_row, [shift])))
                for b_value, place in zip(b_values, line, strict=True):
                    builder.store(multiply_add(a_value, b_value, builder.load(place)), place)

        @contextlib.contextmanager
        def columns_from(first, end, count):
            with cgutils.for_range_slice(builder, first, end, ir.Constant(_I64, count), intp=_I64) as (k, _):
                yield k
                # An instruction that may not be doubled, and takes no time: LLVM would unroll the loop and run out of
                # registers.
                kind = ir.FunctionType(ir.VoidType(), [])
                stay = cgutils.get_or_insert_function(builder.module, kind, "llvm.sideeffect")
                builder.call(stay, [], attrs=("convergent",))

        depth, begin = values["depth"], ir.Constant(_I64, 0)
        counts = (1,)
        if unrolled and FUSED:
            counts = 2, 1
            whole = builder.and_(depth, ir.Constant(_I64, -FOUR))
            whole = builder.select(values["fours"], whole, begin)
            with columns_from(begin, whole, FOUR) as k:
                b_row, shift = offset("b_rows", k), offset("columns", k)
                for number in range(FOUR):
                    further = ir.Constant(_I64, number * 2 * vector.count)
                    b_values = row_of_b(builder.add(b_row, further))
                    add_column(builder.add(shift, ir.Constant(_I64, number)), b_values)
            begin = whole
        for count in counts:
            end = builder.and_(depth, ir.Constant(_I64, -count))
            with columns_from(begin, end, count) as k:
                for number in range(count):
                    place = builder.add(k, ir.Constant(_I64, number))
                    b_values = row_of_b(offset("b_rows", place))
                    add_column(offset("columns", place), b_values)
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
                floor = spread(values["floor"])
                for c_row, line in zip(c_rows, totals, strict=True):
                    for step, total, addend in zip(c_steps, line, bias_values, strict=True):
                        result = builder.fadd(total, addend)
                        below = builder.fcmp_ordered("<", result, floor)
                        store(builder.select(below, floor, result), c_row, step)

    return tile


TILE_ARGUMENTS = (
    "a a_origin rows row columns b b_origin b_rows fours "
    "bias bias_origin floor c c_origin c_rows b_last bias_last c_last add"
).split()

wide_tile = _tile(WIDE_ROWS, 2, unrolled=True)
widest_tile = _tile(WIDEST_ROWS, 3)
narrow_tile = _tile(NARROW_ROWS, 1)
lanewise_tile = _tile(LANEWISE_ROWS, 1, lanewise=True)


@intrinsic
def lanes_of(typing, array):
    """Numbers of the array's type in a vector: a constant, which ``REGISTER_BYTES // array.itemsize`` is not."""

    def code(context, builder, signature, arguments):
        return ir.Constant(_I64, REGISTER_BYTES // (array.dtype.bitwidth // 8))

    return types.intp(array), code


def vectors_of(context, builder, kind, value, like=None):
    """Functions that read a vector from a place of an array, and write one.

    Parameters
    ----------
    kind, value : Numba type and LLVM value of the array
    like : Numba type of an array, optional
        The vector has as many numbers as one of this array; default: `kind`.
    """
    lanes = REGISTER_BYTES // ((like or kind).dtype.bitwidth // 8)
    vector = ir.VectorType(context.get_value_type(kind.dtype), lanes)
    data = context.make_array(kind)(context, builder, value).data

    def pointer(place):
        return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())

    def read(place):
        return builder.load(pointer(place), align=kind.dtype.bitwidth // 8)

    def write(numbers, place):
        builder.store(numbers, pointer(place), align=kind.dtype.bitwidth // 8)

    return read, write


@intrinsic
def copy_vector(typing, source, place, target, into):
    """``target[into : into + LANES] = source[place : place + LANES]``."""

    def code(context, builder, signature, arguments):
        read, _ = vectors_of(context, builder, source, arguments[0])
        _, write = vectors_of(context, builder, target, arguments[2])
        write(read(arguments[1]), arguments[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), code


@intrinsic
def add_vector(typing, source, place, target, into):
    """``target[into : into + LANES] += source[place : place + LANES]``."""

    def code(context, builder, signature, arguments):
        read, _ = vectors_of(context, builder, source, arguments[0])
        read_target, write = vectors_of(context, builder, target, arguments[2])
        write(builder.fadd(read_target(arguments[3]), read(arguments[1])), arguments[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), code


@intrinsic
def turn_square(typing, source, place, step, target, into, target_step):
    """A square of LANES x LANES numbers, turned over.

    ``target[into + i target_step + j] = source[place + j step + i]``

    Eklundh's way: exchange the off-diagonal blocks of halves, then within them, down to single numbers.
    """

    def code(context, builder, signature, arguments):
        _, place, step, _, into, target_step = arguments
        read, _ = vectors_of(context, builder, source, arguments[0])
        _, write = vectors_of(context, builder, target, arguments[3])
        count = REGISTER_BYTES // (source.dtype.bitwidth // 8)
        rows = [read(builder.add(place, builder.mul(step, ir.Constant(_I64, i)))) for i in range(count)]
        half = count // 2
        while half:
            upper = [i if not i & half else i - half + count for i in range(count)]
            lower = [i + half if not i & half else i + count for i in range(count)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), count), mask) for mask in (upper, lower)]
            for i in range(count):
                if not i & half:
                    pair = rows[i], rows[i + half]
                    rows[i], rows[i + half] = (builder.shuffle_vector(*pair, mask) for mask in masks)
            half //= 2
        for i, row in enumerate(rows):
            write(row, builder.add(into, builder.mul(target_step, ir.Constant(_I64, i))))
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), code
