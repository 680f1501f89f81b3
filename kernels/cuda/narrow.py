"""Gradient by input of pictures with few channels: a product with few columns, whose sums stay in registers.

As `phases` has it, each phase is a correlation of dz with turned filters, and its output pixels have 1 to 8 channels.
Tiles of `product` are 32 columns wide, and would be nearly empty.  Here a thread has all channels of 4 pixels of a
phase, one below another, and all phases are one launch::

    dz, in shared memory: 16 filters of a tile      dx
    +---------------------------+                   a block: `lanes` columns side by side, and `down` threads of 4 rows
    |    a thread's column      |
    |    [ ]                    |                   +--+--+--+- -
    |    [ ]  kept in registers |                   |4 |  |  |
    |    [ ]                    |           ->      |  |  |  |
    |    [ ]                    |                   +--+--+--+- -
    +---------------------------+                   |4 |  |  |

dz = dy * slope is computed once for a tile and its border, as it goes to shared memory.  There it lies in planes of
four filters: neighbouring threads read neighbouring columns, 16 bytes each, and meet in no bank.  For four filters and
a column of the window, a thread reads ``4 + kernel_height - 1`` times four numbers of dz, which all rows of the window
share, and the weights, which are the same for all threads.  Phases differ by a row or a column of the window: there is
code for either number of rows, and the number of columns is found when a block begins.

Memory traffic.  dy and y are read once, and a border of them again by neighbouring blocks, 16 bytes at a time and
those of 16 filters side by side; dx is written once, 16 bytes at a time if channels are a multiple of 4.

What bounds it: reading dy and y.  With 3 x 3 cells and one channel, a thread makes 48 multiply-adds of 9 reads of
shared memory; with more channels, multiply-adds.

The order of sums: filters in sixteens, and of these in fours; columns of the window; its rows; filters.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy import int32, uint32

from ..geometry import int32_geometry
from . import tiles, toolkit
from .formulas import inline
from .instructions import (
    ALIGNMENT,
    divide,
    load4_if,
    load_if,
    move,
    multiply_column,
    pin,
    shared_address,
    store,
    store4,
)
from .phases import hull_of
from .slopes import dz4_if, dz_if
from .toolkit import cuda

MOST_CHANNELS = 8
# Pixels of a thread, and how often four numbers of dz or four weights are on their way to shared memory at once.
ROWS, FETCHES = 4, 4
# Of shared memory, in numbers of 4 bytes, and of registers that hold sums and dz.
SHARED_NUMBERS, MOST_REGISTERS = 12288, 96
# A grid has so many blocks at most along its second axis.
MOST_PHASES = 65535
# A multiprocessor has registers for 5 blocks with up to so many of these, and for 4 with more.
FEW_REGISTERS = 36


class Layout(NamedTuple):
    """How a block's threads share its pixels, and how dz and weights lie in shared memory: constants of a kernel.

    A plane has four filters of `pixels` pixels of dz, `pitch` of them a line.  There are `quads` planes, `plane`
    numbers apart, and behind them `entries` times the weights of four, ``(quad, column, row, channel, filter)``, with
    room for the `most_rows` and `most_columns` of cells that a phase may have.
    """

    threads: int
    lanes: int
    tile_rows: int
    kernel_height: int
    kernel_width: int
    stride_height: int
    stride_width: int
    most_rows: int
    most_columns: int
    channels: int
    quads: int
    pitch: int
    pixels: int
    plane: int
    entries: int
    entry_fetches: int

    @property
    def numbers(self):
        """Numbers in shared memory."""
        return self.quads * self.plane + 4 * self.entries


class Problem(NamedTuple):
    """What the kernel must know of a correlation beside its layout, in 32-bit integers.

    Height and width are those of dz, rows and columns those of dx; a phase of a picture has so many blocks.
    """

    height: int
    width: int
    filters: int
    pad_top: int
    pad_left: int
    rows: int
    columns: int
    blocks_down: int
    blocks_across: int


def suits(g):
    """Whether the kernel of this module computes a correlation's gradient by its input."""
    if g.groups > 1 or g.channels > MOST_CHANNELS or (g.dilation_height, g.dilation_width) != (1, 1):
        return False
    t = layout_of(g)
    few_phases = g.stride_height * g.stride_width <= MOST_PHASES
    return t is not None and few_phases and _registers(t.channels, t.most_rows) <= MOST_REGISTERS


def _registers(channels, kernel_height):
    """How many registers of a thread hold its sums, and four filters of a column of dz."""
    return ROWS * channels + 4 * (ROWS + kernel_height - 1)


@functools.lru_cache(maxsize=1024)
def layout_of(g):
    """The layout for a geometry without dilation, or None if shared memory does not hold its tile."""
    largest = hull_of(g)
    most_rows, most_columns = largest.kernel_height, largest.kernel_width

    def tile(lanes):
        rows = tiles.NARROW_THREADS // lanes * ROWS
        pixels = (rows + most_rows - 1) * (lanes + most_columns - 1)
        blocks = tiles.blocks_for(largest.out_height, rows) * tiles.blocks_for(largest.out_width, lanes)
        return blocks * pixels, lanes, rows, pixels

    _, lanes, rows, pixels = min(map(tile, tiles.NARROW_LANES))
    for quads in (4, 2, 1):
        # Threads that write at once write all planes: these begin in different banks.
        plane = 4 * (pixels + (8 // quads - pixels) % 8)
        entries = quads * most_columns * most_rows * g.channels
        layout = Layout(
            tiles.NARROW_THREADS, lanes, rows, g.kernel_height, g.kernel_width, g.stride_height, g.stride_width,
            most_rows, most_columns, g.channels, quads, lanes + most_columns - 1, pixels, plane,
            entries, min(FETCHES, tiles.blocks_for(entries, tiles.NARROW_THREADS)),
        )  # fmt: skip
        if layout.numbers <= SHARED_NUMBERS:
            return layout
    return None


def gradient_input(dy, y, filters, geometry, activation, alpha, dx):
    """``dx`` in float32, for a geometry that `suits`."""
    g = geometry
    int32_geometry(g)  # refuses what 32 bits cannot count
    dy, y, filters, dx = map(toolkit.address, (dy, y, filters, dx))
    wide = g.out_channels % 4 == 0 and all(map(toolkit.is_aligned, (dy, y, filters)))
    wide_channels = g.channels % 4 == 0 and toolkit.is_aligned(dx)
    t, blocks, p = _plan(g)
    kernel = _kernel(t, wide, wide_channels, int(activation))
    toolkit.launch(kernel, blocks, (t.threads,), dy, y, filters, p, np.float32(alpha), dx)


@functools.lru_cache(maxsize=1024)
def _plan(g):
    """Layout, grid and problem of a geometry."""
    largest, t = hull_of(g), layout_of(g)
    down, across = tiles.blocks_for(largest.out_height, t.tile_rows), tiles.blocks_for(largest.out_width, t.lanes)
    numbers = g.out_height, g.out_width, g.out_channels, g.pad_top, g.pad_left, g.height, g.width, down, across
    return t, (g.batch * down * across, g.stride_height * g.stride_width), Problem(*map(np.int32, numbers))


@inline
def cells_of(remainder, cells, stride, pad):
    """The filter cells of an axis that a phase has, without dilation: as `phases.phase_cells`.

    Returns the first of them, how many they are, `stride` apart, and how far before its first pixel its correlation
    begins.
    """
    moved, stride = int32(remainder + pad), int32(stride)
    passed = divide(moved, stride)
    first = int32(moved - int32(passed * stride))
    count = divide(int32(cells + stride - 1 - first), stride)
    return first, count, int32(count - 1 - passed)


@inline
def fetch_dz(dy, y, base, picture, top, left, first_filter, staged, wide, activation, alpha, p, t):
    """Put dz of a tile, and of some filters, into shared memory, with zeros for what does not exist."""
    place = int32(cuda.threadIdx.x)
    while place < t.pixels * t.quads:
        for i in range(FETCHES):
            pixel = divide(int32(place + i * t.threads), int32(t.quads))
            f = int32(first_filter + (place + i * t.threads - pixel * t.quads) * 4)
            row = divide(pixel, int32(t.pitch))
            u, v = int32(top + row), int32(left + pixel - row * t.pitch)
            inside = (uint32(u) < uint32(p.height)) & (uint32(v) < uint32(p.width)) & (pixel < t.pixels)
            source = int32(((picture * p.height + u) * p.width + v) * p.filters + f)
            s = 4 * i
            if wide:
                staged[s], staged[s + 1], staged[s + 2], staged[s + 3] = dz4_if(
                    inside & (f < p.filters), dy, y, source, activation, alpha
                )
            else:
                staged[s] = dz_if(inside & (f < p.filters), dy, y, source, activation, alpha)
                for k in range(1, 4):
                    wanted = inside & (f + k < p.filters)
                    staged[s + k] = dz_if(wanted, dy, y, int32(source + k), activation, alpha)
        for i in range(FETCHES):
            pixel = divide(int32(place + i * t.threads), int32(t.quads))
            quad, s = int32(place + i * t.threads - pixel * t.quads), 4 * i
            if pixel < t.pixels:
                target = move(base, int32(quad * t.plane + 4 * pixel))
                store4(target, staged[s], staged[s + 1], staged[s + 2], staged[s + 3])
        place = int32(place + FETCHES * t.threads)


@inline
def fetch_weights(
    filters, base, first_filter, first_row, kernel_rows, first_column, kernel_columns, staged, wide, p, t
):
    """Put the weights of a phase and of some filters into shared memory, turned, with zeros for what does not exist."""
    place = int32(cuda.threadIdx.x)
    while place < t.entries:
        for i in range(t.entry_fetches):
            entry = int32(place + i * t.threads)
            cell = divide(entry, int32(t.channels))
            column = divide(cell, int32(t.most_rows))
            quad = divide(column, int32(t.most_columns))
            channel, a = int32(entry - cell * t.channels), int32(cell - column * t.most_rows)
            b, f = int32(column - quad * t.most_columns), int32(first_filter + 4 * quad)
            a, b = int32(kernel_rows - 1 - a), int32(kernel_columns - 1 - b)
            cell = int32((first_row + a * t.stride_height) * t.kernel_width + first_column + b * t.stride_width)
            source, s = move(filters, int32((cell * t.channels + channel) * p.filters + f)), 4 * i
            wanted = (entry < t.entries) & (f < p.filters) & (a >= 0) & (b >= 0)
            if wide:
                numbers = load4_if(wanted, source)
                staged[s], staged[s + 1], staged[s + 2], staged[s + 3] = numbers
            else:
                for k in range(4):
                    staged[s + k] = load_if(wanted & (f + k < p.filters), move(source, k))
        for i in range(t.entry_fetches):
            entry, s = int32(place + i * t.threads), 4 * i
            if entry < t.entries:
                store4(move(base, int32(4 * entry)), staged[s], staged[s + 1], staged[s + 2], staged[s + 3])
        place = int32(place + t.entry_fetches * t.threads)


@functools.cache
def _kernel(t, wide, wide_channels, activation):
    """The kernel for a layout; whether it reads four filters at once, and writes four channels."""
    numbers, count, fetched = t.numbers, ROWS * t.channels, 4 * FETCHES
    width = 4 if wide_channels else 1
    most_rows, channels, line = t.most_rows, t.channels, 4 * t.pitch
    # Where the strides do not divide the window, some phases have a row of cells less, or none.
    fewer_rows = max(1, most_rows - 1)
    weights_begin, column_weights = t.quads * t.plane, 4 * most_rows * channels
    resident = 5 if _registers(channels, most_rows) <= FEW_REGISTERS else 4

    @cuda.jit(cache=True, **toolkit.bounds(t.threads, resident))
    def narrow_gradient(dy, y, filters, p, alpha, dx):
        kept = cuda.shared.array(numbers, np.float32, alignment=ALIGNMENT)
        sums = cuda.local.array(count, np.float32)
        staged = cuda.local.array(fetched, np.float32)
        base = shared_address(kept)

        # Which part of which picture and phase is this block's, and which of it this thread's.
        block = divide(int32(cuda.blockIdx.x), p.blocks_across)
        picture = divide(block, p.blocks_down)
        row = int32((block - picture * p.blocks_down) * t.tile_rows)
        column = int32((cuda.blockIdx.x - block * p.blocks_across) * t.lanes)
        phase_row = divide(int32(cuda.blockIdx.y), int32(t.stride_width))
        phase_column = int32(cuda.blockIdx.y - phase_row * t.stride_width)
        first_row, kernel_rows, above = cells_of(phase_row, t.kernel_height, t.stride_height, p.pad_top)
        first_column, kernel_columns, before = cells_of(phase_column, t.kernel_width, t.stride_width, p.pad_left)
        thread = int32(cuda.threadIdx.x)
        lane, down = int32(thread % t.lanes), int32(thread // t.lanes * ROWS)
        own = pin(move(base, int32(down * line + 4 * lane)))
        for s in range(count):
            sums[s] = np.float32(0)

        first_filter = int32(0)
        while first_filter < p.filters:
            top, left = int32(row - above), int32(column - before)
            fetch_dz(dy, y, base, picture, top, left, first_filter, staged, wide, activation, alpha, p, t)
            fetch_weights(
                filters, move(base, weights_begin), first_filter,
                first_row, kernel_rows, first_column, kernel_columns, staged, wide, p, t,
            )  # fmt: skip
            cuda.syncthreads()
            # Past the last filter there are zeros, of which nothing need be made.
            f, end = first_filter, int32(first_filter + 4 * t.quads)
            plane, quad_weights = own, move(base, weights_begin)
            while f < end and f < p.filters:
                dz, weights = plane, quad_weights
                for _ in range(kernel_columns):
                    if kernel_rows == most_rows:
                        multiply_column(sums, dz, weights, ROWS, most_rows, channels, line)
                    elif kernel_rows > 0:
                        multiply_column(sums, dz, weights, ROWS, fewer_rows, channels, line)
                    dz, weights = move(dz, 4), move(weights, column_weights)
                plane = move(plane, t.plane)
                quad_weights = move(quad_weights, t.most_columns * column_weights)
                f = int32(f + 4)
            cuda.syncthreads()
            first_filter = end

        u = int32((row + down) * t.stride_height + phase_row)
        v = int32((column + lane) * t.stride_width + phase_column)
        place = int32(((picture * p.rows + u) * p.columns + v) * channels)
        apart = int32(t.stride_height * p.columns * channels)
        for r in range(ROWS):
            if u + r * t.stride_height < p.rows and v < p.columns:
                for c in range(0, channels, width):
                    target, s = move(dx, int32(place + r * apart + c)), r * channels + c
                    if wide_channels:
                        store4(target, sums[s], sums[s + 1], sums[s + 2], sums[s + 3])
                    else:
                        store(target, sums[s])

    return narrow_gradient
