"""Products of stored matrices: the tile of `simd` without its tables.

Rows and columns of A lie one step apart each, and so do the rows of C; B is a panel (see `product`).  A tile begins
with a few additions then, instead of two loads for every row, and a step of its loop has two loads less: sums of 32
terms, of which the products of `winograd` are made, take about an eighth less time.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .builders import keep_loop, multiply_add, pin, spread
from .compiling import INNER
from .fetching import emit_fetch
from .processor import FUSED, NARROW_ROWS, REGISTER_BYTES, STORED_DOUBLE_ROWS, WIDE_ROWS
from .vectors import lanes_of, vectors_of

# Vectors of a panel.
PANEL_VECTORS = 2

# Whether tiles can ask for lines in their loops.  It pays with AVX-512; compiled for AVX2 it took up to 7 % longer than
# asking before each tile.
FETCHING = STORED_DOUBLE_ROWS > 0

# No tile has more rows.
MOST_ROWS = max(WIDE_ROWS, NARROW_ROWS)


def padded_rows(count):
    """Rows of whole tiles, of either kind, that hold so many."""
    return max(-(-count // rows) * rows for rows in (WIDE_ROWS, NARROW_ROWS))


def _tile(rows, vectors, columns=1):
    """The intrinsic for so many rows of C and vectors of columns; a turn of its loop takes so many columns of A."""

    @intrinsic
    def tile(
        typing, a, place, row_step, column_step, depth, b, b_place, bias, bias_place, floor,
        c, c_place, c_step, second, add, source, ahead, ahead_step,
    ):  # fmt: skip
        """``C[m, n] = sum_k a[place + m row_step + k column_step] B[k, n]``, with bias and floor, or added to C.

        Parameters
        ----------
        a, b, bias, c : contiguous one-dimensional arrays of float32 or float64
        place, b_place, bias_place, c_place : int
            Where the sums' part of each array starts.
        row_step, c_step : int
            From one row of A to the next, and from one row of C to the next.
        column_step : int or None
            From one column of A to the next; None: 1.
        depth : int
            Columns of A.
        floor, second, add
            As for the tiles of `simd`.  A tile of more vectors than a panel has takes whole panels, one after another.
        source : array or None
            Where tiles are FETCHING, each turn with `columns` columns asks for a line of this array, the first for that
            of ``source[ahead]``, the next for the one `ahead_step` further, and so on.
        """
        integer = types.intp
        signature = types.void(
            a, integer, integer, column_step, integer, b, integer, bias, integer, a.dtype,
            c, integer, integer, integer, types.boolean, source, integer, integer,
        )  # fmt: skip

        def code(context, builder, signature, arguments):
            (
                _, place, row_step, column_step, depth, _, b_place, _, bias_place, floor,
                _, c_place, c_step, second, add, _, ahead, ahead_step,
            ) = arguments  # fmt: skip
            (read_b, _), (read_bias, _), (read_c, write_c) = (
                vectors_of(context, builder, signature.args[index], arguments[index]) for index in (5, 7, 10)
            )
            if signature.args[3] is types.none:
                column_step = None
            fetching = FETCHING and source is not types.none
            if fetching:
                far = builder.gep(context.make_array(source)(context, builder, arguments[15]).data, [ahead])
                fetched = cgutils.alloca_once_value(builder, far)

            def at(first, distance, count):
                return builder.add(first, builder.mul(distance, ir.Constant(distance.type, count)))

            numbers = context.make_array(a)(context, builder, arguments[0]).data
            vector = ir.VectorType(numbers.type.pointee, REGISTER_BYTES // (a.dtype.bitwidth // 8))
            panel_width = PANEL_VECTORS * vector.count
            steps = [ir.Constant(second.type, number * vector.count) for number in range(vectors)]
            if vectors == PANEL_VECTORS:
                steps[1] = second
            # The next panel lies behind all rows of this one.
            b_steps = [
                at(steps[number % PANEL_VECTORS], depth, number // PANEL_VECTORS * panel_width)
                for number in range(vectors)
            ]

            # LLVM would walk one pointer from row to row otherwise, with an addition for each.
            a_rows = [pin(builder, builder.gep(numbers, [at(place, row_step, row)])) for row in range(rows)]
            zero = ir.Constant(vector, None)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in steps] for _ in a_rows]

            def add_columns(first, end, count):
                """Add the products of columns of A with rows of B, so many in a turn of the loop."""
                with cgutils.for_range_slice(builder, first, end, ir.Constant(depth.type, count)) as (k, _):
                    for number in range(count):
                        column = builder.add(k, ir.Constant(k.type, number))
                        b_row = at(b_place, column, panel_width)
                        b_values = [read_b(builder.add(b_row, step)) for step in b_steps]
                        shift = column if column_step is None else pin(builder, builder.mul(column, column_step))
                        for a_row, totals in zip(a_rows, sums, strict=True):
                            value = spread(builder, builder.load(builder.gep(a_row, [shift])), vector.count)
                            for b_value, total in zip(b_values, totals, strict=True):
                                builder.store(multiply_add(builder, value, b_value, builder.load(total)), total)
                    if count == columns and fetching:
                        line = builder.load(fetched)
                        emit_fetch(builder, line, 0)
                        builder.store(builder.gep(line, [ahead_step]), fetched)
                    keep_loop(builder)

            begin = ir.Constant(depth.type, 0)
            for count in (columns, 1) if columns > 1 else (1,):
                end = builder.and_(depth, ir.Constant(depth.type, -count))
                add_columns(begin, end, count)
                begin = end
            totals = [[builder.load(total) for total in line] for line in sums]
            places = [[builder.add(at(c_place, c_step, row), step) for step in steps] for row in range(rows)]
            with builder.if_else(add) as (adding, finishing):
                with adding:
                    for line, into in zip(totals, places, strict=True):
                        # A row's loads come before its stores, since its vectors may overlap.
                        added = [builder.fadd(read_c(cells), total) for total, cells in zip(line, into, strict=True)]
                        for total, cells in zip(added, into, strict=True):
                            write_c(total, cells)
                with finishing:
                    addends = [read_bias(builder.add(bias_place, step)) for step in steps]
                    lowest = spread(builder, floor, vector.count)
                    for line, into in zip(totals, places, strict=True):
                        for total, addend, cells in zip(line, addends, into, strict=True):
                            result = builder.fadd(total, addend)
                            below = builder.fcmp_ordered("<", result, lowest)
                            write_c(builder.select(below, lowest, result), cells)
            return context.get_dummy_value()

        return signature, code

    return tile


# Columns of A in a turn of the wider tiles' loops.
WIDE_COLUMNS = 2 if FUSED else 1
stored_wide_tile = _tile(WIDE_ROWS, PANEL_VECTORS, WIDE_COLUMNS)
stored_narrow_tile = _tile(NARROW_ROWS, 1)
stored_double_tile = _tile(STORED_DOUBLE_ROWS, 2 * PANEL_VECTORS, WIDE_COLUMNS)


@njit(**INNER)
def multiply_panel(
    a, place, row_step, column_step, rows, depth, b, b_place, none, lowest, c, c_place, c_step, width, add
):  # fmt: skip
    """A panel of `width` columns of C, written or added to.

    Whole tiles are computed: what C holds beyond its rows, up to `padded_rows`, is overwritten, and as many rows of A
    are read.  `none` are zeros, and `lowest` is -infinity.
    """
    lanes = lanes_of(a)
    if width > lanes:
        for row in range(0, rows, WIDE_ROWS):
            stored_wide_tile(
                a, place + row * row_step, row_step, column_step, depth, b, b_place, none, 0, lowest,
                c, c_place + row * c_step, c_step, width - lanes, add, None, 0, 0,
            )  # fmt: skip
    else:
        for row in range(0, rows, NARROW_ROWS):
            stored_narrow_tile(
                a, place + row * row_step, row_step, column_step, depth, b, b_place, none, 0, lowest,
                c, c_place + row * c_step, c_step, 0, add, None, 0, 0,
            )  # fmt: skip
