"""Products with a Toeplitz matrix that is never stored: the kernels behind correlations and dense layers in float32.

The rows of the left matrix are output pixels, its columns the entries of a patch in the order in which the filters
are stored, ``(kernel row, kernel column, channel)``; the right matrix is the filters as they lie in memory.  Nobody
stores the left matrix: an entry's address follows from its pixel's and its cell's.

A block computes a tile of pixels x filters, in two nested products:

- *load tile*: strips of `depth` entries of the tile's pixels and filters go from global to shared memory, four numbers
  at a time wherever channels and filters allow it;
- *multiply tile*: every thread adds the products of its own 8 pixels and 8 filters to 64 sums in registers, reading
  its factors from shared memory four at a time;
- *store tile*: bias and activation are applied to the sums, and they are written.

Strips are loaded in one of two ways.  From compute capability 8.0 on, a block begins asynchronous copies one to three
tiles ahead and goes on multiplying; before, it reads the next strips into registers, multiplies, and then puts
them into the other half of shared memory.  Either way it passes one barrier for each tile of `depth` terms.

Memory traffic.  A 128 x 128 tile fetches 2 (128 + 128) depth bytes for every 128 x 128 depth multiply-adds: 32
multiply-adds a byte, and overlapping patches come from the caches.

What bounds it.  Multiply-adds: for 1024 of them a thread of a 128 x 128 tile executes 64 reads of shared memory and
about 55 other instructions.  On tensor cores, these: see `fragments_of`.

Padding.  Which cells of a pixel's patch lie inside of the picture is known from one mask of 32 bits, made once, of
which the bit of an entry's cell is looked at, the same for all pixels; what lies outside is not fetched, and zero takes
its place.  Windows of more cells are split by kernel rows.

Banks.  The left strip is stored by rows, each 4 numbers longer than it is deep: of 8 threads that read from 8
neighbouring rows none meet in a bank.  Of threads that write together, those of one row write neighbouring numbers,
and their rows lie so far apart (`pixel_of`) that they do not meet either.

The order of sums.  Every sum adds its terms one after another in the order of the entries, each with one rounding,
whatever the tile: choosing a tile by the number of multiprocessors changes no result.  Where an output has too few
tiles to fill a GPU, or its window too many cells, blocks share the entries and a second kernel adds their sums in
order; how they are cut up depends on shapes alone.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy import int32, uint32

from ..precision import get_precision
from . import tiles, toolkit
from .formulas import activate, inline, pixel_place
from .instructions import (
    ALIGNMENT,
    BFLOAT16,
    TF32,
    THREE_TF32,
    await_copies,
    close_copies,
    copy4_if,
    copy_if,
    divide,
    fragment_corners,
    load4_if,
    load_if,
    move,
    multiply_fragments,
    multiply_rows,
    pin,
    power_of_two,
    same_thread,
    shared_address,
    shift_left,
    store,
    store4,
)
from .phases import phase_cells
from .toolkit import cuda
from .vectors import read_vector, write_vector

# Groups of fewer filters would leave most columns of a tile empty.
NARROW_GROUP = 8

# A grid has so many blocks at most along its last axis.
MOST_LAYERS = 65535

# Where three products on tensor cores take the place of one: see `fragments_of`.
THREE_PRODUCTS_PAY, FEWEST_ENTRIES, FEWEST_FILTERS = ((8, 0), (9, 0)), 64, 32


class Problem(NamedTuple):
    """What a kernel must know of a correlation, in 32-bit integers.

    pixels, out_height, out_width
        The outputs, all in all and of a picture.
    entries, mask_rows
        Of a patch; the kernel rows that a block goes through.
    split_rows, split_channels, split_entries
        How far apart, where blocks share a patch, the parts of two blocks begin.
    step_cells, step_columns, step_channels, advance, next_column, next_row
        How many cells, kernel columns and channels `depth` entries go on.  The patch's address then moves on by
        `advance`, and by `next_column` or `next_row` more where the channels or the kernel columns overflow.
    filter_step
        From one row of filters that a thread fetches to the next.
    y_split
        How far apart lie the results of two splits.
    layers
        Groups, or splits: how many blocks have the same pixels and filters of their phase.

    The problem of all phases at once has the outputs of all of them, and the cells, strides, dilation and padding of
    the correlation whose gradient this is; `phase_dilation` is the dilation of each.  `phase_of` makes of it the
    problem of one.
    """

    pixels: int
    out_height: int
    out_width: int
    height: int
    width: int
    channels: int
    kernel_height: int
    kernel_width: int
    stride_height: int
    stride_width: int
    dilation_height: int
    dilation_width: int
    pad_top: int
    pad_left: int
    group_channels: int
    group_filters: int
    out_channels: int
    entries: int
    mask_rows: int
    split_rows: int
    split_channels: int
    split_entries: int
    step_cells: int
    step_columns: int
    step_channels: int
    advance: int
    next_column: int
    next_row: int
    filter_step: int
    y_split: int
    layers: int
    phase_dilation_height: int
    phase_dilation_width: int


@functools.lru_cache(maxsize=4096)
def problem_of(g, depth, entry_step, split=None, phased=None):
    """The problem of a correlation's geometry.

    Parameters
    ----------
    g : Geometry
    depth, entry_step : int
        Of the layout.
    split : tiles.Split, optional
    phased : Geometry, optional
        Of a correlation with strides: the problem is that of all phases of its gradient, of which g is the hull.
    """
    group_channels, group_filters = g.channels // g.groups, g.out_channels // g.groups
    rows, channels = (split.rows, split.channels) if split else (g.kernel_height, 0)
    layers = split.count if split else g.groups
    step_cells, step_channels = divmod(depth, group_channels)
    step_rows, step_columns = divmod(step_cells, g.kernel_width)
    column, row = g.dilation_width * g.channels, g.dilation_height * g.width * g.channels
    split_entries, out_height, out_width, of = rows * g.kernel_width * group_channels, g.out_height, g.out_width, g
    if phased:
        split_entries, out_height, out_width, of = rows * group_channels, phased.height, phased.width, phased
    pixels = g.batch * out_height * out_width
    numbers = (
        pixels, out_height, out_width,
        g.height, g.width, g.channels,
        of.kernel_height, of.kernel_width, of.stride_height, of.stride_width, of.dilation_height, of.dilation_width,
        of.pad_top, of.pad_left,
        group_channels, group_filters, g.out_channels,
        g.kernel_height * g.kernel_width * group_channels, rows, 0 if channels else rows, channels,
        channels or split_entries,
        step_cells, step_columns, step_channels,
        step_rows * row + step_columns * column + step_channels,
        column - group_channels, row - g.kernel_width * column,
        entry_step * g.out_channels,
        pixels * g.out_channels if split else 0, layers, g.dilation_height, g.dilation_width,
    )  # fmt: skip
    return Problem(*map(np.int32, numbers))


class Layout(NamedTuple):
    """How the threads of a block share the work of a tile: constants of a kernel.

    `patch_width`, `filter_width` and `bias_width` are how many channels, filters and biases are fetched at once: quads,
    or 1.
    If the channels are a multiple of the depth, all entries of a strip are of one cell: the tile is `whole`.
    Then its cell is the same for all threads, and takes no registers of theirs.  Kernels for tensor cores (`fragments`)
    count the places of patches from the first pixel's on, whose address alone moves on: fewer instructions, more
    registers.
    """

    rows: int
    columns: int
    depth: int
    # Fetching the left strip: threads side by side on entries, and every `pixel_step`-th pixel.
    patch_width: int
    patch_quads: bool
    whole: bool
    fragments: bool
    patch_lanes: int
    patch_fetches: int
    pixel_step: int
    pixel_group: int
    pixel_spread: int
    # Fetching the right strip: threads side by side on filters, and every `entry_step`-th entry.
    filter_width: int
    filter_quads: bool
    bias_width: int
    bias_quads: bool
    filter_lanes: int
    filter_fetches: int
    entry_step: int
    # Where things lie in shared memory.
    left_stride: int
    right_begin: int
    right_stride: int
    stage_size: int
    # Multiplying: a warp's lanes, and where the tile of the next warp begins.
    lanes_down: int
    lanes_across: int
    lanes: int
    warps_down: int
    warp_rows: int
    warp_columns: int
    column_step: int
    thread_sums: int


def layout_of(tile, patch_width, filter_width, whole, fragments=False):
    """The layout of a `tiles.RegisterTile`; with `fragments`, of one that tensor cores multiply."""
    patch_lanes, filter_lanes = tile.depth // patch_width, tile.columns // filter_width
    pixel_step, entry_step = tile.threads // patch_lanes, tile.threads // filter_lanes
    # One pass over the banks serves 8 threads that write four numbers each, or 32 that write one.
    pixels_at_once = (8 if patch_width == 4 else 32) // patch_lanes
    spreads = pixels_at_once > 0 and pixel_step % 8 == 0
    # Threads of the largest tile have no registers for four biases at once: 24 bytes would spill on some GPUs.
    bias_width = 1 if tile.threads == 256 else filter_width
    left_stride, lanes = tile.depth + 4, tile.lanes_down * tile.lanes_across
    right_stride = tile.columns + 4 if fragments else tile.columns
    return Layout(
        rows=tile.rows, columns=tile.columns, depth=tile.depth,
        patch_width=patch_width, patch_quads=patch_width == 4, whole=whole, fragments=fragments,
        patch_lanes=patch_lanes, patch_fetches=tile.rows // pixel_step, pixel_step=pixel_step,
        pixel_group=8 if spreads else 1, pixel_spread=min(8, pixels_at_once) if spreads else 1,
        filter_width=filter_width, filter_quads=filter_width == 4,
        bias_width=bias_width, bias_quads=bias_width == 4, filter_lanes=filter_lanes,
        filter_fetches=tile.depth // entry_step, entry_step=entry_step,
        left_stride=left_stride, right_begin=tile.rows * left_stride, right_stride=right_stride,
        stage_size=tile.rows * left_stride + tile.depth * right_stride,
        lanes_down=tile.lanes_down, lanes_across=tile.lanes_across, lanes=lanes,
        warps_down=tile.rows // (tile.lanes_down * tile.thread_rows),
        warp_rows=tile.lanes_down * tile.thread_rows, warp_columns=tile.lanes_across * tile.thread_columns,
        column_step=tile.lanes_across * 4, thread_sums=tile.thread_sums,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------
# phases


_phase_cells = inline(phase_cells)


@inline
def phase_extents(p, phase):
    """Rows and columns of a picture that a phase has, how many pixels these are in all, and its first row and column.

    `p` is the problem of all phases.
    """
    first_row = divide(phase, p.stride_width)
    first_column = int32(phase - first_row * p.stride_width)
    rows = divide(int32(p.out_height - first_row + p.stride_height - 1), p.stride_height)
    columns = divide(int32(p.out_width - first_column + p.stride_width - 1), p.stride_width)
    pictures = divide(p.pixels, int32(p.out_height * p.out_width))
    return rows, columns, int32(pictures * rows * columns), first_row, first_column


@inline
def phase_of(p, phase):
    """The problem of a phase, and how many numbers of the turned filters belong to earlier ones."""
    rows, columns, pixels, first_row, first_column = phase_extents(p, phase)
    rows_before, kernel_height, _, pad_top = _phase_cells(
        first_row, p.kernel_height, p.stride_height, p.dilation_height, p.pad_top
    )
    columns_before, kernel_width, _, pad_left = _phase_cells(
        first_column, p.kernel_width, p.stride_width, p.dilation_width, p.pad_left
    )
    cells_before = int32(rows_before * p.kernel_width + kernel_height * columns_before)
    entries = int32(kernel_height * kernel_width * p.group_channels)
    kernel_height, kernel_width = int32(kernel_height), int32(kernel_width)
    if entries == 0:
        kernel_height, kernel_width = int32(1), int32(1)  # nobody saw these pixels: there is nothing to multiply
    column, row = int32(p.next_column + p.group_channels), int32(p.phase_dilation_height * p.width * p.channels)
    step_rows = divide(p.step_cells, kernel_width)
    step_columns = int32(p.step_cells - step_rows * kernel_width)
    problem = Problem(
        pixels, rows, columns,
        p.height, p.width, p.channels,
        kernel_height, kernel_width, int32(1), int32(1), p.phase_dilation_height, p.phase_dilation_width,
        int32(pad_top), int32(pad_left),
        p.group_channels, p.group_filters, p.out_channels,
        entries, p.mask_rows, p.split_rows, p.split_channels, int32(p.split_entries * kernel_width),
        p.step_cells, step_columns, p.step_channels,
        int32(step_rows * row + step_columns * column + p.step_channels),
        p.next_column, int32(row - kernel_width * column),
        p.filter_step,
        p.y_split, p.layers, p.phase_dilation_height, p.phase_dilation_width,
    )  # fmt: skip
    return problem, int32(cells_before * p.group_channels * p.out_channels)


# ---------------------------------------------------------------------------------------------------
# entries and cells


@inline
def entry_place(entry, p):
    """Kernel row, kernel column and channel of an entry."""
    cell = divide(entry, p.group_channels)
    row = divide(cell, p.kernel_width)
    return row, int32(cell - row * p.kernel_width), int32(entry - cell * p.group_channels)


@inline
def next_place(column, channel, p, t):
    """What comes `depth` entries further on.

    Returns kernel column and channel, how many cells that is, and how many numbers of x.
    """
    cells, advance = int32(0), int32(t.depth)
    if t.whole:
        channel = int32(channel + t.depth)
    else:
        cells, advance = p.step_cells, p.advance
        column, channel = int32(column + p.step_columns), int32(channel + p.step_channels)
    if channel >= p.group_channels:
        column, channel = int32(column + 1), int32(channel - p.group_channels)
        cells, advance = int32(cells + 1), int32(advance + p.next_column)
    if column >= p.kernel_width:
        column, advance = int32(column - p.kernel_width), int32(advance + p.next_row)
    return column, channel, cells, advance


@inline
def cells_inside(top, left, first_row, p):
    """Which cells of the patch that begins at a place lie inside of the picture, from a kernel row on: a bit for each.

    The lowest bit stands for the row's first cell.
    """
    columns, cells = uint32(0), uint32(0)
    for b in range(p.kernel_width):
        v = int32(left + b * p.dilation_width)
        if v >= 0 and v < p.width:
            columns = uint32(columns | power_of_two(b))
    for a in range(p.mask_rows):
        u = int32(top + (first_row + a) * p.dilation_height)
        if first_row + a < p.kernel_height and u >= 0 and u < p.height:
            cells = uint32(cells | shift_left(columns, a * p.kernel_width))
    return cells


# ---------------------------------------------------------------------------------------------------
# load tile


@inline
def pixel_of(thread, t):
    """The first pixel of a tile that a thread fetches for.

    Threads that write to shared memory at once take pixels of one `pixel_group` that lie apart, so that
    their rows, which are longer than deep, begin in different banks.
    """
    order = int32(thread // t.patch_lanes)
    within = int32(order % t.pixel_group)
    first = within % t.pixel_spread * (t.pixel_group // t.pixel_spread) + within // t.pixel_spread
    return int32(order - within + first)


@inline
def place_patches(p, t, first_pixel, group, first_row, entry, sources, inside):
    """For every pixel that a thread fetches for: the place of an entry of its patch, and its cells inside.

    Entries are counted from a kernel row on.  Returns the entry's kernel column, channel and cell, as its bit in the
    masks of cells.
    """
    row, column, channel = entry_place(entry, p)
    cell = int32(row * p.kernel_width + column)
    for i in range(t.patch_fetches):
        pixel = int32(first_pixel + i * t.pixel_step)
        picture, out_row, out_column = pixel_place(pixel, p.out_height, p.out_width)
        top = int32(out_row * p.stride_height - p.pad_top)
        left = int32(out_column * p.stride_width - p.pad_left)
        line = (picture * p.height + top + (first_row + row) * p.dilation_height) * p.width
        place = (line + left + column * p.dilation_width) * p.channels
        sources[i] = int32(place + group * p.group_channels + channel)
        inside[i] = uint32(0)
        if pixel < p.pixels:
            inside[i] = cells_inside(top, left, first_row, p)
    return column, channel, power_of_two(cell)


@inline
def count_from_first(x, sources, t):
    """Count the patches' places from the first one's on; returns its address."""
    x = move(x, sources[0])
    for i in range(t.patch_fetches):
        back = t.patch_fetches - 1 - i  # the first one last, since it becomes zero
        sources[back] = int32(sources[back] - sources[0])
    return x


@inline
def move_on(x, sources, column, channel, cell, p, t):
    """Let every patch's place be that of the next tile's entry.

    Returns from where places are counted, and the entry's kernel column, channel and cell.
    """
    column, channel, cells, advance = next_place(column, channel, p, t)
    if t.fragments:
        x = move(x, advance)
    else:
        for i in range(t.patch_fetches):
            sources[i] = int32(sources[i] + advance)
    return x, column, channel, shift_left(cell, cells)


@inline
def copy_tile(x, filters, sources, inside, cell, filter_source, entries_left, left_target, right_target, p, t):
    """Begin to copy a tile's strips to shared memory, with zeros for what does not exist.

    Returns the place of the next tile's filters.
    """
    for i in range(t.patch_fetches):
        wanted = uint32(inside[i] & cell)
        target = move(left_target, i * t.pixel_step * t.left_stride)
        if t.patch_quads:
            copy4_if(wanted, move(x, sources[i]), target)
        else:
            copy_if(wanted, move(x, sources[i]), target)
    for i in range(t.filter_fetches):
        wanted = entries_left > (0 if t.whole else i * t.entry_step)
        source = move(filters, int32(filter_source + i * p.filter_step))
        target = move(right_target, i * t.entry_step * t.right_stride)
        if t.filter_quads:
            copy4_if(wanted, source, target)
        else:
            copy_if(wanted, source, target)
    return int32(filter_source + t.filter_fetches * p.filter_step)


@inline
def read_tile(x, filters, sources, inside, cell, filter_source, entries_left, patches, weights, p, t):
    """Read a thread's part of a tile's strips, with zeros for what does not exist; returns as `copy_tile`."""
    for i in range(t.patch_fetches):
        wanted = uint32(inside[i] & cell)
        if t.patch_quads:
            patches[4 * i], patches[4 * i + 1], patches[4 * i + 2], patches[4 * i + 3] = load4_if(
                wanted, move(x, sources[i])
            )
        else:
            patches[i] = load_if(wanted, move(x, sources[i]))
    for i in range(t.filter_fetches):
        wanted = entries_left > (0 if t.whole else i * t.entry_step)
        source = move(filters, int32(filter_source + i * p.filter_step))
        if t.filter_quads:
            a, b, c, d = load4_if(wanted, source)
            weights[4 * i], weights[4 * i + 1], weights[4 * i + 2], weights[4 * i + 3] = a, b, c, d
        else:
            weights[i] = load_if(wanted, source)
    return int32(filter_source + t.filter_fetches * p.filter_step)


@inline
def put_tile(patches, weights, left_target, right_target, t):
    """Write what `read_tile` read to shared memory."""
    for i in range(t.patch_fetches):
        target = move(left_target, i * t.pixel_step * t.left_stride)
        if t.patch_quads:
            store4(target, patches[4 * i], patches[4 * i + 1], patches[4 * i + 2], patches[4 * i + 3])
        else:
            store(target, patches[i])
    for i in range(t.filter_fetches):
        target = move(right_target, i * t.entry_step * t.right_stride)
        if t.filter_quads:
            store4(target, weights[4 * i], weights[4 * i + 1], weights[4 * i + 2], weights[4 * i + 3])
        else:
            store(target, weights[i])


@inline
def filter_place(entry, f, group, p):
    """Which number of the filters stands for an entry, in the filter numbered so within its group."""
    return int32(entry * p.out_channels + group * p.group_filters + f)


@inline
def next_stage(place, stage_size, strips_size):
    """Where in shared memory the strips after those at `place` lie: round and round."""
    place = int32(place + stage_size)
    if place == strips_size:
        place = int32(0)
    return place


@inline
def stage_before(place, stage_size, strips_size):
    """Where the strips before those at `place` lie, which are the ones to be filled next."""
    if place == 0:
        place = int32(strips_size)
    return int32(place - stage_size)


# ---------------------------------------------------------------------------------------------------
# multiply tile and store tile


@inline
def own_corner(thread, t):
    """The first pixel and the first filter of the tile whose sums a thread keeps."""
    warp, lane = thread // t.lanes, thread % t.lanes
    pixel = warp % t.warps_down * t.warp_rows + lane % t.lanes_down
    return int32(pixel), int32(warp // t.warps_down * t.warp_columns + lane // t.lanes_down * 4)


@inline
def warp_corner(thread, t):
    """The first pixel and the first filter of the tile whose sums a warp keeps."""
    warp = thread // t.lanes
    return int32(warp % t.warps_down * t.warp_rows), int32(warp // t.warps_down * t.warp_columns)


@inline
def fragment_corner(thread, t):
    """As `own_corner`, of sums that tensor cores make."""
    pixel, f = warp_corner(thread, t)
    lane = thread % t.lanes
    return int32(pixel + lane // t.lanes_across), int32(f + lane % t.lanes_across * 4)


@inline
def store_tile(
    sums, offsets, bias, y, p, t, first_pixel, pixel_step, first_filter, group, phase, activation, biased, phased, alpha
):
    """Apply bias and activation to a thread's sums, row by row, and write them."""
    filters, pixels = offsets.shape[0], p.pixels
    if phased:
        rows, columns, pixels, phase_row, phase_column = phase_extents(p, phase)
        y = move(y, int32((phase_row * p.out_width + phase_column) * p.out_channels))
    for q in range(filters):
        offsets[q] = np.float32(0)
    if biased:
        for q in range(0, filters, t.bias_width):
            f = int32(first_filter + q // 4 * t.column_step + q % 4)
            wanted, source = f < p.group_filters, move(bias, int32(group * p.group_filters + f))
            if t.bias_quads:
                offsets[q], offsets[q + 1], offsets[q + 2], offsets[q + 3] = load4_if(wanted, source)
            else:
                offsets[q] = load_if(wanted, source)
    for first in range(0, t.thread_sums, filters):
        pixel = int32(first_pixel + first // filters * pixel_step)
        if pixel < pixels:
            place = int32(pixel * p.out_channels)
            if phased:
                picture, row, column = pixel_place(pixel, rows, columns)
                line = picture * p.out_height + row * p.stride_height
                place = int32((line * p.out_width + column * p.stride_width) * p.out_channels)
            for q in range(filters):
                sums[first + q] = activate(activation, alpha, sums[first + q] + offsets[q])
            for q in range(0, filters, t.filter_width):
                f, i = int32(first_filter + q // 4 * t.column_step + q % 4), first + q
                if f < p.group_filters:
                    target = move(y, int32(place + group * p.group_filters + f))
                    if t.filter_quads:
                        store4(target, sums[i], sums[i + 1], sums[i + 2], sums[i + 3])
                    else:
                        store(target, sums[i])


# ---------------------------------------------------------------------------------------------------
# the kernels


@functools.cache
def product_kernel(tile, patch_width, filter_width, whole, asynchronous, options, fragments=None):
    """The kernel for a tile.

    Parameters
    ----------
    tile : tiles.RegisterTile
    patch_width, filter_width : int
        How many channels, and how many filters, are fetched at once: 4 or 1.
    whole : bool
        Whether the channels of a group are a multiple of the tile's depth.
    asynchronous : bool
        Whether strips are copied while the block multiplies, or pass through registers.
    options : (int, bool, bool, bool)
        The activation, whether there is a bias, whether this is the product of all phases of a gradient, and whether
        several blocks share the entries.
    fragments : int, optional
        How tensor cores multiply: see `instructions.multiply_fragments`.  Default: they do not.
    """
    on_tensor_cores = fragments is not None
    t = layout_of(tile, patch_width, filter_width, whole, on_tensor_cores)
    rows, columns, depth, count = tile.thread_rows, tile.thread_columns, tile.depth, tile.thread_sums
    left_stride, right_stride, row_step, column_step = t.left_stride, t.right_stride, tile.lanes_down, t.column_step
    stage_size, strips_size = t.stage_size, tile.stages * t.stage_size
    patch_fetches, patch_numbers, filter_numbers = (
        t.patch_fetches,
        t.patch_fetches * patch_width,
        t.filter_fetches * filter_width,
    )
    ahead, in_flight = tile.stages - 1, tile.stages - 2
    # Numba drops what a constant decides against before it compiles it, but not what an item of a tuple does.
    activation, biased, phased, shared_out = options

    @cuda.jit(cache=True, **toolkit.bounds(tile.threads, tile.blocks))
    def correlation_product(x, filters, bias, all_phases, alpha, y):
        strips = cuda.shared.array(strips_size, np.float32, alignment=ALIGNMENT)
        sums = cuda.local.array(count, np.float32)
        offsets = cuda.local.array(columns, np.float32)
        sources = cuda.local.array(patch_fetches, np.int32)
        inside = cuda.local.array(patch_fetches, np.uint32)

        thread = int32(cuda.threadIdx.x)
        first_pixel, first_filter = int32(cuda.blockIdx.x * t.rows), int32(cuda.blockIdx.y * t.columns)
        group, split, p = int32(cuda.blockIdx.z), int32(0), all_phases
        if phased:
            phase = divide(group, all_phases.layers)
            group = int32(group - phase * all_phases.layers)
            p, numbers_before = phase_of(all_phases, phase)
            filters = move(filters, numbers_before)
        first_entry, first_row, first_channel, entries = int32(0), int32(0), int32(0), p.entries
        if shared_out:
            group, split = split, group
            first_entry = int32(split * p.split_entries)
            first_row, first_channel = int32(split * p.split_rows), int32(split * p.split_channels)
            entries = int32(entries - first_entry)
            if entries > p.split_entries:
                entries = p.split_entries
        if phased and (entries < 0 or first_pixel >= p.pixels):
            entries = int32(0)  # past the end of a phase that is not the largest
        tiles_left = divide(int32(entries + (depth - 1)), int32(depth))

        # What this thread fetches, and where it puts it.
        pixel, entry = pixel_of(thread, t), int32(thread % t.patch_lanes * t.patch_width)
        entry_in_row = int32(first_channel + entry)
        column, channel, cell = place_patches(
            p, t, first_pixel + pixel, group, first_row, entry_in_row, sources, inside
        )
        if whole:
            column, channel, cell = int32(0), first_channel, uint32(1)
        if on_tensor_cores:
            x = count_from_first(x, sources, t)
        left_target = pin(move(shared_address(strips), int32(pixel * t.left_stride + entry)))
        f, entry = int32(thread % t.filter_lanes * t.filter_width), int32(thread // t.filter_lanes)
        filter_source = filter_place(first_entry + entry, first_filter + f, group, p)
        right_target = pin(move(shared_address(strips), int32(t.right_begin + entry * t.right_stride + f)))
        entries_left = int32(entries - entry)
        if first_filter + f >= p.group_filters:
            entries_left = int32(0)

        # What it multiplies.
        lane = int32(thread % t.lanes)
        if on_tensor_cores:
            pixel, f = warp_corner(thread, t)
            left_corner, right_corner = fragment_corners(lane, left_stride, right_stride)
        else:
            pixel, f = own_corner(thread, t)
            left_corner, right_corner = int32(0), int32(0)
        left = pin(move(shared_address(strips), int32(pixel * t.left_stride + left_corner)))
        right = pin(move(shared_address(strips), int32(t.right_begin + f + right_corner)))
        for i in range(count):
            sums[i] = np.float32(0)

        use = int32(0)
        if asynchronous:
            for stage in range(ahead):
                if stage < tiles_left:
                    to_left, to_right = move(left_target, stage * stage_size), move(right_target, stage * stage_size)
                    filter_source = copy_tile(
                        x, filters, sources, inside, cell, filter_source, entries_left, to_left, to_right, p, t
                    )
                    x, column, channel, cell = move_on(x, sources, column, channel, cell, p, t)
                    if not whole:
                        entries_left = int32(entries_left - depth)
                close_copies()

            while tiles_left > 0:
                await_copies(in_flight)
                cuda.syncthreads()
                if tiles_left > ahead:
                    fill = stage_before(use, stage_size, strips_size)
                    to_left, to_right = move(left_target, fill), move(right_target, fill)
                    filter_source = copy_tile(
                        x, filters, sources, inside, cell, filter_source, entries_left, to_left, to_right, p, t
                    )
                    x, column, channel, cell = move_on(x, sources, column, channel, cell, p, t)
                    if not whole:
                        entries_left = int32(entries_left - depth)
                close_copies()
                if on_tensor_cores:
                    multiply_fragments(
                        sums, move(left, use), move(right, use), lane,
                        rows, columns, depth, left_stride, right_stride, fragments,
                    )  # fmt: skip
                else:
                    multiply_rows(
                        sums, move(left, use), move(right, use),
                        rows, columns, depth, left_stride, right_stride, row_step, column_step,
                    )  # fmt: skip
                use = next_stage(use, stage_size, strips_size)
                tiles_left = int32(tiles_left - 1)
        else:
            patches = cuda.local.array(patch_numbers, np.float32)
            weights = cuda.local.array(filter_numbers, np.float32)
            filter_source = read_tile(
                x, filters, sources, inside, cell, filter_source, entries_left, patches, weights, p, t
            )
            put_tile(patches, weights, left_target, right_target, t)
            while tiles_left > 0:
                cuda.syncthreads()
                if tiles_left > 1:
                    x, column, channel, cell = move_on(x, sources, column, channel, cell, p, t)
                    if not whole:
                        entries_left = int32(entries_left - depth)
                    filter_source = read_tile(
                        x, filters, sources, inside, cell, filter_source, entries_left, patches, weights, p, t
                    )
                multiply_rows(
                    sums, move(left, use), move(right, use),
                    rows, columns, depth, left_stride, right_stride, row_step, column_step,
                )  # fmt: skip
                use = next_stage(use, stage_size, strips_size)
                if tiles_left > 1:
                    put_tile(patches, weights, move(left_target, use), move(right_target, use), t)
                tiles_left = int32(tiles_left - 1)

        # The loop needs every register: what only comes after it is computed after it.
        phase = int32(0)
        if phased:
            layer = int32(pin(uint32(cuda.blockIdx.z)))
            phase = divide(layer, all_phases.layers)
            layer = int32(layer - phase * all_phases.layers)
            group, split = (int32(0), layer) if shared_out else (layer, int32(0))
        for _ in range(split):
            y = move(y, all_phases.y_split)  # one by one, since 32 bits may not hold the sum
        if on_tensor_cores:
            pixel, f = fragment_corner(same_thread(thread), t)
        else:
            pixel, f = own_corner(same_thread(thread), t)
        first_pixel, first_filter = int32(first_pixel + pixel), int32(first_filter + f)
        store_tile(
            sums, offsets, bias, y, all_phases, t, first_pixel, row_step, first_filter, group, phase,
            activation, biased, phased, alpha,
        )  # fmt: skip

    return correlation_product


@functools.cache
def _sum_splits_kernel(width, activation, biased):
    """The kernel that adds the sums of splits, one after another, and does what `store_tile` does else."""

    @cuda.jit(cache=True)
    def sum_splits(sums, splits, bias, p, alpha, y):
        # Neighbouring threads have neighbouring vectors, of `width` numbers of each split.
        totals = cuda.local.array(width, np.float32)
        numbers = cuda.local.array(width, np.float32)
        i, size = int32(cuda.grid(1)), int32(p.pixels * p.out_channels)
        while i < divide(size, int32(width)):
            place, source = int32(i * width), sums
            read_vector(totals, 0, source, place, width)
            for _ in range(1, splits):
                source = move(source, size)
                read_vector(numbers, 0, source, place, width)
                for k in range(width):
                    totals[k] += numbers[k]
            if biased:
                read_vector(numbers, 0, bias, int32(place - divide(place, p.out_channels) * p.out_channels), width)
                for k in range(width):
                    totals[k] += numbers[k]
            for k in range(width):
                totals[k] = activate(activation, alpha, totals[k])
            write_vector(totals, 0, y, place, width)
            i = int32(i + cuda.gridsize(1))

    return sum_splits


# ---------------------------------------------------------------------------------------------------
# launching them


def is_suited(g, dtype, phased=None):
    """Whether these kernels compute a correlation: float32, a window whose rows a mask can hold, groups not too narrow.

    What is left are gradient checks, which need no speed, and depthwise correlations, for which `direct` is better.
    """
    if dtype != np.float32 or g.kernel_width > tiles.MASK_BITS or _layers(g, phased) > MOST_LAYERS:
        return False
    few = g.out_channels // g.groups < NARROW_GROUP
    return g.groups == 1 or not (few or g.kernel_height * g.kernel_width > tiles.MASK_BITS)


def fragments_of(precision, capability, entries, filters):
    """How tensor cores multiply, or None if they do not.

    With the precision of float32 they do so in three products.  That pays where a product of TF32 numbers takes less
    than a third of the time: on the GPUs of data centres, of compute capability 8.0 and 9.0, but not on others, whose
    tensor cores multiply TF32 numbers as fast as their multipliers float32 ones; and where sums are long enough.

    What bounds three products.  For 96 instructions of the tensor cores, of 1024 multiply-adds each, a warp executes 12
    reads of shared memory, 112 instructions that split factors (2 for each of 32 left ones, 3 for each of 16 right
    ones), 64 that add, and about 70 others: 355 in all, one a cycle from each scheduler, while the tensor cores take 96
    times 6 cycles on 9.0 and 96 times 8 on 8.0, as the assembler spaces them.  Three warps on each scheduler keep them
    busy while one waits for a strip.

    In sums of 1728 random terms, the largest error is 2.6e-8 of the sum of their sizes with three products, 7.1e-8 with
    float32 multiply-adds, 6.8e-5 with TF32 and 1.7e-4 with bfloat16; of positive ones 3.1e-7 with three products, which
    make them 1.3e-7 too small in the mean, and 6.0e-7 with float32 (`tests/test_simt_tensor_cores.py`).
    """
    if capability < (8, 0):
        return None
    if precision == "float32":
        pays = capability in THREE_PRODUCTS_PAY and entries >= FEWEST_ENTRIES and filters >= FEWEST_FILTERS
        return THREE_TF32 if pays else None
    return TF32 if precision == "tf32" else BFLOAT16


def sums_size(g, phased=None):
    """How many numbers of workspace `multiply` needs."""
    split = _split(g, phased)
    pixels = phased.height * phased.width if phased else g.out_height * g.out_width
    return split.count * g.batch * pixels * g.out_channels if split else 0


def _split(g, phased):
    return tiles.split(g, _phases(phased))


def _phases(phased):
    return phased.stride_height * phased.stride_width if phased else 1


def _layers(g, phased):
    """How many blocks a tile of pixels and filters has."""
    split = _split(g, phased)
    return (split.count if split else g.groups) * _phases(phased)


def multiply(x, filters, bias, g, activation, alpha, y, sums=None, phased=None):
    """Launch the product of a correlation.

    Parameters
    ----------
    x, filters, bias, y : address
        The bias may be None.
    g : Geometry
    activation, alpha
        As in the table.
    sums : address, optional
        Of a workspace of `sums_size` numbers, if that is not 0.
    phased : Geometry, optional
        Of a correlation with strides: y is its gradient by the input, from x, which is dz, and the filters of its
        phases one after another; g is the `phases.hull_of` it.
    """
    group_channels, group_filters = g.channels // g.groups, g.out_channels // g.groups
    patch_width = 4 if group_channels % 4 == 0 and toolkit.is_aligned(x) else 1
    aligned = all(toolkit.is_aligned(array) for array in (filters, bias, y) if array is not None)
    filter_width = 4 if group_filters % 4 == 0 and aligned else 1
    pixels, split = g.batch * g.out_height * g.out_width, _split(g, phased)
    layers = _layers(g, phased)
    capability = toolkit.compute_capability()
    asynchronous = capability >= (8, 0)
    choices, fragments = tiles.REGISTER_TILES if patch_width == 4 else tiles.SCALAR_TILES, None
    if patch_width == filter_width == 4:
        entries = g.kernel_height * g.kernel_width * group_channels
        fragments = fragments_of(get_precision(), capability, entries, group_filters)
    if fragments is not None:
        choices = tiles.THREE_PRODUCT_TILES if fragments == THREE_TF32 else tiles.FRAGMENT_TILES
    if phased:
        choices = tuple(tile for tile in choices if tile.threads < 256)  # the largest has no registers for phases
    tile = tiles.register_tile(choices, pixels, group_filters, layers, group_channels, toolkit.multiprocessors())
    tile = tile if asynchronous else tile.staged()
    whole = patch_width == 4 and group_channels % tile.depth == 0
    tile = tile.roomier() if fragments == THREE_TF32 and not whole else tile
    options = int(activation), bias is not None, phased is not None, split is not None
    layout = layout_of(tile, patch_width, filter_width, whole, fragments is not None)
    p = problem_of(g, layout.depth, layout.entry_step, split, phased)
    alpha, bias = np.float32(alpha), x if bias is None else bias

    blocks = (tiles.blocks_for(pixels, tile.rows), tiles.blocks_for(group_filters, tile.columns), layers)
    inner = (0, False, phased is not None, True) if split else options
    kernel = product_kernel(tile, patch_width, filter_width, whole, asynchronous, inner, fragments)
    toolkit.launch(kernel, blocks, (tile.threads,), x, filters, bias, p, alpha, sums if split else y)
    if split:
        blocks, threads = tiles.element_grid(int(p.pixels) * g.out_channels // filter_width)
        kernel = _sum_splits_kernel(filter_width, *options[:2])
        toolkit.launch(kernel, blocks, threads, sums, np.int32(split.count), bias, p, alpha, y)
