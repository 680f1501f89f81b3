"""Correlations with few terms and max pooling of 2 x 2 cells after them, one window at a time in registers.

With one to three channels, the products of `correlate` have so few terms that a tile spends as much time on its first
and last instructions as on its sums, and pooling or unpooling costs as much again.  Here a tile is what one window of
the pooling needs, so that neither the correlation's output nor dz is ever stored, in the cache or anywhere else::

    forward                    two vectors of channels                 by filters        one vector of channels

    cell, of 4                 B, row k: filters[k]                    filter cell, of 9     B: dz of 4 cells
    x[corner + columns[k]]         -> fma  fma                         x[corner + rows[0]]   -> fma
    x[corner + right + columns[k]] -> fma  fma                         x[corner + rows[1]]   -> fma
      ...                      8 sums; then bias, floor,                 ...                 9 sums over windows, and
                               and the largest of 4                                          a tenth of dz: the bias

A window's corner is the place of its upper left cell in x, for the filter's first cell; nothing is padded, so that
`columns`, the places of the filter's cells, are the same for all windows (the Toeplitz matrix, see `gpuconv.kernels`).
dz of a window's cells comes from one vector of dy, y and winner each.

The sums of the forward pass are those of `correlate`, bit by bit.  For the gradient, windows are cut into *slots* with
sums of their own, which are added in order; a slot's sums are completed block by block, for the sake of their last
digits.  The vectors of a row lie apart there, since the last one may overlap the one before.

Each step of either loop takes as long as its multiplications: 8 for 6 loads, or 36 for 36 loads.  x, dy, y, winner and
filters are read once, if a few lines of x fit into the cache, y and winner are written once.
"""

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..formulas import LINEAR, RELU
from .builders import constant, keep_loop, multiply_add, spread
from .compiling import INNER
from .pool import largest_cell, rows_of_task
from .product import lanes
from .simd import LANEWISE_ROWS, REGISTER_BYTES, lanes_of, vectors_of
from .threads import share
from .workspace import workspace

# Terms of a sum up to which this is faster than `correlate`.
MOST_TERMS = 32

# Windows whose sums are complete before they join the slot's, and slots of the gradient: at most so many.
WINDOW_BLOCK, MOST_SLOTS = 32, 16

_I64 = ir.IntType(64)


class Plan(NamedTuple):
    """Places in x, for one correlation and batch size."""

    # Of the filter's cells, and of the windows of as many pictures as make a block, each from the first one.
    columns: np.ndarray
    corners: np.ndarray
    # From a window's corner to its cell on the right and to that below, to the next window, to the window below, and
    # to the next picture.
    steps: tuple
    slots: int


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
def plan(geometry):
    """The places of a correlation."""
    g = geometry
    line, right, below = g.width * g.channels, g.stride_width * g.channels, g.stride_height * g.width * g.channels
    vertical = np.arange(g.kernel_height) * g.dilation_height * line
    horizontal = np.arange(g.kernel_width) * g.dilation_width * g.channels
    columns = vertical[:, None, None] + horizontal[:, None] + np.arange(g.channels)
    height, width = g.out_height // 2, g.out_width // 2
    picture = g.height * line
    pictures = min(-(-WINDOW_BLOCK // (height * width)), g.batch)
    corners = (
        np.arange(pictures)[:, None, None] * picture
        + np.arange(height)[:, None] * 2 * below
        + np.arange(width) * 2 * right
    )
    slots = min(-(-g.batch // pictures), MOST_SLOTS)
    steps = right, below, 2 * right, 2 * below, picture
    return Plan(columns.ravel().astype(np.int64), corners.ravel().astype(np.int64), steps, slots)


# ------------------------------------------------------------------ forward


def forward(x, filters, bias, geometry, activation, y, winner):
    """The compiled function and its arguments, as `prepared` wants them."""
    its_plan = plan(geometry)
    return _correlate, (x, filters, bias, activation, its_plan.columns, its_plan.steps, y, winner)


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


@njit(cache=True, nogil=True, error_model="numpy")
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


# ------------------------------------------------------------------ gradient by filters


def filters_gradient(x, dy, y, winner, geometry, activation, dfilters, dbias):
    """The compiled function and its arguments, as `prepared` wants them."""
    its_plan = plan(geometry)
    vectors = -(-geometry.out_channels // lanes(x.dtype))
    scratch = workspace(its_plan.slots * _slot_size(its_plan.columns.size, vectors, lanes(x.dtype)), x.dtype)
    return _gradient, (
        x, dy, y, winner, activation, its_plan.columns, its_plan.corners, its_plan.steps, its_plan.slots, scratch,
        dfilters, dbias,
    )  # fmt: skip


def _slot_size(terms, vectors, lanes):
    """Numbers of a slot: for each vector, rows of the filters' gradient and of the bias's, and one that is not used."""
    return vectors * (terms + 2) * lanes


_inner_slot_size = njit(**INNER)(_slot_size)


@intrinsic
def _add_windows(
    typing, x, origin, corners, right, below, columns, row, dy, y, winner, place, step, limit, sums, into, bias_row
):
    """Add windows to the sums of the filter cells ``row .. row + LANEWISE_ROWS - 1`` and of the bias, for one vector.

    Beyond the last cell, that one again and again.

    Parameters
    ----------
    x, origin, corners : array, int, array of int64
        The corners of the windows, counted from `origin`.
    right, below : int
        From a window's corner to the cells beside it.
    columns, row : array of int64, int
    dy, y, winner, place, step : array, array, array, int, int
        Where those of the first window stand, and the way to the next one's.
    limit : number
        Up to this value of y the activation's slope is 0, else 1: 0 for ReLU, NaN for none.
    sums, into, bias_row : array, int, int
        The sums of filter cell 0 are at `into`, and those of the bias in row `bias_row` from there.
    """
    integer = types.intp
    signature = types.void(
        x, integer, corners, integer, integer, columns, integer, dy, y, winner, integer, integer, x.dtype,
        sums, integer, integer,
    )  # fmt: skip

    def code(context, builder, signature, arguments):
        x, origin, corners, right, below, columns, row, dy, y, winner, place, step, limit, sums, into, bias_row = (
            arguments
        )
        kinds = signature.args
        pixels = context.make_array(kinds[0])(context, builder, x).data
        corner_table = context.make_array(kinds[2])(context, builder, corners)
        column_table = context.make_array(kinds[5])(context, builder, columns)
        read_dy, _ = vectors_of(context, builder, kinds[7], dy)
        read_y, _ = vectors_of(context, builder, kinds[8], y)
        read_winner, _ = vectors_of(context, builder, kinds[9], winner, like=kinds[7])
        read_sums, write_sums = vectors_of(context, builder, kinds[13], sums)
        bits = kinds[0].dtype.bitwidth
        lanes = REGISTER_BYTES // (bits // 8)
        vector, integers = ir.VectorType(pixels.type.pointee, lanes), ir.VectorType(ir.IntType(bits), lanes)
        zero, one = constant(vector, 0.0), constant(vector, 1.0)

        last = builder.sub(builder.extract_value(column_table.shape, 0), _I64(1))
        rows = []
        for r in range(LANEWISE_ROWS):
            number = builder.add(row, _I64(r))
            rows.append(builder.select(builder.icmp_signed(">", number, last), last, number))
        first = builder.gep(pixels, [origin])
        a_rows = [builder.gep(first, [builder.load(builder.gep(column_table.data, [number]))]) for number in rows]
        corner_step = [_I64(0), right, below, builder.add(right, below)]
        limits = spread(builder, limit, lanes)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(LANEWISE_ROWS + 1)]
        with cgutils.for_range(builder, builder.extract_value(corner_table.shape, 0), intp=_I64) as loop:
            at = builder.add(place, builder.mul(loop.index, step))
            flat = builder.fcmp_ordered("<=", read_y(at), limits)
            gradient = builder.fmul(read_dy(at), builder.select(flat, zero, one))
            cell_of_winner = builder.zext(read_winner(at), integers)
            builder.store(builder.fadd(builder.load(totals[-1]), gradient), totals[-1])
            corner = builder.load(builder.gep(corner_table.data, [loop.index]))
            for cell, shift in enumerate(corner_step):
                wins = builder.icmp_unsigned("==", cell_of_winner, constant(integers, cell))
                dz = builder.select(wins, gradient, zero)
                here = builder.add(corner, shift)
                for a_row, total in zip(a_rows, totals, strict=False):
                    pixel = spread(builder, builder.load(builder.gep(a_row, [here])), lanes)
                    builder.store(multiply_add(builder, pixel, dz, builder.load(total)), total)
            keep_loop(builder)
        # All loads come before all stores, since the last row may stand in several lines.
        places = [builder.add(into, builder.mul(number, _I64(lanes))) for number in [*rows, bias_row]]
        added = [
            builder.fadd(read_sums(there), builder.load(total)) for there, total in zip(places, totals, strict=True)
        ]
        for there, total in zip(places, added, strict=True):
            write_sums(total, there)
        return context.get_dummy_value()

    return signature, code


@njit(cache=True, nogil=True, error_model="numpy")
def _gradient(x, dy, y, winner, activation, columns, corners, steps, slots, scratch, dfilters, dbias):
    share(
        _add_slots,
        (x, dy, y, winner, activation, columns, corners, steps, slots, scratch),
        slots,
        4 * dy.size * columns.size,
    )
    terms, channels = columns.size, dbias.size
    for row in range(terms):
        _add_up(scratch, slots, terms, row, channels, dfilters.reshape(-1)[row * channels : (row + 1) * channels])
    _add_up(scratch, slots, terms, terms, channels, dbias)


@njit(**INNER)
def _add_slots(first, last, worker, x, dy, y, winner, activation, columns, corners, steps, slots, scratch):
    right, below, _, _, next_picture = steps
    lanes = lanes_of(x)
    limit = x.dtype.type(0) if activation == RELU else x.dtype.type(np.nan)
    batch, height, width, channels = dy.shape
    area, terms = height * width, columns.size
    vectors = (channels + lanes - 1) // lanes
    size, vector_size = _inner_slot_size(terms, vectors, lanes), (terms + 2) * lanes
    pictures = corners.size // area
    tasks = (batch + pictures - 1) // pictures
    pixels, given, values, winners = x.reshape(-1), dy.reshape(-1), y.reshape(-1), winner.reshape(-1)
    for slot in range(first, last):
        scratch[slot * size : (slot + 1) * size] = 0
        for task in range(slot * tasks // slots, (slot + 1) * tasks // slots):
            picture = task * pictures
            count = min(pictures, batch - picture) * area
            for begin in range(0, count, WINDOW_BLOCK):
                block = corners[begin : min(begin + WINDOW_BLOCK, count)]
                for vector in range(vectors):
                    place = (picture * area + begin) * channels + min(vector * lanes, channels - lanes)
                    for row in range(0, terms, LANEWISE_ROWS):
                        # The bias is added with the first rows; with the others, where nobody looks.
                        _add_windows(
                            pixels, picture * next_picture, block, right, below, columns, row,
                            given, values, winners, place, channels, limit,
                            scratch, slot * size + vector * vector_size, terms if row == 0 else terms + 1,
                        )  # fmt: skip


@njit(**INNER)
def _add_up(scratch, slots, terms, row, channels, gradient):
    """Add the slots in order, for one row of the gradient."""
    lanes = lanes_of(scratch)
    vectors = (channels + lanes - 1) // lanes
    size = _inner_slot_size(terms, vectors, lanes)
    for vector in range(vectors):
        start = min(vector * lanes, channels - lanes)
        part = gradient[start : start + lanes]
        part[:] = 0
        for slot in range(slots):
            place = slot * size + (vector * (terms + 2) + row) * lanes
            sums = scratch[place : place + lanes]
            for lane in range(lanes):
                part[lane] += sums[lane]
