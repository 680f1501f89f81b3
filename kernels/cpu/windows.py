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

The gradient by filters is in `winners`.
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
from .product import lanes
from .simd import REGISTER_BYTES, lanes_of, vectors_of
from .threads import share

# Terms of a sum up to which this is faster than `correlate`.
MOST_TERMS = 32

_I64 = ir.IntType(64)


def usable(geometry, activation, window, dtype):
    """Whether these kernels compute a correlation, of which only the windows' part is left."""
    g = geometry
    reach_down = (g.out_height - 1) * g.stride_height + (g.kernel_height - 1) * g.dilation_height
    reach_right = (g.out_width - 1) * g.stride_width + (g.kernel_width - 1) * g.dilation_width
    return (
        tuple(window) == (2, 2)
        and activation in (LINEAR, RELU)
        and g.groups == 1
        and g.out_channels >= lanes(dtype)
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


def forward(x, filters, bias, geometry, activation, y, winner):
    """The compiled function and its arguments, as `prepared` wants them."""
    return _correlate, (x, filters, bias, activation, *places_of(geometry), y, winner)


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
            floors = spread(builder, floor, lanes)
            for number, shift in enumerate(shifts):
                addend = read_bias(builder.add(start, shift))
                results = []
                for line in sums:
                    result = builder.fadd(builder.load(line[number]), addend)
                    below_floor = builder.fcmp_ordered("<", result, floors)
                    results.append(builder.select(below_floor, floors, result))
                best, number_of_best = largest_cell(builder, results)
                write_y(best, builder.add(out, shift))
                kind = ir.VectorType(context.get_value_type(kinds[12].dtype), lanes)
                write_winner(builder.trunc(number_of_best, kind), builder.add(out, shift))
            return context.get_dummy_value()

        return signature, code

    return tile


_wide_tile, _narrow_tile = _window_tile(2), _window_tile(1)


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
    cells, weights, tops, places = x.reshape(-1), filters.reshape(-1), y.reshape(-1), winner.reshape(-1)
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
