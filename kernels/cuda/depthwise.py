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

As `phases` has it, the gradient by input is such a correlation of dz with turned filters, or, with strides, several.
dz = dy * slope is made as dy is read.

By filters.  A thread has the weights of 4 channels, up to 12 cells of them, and a block's threads walk along runs of
pixels: what a thread reads of x and dz for a run, it multiplies by each other, cell by cell, in registers.  Then the
threads of one channel add up what they have in shared memory, and a second kernel adds up blocks.  How pixels are cut
into chunks depends on shapes alone, and so does the order of every sum.

Memory traffic.  Of x, each kernel row is read again, by the same thread or a neighbour, from the caches; all else is
read and written once.

What bounds it: memory.  With 3 x 3 cells a thread makes 144 multiply-adds of 18 reads of 16 bytes and 9 of weights,
all of which may be on their way at once.

With dilation, columns do not overlap in neighbouring pixels as they do without, and runs are of one pixel.
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
from .phases import phases_of
from .slopes import dz4_if, dz_if
from .sums import store_sum
from .toolkit import cuda

# Pixels of a run; columns of x that a thread keeps; cells whose gradients it has.
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


class Problem(NamedTuple):
    """What the kernels must know of a correlation beside its layout, in 32-bit integers.

    A correlation's filters begin with cell `first_cell`; rows and columns of cells lie `row_step` and `cell_step` cells
    apart.  Pictures, rows and pixels of its output lie `y_picture`, `y_row` and `y_column` numbers apart.
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
    first_cell: int
    row_step: int
    cell_step: int
    y_picture: int
    y_row: int
    y_column: int


def suits(g):
    """Whether the kernels of this module compute a correlation and its gradients: one filter for each channel."""
    return g.groups == g.channels == g.out_channels > 1 and layout_of(g, 1).columns <= MOST_COLUMNS


def layout_of(g, width):
    """The layout for a geometry; channels are read `width` at once, 4 or 1."""
    apart = g.dilation_width > 1
    run = 1 if apart else RUN
    columns = (run - 1) * g.stride_width + g.kernel_width
    step = g.dilation_width if apart else 1
    return Layout(width, width == 4, run, g.kernel_height, g.kernel_width, columns, step, g.stride_width)


def _problem(g, t, cells, places):
    """The problem of a geometry: first cell and steps of its filters, and how its output lies in memory."""
    numbers = (
        g.batch, g.height, g.width, g.channels, g.out_height, g.out_width, g.stride_height, g.stride_width,
        g.dilation_height, g.pad_top, g.pad_left, g.channels // t.width, tiles.blocks_for(g.out_width, t.run),
        *cells, *places,
    )  # fmt: skip
    return Problem(*map(np.int32, numbers))


def _width(g, *addresses):
    return 4 if g.channels % 4 == 0 and all(map(toolkit.is_aligned, addresses)) else 1


# ---------------------------------------------------------------------------------------------------
# forward and by input


def correlate(x, filters, bias, geometry, activation, alpha, y):
    """``y = activation(correlate2d(x, filters) + bias)`` in float32, for a geometry that `suits`."""
    x, filters, bias, y = map(toolkit.address, (x, filters, bias, y))
    g = geometry
    row = g.out_width * g.channels
    cells, places = (0, g.kernel_width, 1), (g.out_height * row, row, g.channels)
    options = LINEAR, True, int(activation)
    _launch(x, x, filters, bias, g, cells, places, options, alpha, y, _width(g, x, filters, bias, y))


def gradient_input(dy, y, filters, geometry, activation, alpha, dx):
    """``dx`` in float32, for a geometry that `suits`."""
    dy, y, filters = map(toolkit.address, (dy, y, filters))
    width = _width(geometry, dy, y, filters, toolkit.address(dx))
    for phase in phases_of(geometry):
        target = toolkit.address(dx, phase.first_pixel)
        cells = phase.first_cell, *phase.cell_steps
        options = int(activation), False, LINEAR
        _launch(dy, y, filters, dy, phase.geometry, cells, phase.places, options, alpha, target, width)


def _launch(x, values, filters, bias, g, cells, places, options, alpha, y, width):
    int32_geometry(g)  # refuses what 32 bits cannot count
    t = layout_of(g, width)
    p = _problem(g, t, cells, places)
    blocks, threads = tiles.element_grid(g.batch * g.out_height * int(p.runs) * int(p.vectors))
    kernel = _kernel(t, options)
    toolkit.launch(kernel, blocks, threads, x, values, filters, bias, p, np.float32(alpha), y)


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
def _kernel(t, options):
    """The kernel for a layout.

    Parameters
    ----------
    t : Layout
    options : (int, bool, int)
        The activation whose slope x is multiplied by, whether there is a bias, and the activation of the output.
    """
    sloped, biased, activation = options
    width, wide, run, kernel_width = t.width, t.wide, t.run, t.kernel_width
    count, kept = t.run * t.width, t.columns * t.width

    @cuda.jit(cache=True)
    def depthwise_correlation(x, values, filters, bias, p, alpha, y):
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
                read_columns(x, values, picture, u, left, channel, True, line, sloped, alpha, p, t)
                for b in range(kernel_width):
                    cell = int32(p.first_cell + a * p.row_step + b * p.cell_step)
                    read_channels(weights, filters, int32(cell * p.channels + channel), wide)
                    for r in range(run):
                        for k in range(width):
                            sums[r * width + k] += weights[k] * line[(r * t.pixel_step + b) * width + k]
            if biased:
                read_channels(weights, bias, channel, wide)
                for s in range(count):
                    sums[s] += weights[s % width]
            place = int32(picture * p.y_picture + row * p.y_row + column * p.y_column + channel)
            for r in range(run):
                for s in range(r * width, (r + 1) * width):
                    sums[s] = activate(activation, alpha, sums[s])
                if column + r < p.out_width:
                    target, s = move(y, int32(place + r * p.y_column)), r * width
                    if wide:
                        store4(target, sums[s], sums[s + 1], sums[s + 2], sums[s + 3])
                    else:
                        store(target, sums[s])
            i = int32(i + cuda.gridsize(1))

    return depthwise_correlation


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
    p = _problem(g, t, (0, g.kernel_width, 1), (0, 0, 0))
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
                read_columns(x, x, picture, u, left, channel, exists, line, 0, alpha, p, t)
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
