"""Depthwise correlations, of channels that do not mix, and their gradients.

Each channel has one filter, and nothing is shared that a tile of a product could hold: what matters is to read x, dy
and y, and to write y and dx, at the speed of memory.

Forward and by input.  A thread has 4 neighbouring channels (1 if they are no multiple of 4) of a *run* of 4 pixels side
by side::

    x      +---+---+---+---+---+---+       for each kernel row, a thread reads the columns under its run once, and
           |   |   |   |   |   |   |       keeps them in registers: all pixels and cells find theirs there
           +---+---+---+---+---+---+
             \\   |   /\\   |   /
    y        +---+---+---+---+             neighbouring threads have neighbouring channels, and then the next run:
             |   |   |   |   |             they read and write 16 bytes each, side by side
             +---+---+---+---+

The gradient by input has runs of dx under columns of dz = dy * slope, which is made as dy is read.  With stride s,
output ``(v + pad - b dilation) / s`` saw pixel v through cell b, if that is a whole number.  Runs begin at multiples of
s, so that the same pixels and cells meet in all of them: the compiler knows which, and nothing is multiplied by the
zeros that would lie between outputs.  For rows a thread finds out.

By filters.  A thread has the weights of 4 channels, up to 12 cells of them, and a block's threads walk along runs of
pixels: what a thread reads of x and dz for a run, it multiplies by each other, cell by cell, in registers.  Then the
threads of one channel add up what they have in shared memory, and a second kernel adds up blocks.  How pixels are cut
into chunks depends on shapes alone, and so does the order of every sum.

Memory traffic.  Of x, each kernel row is read again, by the same thread or a neighbour, from the caches; all else is
read and written once.

What bounds it: memory.  With 3 x 3 cells a thread makes 144 multiply-adds of 18 reads of 16 bytes and 9 of weights,
all of which may be on their way at once.

With dilation, columns do not overlap in neighbouring pixels as they do without, and runs are of one pixel, except those
of a gradient by input with strides.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy import int32, uint32

from ..formulas import LINEAR
from ..geometry import int32_geometry
from . import tiles, toolkit
from .formulas import activate, inline, inline_early, pixel_place
from .instructions import (
    ALIGNMENT,
    divide,
    load4_if,
    load_if,
    move,
    shared_address,
    store,
    store4,
)
from .slopes import dz4_if, dz_if
from .sums import store_sum
from .toolkit import cuda

# Pixels of a run; columns of x that a thread keeps at most, and pixels of dx; cells whose gradients it has.
RUN, MOST_COLUMNS, MOST_CELLS = 4, 16, 12


class Layout(NamedTuple):
    """What a thread has: constants of a kernel.

    Of `run` pixels and `width` channels it keeps `columns` columns of x, `column_step` apart in x, in which those of
    neighbouring pixels lie `pixel_step` apart and those of neighbouring cells side by side.
    """

    width: int
    wide: bool
    run: int
    kernel_height: int
    kernel_width: int
    columns: int
    column_step: int
    pixel_step: int


class InputLayout(NamedTuple):
    """What a thread has of a gradient by input: constants of a kernel.

    Of `run` pixels of dx and `width` channels it keeps the `columns` columns of dz that saw them, `column_step` apart.
    The one that saw pixel r through cell b is number ``(r + reach - b * dilation_width) / between``, if that is whole.
    """

    width: int
    wide: bool
    run: int
    kernel_height: int
    kernel_width: int
    stride_height: int
    stride_width: int
    dilation_width: int
    columns: int
    column_step: int
    between: int
    reach: int


class Problem(NamedTuple):
    """What the kernels must know of a correlation beside its layout, in 32-bit integers.

    That of a gradient by input is the problem of a correlation of dz, whose output is dx: see `of_dz`.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    stride_height: int
    stride_width: int
    dilation_height: int
    pad_top: int
    pad_left: int
    vectors: int
    runs: int


def suits(g):
    """Whether the kernels of this module compute a correlation and its gradients: one filter for each channel."""
    if not g.groups == g.channels == g.out_channels > 1:
        return False
    seen = input_layout_of(g, 1)
    return max(layout_of(g, 1).columns, seen.columns, seen.run) <= MOST_COLUMNS


def layout_of(g, width):
    """The layout for a geometry; channels are read `width` at once, 4 or 1."""
    apart = g.dilation_width > 1
    run = 1 if apart else RUN
    columns = (run - 1) * g.stride_width + g.kernel_width
    step = g.dilation_width if apart else 1
    return Layout(width, width == 4, run, g.kernel_height, g.kernel_width, columns, step, g.stride_width)


def input_layout_of(g, width):
    """The layout of a geometry's gradient by input; channels are read `width` at once, 4 or 1."""
    apart = g.stride_width == 1 and g.dilation_width > 1
    run = 1 if apart else g.stride_width * max(1, RUN // g.stride_width)
    step = g.dilation_width if apart else 1
    reach = g.pad_left + g.stride_width * of_dz(g).pad_left
    between = g.stride_width * step
    return InputLayout(
        width, width == 4, run, g.kernel_height, g.kernel_width, g.stride_height, g.stride_width, g.dilation_width,
        (run - 1 + reach) // between + 1, step, between, reach,
    )  # fmt: skip


def of_dz(g):
    """The geometry with inputs and outputs exchanged.

    Its padding at the left is how far before column ``v / stride_width`` of dz those begin that saw the run of pixel v.
    """
    begin = -((g.pad_left - (g.kernel_width - 1) * g.dilation_width) // g.stride_width)
    return g._replace(height=g.out_height, width=g.out_width, out_height=g.height, out_width=g.width, pad_left=begin)


def _problem(g, t):
    """The problem of a geometry."""
    numbers = (
        g.batch, g.height, g.width, g.channels, g.out_height, g.out_width, g.stride_height, g.stride_width,
        g.dilation_height, g.pad_top, g.pad_left, g.channels // t.width, tiles.blocks_for(g.out_width, t.run),
    )  # fmt: skip
    return Problem(*map(np.int32, numbers))


def _width(g, *addresses):
    return 4 if g.channels % 4 == 0 and all(map(toolkit.is_aligned, addresses)) else 1


# ---------------------------------------------------------------------------------------------------
# forward and by input


def correlate(x, filters, bias, geometry, activation, alpha, y):
    """``y = activation(correlate2d(x, filters) + bias)`` in float32, for a geometry that `suits`."""
    x, filters, bias, y = map(toolkit.address, (x, filters, bias, y))
    t = layout_of(geometry, _width(geometry, x, filters, bias, y))
    _launch(_kernel(t, int(activation)), geometry, t, (x, filters, bias), alpha, y)


def gradient_input(dy, y, filters, geometry, activation, alpha, dx):
    """``dx`` in float32, for a geometry that `suits`."""
    dy, y, filters, dx = map(toolkit.address, (dy, y, filters, dx))
    t = input_layout_of(geometry, _width(geometry, dy, y, filters, dx))
    _launch(_input_kernel(t, int(activation)), of_dz(geometry), t, (dy, y, filters), alpha, dx)


def _launch(kernel, g, t, sources, alpha, target):
    int32_geometry(g)  # refuses what 32 bits cannot count
    p = _problem(g, t)
    blocks, threads = tiles.element_grid(g.batch * g.out_height * int(p.runs) * int(p.vectors))
    toolkit.launch(kernel, blocks, threads, *sources, p, np.float32(alpha), target)


@inline_early
def read_columns(x, values, picture, u, left, channel, wanted, line, activation, alpha, p, t):
    """Read the columns of one row of x, or of dz, that a thread keeps, with zeros for what does not exist."""
    wanted = wanted & (uint32(u) < uint32(p.height))
    for k in range(t.columns):
        v = int32(left + k * t.column_step)
        place = int32(((picture * p.height + u) * p.width + v) * p.channels + channel)
        inside, s = wanted & (uint32(v) < uint32(p.width)), k * t.width
        if t.wide:
            line[s], line[s + 1], line[s + 2], line[s + 3] = dz4_if(inside, x, values, place, activation, alpha)
        else:
            line[s] = dz_if(inside, x, values, place, activation, alpha)


@functools.cache
def _kernel(t, activation):
    """The kernel for a layout."""
    width, wide, run, kernel_width = t.width, t.wide, t.run, t.kernel_width
    count, kept = t.run * t.width, t.columns * t.width

    @cuda.jit(cache=True)
    def depthwise_correlation(x, filters, bias, p, alpha, y):
        sums = cuda.local.array(count, np.float32)
        line = cuda.local.array(kept, np.float32)
        weights = cuda.local.array(width, np.float32)
        i = int32(cuda.grid(1))
        while i < p.batch * p.out_height * p.runs * p.vectors:
            rest = divide(i, p.vectors)
            channel = int32((i - rest * p.vectors) * width)
            picture, row, column = pixel_place(rest, p.out_height, p.runs)
            column = int32(column * run)
            for s in range(count):
                sums[s] = np.float32(0)
            for a in range(t.kernel_height):
                u = int32(row * p.stride_height - p.pad_top + a * p.dilation_height)
                left = int32(column * p.stride_width - p.pad_left)
                read_columns(x, x, picture, u, left, channel, True, line, LINEAR, alpha, p, t)
                for b in range(kernel_width):
                    cell = int32(a * kernel_width + b)
                    read_channels(weights, filters, int32(cell * p.channels + channel), wide)
                    for r in range(run):
                        for k in range(width):
                            sums[r * width + k] += weights[k] * line[(r * t.pixel_step + b) * width + k]
            read_channels(weights, bias, channel, wide)
            for s in range(count):
                sums[s] = activate(activation, alpha, sums[s] + weights[s % width])
            write_run(y, picture, row, column, channel, sums, p, t)
            i = int32(i + cuda.gridsize(1))

    return depthwise_correlation


@functools.cache
def _input_kernel(t, activation):
    """The kernel of the gradient by input for a layout."""
    width, wide, run, kernel_width, stride_height = t.width, t.wide, t.run, t.kernel_width, t.stride_height
    count, kept, run_step = t.run * t.width, t.columns * t.width, t.run // t.stride_width

    @cuda.jit(cache=True)
    def depthwise_gradient_input(dy, y, filters, p, alpha, dx):
        sums = cuda.local.array(count, np.float32)
        line = cuda.local.array(kept, np.float32)
        weights = cuda.local.array(width, np.float32)
        i = int32(cuda.grid(1))
        while i < p.batch * p.out_height * p.runs * p.vectors:
            rest = divide(i, p.vectors)
            channel = int32((i - rest * p.vectors) * width)
            picture, row, number = pixel_place(rest, p.out_height, p.runs)
            left = int32(number * run_step - p.pad_left)
            for s in range(count):
                sums[s] = np.float32(0)
            for a in range(t.kernel_height):
                # To an unsigned division a negative number is a large one, of a row that does not exist.
                shown = int32(row + p.pad_top - a * p.dilation_height)
                u = divide(shown, int32(stride_height))
                if int32(u * stride_height) == shown:
                    read_columns(dy, y, picture, u, left, channel, True, line, activation, alpha, p, t)
                    for b in range(kernel_width):
                        cell = int32(a * kernel_width + b)
                        read_channels(weights, filters, int32(cell * p.channels + channel), wide)
                        for r in range(run):
                            moved = r + t.reach - b * t.dilation_width
                            if moved % t.between == 0:
                                for k in range(width):
                                    sums[r * width + k] += weights[k] * line[moved // t.between * width + k]
            write_run(dx, picture, row, int32(number * run), channel, sums, p, t)
            i = int32(i + cuda.gridsize(1))

    return depthwise_gradient_input


@inline_early
def write_run(y, picture, row, column, channel, sums, p, t):
    """Write what there is of a run of the output."""
    place = int32(((picture * p.out_height + row) * p.out_width + column) * p.channels + channel)
    for r in range(t.run):
        if column + r < p.out_width:
            target, s = move(y, int32(place + r * p.channels)), r * t.width
            if t.wide:
                store4(target, sums[s], sums[s + 1], sums[s + 2], sums[s + 3])
            else:
                store(target, sums[s])


@inline
def read_channels(numbers, source, place, wide):
    """Read what an array has of a thread's channels, from a place on."""
    if wide:
        numbers[0], numbers[1], numbers[2], numbers[3] = load4_if(True, move(source, place))
    else:
        numbers[0] = load_if(True, move(source, place))


# ---------------------------------------------------------------------------------------------------
# by filters


def sum_chunks(x, dy, y, geometry, activation, alpha, size):
    """Gradients by filters and biases, for chunks of pixels, for a geometry that `suits`.

    Parameters
    ----------
    size : int
        How many filters' weights and biases there are.

    Returns
    -------
    chunk_sums : array
        A workspace, in which lie the gradients by filters of each chunk, and then those by biases.
    count : int
        How many chunks.
    """
    int32_geometry(geometry)  # refuses what 32 bits cannot count
    x, dy, y = map(toolkit.address, (x, dy, y))
    g = geometry
    t = layout_of(g, _width(g, x, dy, y))
    p = _problem(g, t)
    lanes = tiles.depthwise_lanes(int(p.vectors))
    rows = max(1, min(g.kernel_height, MOST_CELLS // g.kernel_width))
    row_blocks, channel_blocks = tiles.blocks_for(g.kernel_height, rows), tiles.blocks_for(p.vectors, lanes)
    runs = g.batch * g.out_height * int(p.runs)
    count, chunk = tiles.depthwise_chunks(runs, row_blocks * channel_blocks, lanes)
    chunk_sums = toolkit.workspace(count * size, np.float32)
    kernel = _filters_kernel(t, lanes, rows, int(activation))
    toolkit.launch(
        kernel, (count, row_blocks, channel_blocks), (tiles.DEPTHWISE_THREADS,), x, dy, y, p, np.float32(alpha),
        np.int32(chunk), toolkit.address(chunk_sums), toolkit.address(chunk_sums, count * (size - g.channels)),
    )  # fmt: skip
    return chunk_sums, count


@functools.cache
def _filters_kernel(t, lanes, rows, activation):
    """The kernel for a layout: threads side by side on channels, and kernel rows of a block."""
    width, wide, run, kernel_width, kept = t.width, t.wide, t.run, t.kernel_width, t.columns * t.width
    threads, cells, pixels = tiles.DEPTHWISE_THREADS, rows * t.kernel_width, t.run * t.width
    walkers, across = threads // lanes, lanes * t.width
    # What threads have of a cell lies so far apart that threads that add up neighbouring cells meet in no bank.
    apart = threads * width + across % tiles.WARP
    count, numbers = (cells + 1) * width, (cells + 1) * apart

    @cuda.jit(cache=True, **toolkit.bounds(threads, 3))
    def depthwise_gradient_filters(x, dy, y, p, alpha, chunk, chunk_sums, chunk_bias):
        shared = cuda.shared.array(numbers, np.float32, alignment=ALIGNMENT)
        # The gradients of a thread's cells, and then that of the bias.
        sums = cuda.local.array(count, np.float32)
        line = cuda.local.array(kept, np.float32)
        dz = cuda.local.array(pixels, np.float32)
        thread, split = int32(cuda.threadIdx.x), int32(cuda.blockIdx.x)
        first_row = int32(cuda.blockIdx.y * rows)
        lane, walker = int32(thread % lanes), int32(thread // lanes)
        channel = int32((cuda.blockIdx.z * lanes + lane) * width)
        exists = channel < p.channels
        for s in range(count):
            sums[s] = np.float32(0)

        place, end = int32(split * chunk + walker), int32((split + 1) * chunk)
        if end > p.batch * p.out_height * p.runs:
            end = int32(p.batch * p.out_height * p.runs)
        while place < end:
            picture, row, column = pixel_place(place, p.out_height, p.runs)
            column = int32(column * run)
            source = int32(((picture * p.out_height + row) * p.out_width + column) * p.channels + channel)
            for r in range(run):
                wanted, s, at = exists & (column + r < p.out_width), r * width, int32(source + r * p.channels)
                if wide:
                    dz[s], dz[s + 1], dz[s + 2], dz[s + 3] = dz4_if(wanted, dy, y, at, activation, alpha)
                else:
                    dz[s] = dz_if(wanted, dy, y, at, activation, alpha)
                for k in range(width):
                    sums[cells * width + k] += dz[s + k]
            for a in range(rows):
                u = int32(row * p.stride_height - p.pad_top + (first_row + a) * p.dilation_height)
                left = int32(column * p.stride_width - p.pad_left)
                read_columns(x, x, picture, u, left, channel, exists, line, LINEAR, alpha, p, t)
                for r in range(run):
                    # Pixels that do not exist may lie over cells that do, whose NaN would not stay away.
                    if column + r < p.out_width:
                        for b in range(kernel_width):
                            for k in range(width):
                                s = (a * kernel_width + b) * width + k
                                sums[s] += dz[r * width + k] * line[(r * t.pixel_step + b) * width + k]
            place = int32(place + walkers)

        base = shared_address(shared)
        for cell in range(cells + 1):
            target, s = move(base, int32(cell * apart + thread * width)), cell * width
            if wide:
                store4(target, sums[s], sums[s + 1], sums[s + 2], sums[s + 3])
            else:
                store(target, sums[s])
        cuda.syncthreads()
        vector = thread
        while vector < (cells + 1) * lanes:
            own = int32(vector // lanes)
            first = int32(vector % lanes * width)
            channel = int32(cuda.blockIdx.z * across + first)
            cell = int32(first_row * kernel_width + own)
            parts = move(base, int32(own * apart + first))
            if channel < p.channels:
                if own == cells:
                    if first_row == 0:
                        store_sum(move(chunk_bias, int32(split * p.channels + channel)), parts, walkers, across, wide)
                elif cell < t.kernel_height * kernel_width:
                    weights = t.kernel_height * kernel_width * p.channels
                    target = move(chunk_sums, int32(split * weights + cell * p.channels + channel))
                    store_sum(target, parts, walkers, across, wide)
            vector = int32(vector + threads)

    return depthwise_gradient_filters
