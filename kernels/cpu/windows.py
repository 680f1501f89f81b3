"""Correlations with few terms and max pooling of 2 x 2 cells after them, one window at a time in registers.

With one to three channels, the products of `correlate` have so few terms that a tile spends as much time on its first
and last instructions as on its sums, and pooling costs as much again.  Here a tile is what one window of the pooling
needs, so that the correlation's output is never stored, in the cache or anywhere else::

    cell, of 4                              B, row k: filters[k], two vectors of channels
    x[corner + columns[k]]                      -> fma  fma
    x[corner + right + columns[k]]              -> fma  fma
      ...                                       8 sums; then bias, floor, and the largest of 4

A window's corner is the place of its upper left cell in x, for the filter's first cell; nothing is padded, so that
`columns`, the places of the filter's cells, are the same for all windows (the Toeplitz matrix, see `gpuconv.kernels`).

The sums are those of `correlate`, bit by bit.  Each step takes as long as its multiplications: 8 for 6 loads.  x and
filters are read once, if a few lines of x fit into the cache, y and winner are written once.

Filters of 3 x 3 cells of one channel, those of a vector of output channels, fill nine registers and stay there for all
windows of a task.  The cells of a window see 16 pixels, each of which is then loaded once instead of up to four times::

    x[corner + pixel], of 16      -> fma with up to four of filters[0 .. 8], one for each cell that sees the pixel

That is 36 multiply-adds and 16 loads a window and vector, and with the largest cell 100 instructions, which bound it:
nine steps as above and the largest cells of two vectors have 290.

Where vectors of channels would be half empty, `pictures` takes these filters; the gradient by filters is in `permuted`,
or in `winners`.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import LINEAR, RELU
from .builders import constant, keep_loop, multiply_add, spread
from .compiling import INNER, KERNEL
from .pool import largest_cell, rows_of_task
from .processor import REGISTER_BYTES
from .product import lanes
from .threads import share
from .vectors import lanes_of, vectors_of
from .views import flat, part

# Terms of a sum up to which this is faster than `correlate`.
MOST_TERMS = 32

# Side of the filters of one channel that stay in registers from window to window.
SMALL = 3

_I64 = ir.IntType(64)


def usable(geometry, activation, window, dtype):
    """Whether these kernels compute a correlation, of which only the windows' part is left."""
    return geometry.out_channels >= lanes(dtype) and is_shallow(geometry, activation, window)


def is_shallow(geometry, activation, window):
    """Whether sums have few terms and no padding, and each largest one is that of four with the same activation."""
    g = geometry
    reach_down = (g.out_height - 1) * g.stride_height + (g.kernel_height - 1) * g.dilation_height
    reach_right = (g.out_width - 1) * g.stride_width + (g.kernel_width - 1) * g.dilation_width
    return (
        tuple(window) == (2, 2)
        and activation in (LINEAR, RELU)
        and g.groups == 1
        and g.kernel_height * g.kernel_width * g.channels <= MOST_TERMS
        and (g.pad_top, g.pad_left) == (0, 0)
        and reach_down < g.height
        and reach_right < g.width
    )


@functools.lru_cache(maxsize=256)
def places_of(geometry):
    """Places of the filter's cells in a patch, and steps between those of a window.

    From a window's corner to its cell on the right and to that below, to the next window, to the window below, and to
    the next picture.
    """
    g = geometry
    line, right, below = g.width * g.channels, g.stride_width * g.channels, g.stride_height * g.width * g.channels
    vertical = np.arange(g.kernel_height) * g.dilation_height * line
    horizontal = np.arange(g.kernel_width) * g.dilation_width * g.channels
    columns = vertical[:, None, None] + horizontal[:, None] + np.arange(g.channels)
    return columns.ravel().astype(np.int64), (right, below, 2 * right, 2 * below, g.height * line)


@functools.lru_cache(maxsize=256)
def corners_of(geometry, pictures):
    """Places of the windows of so many pictures, from the first one."""
    _, (_, _, next_window, next_line, next_picture) = places_of(geometry)
    lines = np.arange(geometry.out_height // 2)[:, None] * next_line
    corners = np.arange(pictures)[:, None, None] * next_picture + lines
    return (corners + np.arange(geometry.out_width // 2) * next_window).ravel()


def forward(x, filters, bias, geometry, activation, y, winner):
    """The compiled function and its arguments, as `prepared` wants them."""
    if is_small(geometry):
        return _correlate_small, (x, filters, bias, activation, corners_of(geometry, 1), geometry.width, y, winner)
    return _correlate, (x, filters, bias, activation, *places_of(geometry), y, winner)


def is_small(geometry):
    """Whether a pixel is seen by neighbouring cells of a window, and the filters of a vector of channels are few."""
    g = geometry
    shape = g.kernel_height, g.kernel_width, g.channels
    steps = g.stride_height, g.stride_width, g.dilation_height, g.dilation_width
    return shape == (SMALL, SMALL, 1) and steps == (1, 1, 1, 1)


def largest_of_window(builder, sums, addend, floor):
    """The largest of a window's cells, whose sums these are, and its number; results below the floor become it."""
    floors = spread(builder, floor, addend.type.count)
    results = [builder.fadd(total, addend) for total in sums]
    return largest_cell(
        builder,
        [builder.select(builder.fcmp_ordered("<", result, floors), floors, result) for result in results],
    )


def sums_of_window(builder, pixel, weights):
    """The four cells' sums of a window, for filters of SMALL x SMALL cells of one channel.

    ``pixel(i, j)`` loads the pixel in line i and column j from the window's corner.  It is multiplied for all cells of
    the window that see it.  Each cell sees its pixels in the order of the filter, which is that of the sum.
    """
    sums = [constant(weights[0].type, 0.0)] * 4
    for i in range(SMALL + 1):
        for j in range(SMALL + 1):
            number = pixel(i, j)
            for cell in range(4):
                a, b = i - cell // 2, j - cell % 2
                if 0 <= a < SMALL and 0 <= b < SMALL:
                    sums[cell] = multiply_add(builder, number, weights[a * SMALL + b], sums[cell])
    return sums


def _window_tile(vectors):
    """The intrinsic that computes one window of so many vectors of channels."""

    @intrinsic
    def tile(typing, x, corner, right, below, columns, filters, start, second, step, bias, floor, y, winner, out):
        """
        Parameters
        ----------
        x, corner, right, below : array, int, int, int
            The window's corner, and the way from there to the cells beside it.
        columns : array of int64
        filters, start, second, step : array, int, int, int
            First channel, the way from there to the second vector, and from one row of the filters to the next.
        bias, floor : array, number
            What is below `floor` becomes it: 0 for ReLU, -infinity for none; NaN stays NaN.
        y, winner, out : array, array, int
            Where the results of the first channel go.
        """
        integer = types.intp
        signature = types.void(
            x, integer, integer, integer, columns, filters, integer, integer, integer, bias, x.dtype, y, winner, integer
        )

        def code(context, builder, signature, arguments):
            x, corner, right, below, columns, filters, start, second, step, bias, floor, y, winner, out = arguments
            kinds = signature.args
            pixels = context.make_array(kinds[0])(context, builder, x).data
            table = context.make_array(kinds[4])(context, builder, columns)
            read_filters, _ = vectors_of(context, builder, kinds[5], filters)
            read_bias, _ = vectors_of(context, builder, kinds[9], bias)
            _, write_y = vectors_of(context, builder, kinds[11], y)
            _, write_winner = vectors_of(context, builder, kinds[12], winner, like=kinds[11])
            lanes = REGISTER_BYTES // (kinds[0].dtype.bitwidth // 8)
            vector = ir.VectorType(pixels.type.pointee, lanes)

            lower = builder.add(corner, below)
            places = [corner, builder.add(corner, right), lower, builder.add(lower, right)]
            cells = [builder.gep(pixels, [place]) for place in places]
            shifts = [_I64(0), second][:vectors]
            sums = [[cgutils.alloca_once_value(builder, constant(vector, 0.0)) for _ in shifts] for _ in cells]
            with cgutils.for_range(builder, builder.extract_value(table.shape, 0), intp=_I64) as loop:
                place = builder.add(start, builder.mul(loop.index, step))
                weights = [read_filters(builder.add(place, shift)) for shift in shifts]
                column = builder.load(builder.gep(table.data, [loop.index]))
                for cell, line in zip(cells, sums, strict=True):
                    pixel = spread(builder, builder.load(builder.gep(cell, [column])), lanes)
                    for weight, total in zip(weights, line, strict=True):
                        builder.store(multiply_add(builder, pixel, weight, builder.load(total)), total)
                keep_loop(builder)
            for number, shift in enumerate(shifts):
                addend = read_bias(builder.add(start, shift))
                totals = [builder.load(line[number]) for line in sums]
                best, number_of_best = largest_of_window(builder, totals, addend, floor)
                write_y(best, builder.add(out, shift))
                kind = ir.VectorType(context.get_value_type(kinds[12].dtype), lanes)
                write_winner(builder.trunc(number_of_best, kind), builder.add(out, shift))
            return context.get_dummy_value()

        return signature, code

    return tile


_wide_tile, _narrow_tile = _window_tile(2), _window_tile(1)


@intrinsic
def _small_windows(typing, x, origin, below, corners, filters, start, step, bias, floor, y, winner, out):
    """Windows of a picture of one channel, for filters of SMALL x SMALL cells: one vector of their output channels.

    Parameters
    ----------
    x, origin, below : array, int, int
        Where the picture starts, and the way from a pixel to the one below it.
    corners : array of int64
        The windows' places in the picture.
    filters, start, step : array, int, int
        The first channel, and the way from one cell of the filters to the next.
    bias, floor : array, number
        As for the tiles above.
    y, winner, out : array, array, int
        Where the results of the first channel of the first window go.
    """
    integer = types.intp
    signature = types.void(x, integer, integer, corners, filters, integer, integer, bias, x.dtype, y, winner, integer)

    def code(context, builder, signature, arguments):
        x, origin, below, corners, filters, start, step, bias, floor, y, winner, out = arguments
        kinds = signature.args
        pixels = context.make_array(kinds[0])(context, builder, x).data
        table = context.make_array(kinds[3])(context, builder, corners)
        read_filters, _ = vectors_of(context, builder, kinds[4], filters)
        read_bias, _ = vectors_of(context, builder, kinds[7], bias)
        _, write_y = vectors_of(context, builder, kinds[9], y)
        _, write_winner = vectors_of(context, builder, kinds[10], winner, like=kinds[9])
        cells = range(SMALL * SMALL)
        weights = [read_filters(builder.add(start, builder.mul(step, _I64(cell)))) for cell in cells]
        addend = read_bias(start)
        kind = ir.VectorType(context.get_value_type(kinds[10].dtype), addend.type.count)
        picture = builder.gep(pixels, [origin])
        with cgutils.for_range(builder, builder.extract_value(table.shape, 0), intp=_I64) as loop:
            corner = builder.gep(picture, [builder.load(builder.gep(table.data, [loop.index]))])

            def pixel(i, j):
                place = builder.add(builder.mul(below, _I64(i)), _I64(j))
                return spread(builder, builder.load(builder.gep(corner, [place])), addend.type.count)

            sums = sums_of_window(builder, pixel, weights)
            best, number_of_best = largest_of_window(builder, sums, addend, floor)
            place = builder.add(out, builder.mul(loop.index, step))
            write_y(best, place)
            write_winner(builder.trunc(number_of_best, kind), place)
            keep_loop(builder)
        return context.get_dummy_value()

    return signature, code


@njit(**KERNEL)
def _correlate_small(x, filters, bias, activation, corners, below, y, winner):
    height = y.shape[1]
    lines = y.shape[0] * height
    step = rows_of_task(y[0, 0].size * SMALL * SMALL, lines)
    # Whole pictures, if a task has more than one.
    step = max(step // height * height, min(step, height))
    share(
        _correlate_small_lines,
        (x, filters, bias, activation, corners, below, y, winner, step),
        (lines + step - 1) // step,
        4 * y.size * SMALL * SMALL,
    )


@njit(**INNER)
def _correlate_small_lines(first, last, worker, x, filters, bias, activation, corners, below, y, winner, step):
    lanes = lanes_of(x)
    floor = x.dtype.type(0) if activation == RELU else x.dtype.type(-np.inf)
    batch, height, width, channels = y.shape
    size, end = x.size // batch, min(last * step, batch * height)
    pixels, weights, tops, places = flat(x), flat(filters), flat(y), flat(winner)
    line = first * step
    while line < end:
        picture, row = divmod(line, height)
        rows = min(height - row, end - line, step)
        windows = part(corners, row * width, rows * width)
        for start in range(0, channels, lanes):
            shift = min(start, channels - lanes)
            _small_windows(
                pixels, picture * size, below, windows, weights, shift, channels,
                bias, floor, tops, places, line * width * channels + shift,
            )  # fmt: skip
        line += rows


@njit(**KERNEL)
def _correlate(x, filters, bias, activation, columns, steps, y, winner):
    lines = y.shape[0] * y.shape[1]
    step = rows_of_task(y[0, 0].size * columns.size, lines)
    share(
        _correlate_lines,
        (x, filters, bias, activation, columns, steps, y, winner, step),
        (lines + step - 1) // step,
        4 * y.size * columns.size,
    )


@njit(**INNER)
def _correlate_lines(first, last, worker, x, filters, bias, activation, columns, steps, y, winner, step):
    right, below, next_window, next_line, next_picture = steps
    lanes = lanes_of(x)
    floor = x.dtype.type(0) if activation == RELU else x.dtype.type(-np.inf)
    batch, height, width, channels = y.shape
    cells, weights, tops, places = flat(x), flat(filters), flat(y), flat(winner)
    for line in range(first * step, min(last * step, batch * height)):
        picture, row = divmod(line, height)
        corner = picture * next_picture + row * next_line
        out = line * width * channels
        for _ in range(width):
            for start in range(0, channels, 2 * lanes):
                if channels - start > lanes:
                    second = min(lanes, channels - lanes - start)
                    _wide_tile(
                        cells, corner, right, below, columns, weights, start, second, channels,
                        bias, floor, tops, places, out + start,
                    )  # fmt: skip
                else:
                    shift = min(start, channels - lanes)
                    _narrow_tile(
                        cells, corner, right, below, columns, weights, shift, 0, channels,
                        bias, floor, tops, places, out + shift,
                    )  # fmt: skip
            corner += next_window
            out += channels
