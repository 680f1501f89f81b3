"""The gradients of a 2D cross-correlation by its filters and biases, and with them those of dense layers.

``dfilters[a, b, c, f]`` is the sum over all output pixels ``(n, i, j)`` of ``x[n, i s - p + a d, j s - p + b d, c]``
times ``dz[n, i, j, f]``, where ``dz = dy activation'(z)``: a product of the patches, whose matrix is never stored, with
`dz`.  Pixels are what is summed over, and in both factors the numbers of one pixel lie side by side in memory.

The tiled kernel (float32).  The result is small, its sums are long::

                       filters
                    <- columns ->                 pixels are cut into chunks, one for each block of a tile;
                   +-------------+  ^             a block walks along its chunk, 16 pixels at a time:
             dz    |/////////////|  16 pixels
                   +-------------+  v             - fetch strips: of 16 pixels, `rows` patch entries of x and
         x                                          `columns` filters of dz, into shared memory
    ^ +-----+      +-------------+                - multiply strips: every thread adds the products of its own
    r |/////|      |  dfilters   |                  8 entries and 8 filters to 64 sums in registers
    o |/////|      |    tile     |                - store: the chunk's sums go to a workspace, and a second
    w |/////|      |             |                  kernel adds the chunks in a fixed order
    s +-----+      +-------------+
      16 pixels

There is room for two pairs of strips: the next one is fetched while this one is multiplied, so that one barrier for 16
pixels is enough; in tiles of 192 and 96 entries, which waste nothing of windows of 3 x 3 cells, for 12.  The thread
that fetched a number of dy multiplies it by the activation's slope, and adds it to the gradient of the bias.  From
compute capability 8.0 on, x, dy and y come by asynchronous copies, and a thread finishes what it has copied of dy
halfway through the multiplication, on tensor cores after it.  y lies in a strip of its own; one is enough, since only
the thread that copied it reads it.  Shared memory: 40 KB for 128 x 128, below the 48 KB that every GPU gives.  On 7.5
they come through registers; to have few of these wait for memory, in two halves of 8 pixels each.

Where three products on tensor cores take the place of one (`product.fragments_of`), a warp multiplies strips of 64
entries and 32 filters, which are fetched in the same way; of 32 entries, where there are fewer blocks than a GPU has
multiprocessors, so that as many pixels take a warp about half as long.

Which pixel a thread fetches next follows from the last one by additions alone (`next_pixel`), where dividing its number
by the picture's extents would take several times as many instructions.  Still it costs as much as two or three
accesses: so a thread fetches several entries and filters of few pixels, in 96 x 64 and larger tiles of one of the 12 or
16.

Memory traffic.  Where channels and filters are multiples of 4, all global accesses are of 16 bytes, and neighbouring
threads access neighbouring ones.  For 128 x 128 sums, 256 numbers are fetched for a pixel, with y 384:
16 or 11 multiply-adds a byte.  Strips are stored pixel by pixel, and read 4 entries or filters at once: no bank
conflicts.

What bounds it.  Multiply-adds, where there are channels and filters enough: for 1024 of them a thread executes 64 reads
of shared memory and 68 to 86 other instructions in the larger tiles, of which 16 to 24 are for ReLU's slope and the
bias; in tiles of 96 x 64, of which 32 are, 94 to 108; most where windows reach beyond the picture.  On tensor cores,
for 96 of their instructions a warp executes 12 reads of shared memory, 112 instructions that split factors, 64 that
add, and 64 to 140 others; the tensor cores need longer for theirs.  In a network's first layer, reading dy and y.

Where channels do not mix, `depthwise` has the sums of chunks.  The direct kernel, for float64 and other groups of few
channels or filters, has a thread for each filter weight and chunk of pixels, which reads two or three numbers for each
multiply-add; they come from the caches, which bounds it.

Chunks are as many as fill a GPU once, or a few times (`tiles.filter_chunks`): they depend on the shapes, on how many
multiprocessors there are, and, since these decide what room a block takes, on the activation and on where arrays begin.
Nothing is added in an order that depends on timing: on one kind of GPU results are repeatable bit by bit.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy import int32, uint32

from ..formulas import LINEAR
from ..geometry import LARGEST_INT32, int32_geometry
from . import depthwise, tiles, toolkit
from .formulas import inline, pixel_gradient, pixel_place, quotient, slope_from_value
from .instructions import (
    ADDRESS,
    ALIGNMENT,
    add_if,
    await_copies,
    close_copies,
    copy4_if,
    copy_if,
    divide,
    fragment_corner_steps,
    load,
    load4,
    load4_if,
    load_if,
    move,
    multiply_fragment_steps,
    multiply_steps,
    pin,
    shared_address,
    store,
    store4,
)
from .lanes import exchange
from .product import fragments_of
from .slopes import times_slopes
from .sums import store_sum
from .toolkit import cuda
from .vectors import read_vector, write_vector

# Groups with fewer channels or filters than this would leave most of every tile empty.
SMALLEST_GROUP = 8
# So many pixels past the last a thread may be at: a step of all tiles is shorter.
PIXELS_PAST = 64
WARP, SUM_THREADS = tiles.WARP, tiles.CHUNK_SUM_THREADS
WARPS = SUM_THREADS // WARP
# A row above all pictures, even from that many rows on.
NO_ROW = -(1 << 29)


def correlate2d_gradient_filters(x, dy, y, geometry, activation, alpha, dfilters, dbias):
    """``dfilters`` and ``dbias``."""
    g = geometry
    real = dfilters.dtype.type
    group_channels, group_filters = g.channels // g.groups, g.out_channels // g.groups
    small = g.groups > 1 and min(group_channels, group_filters) < SMALLEST_GROUP
    call = x, dy, y, g, activation, alpha, dfilters, dbias
    if real == np.float32 and depthwise.suits(g):
        toolkit.attempt(
            toolkit.variant("correlate2d_gradient_filters of channels by themselves", g),
            lambda: _gradient_by_channels(*call),
            lambda: _gradient_directly(*call),
        )
    elif real == np.float32 and not small and _countable(g):
        toolkit.attempt(
            toolkit.variant("correlate2d_gradient_filters in register tiles", g),
            lambda: _gradient_by_tiles(*call),
            lambda: _gradient_directly(*call),
        )
    else:
        _gradient_directly(*call)


def _countable(g):
    """Whether the places that the tiled kernel adds up fit into 32 bits, padding and what lies past the end included.

    Windows begin within the padding, and a thread's next one may be that of a pixel past the last.
    """
    pixels = g.out_height * g.out_width
    rows = max(g.height + g.pad_top + g.pad_bottom, g.out_height * g.stride_height)
    columns = max(g.width + g.pad_left + g.pad_right, g.out_width * g.stride_width)
    reach = ((g.batch - 1 + PIXELS_PAST // pixels) * g.height + rows) * g.width + columns
    last = (g.batch * pixels + PIXELS_PAST) * g.out_channels
    return max(reach * g.channels, last) <= LARGEST_INT32 and rows < -NO_ROW


def _gradient_by_tiles(x, dy, y, g, activation, alpha, dfilters, dbias):
    x, dy, y = toolkit.address(x), toolkit.address(dy), toolkit.address(y)
    patch_width = 4 if g.channels // g.groups % 4 == 0 and toolkit.is_aligned(x) else 1
    together = g.out_channels // g.groups % 4 == 0 and toolkit.is_aligned(dy) and toolkit.is_aligned(y)
    filter_width = 4 if together else 1
    capability = toolkit.compute_capability()
    copying, sloped = capability >= (8, 0), activation != LINEAR
    tile, blocks, splits, p, fragments = _plan(
        g, patch_width, filter_width, copying, sloped, capability, toolkit.multiprocessors()
    )
    chunk_sums, sums, bias_sums = None, toolkit.address(dfilters), toolkit.address(dbias)
    if splits > 1 or (filter_width == 4 and not (toolkit.is_aligned(sums) and toolkit.is_aligned(bias_sums))):
        chunk_sums = toolkit.workspace(splits * (dfilters.size + dbias.size), np.float32)
        sums, bias_sums = toolkit.address(chunk_sums), toolkit.address(chunk_sums, splits * dfilters.size)
    kernel = _tiled_kernel(tile, patch_width, filter_width, copying, _is_padded(g), int(activation), fragments)
    toolkit.launch(kernel, blocks, (tile.threads,), x, dy, y, p, np.float32(alpha), sums, bias_sums)
    if chunk_sums is not None:
        _add_chunks(chunk_sums, splits, dfilters, dbias)


def _gradient_by_channels(x, dy, y, g, activation, alpha, dfilters, dbias):
    size = dfilters.size + dbias.size
    chunk_sums, splits = depthwise.sum_chunks(x, dy, y, g, activation, alpha, size)
    _add_chunks(chunk_sums, splits, dfilters, dbias)


def _gradient_directly(x, dy, y, g, activation, alpha, dfilters, dbias):
    x, dy, y = (toolkit.flat(array) for array in (x, dy, y))
    real = dfilters.dtype.type
    pixels, size = g.batch * g.out_height * g.out_width, dfilters.size + dbias.size
    blocks, threads = tiles.element_grid(size)
    splits, chunk = tiles.chunks(pixels, blocks[0], threads[0])
    chunk_sums = toolkit.workspace(splits * size, real)
    arguments = int32_geometry(g), real(alpha), np.int32(chunk), np.int32(splits), chunk_sums
    toolkit.launch(_direct_kernel(int(activation)), (*blocks, splits), threads, x, dy, y, *arguments)
    _add_chunks(chunk_sums, splits, dfilters, dbias)


def _add_chunks(chunk_sums, splits, dfilters, dbias):
    real, weights, biases = dfilters.dtype.type, dfilters.size, dbias.size
    chunk_sums, dfilters, dbias = map(toolkit.address, (chunk_sums, dfilters, dbias))
    width = tiles.row_width(real, biases, chunk_sums, dfilters, dbias)
    columns = tiles.chunk_sum_columns(splits)
    blocks = (tiles.blocks_for(weights + biases, columns),)
    sizes = (np.int32(size) for size in (splits, columns // width, weights, biases))
    toolkit.launch(_sum_chunks_kernel(real, width), blocks, (SUM_THREADS,), chunk_sums, *sizes, dfilters, dbias)


# ---------------------------------------------------------------------------------------------------
# what the tiled kernel knows


@functools.lru_cache(maxsize=4096)
def _plan(g, patch_width, filter_width, copying, sloped, capability, multiprocessors):
    """Tile, grid, number of chunks, `Problem` and way on tensor cores, or None, of a correlation's geometry."""
    int32_geometry(g)  # refuses what 32 bits cannot count
    group_channels, group_filters = g.channels // g.groups, g.out_channels // g.groups
    entries, pixels = g.kernel_height * g.kernel_width * group_channels, g.batch * g.out_height * g.out_width
    fragments = None
    if patch_width == filter_width == 4:
        # Always with the precision of float32.
        fragments = fragments_of("float32", capability, min(entries, pixels), group_filters)
    choices = tiles.FILTER_COPIED_TILES if copying else tiles.FILTER_TILES
    if fragments is not None:
        choices = tiles.FILTER_FRAGMENT_TILES
    if 1 in (patch_width, filter_width):
        choices = tiles.FILTER_SCALAR_TILES
    layers = g.groups * tiles.blocks_for(pixels, tiles.SMALLEST_CHUNK)
    tile = tiles.filter_tile(choices, entries, group_filters, layers, multiprocessors)
    row_blocks, column_blocks = tiles.product_blocks(tile, entries, group_filters)
    t = _layout(tile, patch_width, filter_width, copying, _is_padded(g), sloped, fragments)
    resident = tiles.resident_blocks(tile, 4 * t.shared_size, capability, multiprocessors)
    splits, chunk = tiles.filter_chunks(pixels, row_blocks * column_blocks * g.groups, resident)

    lines, across = divmod(t.pixel_step, g.out_width)
    pictures, down = divmod(lines, g.out_height)
    down, across = down * g.stride_height, across * g.stride_width
    line_end, picture_end = g.out_width * g.stride_width, g.out_height * g.stride_height
    numbers = (
        pixels, g.out_height, g.out_width, g.height, g.width, g.channels, g.kernel_width,
        g.stride_height, g.stride_width, g.dilation_height, g.dilation_width, g.pad_top, g.pad_left,
        g.groups, group_channels, group_filters, g.out_channels, entries, chunk,
        down, across, ((pictures * g.height + down) * g.width + across) * g.channels, line_end, picture_end,
        (g.stride_height * g.width - line_end) * g.channels, (g.height - picture_end) * g.width * g.channels,
    )  # fmt: skip
    return tile, (row_blocks, column_blocks, g.groups * splits), splits, Problem(*map(np.int32, numbers)), fragments


def _is_padded(g):
    """Whether windows reach beyond the picture."""
    return any((g.pad_top, g.pad_bottom, g.pad_left, g.pad_right))


class Problem(NamedTuple):
    """What the tiled kernel must know of a correlation, in 32-bit integers.

    Chunks are of `chunk` pixels.  The patches of the pixel that a thread fetches next begin `down` and `across` cells
    further on, which is `advance` numbers of x; past the end of a line of pixels, at `line_end`, or of a picture,
    at `picture_end`, it is `next_line` or `next_picture` numbers more.
    """

    pixels: int
    out_height: int
    out_width: int
    height: int
    width: int
    channels: int
    kernel_width: int
    stride_height: int
    stride_width: int
    dilation_height: int
    dilation_width: int
    pad_top: int
    pad_left: int
    groups: int
    group_channels: int
    group_filters: int
    out_channels: int
    entries: int
    chunk: int
    down: int
    across: int
    advance: int
    line_end: int
    picture_end: int
    next_line: int
    next_picture: int


class Layout(NamedTuple):
    """How the threads of a block share the work of a tile: constants of a kernel.

    `fetchers` neighbouring threads fetch what is wanted of a pixel: each `patch_each` times `patch_width` neighbouring
    entries, `patch_apart` entries apart, and likewise filters.  They do so for every `pixel_step`-th pixel, in `rounds`
    for each of the `parts` of a strip.
    """

    rows: int
    columns: int
    parts: int
    padded: bool
    fetchers: int
    pixel_step: int
    rounds: int
    wide_patches: bool
    patch_width: int
    patch_each: int
    patch_apart: int
    wide_filters: bool
    filter_width: int
    filter_each: int
    filter_apart: int
    # Where things lie in shared memory: of each pixel its entries, and then its filters, in two pairs of strips; then
    # the values y of the one that is fetched.
    stride: int
    strips_size: int
    values_begin: int
    values_stride: int
    shared_size: int
    # Multiplying: a warp's lanes, and where the tile of the next warp begins.
    lanes_down: int
    lanes: int
    warps_down: int
    warp_rows: int
    warp_columns: int
    row_step: int
    column_step: int


def _layout(tile, patch_width, filter_width, copying, padded, sloped, fragments=None):
    """The layout of a `tiles.RegisterTile`; with `fragments`, of one that tensor cores multiply."""
    # What comes through registers comes in two halves, so that few of them wait for memory.
    parts = 1 if copying else 2
    fetchers = tiles.filter_fetchers(tile, patch_width, filter_width, parts)
    pixel_step = tile.threads // fetchers
    padding = tiles.filter_padding(fetchers, patch_width, filter_width, fragments)
    stride, values_stride = tile.rows + tile.columns + padding, tile.columns + padding
    strips_size = tile.depth * stride
    return Layout(
        rows=tile.rows, columns=tile.columns, parts=parts, padded=padded,
        fetchers=fetchers, pixel_step=pixel_step, rounds=tile.depth // parts // pixel_step,
        wide_patches=patch_width == 4, patch_width=patch_width,
        patch_each=tile.rows // (fetchers * patch_width), patch_apart=fetchers * patch_width,
        wide_filters=filter_width == 4, filter_width=filter_width,
        filter_each=tile.columns // (fetchers * filter_width), filter_apart=fetchers * filter_width,
        stride=stride, strips_size=strips_size, values_begin=2 * strips_size, values_stride=values_stride,
        shared_size=2 * strips_size + (tile.depth * values_stride if copying and sloped else 0),
        lanes_down=tile.lanes_down, lanes=tile.lanes_down * tile.lanes_across,
        warps_down=tile.rows // (tile.lanes_down * tile.thread_rows), warp_rows=tile.lanes_down * tile.thread_rows,
        warp_columns=tile.lanes_across * tile.thread_columns,
        row_step=tile.lanes_down * 4, column_step=tile.lanes_across * 4,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------
# fetching patches


@inline
def place_entries(x, patch, pixel, group, first_entry, p, t):
    """Where the patch entries that a thread fetches lie at its first pixel.

    Parameters
    ----------
    patch : tuple of local arrays
        ``(walk, above, before, sources)``.  `walk` is the row and the column of x under the thread's first entry, how
        many numbers of x come before the pixel's window, and past which row and column the next picture and the next
        line begin.  The others are, for each entry, how many rows and columns it lies from the first, and its address
        under the window of the first pixel of all.
    first_entry : int
        Of the thread.
    """
    walk, above, before, sources = patch
    picture, i, j = pixel_place(pixel, p.out_height, p.out_width)
    for e in range(t.patch_each):
        entry = int32(first_entry + e * t.patch_apart)
        cell = divide(entry, p.group_channels)
        a = divide(cell, p.kernel_width)
        above[e] = int32(a * p.dilation_height - p.pad_top)
        before[e] = int32((cell - a * p.kernel_width) * p.dilation_width - p.pad_left)
        channel = group * p.group_channels + entry - cell * p.group_channels
        sources[e] = move(x, int32((above[e] * p.width + before[e]) * p.channels + channel))
        if entry >= p.entries:
            # Outside of the picture, or, if nothing is, the window's first number: nobody asks what is made of it.
            above[e], sources[e] = int32(NO_ROW), x
    walk[0] = int32(i * p.stride_height + above[0])
    walk[1] = int32(j * p.stride_width + before[0])
    walk[2] = int32(((picture * p.height + i * p.stride_height) * p.width + j * p.stride_width) * p.channels)
    # Past these the next picture, and the next line, begin.
    walk[3], walk[4] = int32(p.picture_end + above[0]), int32(p.line_end + before[0])
    for e in range(t.patch_each):
        # Seen from the first entry, the last one first, since the first one becomes zero.
        back = t.patch_each - 1 - e
        above[back] = int32(above[back] - above[0])
        before[back] = int32(before[back] - before[0])


@inline
def next_pixel(walk, p):
    """Go on to the next pixel that a thread fetches patch entries of."""
    walk[0] = int32(walk[0] + p.down)
    walk[1] = int32(walk[1] + p.across)
    walk[2] = int32(walk[2] + p.advance)
    past = walk[1] >= walk[4]
    walk[0] = add_if(past, walk[0], p.stride_height)
    walk[1] = add_if(past, walk[1], int32(-p.line_end))
    walk[2] = add_if(past, walk[2], p.next_line)
    past = walk[0] >= walk[3]
    walk[0] = add_if(past, walk[0], int32(-p.picture_end))
    walk[2] = add_if(past, walk[2], p.next_picture)


@inline
def own_row(walk, exists):
    """The row of x that a thread is at, or no picture's if its pixel does not exist."""
    return walk[0] if exists else int32(NO_ROW)


@inline
def is_inside(patch, exists, row, e, p, t):
    """Whether the pixel that a thread is at `exists`, and entry `e` of its patch lies in the picture."""
    walk, above, before, _ = patch
    if t.padded:
        exists = (uint32(row + above[e]) < uint32(p.height)) & (uint32(walk[1] + before[e]) < uint32(p.width))
    return exists


@inline
def copy_patches(patch, target, order, rest, p, t):
    """Begin to copy a thread's part of a strip of patches to shared memory, with zeros for what does not exist.

    The chunk has `rest` more pixels, of which the thread begins with number `order`.
    """
    walk, _, _, sources = patch
    for r in range(t.parts * t.rounds):
        exists = int32(order + r * t.pixel_step) < rest
        row = own_row(walk, exists)
        for e in range(t.patch_each):
            source = move(sources[e], walk[2])
            to = move(target, r * t.pixel_step * t.stride + e * t.patch_apart)
            if t.wide_patches:
                copy4_if(is_inside(patch, exists, row, e, p, t), source, to)
            else:
                copy_if(is_inside(patch, exists, row, e, p, t), source, to)
        next_pixel(walk, p)


@inline
def read_patches(patch, staged, order, rest, p, t):
    """Read what a thread has of a part of a strip of patches, with zeros for what does not exist."""
    walk, _, _, sources = patch
    for r in range(t.rounds):
        exists = int32(order + r * t.pixel_step) < rest
        row = own_row(walk, exists)
        for e in range(t.patch_each):
            source, s = move(sources[e], walk[2]), (r * t.patch_each + e) * t.patch_width
            if t.wide_patches:
                numbers = load4_if(is_inside(patch, exists, row, e, p, t), source)
                staged[s], staged[s + 1], staged[s + 2], staged[s + 3] = numbers
            else:
                staged[s] = load_if(is_inside(patch, exists, row, e, p, t), source)
        next_pixel(walk, p)


@inline
def put_patches(staged, target, t):
    """Write what `read_patches` read to shared memory."""
    for r in range(t.rounds):
        for e in range(t.patch_each):
            to = move(target, r * t.pixel_step * t.stride + e * t.patch_apart)
            s = (r * t.patch_each + e) * t.patch_width
            if t.wide_patches:
                store4(to, staged[s], staged[s + 1], staged[s + 2], staged[s + 3])
            else:
                store(to, staged[s])


# ---------------------------------------------------------------------------------------------------
# fetching gradients


@inline
def copy_gradients(dy, y, place, ends, target, values, sloped, p, t):
    """Begin to copy a thread's part of a strip of dy, and of y if it matters, with zeros for what does not exist."""
    for r in range(t.rounds):
        for e in range(t.filter_each):
            wanted, apart = place[0] < ends[e], e * t.filter_apart
            to = move(target, r * t.pixel_step * t.stride + apart)
            own_values = move(values, r * t.pixel_step * t.values_stride + apart)
            if t.wide_filters:
                copy4_if(wanted, move(move(dy, place[0]), apart), to)
                if sloped:
                    copy4_if(wanted, move(move(y, place[0]), apart), own_values)
            else:
                copy_if(wanted, move(move(dy, place[0]), apart), to)
                if sloped:
                    copy_if(wanted, move(move(y, place[0]), apart), own_values)
        place[0] = int32(place[0] + t.pixel_step * p.out_channels)


@inline
def finish_gradients(bias, target, values, sloped, activation, alpha, t):
    """Apply the slope to what this thread has copied, once it is there, and add it to the gradient of the bias."""
    for r in range(t.rounds):
        for e in range(t.filter_each):
            own = e * t.filter_width
            to = move(target, r * t.pixel_step * t.stride + e * t.filter_apart)
            own_values = move(values, r * t.pixel_step * t.values_stride + e * t.filter_apart)
            if t.wide_filters:
                a, b, c, d = load4(to)
                if sloped:
                    a, b, c, d = times_slopes((a, b, c, d), load4(own_values), activation, alpha)
                    store4(to, a, b, c, d)
                bias[own] += a
                bias[own + 1] += b
                bias[own + 2] += c
                bias[own + 3] += d
            else:
                a = load(to)
                if sloped:
                    a = a * slope_from_value(activation, alpha, load(own_values))
                    store(to, a)
                bias[own] += a


@inline
def read_gradients(dy, y, place, ends, staged, values, sloped, p, t):
    """Read what a thread has of a part of a strip of dy, and of y if it matters, with zeros for what does not exist."""
    for r in range(t.rounds):
        for e in range(t.filter_each):
            wanted, s = place[0] < ends[e], (r * t.filter_each + e) * t.filter_width
            apart = e * t.filter_apart
            if t.wide_filters:
                numbers = load4_if(wanted, move(move(dy, place[0]), apart))
                staged[s], staged[s + 1], staged[s + 2], staged[s + 3] = numbers
                if sloped:
                    numbers = load4_if(wanted, move(move(y, place[0]), apart))
                    values[s], values[s + 1], values[s + 2], values[s + 3] = numbers
            else:
                staged[s] = load_if(wanted, move(move(dy, place[0]), apart))
                if sloped:
                    values[s] = load_if(wanted, move(move(y, place[0]), apart))
        place[0] = int32(place[0] + t.pixel_step * p.out_channels)


@inline
def put_gradients(staged, values, bias, target, sloped, activation, alpha, t):
    """Apply the slope to what `read_gradients` read, add it to the gradient of the bias, and write it."""
    for r in range(t.rounds):
        for e in range(t.filter_each):
            for n in range(t.filter_width):
                own = e * t.filter_width + n
                s = r * t.filter_each * t.filter_width + own
                if sloped:
                    staged[s] = staged[s] * slope_from_value(activation, alpha, values[s])
                bias[own] += staged[s]
            to = move(target, r * t.pixel_step * t.stride + e * t.filter_apart)
            s = (r * t.filter_each + e) * t.filter_width
            if t.wide_filters:
                store4(to, staged[s], staged[s + 1], staged[s + 2], staged[s + 3])
            else:
                store(to, staged[s])


# ---------------------------------------------------------------------------------------------------
# fetching both: by copies, or a half of a strip at a time through registers


@inline
def copy_strips(dy, y, place, ends, patch, target, to_filters, values, order, rest, sloped, p, t):
    """Begin to copy a thread's part of both strips; filters lie `to_filters` numbers behind entries."""
    copy_gradients(dy, y, place, ends, move(target, to_filters), values, sloped, p, t)
    copy_patches(patch, target, order, rest, p, t)
    close_copies()


@inline
def finish_strips(bias, target, to_filters, values, sloped, activation, alpha, t):
    """Wait for what `copy_strips` began, and make dz of dy."""
    await_copies(0)
    finish_gradients(bias, move(target, to_filters), values, sloped, activation, alpha, t)


@inline
def read_half(dy, y, place, ends, patch, entries, gradients, values, order, rest, sloped, p, t):
    """Read what a thread has of a half of both strips."""
    read_patches(patch, entries, order, rest, p, t)
    read_gradients(dy, y, place, ends, gradients, values, sloped, p, t)


@inline
def put_half(entries, gradients, values, bias, target, to_filters, sloped, activation, alpha, t):
    """Write what `read_half` read, dz in the place of dy, to shared memory."""
    put_patches(entries, target, t)
    put_gradients(gradients, values, bias, move(target, to_filters), sloped, activation, alpha, t)


# ---------------------------------------------------------------------------------------------------
# the kernels


@inline
def own_corner(thread, t):
    """The first entry and the first filter of the tile whose sums a thread keeps."""
    warp, lane = thread // t.lanes, thread % t.lanes
    row = warp % t.warps_down * t.warp_rows + lane % t.lanes_down * 4
    return int32(row), int32(warp // t.warps_down * t.warp_columns + lane // t.lanes_down * 4)


@inline
def fragment_corner(thread, t):
    """As `own_corner`, of sums that tensor cores make."""
    warp, lane = thread // t.lanes, thread % t.lanes
    row = warp % t.warps_down * t.warp_rows + lane // 8 * 4 + lane // 4 % 2 * 16
    return int32(row), int32(warp // t.warps_down * t.warp_columns + lane % 4 * 4)


@inline
def store_sums(sums, target, first_entry, first_filter, entries_of_thread, filters_of_thread, place, p, t):
    """Write a thread's sums to where a chunk's begin; `place` is the first filter of the group."""
    for r in range(entries_of_thread):
        entry = int32(first_entry + r // 4 * t.row_step + r % 4)
        for q in range(0, filters_of_thread, 4):
            f, s = int32(first_filter + q // 4 * t.column_step), r * filters_of_thread + q
            to = move(target, int32(entry * p.out_channels + place + f))
            if entry < p.entries:
                if t.wide_filters:
                    if f < p.group_filters:
                        store4(to, sums[s], sums[s + 1], sums[s + 2], sums[s + 3])
                else:
                    for n in range(4):
                        if f + n < p.group_filters:
                            store(move(to, n), sums[s + n])


@functools.cache
def _tiled_kernel(tile, patch_width, filter_width, copying, padded, activation, fragments=None):
    """The kernel for a tile.

    Parameters
    ----------
    tile : tiles.RegisterTile
    patch_width, filter_width : int
        How many channels, and how many filters, are fetched at once: 4 or 1.
    copying : bool
        Whether the GPU copies asynchronously.
    padded : bool
        Whether windows reach beyond the picture.
    activation : int
    fragments : int, optional
        How tensor cores multiply: see `instructions.multiply_fragment_steps`.  Default: they do not.
    """
    on_tensor_cores = fragments is not None
    sloped = activation != LINEAR
    t = _layout(tile, patch_width, filter_width, copying, padded, sloped, fragments)
    thread_rows, thread_columns, thread_sums = tile.thread_rows, tile.thread_columns, tile.thread_sums
    rows, columns, row_step, column_step = t.rows, t.columns, t.row_step, t.column_step
    depth, half, stride, fetchers = tile.depth, tile.depth // 2, t.stride, t.fetchers
    patch_each, filter_numbers = t.patch_each, t.filter_each * filter_width
    staged_patches, staged_gradients = t.rounds * t.patch_each * patch_width, t.rounds * filter_numbers
    shared_size, strips_size, threads = t.shared_size, t.strips_size, tile.threads

    @cuda.jit(cache=True, **toolkit.bounds(tile.threads, tile.blocks))
    def correlate2d_gradient_filters_kernel(x, dy, y, p, alpha, chunk_sums, chunk_bias):
        strips = cuda.shared.array(shared_size, np.float32, alignment=ALIGNMENT)
        sums = cuda.local.array(thread_sums, np.float32)
        bias = cuda.local.array(filter_numbers, np.float32)
        patch = (
            cuda.local.array(5, np.int32),
            cuda.local.array(patch_each, np.int32),
            cuda.local.array(patch_each, np.int32),
            cuda.local.array(patch_each, ADDRESS),
        )
        entries = cuda.local.array(staged_patches, np.float32)
        place = cuda.local.array(1, np.int32)
        ends = cuda.local.array(filter_numbers, np.int32)
        gradients = cuda.local.array(staged_gradients, np.float32)
        values = cuda.local.array(staged_gradients, np.float32)

        thread = int32(cuda.threadIdx.x)
        first_entry, first_filter = int32(cuda.blockIdx.x * rows), int32(cuda.blockIdx.y * columns)
        split = divide(int32(cuda.blockIdx.z), p.groups)
        group = int32(cuda.blockIdx.z - split * p.groups)
        begin = int32(split * p.chunk)
        end = int32(begin + p.chunk)
        if end > p.pixels:
            end = p.pixels
        for s in range(thread_sums):
            sums[s] = np.float32(0)
        for s in range(filter_numbers):
            bias[s] = np.float32(0)

        # What this thread fetches, and where it puts it.
        base = shared_address(strips)
        lane, order = int32(thread % fetchers), int32(thread // fetchers)
        own_entry, own_filter = int32(first_entry + lane * patch_width), int32(first_filter + lane * filter_width)
        place_entries(x, patch, int32(begin + order), group, own_entry, p, t)
        place[0] = int32((begin + order) * p.out_channels + group * p.group_filters + own_filter)
        for e in range(t.filter_each):
            # Places of one filter grow from pixel to pixel, so that one comparison knows both ends.
            ends[e] = int32(end * p.out_channels) if own_filter + e * t.filter_apart < p.group_filters else int32(0)
        target = pin(move(base, order * stride + lane * patch_width))
        to_filters = int32(rows + lane * (filter_width - patch_width))
        own_values = pin(move(base, t.values_begin + order * t.values_stride + lane * filter_width))

        # What it multiplies.
        lane = int32(thread % t.lanes)
        if on_tensor_cores:
            warp = thread // t.lanes
            corner = fragment_corner_steps(lane, stride)
            row = int32(warp % t.warps_down * t.warp_rows + corner)
            column = int32(warp // t.warps_down * t.warp_columns + corner)
        else:
            row, column = own_corner(thread, t)
        left, right = pin(move(base, row)), pin(move(base, rows + column))

        rest = int32(end - begin)
        if copying:
            copy_strips(dy, y, place, ends, patch, target, to_filters, own_values, order, rest, sloped, p, t)
            finish_strips(bias, target, to_filters, own_values, sloped, activation, alpha, t)
        else:
            for h in range(2):
                part = int32(rest - h * half)
                read_half(dy, y, place, ends, patch, entries, gradients, values, order, part, sloped, p, t)
                to = move(target, h * half * stride)
                put_half(entries, gradients, values, bias, to, to_filters, sloped, activation, alpha, t)

        # What is fetched lies one pair of strips from what is multiplied, before it or after it by turns.
        swap = int32(strips_size)
        while rest > 0:
            target = move(target, swap)
            rest = int32(rest - depth)
            cuda.syncthreads()
            # Past the chunk's end nothing is fetched but zeros, and nothing is made of them.
            if copying:
                copy_strips(dy, y, place, ends, patch, target, to_filters, own_values, order, rest, sloped, p, t)
            else:
                read_half(dy, y, place, ends, patch, entries, gradients, values, order, rest, sloped, p, t)
            if on_tensor_cores:
                multiply_fragment_steps(
                    sums, left, right, lane, thread_rows, thread_columns, depth, stride, stride, fragments
                )
            else:
                multiply_steps(
                    sums, left, right, thread_rows, thread_columns, half, stride, stride, row_step, column_step
                )
            if copying:
                finish_strips(bias, target, to_filters, own_values, sloped, activation, alpha, t)
            else:
                put_half(entries, gradients, values, bias, target, to_filters, sloped, activation, alpha, t)
                part = int32(rest - half)
                read_half(dy, y, place, ends, patch, entries, gradients, values, order, part, sloped, p, t)
            if not on_tensor_cores:
                multiply_steps(
                    sums, move(left, half * stride), move(right, half * stride),
                    thread_rows, thread_columns, half, stride, stride, row_step, column_step,
                )  # fmt: skip
            if not copying:
                to = move(target, half * stride)
                put_half(entries, gradients, values, bias, to, to_filters, sloped, activation, alpha, t)
            left, right = move(left, swap), move(right, swap)
            swap = int32(-swap)

        # What was known before the loop is found anew, so that no registers had to keep it.
        thread = int32(pin(uint32(cuda.threadIdx.x)))
        first_entry, first_filter = int32(cuda.blockIdx.x * rows), int32(cuda.blockIdx.y * columns)
        split = divide(int32(cuda.blockIdx.z), p.groups)
        group_first = int32((cuda.blockIdx.z - split * p.groups) * p.group_filters)
        if on_tensor_cores:
            row, column = fragment_corner(thread, t)
        else:
            row, column = own_corner(thread, t)
        target = move(chunk_sums, int32(split * p.entries * p.out_channels))
        store_sums(
            sums, target, int32(first_entry + row), int32(first_filter + column), thread_rows, thread_columns,
            group_first, p, t,
        )  # fmt: skip

        if first_entry == 0:
            # Threads that fetched different pixels add up what they have of one filter, in shared memory.
            cuda.syncthreads()
            order, own_column = int32(thread // fetchers), int32(thread % fetchers * filter_width)
            for e in range(t.filter_each):
                to, s = move(base, int32(order * stride + own_column + e * t.filter_apart)), e * t.filter_width
                if t.wide_filters:
                    store4(to, bias[s], bias[s + 1], bias[s + 2], bias[s + 3])
                else:
                    store(to, bias[s])
            cuda.syncthreads()
            column = int32(thread * filter_width)
            while column < columns:
                f = int32(first_filter + column)
                if f < p.group_filters:
                    to = move(chunk_bias, int32(split * p.out_channels + group_first + f))
                    store_sum(to, move(base, column), t.pixel_step, stride, t.wide_filters)
                column = int32(column + threads * filter_width)

    return correlate2d_gradient_filters_kernel


@functools.cache
def _direct_kernel(activation):
    @cuda.jit(cache=True)
    def direct_gradient_filters_kernel(x, dy, y, g, alpha, chunk, splits, chunk_sums):
        # A thread's entry is that of a filter weight, or one more, which is that of the bias.
        real = chunk_sums.dtype.type
        group_channels, group_filters = quotient(g.channels, g.groups), quotient(g.out_channels, g.groups)
        size = g.kernel_height * g.kernel_width * group_channels * g.out_channels
        split = cuda.blockIdx.y
        end = (split + 1) * chunk
        if end > g.batch * g.out_height * g.out_width:
            end = g.batch * g.out_height * g.out_width
        i = cuda.grid(1)
        while i < size + g.out_channels:
            entry = quotient(i, g.out_channels)
            f = i - entry * g.out_channels
            cell = quotient(entry, group_channels)
            channel = quotient(f, group_filters) * group_channels + entry - cell * group_channels
            a = quotient(cell, g.kernel_width)
            b = cell - a * g.kernel_width
            total = real(0)
            for pixel in range(split * chunk, end):
                gradient = pixel_gradient(dy, y, pixel * g.out_channels + f, activation, alpha)
                if i < size:
                    picture, row, column = pixel_place(pixel, g.out_height, g.out_width)
                    u = row * g.stride_height - g.pad_top + a * g.dilation_height
                    v = column * g.stride_width - g.pad_left + b * g.dilation_width
                    if u >= 0 and u < g.height and v >= 0 and v < g.width:
                        total += gradient * x[((picture * g.height + u) * g.width + v) * g.channels + channel]
                else:
                    total += gradient
            if i < size:
                chunk_sums[split * size + i] = total
            else:
                chunk_sums[splits * size + split * g.out_channels + f] = total
            i += cuda.gridsize(1)

    return direct_gradient_filters_kernel


@functools.cache
def _sum_chunks_kernel(real, width):
    """The kernel that adds up what chunks have of each weight and of each bias, `width` neighbouring numbers a thread.

    Neighbouring threads have neighbouring vectors, `columns` of them; the others of a block share their chunks.  Four
    vectors are asked for before one is added, since what bounds this is how long memory takes to answer.
    """
    held, numbers = 4 * width, WARPS * WARP * width

    @cuda.jit(cache=True)
    def sum_chunks(chunk_sums, splits, columns, weights, biases, dfilters, dbias):
        parts = cuda.local.array(held, real)
        total = cuda.local.array(width, real)
        partial = cuda.shared.array(numbers, real)
        thread = int32(cuda.threadIdx.x)
        lane = quotient(thread, columns)
        lanes, column = quotient(SUM_THREADS, columns), int32(thread - lane * columns)
        i = (cuda.blockIdx.x * columns + column) * width
        place, step = i, weights
        if i >= weights:
            place, step = splits * weights + i - weights, biases
        for k in range(width):
            total[k] = real(0)
        if i < weights + biases:
            split = lane
            while split < splits - 3 * lanes:
                for n in range(4):
                    read_vector(parts, n * width, chunk_sums, (split + n * lanes) * step + place, width)
                for s in range(held):
                    total[s % width] += parts[s]
                split += 4 * lanes
            while split < splits:
                read_vector(parts, 0, chunk_sums, split * step + place, width)
                for k in range(width):
                    total[k] += parts[k]
                split += lanes
        # Lanes of a warp that have the same column lie `columns`, `2 columns`, ... apart.
        distance = columns
        while distance < WARP:
            for k in range(width):
                total[k] += exchange(total[k], distance)
            distance <<= 1
        if thread % WARP < columns:
            for k in range(width):
                partial[(thread // WARP * width + k) * WARP + column] = total[k]
        cuda.syncthreads()
        if thread < columns and i < weights + biases:
            for other in range(1, WARPS):
                for k in range(width):
                    total[k] += partial[(other * width + k) * WARP + column]
            if i < weights:
                write_vector(total, 0, dfilters, i, width)
            else:
                write_vector(total, 0, dbias, i - weights, width)

    return sum_chunks
