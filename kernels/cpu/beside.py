"""Gradient by filters of channels by the four: tiles of twice the rows, panels packed when it is their turn.

Rows of the filters' gradient are channels of x, which lie side by side.  Four of them need one address (`simd` has one
for each row), and so a tile can have twice the rows: half as many loads of dz, and of lines of x, from which a row
takes one number for each pixel.

A panel of dz, 32 filters wide, is packed into the same place as the one before, added up for the bias' gradient on the
way, and multiplied at once, by all rows.  So it is in the first-level cache all the time, and the multipliers are the
bound as soon as x and dz are near.  They come from farther away, so that every turn of a tile's loop also asks for some
of what the next block of pixels reads.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .builders import constant, keep_loop, multiply_add, spread
from .compiling import INNER
from .fetching import FAR, emit_fetch
from .processor import BESIDE_ROWS
from .simd import FOUR
from .vectors import vectors_of

TALL, LOW = BESIDE_ROWS or (FOUR, FOUR)

# Vectors of a panel.
VECTORS = 2

_I64 = ir.IntType(64)


def _tile(rows_of_tile):
    """The intrinsic for a tile of so many rows."""

    @intrinsic
    def tile(
        typing, a, a_origin, rows, row, columns, b, b_origin, c, c_origin, add,
        x, x_place, x_step, dz, dz_place, dz_step,
    ):  # fmt: skip
        """As those of `simd`, for a packed panel of B, and of C; beyond the rows' end, the last four again and again.

        In turn k of the loop, ``x[x_place + k x_step]`` and ``dz[dz_place + k dz_step]`` are asked for.
        """
        integer = types.intp
        signature = types.void(
            a, integer, rows, integer, columns, b, integer, c, integer, types.boolean,
            x, integer, integer, dz, integer, integer,
        )  # fmt: skip

        def code(context, builder, signature, arguments):
            _, a_origin, _, row, _, _, b_origin, _, c_origin, add, _, x_place, x_step, _, dz_place, dz_step = arguments
            array_of = {
                number: context.make_array(kind)(context, builder, arguments[number])
                for number, kind in enumerate(signature.args)
                if isinstance(kind, types.Array)
            }
            first, table, columns_, fetched, other = (array_of[number].data for number in (0, 2, 4, 10, 13))
            read_b, _ = vectors_of(context, builder, b, arguments[5])
            read_c, write_c = vectors_of(context, builder, c, arguments[7])
            zero = constant(read_b(b_origin).type, 0.0)
            lanes = zero.type.count

            def further(place, distance):
                return builder.add(place, _I64(distance))

            last = further(builder.extract_value(array_of[2].shape, 0), -FOUR)
            a_fours, c_places = [], []
            for r in range(0, rows_of_tile, FOUR):
                place = further(row, r)
                place = builder.select(builder.icmp_signed(">", place, last), last, place)
                start = builder.add(a_origin, builder.load(builder.gep(table, [place])))
                a_fours.append(builder.gep(first, [start]))
                c_place = builder.add(c_origin, builder.mul(place, _I64(VECTORS * lanes)))
                c_places += [further(c_place, number * VECTORS * lanes) for number in range(FOUR)]
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(VECTORS)] for _ in range(rows_of_tile)]
            with cgutils.for_range(builder, builder.extract_value(array_of[4].shape, 0), intp=_I64) as loop:
                k = loop.index
                shift = builder.load(builder.gep(columns_, [k]))
                for pointer, place, step in ((fetched, x_place, x_step), (other, dz_place, dz_step)):
                    emit_fetch(builder, builder.gep(pointer, [builder.add(place, builder.mul(k, step))]), 0, FAR)
                b_place = builder.add(b_origin, builder.mul(k, _I64(VECTORS * lanes)))
                b_values = [read_b(further(b_place, number * lanes)) for number in range(VECTORS)]
                for r, line in enumerate(sums):
                    number = builder.load(builder.gep(a_fours[r // FOUR], [further(shift, r % FOUR)]))
                    value = spread(builder, number, lanes)
                    for b_value, total in zip(b_values, line, strict=True):
                        builder.store(multiply_add(builder, value, b_value, builder.load(total)), total)
                keep_loop(builder)
            # All loads come before all stores, since the last rows may stand in several lines.
            totals = []
            for place, line in zip(c_places, sums, strict=True):
                for number, total in enumerate(line):
                    before = builder.select(add, read_c(further(place, number * lanes)), zero)
                    totals.append((builder.fadd(before, builder.load(total)), further(place, number * lanes)))
            for total, place in totals:
                write_c(total, place)
            return context.get_dummy_value()

        return signature, code

    return tile


_tall_tile, _low_tile = _tile(TALL), _tile(LOW)


@njit(**INNER)
def product_beside(
    a, a_origin, rows, columns, b, b_origin, c, c_origin, add, x, x_place, x_step, dz, dz_place, dz_step
):  # fmt: skip
    """``C[m, n] = sum_k a[a_origin + rows[m] + columns[k]] B[k, n]`` for one panel, packed from b_origin on, as C is.

    Rows of A lie side by side by fours.  With `add`, the sums are added to C.  Meanwhile every `x_step`-th number of x
    from `x_place` on is asked for, one with each column of each tile, and of dz likewise.  Returns where that ended.
    """
    row = 0
    while row < rows.size:
        left = rows.size - row
        if left % TALL == 0 or left > 2 * LOW:
            _tall_tile(
                a, a_origin, rows, row, columns, b, b_origin, c, c_origin, add,
                x, x_place, x_step, dz, dz_place, dz_step,
            )  # fmt: skip
            row += TALL
        else:
            _low_tile(
                a, a_origin, rows, row, columns, b, b_origin, c, c_origin, add,
                x, x_place, x_step, dz, dz_place, dz_step,
            )  # fmt: skip
            row += LOW
        x_place += columns.size * x_step
        dz_place += columns.size * dz_step
    return x_place, dz_place
