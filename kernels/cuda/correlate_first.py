"""The 2D cross-correlation of a network's first layer, whose pictures have one to four channels.

With so few channels a patch is too short to be cut into strips, and writing the output is most of the work.  So a block
keeps what it needs of the picture and all weights in shared memory, and nothing is waited for in the loop::

       x, in shared memory                       y
       +---------------------------+             a block: `down` x `across` threads' tiles of 2 x 4 pixels, and
       |  one row of 4 patches     |             `columns` filters, 8 of them for each thread
       |  +--+--+--+--+ - - +      |             +----+----+----+
       |  |  |  |  |  |     |      |      ->     |2x4 |    |    |
       |  +--+--+--+--+ - - +      |             +----+----+----+
       |  kept in registers        |             |    |    |    |
       +---------------------------+             +----+----+----+

For every kernel row, a thread reads the row of x that its four patches share, once, and keeps it in registers: all
cells of that kernel row find their pixels there.  Of its eight filters it reads two times four weights for a cell
and channel, and adds 64 products.

Memory traffic.  x is read once, and a border of it again by neighbouring blocks; weights come from the caches.  If
filters are a multiple of 4, weights and bias are read and y is written 16 bytes at a time, neighbouring threads writing
neighbouring filters; so is x read if it has four channels.

What bounds it.  Writing y, if a network is to train: for 32 filters of 3 x 3 x 3 cells, 27 multiply-adds for each
number that is written.  In the loop itself, multiply-adds: for 64 of them a thread reads shared memory 3 times.

Kernels are made for the window, the strides, the channels and the activation: their loops unroll.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy import int32, uint32

from ..geometry import int32_geometry
from . import tiles, toolkit
from .formulas import activate, inline
from .instructions import (
    ALIGNMENT,
    divide,
    load4_if,
    load_if,
    move,
    multiply_patches,
    pin,
    shared_address,
    store,
    store4,
    store4_bytes,
    store_byte,
)
from .toolkit import cuda

MOST_CHANNELS = 4
# Of shared memory, in numbers of 4 bytes, and of registers that hold pixels.
SHARED_NUMBERS, MOST_PIXEL_REGISTERS = 12288, 96
# A thread's part of the output.
ROWS, PIXELS, FILTERS = 2, 4, 8


class Layout(NamedTuple):
    """How a block's threads share its pixels and filters, and how x lies in shared memory: constants of a kernel.

    `lanes` threads side by side have different filters, `across` groups of them different columns, and `down` such
    rows of threads different rows.  A line of x has `pitch` numbers, of which `line` are used.
    """

    threads: int
    columns: int
    lanes: int
    across: int
    down: int
    kernel_height: int
    kernel_width: int
    channels: int
    stride_height: int
    stride_width: int
    lines: int
    line: int
    pitch: int
    weights_begin: int
    entries: int

    @property
    def numbers(self):
        """Numbers in shared memory."""
        return self.weights_begin + self.entries * self.columns


class Problem(NamedTuple):
    """What the kernel must know of a correlation beside its layout, in 32-bit integers."""

    height: int
    row: int
    pad_top: int
    pad_left: int
    out_height: int
    out_width: int
    out_channels: int
    blocks_down: int
    blocks_across: int


def suits(g):
    """Whether the kernel of this module computes a correlation."""
    few = g.groups == 1 and g.channels <= MOST_CHANNELS and g.dilation_height == g.dilation_width == 1
    if not few or g.out_height < ROWS or g.out_width < PIXELS:
        return False
    t = layout_of(g)
    registers = ROWS * ((PIXELS - 1) * t.stride_width + t.kernel_width) * t.channels
    return t.numbers <= SHARED_NUMBERS and registers <= MOST_PIXEL_REGISTERS


@functools.lru_cache(maxsize=1024)
def layout_of(g):
    """The layout for a correlation's geometry."""
    columns = next((size for size in (8, 16) if size >= g.out_channels), 32)
    lanes = columns // FILTERS
    groups = tiles.FIRST_THREADS // lanes
    # Blocks as wide as the output, up to a square or so.
    across = 1
    while across * PIXELS < g.out_width and across * across * PIXELS < groups * ROWS:
        across *= 2
    down = groups // across
    lines = (down * ROWS - 1) * g.stride_height + g.kernel_height
    line = ((across * PIXELS - 1) * g.stride_width + g.kernel_width) * g.channels
    # Four numbers are read at once, also past the end of what is used.
    pitch = -(-line // 4) * 4
    entries = g.kernel_height * g.kernel_width * g.channels
    return Layout(
        tiles.FIRST_THREADS, columns, lanes, across, down, g.kernel_height, g.kernel_width, g.channels,
        g.stride_height, g.stride_width, lines, line, pitch, lines * pitch, entries,
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _plan(g):
    """Layout, grid and problem of a correlation's geometry."""
    int32_geometry(g)  # refuses what 32 bits cannot count
    t = layout_of(g)
    blocks_down = tiles.blocks_for(g.out_height, t.down * ROWS)
    blocks_across = tiles.blocks_for(g.out_width, t.across * PIXELS)
    numbers = (
        g.height, g.width * g.channels, g.pad_top, g.pad_left * g.channels,
        g.out_height, g.out_width, g.out_channels, blocks_down, blocks_across,
    )  # fmt: skip
    blocks = g.batch * blocks_down * blocks_across, tiles.blocks_for(g.out_channels, t.columns)
    return t, blocks, Problem(*map(np.int32, numbers))


def correlate_first(x, filters, bias, geometry, activation, alpha, y):
    """``y = activation(correlate2d(x, filters) + bias)`` in float32, for a geometry that `suits`."""
    y = toolkit.address(y)
    _launch(x, filters, bias, geometry, activation, alpha, y, y, pooled=False)


def correlate_first_pooled(x, filters, bias, geometry, activation, alpha, y, winner):
    """The largest of each 2 x 2 pixels of it, and its number, for a geometry that `suits` with even extents."""
    _launch(x, filters, bias, geometry, activation, alpha, toolkit.address(y), toolkit.address(winner), pooled=True)


def _launch(x, filters, bias, geometry, activation, alpha, y, winner, pooled):
    t, blocks, p = _plan(geometry)
    x, filters, bias = toolkit.address(x), toolkit.address(filters), toolkit.address(bias)
    wide = geometry.out_channels % 4 == 0 and all(map(toolkit.is_aligned, (filters, bias, y, winner)))
    wide_pixels = geometry.channels % 4 == 0 and toolkit.is_aligned(x)
    kernel = _kernel(t, wide_pixels, wide, int(activation), pooled)
    toolkit.launch(kernel, blocks, (t.threads,), x, filters, bias, p, np.float32(alpha), y, winner)


@inline
def fetch(wanted, source, target, wide):
    """Put a number, or four if `wide`, into shared memory, or zeros if not `wanted`."""
    if wide:
        a, b, c, d = load4_if(wanted, source)
        store4(target, a, b, c, d)
    else:
        store(target, load_if(wanted, source))


@inline
def fetch_block(x, filters, base, picture, top, left, first_filter, wide_pixels, wide, p, t):
    """Put what a block needs of x, and its filters, into shared memory, with zeros for what does not exist."""
    thread = int32(cuda.threadIdx.x)
    width, filter_width = int32(4 if wide_pixels else 1), int32(4 if wide else 1)
    place = int32(thread * width)
    while place < t.weights_begin:
        line = divide(place, int32(t.pitch))
        u, v = int32(top + line), int32(left + place - line * t.pitch)
        inside = (uint32(u) < uint32(p.height)) & (uint32(v) < uint32(p.row))
        fetch(inside, move(x, int32((picture * p.height + u) * p.row + v)), move(base, place), wide_pixels)
        place = int32(place + t.threads * width)
    place = int32(thread * filter_width)
    while place < t.entries * t.columns:
        entry = divide(place, int32(t.columns))
        f = int32(first_filter + place - entry * t.columns)
        wanted, source = f < p.out_channels, move(filters, int32(entry * p.out_channels + f))
        fetch(wanted, source, move(base, int32(t.weights_begin + place)), wide)
        place = int32(place + t.threads * filter_width)


@functools.cache
def _kernel(t, wide_pixels, wide, activation, pooled):
    """The kernel for a layout.

    Parameters
    ----------
    t : Layout
    wide_pixels, wide : bool
        Whether four channels are read at once, and whether four filters are read and written.
    activation : int
    pooled : bool
        Whether the largest of 2 x 2 pixels is written.
    """
    threads, numbers, count = t.threads, t.numbers, ROWS * PIXELS * FILTERS
    kernel_width, channels, stride = t.kernel_width, t.channels, t.stride_width
    columns, half, row_step = t.columns, t.columns // 2, t.stride_height * t.pitch

    @cuda.jit(cache=True, **toolkit.bounds(threads, 4))
    def correlate_first_kernel(x, filters, bias, p, alpha, y, winner):
        kept = cuda.shared.array(numbers, np.float32, alignment=ALIGNMENT)
        sums = cuda.local.array(count, np.float32)
        offsets = cuda.local.array(FILTERS, np.float32)
        cells = cuda.local.array(4, np.int32)
        base = shared_address(kept)

        # Which part of which picture is this block's, and which of it this thread's.
        line = divide(int32(cuda.blockIdx.x), p.blocks_across)
        picture = divide(line, p.blocks_down)
        i = int32((line - picture * p.blocks_down) * (t.down * ROWS))
        j = int32((cuda.blockIdx.x - line * p.blocks_across) * (t.across * PIXELS))
        first_filter = int32(cuda.blockIdx.y * columns)
        thread = int32(cuda.threadIdx.x)
        lane, group = int32(thread % t.lanes), int32(thread // t.lanes)
        down, across = int32(group // t.across), int32(group % t.across)

        top, left = int32(i * t.stride_height - p.pad_top), int32(j * t.stride_width * t.channels - p.pad_left)
        fetch_block(x, filters, base, picture, top, left, first_filter, wide_pixels, wide, p, t)
        for s in range(count):
            sums[s] = np.float32(0)
        patches = pin(move(base, int32(down * (ROWS * row_step) + across * (PIXELS * stride * channels))))
        weights = pin(move(base, int32(t.weights_begin + lane * 4)))
        cuda.syncthreads()

        # One kernel row a turn: the compiler would read all rows of x at once, for which there are no registers.
        rest = int32(t.kernel_height)
        while rest > 0:
            multiply_patches(sums, patches, weights, kernel_width, channels, stride, row_step, columns, half)
            patches, weights = move(patches, t.pitch), move(weights, kernel_width * channels * columns)
            rest = int32(rest - 1)

        row, column, f = int32(i + down * ROWS), int32(j + across * PIXELS), int32(first_filter + lane * 4)
        add_bias(sums, offsets, bias, f, half, wide, activation, alpha, p)
        if pooled:
            store_largest(sums, cells, y, winner, picture, row, column, f, half, wide, p)
        else:
            store_pixels(sums, y, picture, row, column, f, half, wide, p)

    return correlate_first_kernel


@inline
def add_bias(sums, offsets, bias, first_filter, half, wide, activation, alpha, p):
    """Add the bias to a thread's sums, and apply the activation."""
    for q in range(0, FILTERS, 4):
        f = int32(first_filter + q // 4 * half)
        source = move(bias, f)
        if wide:
            offsets[q], offsets[q + 1], offsets[q + 2], offsets[q + 3] = load4_if(f < p.out_channels, source)
        else:
            for k in range(4):
                offsets[q + k] = load_if(f + k < p.out_channels, move(source, k))
    for first in range(0, ROWS * PIXELS * FILTERS, FILTERS):
        for q in range(FILTERS):
            sums[first + q] = activate(activation, alpha, sums[first + q] + offsets[q])


@inline
def store_pixels(sums, y, picture, row, column, first_filter, half, wide, p):
    """Write a thread's sums."""
    for q in range(0, FILTERS, 4):
        f = int32(first_filter + q // 4 * half)
        for r in range(ROWS):
            for n in range(PIXELS):
                s = (r * PIXELS + n) * FILTERS + q
                place = int32(((picture * p.out_height + row + r) * p.out_width + column + n) * p.out_channels + f)
                if row + r < p.out_height and column + n < p.out_width:
                    store_filters(move(y, place), f, sums[s], sums[s + 1], sums[s + 2], sums[s + 3], wide, p)


@inline
def store_largest(sums, cells, y, winner, picture, row, column, first_filter, half, wide, p):
    """Write the largest of each 2 x 2 pixels that a thread has, and which it is.

    The first of equal ones, and the first NaN, as in `pool`.
    """
    window = divide(int32(picture * p.out_height + row), int32(2)) * divide(p.out_width, int32(2))
    for n in range(0, PIXELS, 2):
        place = int32((window + divide(int32(column + n), int32(2))) * p.out_channels)
        for q in range(0, FILTERS, 4):
            s, f = n * FILTERS + q, int32(first_filter + q // 4 * half)
            for i in range(s, s + 4):
                cells[i - s] = int32(0)
                for cell in range(1, 4):
                    value = sums[i + (cell // 2 * PIXELS + cell % 2) * FILTERS]
                    sums[i], cells[i - s] = larger_pixel(sums[i], cells[i - s], value, int32(cell))
            if row < p.out_height and column + n < p.out_width:
                at = int32(place + f)
                store_filters(move(y, at), f, sums[s], sums[s + 1], sums[s + 2], sums[s + 3], wide, p)
                store_numbers(winner, at, f, cells[0], cells[1], cells[2], cells[3], wide, p)


@inline
def larger_pixel(best, number, value, its_number):
    """The larger of two pixels, and its number."""
    if value > best or (value != value and best == best):
        best, number = value, its_number
    return best, number


@inline
def store_filters(target, f, a, b, c, d, wide, p):
    """Write the numbers of four filters from `f` on, those that exist."""
    if wide:
        if f < p.out_channels:
            store4(target, a, b, c, d)
    else:
        if f < p.out_channels:
            store(target, a)
        if f + 1 < p.out_channels:
            store(move(target, 1), b)
        if f + 2 < p.out_channels:
            store(move(target, 2), c)
        if f + 3 < p.out_channels:
            store(move(target, 3), d)


@inline
def store_numbers(winner, place, f, a, b, c, d, wide, p):
    """Write the winners' numbers of four filters from `f` on, those that exist."""
    if wide:
        if f < p.out_channels:
            store4_bytes(winner, place, a, b, c, d)
    else:
        if f < p.out_channels:
            store_byte(winner, place, a)
        if f + 1 < p.out_channels:
            store_byte(winner, int32(place + 1), b)
        if f + 2 < p.out_channels:
            store_byte(winner, int32(place + 2), c)
        if f + 3 < p.out_channels:
            store_byte(winner, int32(place + 3), d)
