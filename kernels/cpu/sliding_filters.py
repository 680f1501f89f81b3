"""Gradient by filters of 3 x 3 cells whose channels do not mix: all of its sums in registers, line after line.

Each number of dz meets nine numbers of x, and each number of x nine of dz.  A tile which loads both for every product
(`product.product_lanewise`) is bound by its loads; and neighbours on a line see the same pixels of x, shifted by a
cell, as in `sliding`::

    x of filter line a     x0        x1        x2        x3        x4       each loaded once for three neighbours
    sum of cell (a, 0)   += x0 dz0 + x1 dz1 + x2 dz2
    sum of cell (a, 1)   +=          x1 dz0 + x2 dz1 + x3 dz2
    sum of cell (a, 2)   +=                    x2 dz0 + x3 dz1 + x4 dz2

Nine sums of a vector of channels each, that of the bias, and dz of three neighbours fill the registers: 27 multiply-adds
and three additions take 18 loads.  The multipliers are the bound while x and dz come from a near cache, and reading both
once is for larger pictures.

Nothing is copied but dz, where it is yet to be multiplied by slopes.  Lines beyond the picture are lines of zeros
elsewhere; pixels beyond the ends of a line, of which there is one at most, are left out.

Target lines of all pictures, end to end, are cut into *slots* with sums of their own, which are added in order; a
slot's sums are completed block by block, for the sake of their last digits.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import LINEAR
from .builders import constant, keep_loop, multiply_add
from .compiling import INNER, KERNEL
from .epilogue import make_dz
from .plan import MOST_SLOTS, SLOT_PIXELS, SLOT_WORK
from .processor import REGISTER_BYTES
from .product import lanes
from .sliding import TAPS
from .threads import WORKERS, share
from .vectors import add_vector, lanes_of, vectors_of
from .views import part
from .workspace import workspace, zeros

# Neighbours of a tile, and vectors of sums: one for each cell of the filter, and one for the bias.
PIXELS, SUMS = 3, TAPS * TAPS + 1

# Pixels of a block, as far as whole lines have so many.
BLOCK_PIXELS = 128
PIECE = 14
LINES=8

_I64 = ir.IntType(64)

PLAN = np.dtype(
    [
        (name, np.int64)
        for name in (
            "height channels target_height target_width "
            "first_line dilation line_size "  # source line of the filter's first one for target line 0
            "left right "  # pixels of a target line whose filter reaches beyond the start and the end of a source line
            "unpool_height unpool_width "
            "lines lines_of_block slots slot_size vectors scratch_of_worker work pieces"
        ).split()
    ]
)


def usable(geometry, dtype):
    """Whether the gradient by filters of a correlation is computed here."""
    g = geometry
    if not g.groups == g.channels == g.out_channels >= lanes(dtype):
        return False
    steps = g.dilation_width, g.stride_height, g.stride_width
    if (g.kernel_height, g.kernel_width) != (TAPS, TAPS) or steps != (1, 1, 1):
        return False
    return g.width >= 2 and g.pad_left <= 1 and _beyond_the_right(g) <= 1


def _beyond_the_right(g):
    """How far the last filter of a line reaches beyond its end."""
    return g.out_width - g.pad_left + TAPS - 1 - g.width


@functools.lru_cache(maxsize=256)
def _plan(geometry, dtype, window):
    """The numbers of one gradient, and how much scratch memory it takes."""
    g = geometry
    plan = np.zeros(1, PLAN)
    n = plan[0]
    n["height"], n["channels"], n["target_height"], n["target_width"] = g.height, g.channels, g.out_height, g.out_width
    n["first_line"], n["dilation"], n["line_size"] = -g.pad_top, g.dilation_height, g.width * g.channels
    n["left"], n["right"] = g.pad_left, max(_beyond_the_right(g), 0)
    n["unpool_height"], n["unpool_width"] = window
    n["pieces"] = max(1, g.out_width // PIECE)
    lines = n["lines"] = g.batch * g.out_height
    n["lines_of_block"] = LINES if n["pieces"] > 1 else min(max(BLOCK_PIXELS // g.out_width, 1), lines)
    n["vectors"] = -(-g.channels // lanes(dtype))
    n["slot_size"] = SUMS * n["vectors"] * lanes(dtype)
    pixels = int(lines * g.out_width)
    n["work"] = pixels * int(n["slot_size"])
    n["slots"] = max(1, min(MOST_SLOTS, pixels // SLOT_PIXELS, int(n["work"]) // SLOT_WORK, lines))
    n["scratch_of_worker"] = n["lines_of_block"] * g.out_width * g.channels
    return plan, int(n["slots"] * n["slot_size"] + WORKERS * n["scratch_of_worker"])


def filters_gradient(x, dy, y, winner, geometry, activation, alpha, window, dfilters, dbias):
    """The compiled function and its arguments, as `prepared` wants them."""
    plan, scratch_size = _plan(geometry, x.dtype, window)
    return _gradient, (
        x, dy, y, winner, activation, alpha, dfilters, dbias, plan, workspace(scratch_size, x.dtype),
        zeros(x.dtype, (geometry.width + TAPS) * geometry.channels),
    )  # fmt: skip


@njit(**KERNEL)
def _gradient(x, dy, y, winner, activation, alpha, dfilters, dbias, numbers, scratch, none):
    plan = numbers[0]
    size = plan.slots * plan.slot_size
    sums, rest = scratch[:size], scratch[size:]
    share(
        _add_slots,
        (
            x.reshape(-1), dy.reshape(-1), y.reshape(-1), winner.reshape(-1), activation, alpha, sums, numbers, rest,
            none,
        ),
        plan.slots,
        plan.work,
    )  # fmt: skip
    share(_add_up, (sums, dfilters.reshape(-1), dbias, numbers), SUMS, size)


@njit(**INNER)
def _add_slots(first, last, worker, x, dy, y, winner, activation, alpha, sums, numbers, scratch, none):
    """Each slot's sums over its lines, vector after vector of channels: of the filter's cells, then of the bias."""
    plan = numbers[0]
    lanes = lanes_of(x)
    window = plan.unpool_height, plan.unpool_width
    own = worker * plan.scratch_of_worker
    channels, width = plan.channels, plan.target_width
    for slot in range(first, last):
        part(sums, slot * plan.slot_size, plan.slot_size)[:] = 0
        end = (slot + 1) * plan.lines // plan.slots
        for begin in range(slot * plan.lines // plan.slots, end, plan.lines_of_block):
            lines = min(plan.lines_of_block, end - begin)
            dz, place = dy, begin * width * channels
            if activation != LINEAR or window[0]:
                dz, place = scratch, own
                make_dz(
                    dy, y, winner, window, width, channels, begin * width, lines * width, activation, alpha, dz, place
                )  # fmt: skip
            at_once = lines if plan.pieces == 1 else 1
            for piece in range(plan.pieces):
                start, stop = piece * width // plan.pieces, (piece + 1) * width // plan.pieces
                left = plan.left if piece == 0 else 0
                right = plan.right if piece == plan.pieces - 1 else 0
                for shift in range(0, lines, at_once):
                    picture, line = divmod(begin + shift, plan.target_height)
                    top = line + plan.first_line
                    source = (picture * plan.height + top) * plan.line_size + (start - plan.left) * channels
                    for vector in range(plan.vectors):
                        channel = min(vector * lanes, channels - lanes)
                        _add_lines(
                            x, source + channel, top, plan.first_line, plan.target_height, plan.height, plan.dilation,
                            plan.line_size, channels, left, stop - start - left - right, right, at_once,
                            dz, place + (shift * width + start) * channels + channel,
                            none, sums, slot * plan.slot_size + vector * SUMS * lanes,
                        )  # fmt: skip


@intrinsic
def _add_lines(
    typing, x, place, top, first_line, target_height, height, dilation, line_size, step, left, middle, right, lines,
    dz, dz_place, none, sums, into,
):  # fmt: skip
    """Add to the sums of a vector of channels what some target lines, end to end in dz, have of them.

    Parameters
    ----------
    x, place : array, int
        Where the first filter's first cell is, which may lie beyond the picture.
    top, first_line : int
        Its line, and that for target line 0.
    target_height, height, dilation, line_size, step : int
        Lines of dz and of x in a picture, lines of x from one filter line to the next, numbers of a line of x and of a
        pixel.
    left, middle, right : int
        Pixels of a target line of which the filter's first cells lie beyond the line, none, and its last cells.
    lines : int
    dz, dz_place : array, int
    none : array
        At least a line of zeros.
    sums, into : array, int
    """
    integer = types.intp
    signature = types.void(x, *[integer] * 12, dz, integer, none, sums, integer)

    def code(context, builder, signature, arguments):
        (
            x, place, top, first_line, target_height, height, dilation, line_size, step, left, middle, right, lines,
            dz, dz_place, none, sums, into,
        ) = arguments  # fmt: skip
        kinds = signature.args
        pixels, nothing = (context.make_array(kinds[i])(context, builder, arguments[i]).data for i in (0, 15))
        read_dz, _ = vectors_of(context, builder, kinds[13], dz)
        read_sums, write_sums = vectors_of(context, builder, kinds[16], sums)
        size = kinds[0].dtype.bitwidth // 8
        vector = ir.VectorType(pixels.type.pointee, REGISTER_BYTES // size)
        sum_of_bias, *sums_of_cells = (
            cgutils.alloca_once_value(builder, constant(vector, 0.0)) for _ in range(SUMS)
        )
        line_now, place_now, dz_now = (cgutils.alloca_once_value(builder, value) for value in (top, place, dz_place))
        pointers_now = [cgutils.alloca_once(builder, pixels.type) for _ in range(TAPS)]

        def add_pixels(count, cells):
            """What so many neighbours add to the sums of these cells of each filter line."""
            gradients = []
            for _ in range(count):
                gradients.append(read_dz(builder.load(dz_now)))
                builder.store(builder.fadd(builder.load(sum_of_bias), gradients[-1]), sum_of_bias)
                builder.store(builder.add(builder.load(dz_now), step), dz_now)
            pointers = [builder.load(pointer) for pointer in pointers_now]
            for column in range(count + TAPS - 1):
                if column == count:
                    for pointer, variable in zip(pointers, pointers_now, strict=True):
                        builder.store(pointer, variable)
                pairs = [(column - cell, cell) for cell in cells if 0 <= column - cell < count]
                # All filter lines in turn, so that no sum waits for the one before.
                for line, pointer in enumerate(pointers if pairs else ()):
                    value = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=size)
                    for pixel, cell in pairs:
                        total = sums_of_cells[line * TAPS + cell]
                        builder.store(multiply_add(builder, value, gradients[pixel], builder.load(total)), total)
                pointers = [builder.gep(pointer, [step]) for pointer in pointers]
            keep_loop(builder)

        tiles = builder.udiv(middle, _I64(PIXELS))
        singles = builder.urem(middle, _I64(PIXELS))
        filter_line = builder.mul(dilation, line_size)
        below, between = builder.add(first_line, target_height), builder.sub(height, target_height)
        next_picture = builder.mul(builder.add(between, _I64(1)), line_size)
        with cgutils.for_range(builder, lines, intp=_I64):
            line, first = builder.load(line_now), builder.load(place_now)
            for tap, pointer in enumerate(pointers_now):
                seen = builder.add(line, builder.mul(dilation, _I64(tap)))
                start = builder.gep(pixels, [builder.add(first, builder.mul(filter_line, _I64(tap)))])
                inside = builder.icmp_unsigned("<", seen, height)
                builder.store(builder.select(inside, start, nothing), pointer)
            for times, count, cells in (
                (left, 1, range(1, TAPS)),
                (tiles, PIXELS, range(TAPS)),
                (singles, 1, range(TAPS)),
                (right, 1, range(TAPS - 1)),
            ):
                with cgutils.for_range(builder, times, intp=_I64):
                    add_pixels(count, cells)
            following = builder.add(line, _I64(1))
            is_last = builder.icmp_signed("==", following, below)
            builder.store(builder.select(is_last, first_line, following), line_now)
            builder.store(builder.add(first, builder.select(is_last, next_picture, line_size)), place_now)
        for number, total in enumerate([*sums_of_cells, sum_of_bias]):
            where = builder.add(into, _I64(number * vector.count))
            write_sums(builder.fadd(read_sums(where), builder.load(total)), where)
        return context.get_dummy_value()

    return signature, code


@njit(**INNER)
def _add_up(first, last, worker, sums, dfilters, dbias, numbers):
    """Add the slots in order: a task is one cell of the filters, or the bias."""
    plan = numbers[0]
    lanes = lanes_of(sums)
    for row in range(first, last):
        for vector in range(plan.vectors):
            channel = min(vector * lanes, plan.channels - lanes)
            gradient = part(dbias, channel, lanes)
            if row < SUMS - 1:
                gradient = part(dfilters, row * plan.channels + channel, lanes)
            gradient[:] = 0
            for slot in range(plan.slots):
                add_vector(sums, slot * plan.slot_size + (vector * SUMS + row) * lanes, gradient, np.intp(0))
