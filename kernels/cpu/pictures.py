"""Correlations of small pictures of one channel with filters of 3 x 3 cells, and max pooling: pictures as lanes.

In `windows` the lanes of a vector are output channels, and of ten channels, which two vectors hold, six are computed
twice.  Here the lanes are pictures, as many as a vector holds, so that any number of channels will do.  Their pixels
are turned over first, and the results back::

    pixel 0   [ picture 0 .. 7 ]                        [ channel 0 of picture 0 .. 7 ]      picture 0   [ channels .. ]
    pixel 1   [ picture 0 .. 7 ]  -> fma with up to     [ channel 1 of picture 0 .. 7 ]  ->  picture 1   [ channels .. ]
      ...                            four cells' sums     ...                                  ...

One channel's filter, each cell in all lanes of a register, stays there for all windows.  A window of one channel then
is 16 loads and 36 multiply-adds, and takes as long as a window of a vector of channels there: what bounds both is the
multiply-adds with the choices among a window's cells.  100 pictures of 8 x 8 pixels with ten channels take 0.73 of the
time that `windows` takes, and up to 0.9 on a core that others share.  The sums are those of `windows`, bit by bit.  x
is read once, y and winner are written once.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import RELU
from .builders import keep_loop, spread
from .compiling import INNER, KERNEL
from .local import local_array
from .processor import REGISTER_BYTES
from .product import lanes
from .rows import MOST_LANES
from .threads import share
from .vectors import lanes_of, turn_square, turned, vectors_of
from .views import flat, part
from .windows import SMALL, corners_of, is_shallow, is_small, largest_of_window, sums_of_window

# Pixels of a picture at most, results of a picture that are turned back at a time, and room for either of as many
# pictures as a vector has lanes.
MOST_PIXELS, SOME_RESULTS = 256, 256
ROOM = 256 * MOST_LANES

# Vectors of channels that are less than this part full are worth the turning over; so are fewer channels than fill one.
WORTHWHILE = 0.7

_I64 = ir.IntType(64)


def usable(geometry, activation, window, dtype):
    """Whether this is the better way to compute what `windows` can, or could with narrower vectors."""
    g, wide = geometry, lanes(dtype)
    vectors = -(-g.out_channels // wide)
    fits = wide <= g.height * g.width <= MOST_PIXELS and g.out_channels <= SOME_RESULTS and g.batch >= wide
    # A picture's winners fill a vector of bytes, and its results one of numbers.
    enough = g.out_height // 2 * (g.out_width // 2) * g.out_channels >= REGISTER_BYTES
    worthwhile = g.out_channels < max(WORTHWHILE * vectors, 1) * wide
    return fits and enough and worthwhile and is_small(g) and is_shallow(g, activation, window)


def forward(x, filters, bias, geometry, activation, y, winner):
    """The compiled function and its arguments, as `prepared` wants them."""
    return _correlate, (x, filters, bias, activation, corners_of(geometry, 1), geometry.width, y, winner)


@intrinsic
def _windows_of_channel(typing, x, below, corners, filters, channel, step, bias, floor, tops, places):
    """The windows of one channel, of as many pictures as a vector has lanes.

    Parameters
    ----------
    x, below : array, int
        The pictures' pixels, those of the same place side by side, and the way from a place to the one below it.
    corners : array of int64
        The windows' places in a picture.
    filters, channel, step : array, int, int
        The channel, and the way from one cell of the filters to the next, which is the number of channels.
    bias, floor : array, number
        What is below `floor` becomes it.
    tops, places : array, array
        Get the largest numbers, window after window with all channels, those of the pictures side by side; and which
        cells they are, as bytes.
    """
    integer = types.intp
    signature = types.void(x, integer, corners, filters, integer, integer, bias, x.dtype, tops, places)

    def code(context, builder, signature, arguments):
        x, below, _, _, channel, step, _, floor, tops, places = arguments
        kinds = signature.args
        read_pixels, _ = vectors_of(context, builder, kinds[0], x)
        _, write_top = vectors_of(context, builder, kinds[8], tops)
        _, write_place = vectors_of(context, builder, kinds[9], places, like=kinds[8])
        table, numbers, addends = (
            context.make_array(kinds[number])(context, builder, arguments[number]) for number in (2, 3, 6)
        )
        lanes = REGISTER_BYTES // (kinds[0].dtype.bitwidth // 8)

        def everywhere(array, place):
            return spread(builder, builder.load(builder.gep(array.data, [place])), lanes)

        cells = range(SMALL * SMALL)
        weights = [everywhere(numbers, builder.add(channel, builder.mul(step, _I64(cell)))) for cell in cells]
        addend = everywhere(addends, channel)
        with cgutils.for_range(builder, builder.extract_value(table.shape, 0), intp=_I64) as loop:
            corner = builder.load(builder.gep(table.data, [loop.index]))

            def pixel(i, j):
                place = builder.add(corner, builder.add(builder.mul(below, _I64(i)), _I64(j)))
                return read_pixels(builder.mul(place, _I64(lanes)))

            sums = sums_of_window(builder, pixel, weights)
            best, number_of_best = largest_of_window(builder, sums, addend, floor)
            out = builder.mul(builder.add(channel, builder.mul(loop.index, step)), _I64(lanes))
            write_top(best, out)
            write_place(builder.trunc(number_of_best, ir.VectorType(ir.IntType(8), lanes)), out)
            keep_loop(builder)
        return context.get_dummy_value()

    return signature, code


@intrinsic
def _turn_bytes(typing, source, place, like, target, into, step):
    """Bytes of as many pictures as a vector has lanes, as many for each picture as a vector has bytes, turned over.

    ``target[into + i step + j] = source[place + j LANES + i]``, with the lanes of vectors of numbers `like` an array's.
    Bytes of a picture that fill such a number come together first, and then the numbers are turned over.
    """

    def code(context, builder, signature, arguments):
        _, place, _, _, into, step = arguments
        read, _ = vectors_of(context, builder, source, arguments[0])
        _, write = vectors_of(context, builder, target, arguments[3])
        size = like.dtype.bitwidth // 8
        lanes = REGISTER_BYTES // size
        numbers = ir.VectorType(ir.IntType(8 * size), lanes)
        together = [lane + lanes * number for lane in range(lanes) for number in range(size)]
        together = ir.Constant(ir.VectorType(ir.IntType(32), REGISTER_BYTES), together)
        rows = []
        for row in range(lanes):
            some = read(builder.add(place, _I64(row * REGISTER_BYTES)))
            rows.append(builder.bitcast(builder.shuffle_vector(some, some, together), numbers))
        for lane, row in enumerate(turned(builder, rows)):
            write(builder.bitcast(row, some.type), builder.add(into, builder.mul(step, _I64(lane))))
        return context.get_dummy_value()

    number = types.intp
    return types.void(source, number, like, target, number, number), code


@njit(**KERNEL)
def _correlate(x, filters, bias, activation, corners, below, y, winner):
    lanes = lanes_of(x)
    arguments = x, filters, bias, activation, corners, below, y, winner
    share(_correlate_pictures, arguments, (y.shape[0] + lanes - 1) // lanes, 4 * y.size * SMALL * SMALL)


@njit(**INNER)
def _correlate_pictures(first, last, worker, x, filters, bias, activation, corners, below, y, winner):
    """A task is as many pictures as a vector has lanes; the last ones may be some of the ones before."""
    lanes, batch, channels = lanes_of(x), y.shape[0], y.shape[3]
    floor = x.dtype.type(0) if activation == RELU else x.dtype.type(-np.inf)
    size, results = x.size // batch, y.size // batch
    pixels, weights, all_tops, all_places = flat(x), flat(filters), flat(y), flat(winner)
    turned_over, tops, places = local_array(ROOM, x), local_array(ROOM, x), local_array(ROOM, winner)
    some = min(SOME_RESULTS // channels, corners.size)
    for task in range(first, last):
        picture = min(task * lanes, batch - lanes)
        for pixel in range(0, size, lanes):
            start = min(pixel, size - lanes)
            turn_square(pixels, picture * size + start, size, turned_over, start * lanes, lanes)
        for window in range(0, corners.size, some):
            begin = min(window, corners.size - some)
            windows = part(corners, begin, some)
            count, into = some * channels, picture * results + begin * channels
            for channel in range(channels):
                _windows_of_channel(turned_over, below, windows, weights, channel, channels, bias, floor, tops, places)
            for number in range(0, count, lanes):
                start = min(number, count - lanes)
                turn_square(tops, start * lanes, lanes, all_tops, into + start, results)
            for number in range(0, count, REGISTER_BYTES):
                start = min(number, count - REGISTER_BYTES)
                _turn_bytes(places, start * lanes, x, all_places, into + start, results)
