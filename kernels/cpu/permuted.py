"""Gradients of filters of 3 x 3 cells of one channel through max pooling, with output channels as lanes.

As in `winners`, each channel's winner in a window of 2 x 2 adds the patch of x that it sees, times dz.  All patches of
a window lie within 16 pixels, and where a channel's begins there depends on its winner alone.  So two lines of four
pixels, in one register, are what all channels need for one line of the filter, and an instruction that picks numbers of
a register by their places gives each its own::

    lines i and i + 1 of a window's pixels    [ p0 p1 p2 p3 | p4 p5 p6 p7 ]
    places, by the winners of channels        [  4    0    1    5    0  .. ]     + 0, 1, 2 for the line's three cells
    pixels of the channels                    [ p4   p0   p1   p5   p0 .. ]     times dz of the channels, added to the
                                                                                sums of a cell, which stay in registers

Nine picks and multiply-adds are a vector of channels of a window, where `winners` has three multiply-adds and five
loads for each of the channels.  Windows are cut into slots and blocks as there, so that sums are the same, bit by bit.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import RELU
from .builders import constant, keep_loop, multiply_add, spread
from .compiling import INNER, KERNEL
from .processor import PERMUTE, REGISTER_BYTES
from .product import lanes
from .threads import share
from .vectors import first_lanes, lanes_of, masked_vectors_of, vectors_of
from .views import flat, part
from .windows import SMALL, corners_of, is_shallow, is_small
from .winners import MOST_SLOTS, WINDOW_BLOCK
from .workspace import workspace

# Sums of a channel: those of the filter's cells, and dz for the bias.
SUMS = SMALL * SMALL + 1

# Where vectors may be read in part, fewer channels will do.
_MASKED = REGISTER_BYTES == 64

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def usable(geometry, activation, window, dtype):
    """Whether this computes the gradient of a correlation, of which only the windows' part is left."""
    g = geometry
    return (
        PERMUTE is not None
        and dtype == np.float32
        and (_MASKED or g.out_channels >= lanes(dtype))
        and is_small(g)
        and is_shallow(g, activation, window)
    )


def filters_gradient(x, dy, y, winner, geometry, activation, dfilters, dbias):
    """The compiled function and its arguments, as `prepared` wants them."""
    g, wide = geometry, lanes(x.dtype)
    pictures = min(-(-WINDOW_BLOCK // (dy.shape[1] * dy.shape[2])), g.batch)
    slots = min(-(-g.batch // pictures), MOST_SLOTS)
    sums = workspace(slots * -(-g.out_channels // wide) * SUMS * wide, x.dtype)
    return _gradient, (x, dy, y, winner, activation, corners_of(g, pictures), g.width, slots, sums, dfilters, dbias)


@intrinsic
def _add_windows(typing, x, origin, below, corners, dy, y, winner, at, step, count, limit, sums, into):
    """Add what some windows give to the sums of a vector of channels.

    Parameters
    ----------
    x, origin, below : array, int, int
        The pictures that the corners are counted in, and the way from a pixel to the one below it.
    corners : array of int64
        The windows' places.
    dy, y, winner, at, step, count : array, array, array, int, int, int
        Where the first channel of the first window stands, the way to the next window's, and how many channels there
        are: all lanes, or fewer.
    limit : number
        Up to this value of y the activation's slope is 0, else 1.
    sums, into : array, int
        Vectors for each of the filter's cells, and one for the bias.
    """

    def code(context, builder, signature, arguments):
        _, origin, below, _, _, _, _, at, step, count, limit, _, into = arguments
        kinds = signature.args
        pixels, table = (context.make_array(kinds[i])(context, builder, arguments[i]).data for i in (0, 3))
        windows = builder.extract_value(context.make_array(kinds[3])(context, builder, arguments[3]).shape, 0)
        read_sums, write_sums = vectors_of(context, builder, kinds[11], arguments[11])
        lanes = REGISTER_BYTES // (kinds[0].dtype.bitwidth // 8)
        line, vector, integers = (
            ir.VectorType(*kind) for kind in ((limit.type, 4), (limit.type, lanes), (_I32, lanes))
        )
        zero, one = constant(vector, 0.0), constant(vector, 1.0)
        chosen, limits = first_lanes(builder, count, lanes), spread(builder, limit, lanes)

        def reading(number):
            kind, array = kinds[number], arguments[number]
            if _MASKED:
                read, _ = masked_vectors_of(context, builder, kind, array, chosen)
                return lambda place: read(place, 0)
            return vectors_of(context, builder, kind, array, like=kinds[0])[0]

        read_dy, read_y, read_winner = map(reading, (4, 5, 6))
        picture = builder.gep(pixels, [origin])
        # What lies beyond the two lines is never picked.
        both, all_lanes = (ir.Constant(ir.VectorType(_I32, number), [*range(number)]) for number in (8, lanes))
        pick = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector, integers]), PERMUTE)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(SUMS)]
        with cgutils.for_range(builder, windows, intp=_I64) as loop:
            place = builder.add(at, builder.mul(loop.index, step))
            slope = builder.select(builder.fcmp_ordered("<=", read_y(place), limits), zero, one)
            gradient = builder.fmul(read_dy(place), slope)
            builder.store(builder.fadd(builder.load(totals[-1]), gradient), totals[-1])
            cell = builder.zext(read_winner(place), integers)
            # The pixel on the right is the next one; the one below comes four later.
            starts = builder.add(cell, builder.and_(cell, constant(integers, 2)))
            starts = [starts, *(builder.add(starts, constant(integers, right)) for right in range(1, SMALL))]
            corner = builder.gep(picture, [builder.load(builder.gep(table, [loop.index]))])
            lines = [builder.gep(corner, [builder.mul(below, _I64(i))]) for i in range(SMALL + 1)]
            lines = [builder.load(builder.bitcast(first, line.as_pointer()), align=4) for first in lines]
            for i in range(SMALL):
                pair = builder.shuffle_vector(lines[i], lines[i + 1], both)
                pair = builder.shuffle_vector(pair, ir.Constant(pair.type, ir.Undefined), all_lanes)
                for start, total in zip(starts, totals[i * SMALL :], strict=False):
                    seen = builder.call(pick, [pair, start])
                    builder.store(multiply_add(builder, seen, gradient, builder.load(total)), total)
            keep_loop(builder)
        for number, total in enumerate(totals):
            target = builder.add(into, _I64(number * lanes))
            write_sums(builder.fadd(read_sums(target), builder.load(total)), target)
        return context.get_dummy_value()

    number = types.intp
    return types.void(
        x, number, number, corners, dy, y, winner, number, number, number, x.dtype, sums, number
    ), code  # fmt: skip


@njit(**KERNEL)
def _gradient(x, dy, y, winner, activation, corners, below, slots, sums, dfilters, dbias):
    lanes, channels = lanes_of(x), dbias.size
    share(_add_slots, (x, dy, y, winner, activation, corners, below, slots, sums), slots, dy.size * SUMS)
    size = (channels + lanes - 1) // lanes * SUMS * lanes
    for slot in range(1, slots):
        for place in range(size):
            sums[place] += sums[slot * size + place]
    gradient, place = flat(dfilters), 0
    for channel in range(0, channels, lanes):
        start, count = max(min(channel, channels - lanes), 0), min(channels, lanes)
        for cell in range(SMALL * SMALL):
            for lane in range(count):
                gradient[cell * channels + start + lane] = sums[place + lane]
            place += lanes
        for lane in range(count):
            dbias[start + lane] = sums[place + lane]
        place += lanes


@njit(**INNER)
def _add_slots(first, last, worker, x, dy, y, winner, activation, corners, below, slots, sums):
    lanes = lanes_of(x)
    limit = x.dtype.type(0) if activation == RELU else x.dtype.type(np.nan)
    batch, height, width, channels = dy.shape
    area, picture_size = height * width, x.size // batch
    pictures = corners.size // area
    tasks = (batch + pictures - 1) // pictures
    size = (channels + lanes - 1) // lanes * SUMS * lanes
    pixels, given, values, winners = flat(x), flat(dy), flat(y), flat(winner)
    for slot in range(first, last):
        sums[slot * size : (slot + 1) * size] = 0
        for task in range(slot * tasks // slots, (slot + 1) * tasks // slots):
            picture = task * pictures
            count = min(pictures, batch - picture) * area
            for begin in range(0, count, WINDOW_BLOCK):
                corner = part(corners, begin, min(WINDOW_BLOCK, count - begin))
                at, into = (picture * area + begin) * channels, slot * size
                for channel in range(0, channels, lanes):
                    start = max(min(channel, channels - lanes), 0)
                    _add_windows(
                        pixels, picture * picture_size, below, corner, given, values, winners, at + start, channels,
                        min(channels, lanes), limit, sums, into,
                    )  # fmt: skip
                    into += SUMS * lanes
