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
pixels is enough.  x comes by asynchronous copies (compute capability 8.0 and up) or through registers (7.5).  dz comes
through registers on all, where the activation's slope is applied to it and where the thread that fetched it adds it to
the gradient of the bias.  To have few registers wait for memory, it comes in two halves of 8 pixels each.

Where three products on tensor cores take the place of one (`product.fragments_of`), a warp multiplies strips of 64
entries and 32 filters, which are fetched in the same way, and dz at once.

Which pixel a thread fetches next follows from the last one by additions alone (`next_pixel`), where dividing its number
by the picture's extents would take several times as many instructions.

Memory traffic.  Where channels and filters are multiples of 4, all global accesses but those of biases are of 16 bytes,
and neighbouring threads access neighbouring ones.  For 128 x 128 sums, 256 numbers are fetched for a pixel: 16
multiply-adds a byte.  Strips are stored pixel by pixel, and read 4 entries or filters at once: no bank conflicts.

What bounds it.  Multiply-adds, where there are channels and filters enough: for 1024 of them a thread executes 64 reads
of shared memory and about 100 other instructions.  On tensor cores, for 96 of their instructions a warp executes 12
reads of shared memory, 192 instructions that split factors, 64 that add, and about 140 others; the tensor cores need
longer for theirs.  In a network's first layer, reading dy and y.

Where channels do not mix, `depthwise` has the sums of chunks.  The direct kernel, for float64 and other groups of few
channels or filters, has a thread for each filter weight and chunk
of pixels, which reads two or three numbers for each multiply-add; they come from the caches, which bounds it.

Chunks are as many as fill a GPU once, or a few times (`tiles.filter_chunks`): they depend on the shapes and on how
many multiprocessors there are.  Nothing is added in an order that depends on timing: on one kind of GPU results are
repeatable bit by bit.
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
    ALIGNMENT,
    await_copies,
    close_copies,
    copy4_if,
    copy_if,
    divide,
    fragment_corner_steps,
    load,
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
from .product import fragments_of
from .toolkit import cuda

# Groups with fewer channels or filters than this would leave most of every tile empty.
SMALLEST_GROUP = 8
PIXELS_PAST = 64
SUM_THREADS = tiles.CHUNK_SUM_THREADS


def correlate2d_gradient_filters(x, dy, y, geometry, activation, alpha, dfilters, dbias):
    """``dfilters`` and ``dbias``."""
    g = geometry
    real = dfilters.dtype.type
    group_channels, group_filters = g.channels // g.groups, g.out_channels // g.groups
    small = g.groups > 1 and min(group_channels, group_filters) < SMALLEST_GROUP
    # Places of dy are compared up to some pixels past the last.
    countable = dy.size + PIXELS_PAST * g.out_channels <= LARGEST_INT32
    call = x, dy, y, g, activation, alpha, dfilters, dbias
    if real == np.float32 and depthwise.suits(g):
        toolkit.attempt(
            toolkit.variant("correlate2d_gradient_filters of channels by themselves", g),
            lambda: _gradient_by_channels(*call),
            lambda: _gradient_directly(*call),
        )
    elif real == np.float32 and countable and not small:
        toolkit.attempt(
            toolkit.variant("correlate2d_gradient_filters in register tiles", g),
            lambda: _gradient_by_tiles(*call),
            lambda: _gradient_directly(*call),
        )
    else:
        _gradient_directly(*call)


def _gradient_by_tiles(x, dy, y, g, activation, alpha, dfilters, dbias):
    x, dy, y = toolkit.address(x), toolkit.address(dy), toolkit.address(y)
    patch_width = 4 if g.channels // g.groups % 4 == 0 and toolkit.is_aligned(x) else 1
    together = g.out_channels // g.groups % 4 == 0 and toolkit.is_aligned(dy) and toolkit.is_aligned(y)
    filter_width = 4 if together else 1
    capability = toolkit.compute_capability()
    quads = patch_width == filter_width == 4
    tile, blocks, splits, p, fragments = _plan(g, patch_width, quads, capability, toolkit.multiprocessors())
    chunk_sums, sums, bias_sums = None, toolkit.address(dfilters), toolkit.address(dbias)
    if splits > 1 or (filter_width == 4 and not toolkit.is_aligned(sums)):
        chunk_sums = toolkit.workspace(splits * (dfilters.size + dbias.size), np.float32)
        sums, bias_sums = toolkit.address(chunk_sums), toolkit.address(chunk_sums, splits * dfilters.size)
    copying = capability >= (8, 0)
    kernel = _tiled_kernel(tile, patch_width, filter_width, copying, int(activation), fragments)
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
    dfilters, dbias = toolkit.flat(dfilters), toolkit.flat(dbias)
    lanes = tiles.chunk_sum_lanes(splits)
    blocks = (tiles.blocks_for(dfilters.size + dbias.size, SUM_THREADS // lanes),)
    arguments = chunk_sums, np.int32(splits), np.int32(lanes), dfilters, dbias
    toolkit.launch(_sum_chunks, blocks, (SUM_THREADS,), *arguments)


# ---------------------------------------------------------------------------------------------------
# what the tiled kernel knows


@functools.lru_cache(maxsize=4096)
def _plan(g, patch_width, quads, capability, multiprocessors):
    """Tile, grid, number of chunks, `Problem` and way on tensor cores, or None, of a correlation's geometry.

    `quads` says whether both factors are fetched four numbers at once, without which tensor cores are not used.
    """
    int32_geometry(g)  # refuses what 32 bits cannot count
    group_channels, group_filters = g.channels // g.groups, g.out_channels // g.groups
    entries, pixels = g.kernel_height * g.kernel_width * group_channels, g.batch * g.out_height * g.out_width
    # Always with the precision of float32.
    fragments = fragments_of("float32", capability, min(entries, pixels), group_filters) if quads else None
    choices = tiles.FILTER_TILES if fragments is None else tiles.FILTER_FRAGMENT_TILES
    tile = tiles.filter_tile(choices, entries, group_filters)
    row_blocks, column_blocks = tiles.product_blocks(tile, entries, group_filters)
    resident = tiles.resident_blocks(tile, capability, multiprocessors)
    splits, chunk = tiles.filter_chunks(pixels, row_blocks * column_blocks * g.groups, resident)

    lines, across = divmod(_layout(tile, patch_width, 1, fragments).patch_step, g.out_width)
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

    A thread fetches, of every `patch_step`-th pixel, `patch_each` times `patch_width` neighbouring entries,
    `patch_apart` entries apart, and likewise of every `filter_step`-th pixel filters; each as often as `fetches` says
    for a part of a strip, of which there are `parts`, of `part` pixels.
    """

    rows: int
    columns: int
    parts: int
    part: int
    wide_patches: bool
    patch_width: int
    patch_lanes: int
    patch_each: int
    patch_apart: int
    patch_step: int
    patch_fetches: int
    wide_filters: bool
    filter_width: int
    filter_lanes: int
    filter_each: int
    filter_apart: int
    filter_step: int
    filter_fetches: int
    # Where things lie in shared memory.
    left_stride: int
    right_begin: int
    right_stride: int
    strips_size: int
    # Multiplying: a warp's lanes, and where the tile of the next warp begins.
    lanes_down: int
    lanes: int
    warps_down: int
    warp_rows: int
    warp_columns: int
    row_step: int
    column_step: int


def _layout(tile, patch_width, filter_width, fragments=None):
    """The layout of a `tiles.RegisterTile`; with `fragments`, of one that tensor cores multiply."""
    # Tensor cores add up 16 pixels before they round; their lanes meet in no bank if strips are a little wider.
    parts, wider = (2, 0) if fragments is None else (1, 4)
    part, left_stride, right_stride = tile.depth // parts, tile.rows + wider, tile.columns + wider
    patch_lanes = min(tile.rows // patch_width, tile.threads, tiles.WARP)
    filter_lanes = min(tile.columns // filter_width, tile.threads, tiles.WARP)
    patch_step, filter_step = tile.threads // patch_lanes, tile.threads // filter_lanes
    return Layout(
        rows=tile.rows, columns=tile.columns, parts=parts, part=part,
        wide_patches=patch_width == 4, patch_width=patch_width, patch_lanes=patch_lanes,
        patch_each=tile.rows // (patch_lanes * patch_width), patch_apart=patch_lanes * patch_width,
        patch_step=patch_step, patch_fetches=part // patch_step,
        wide_filters=filter_width == 4, filter_width=filter_width, filter_lanes=filter_lanes,
        filter_each=tile.columns // (filter_lanes * filter_width), filter_apart=filter_lanes * filter_width,
        filter_step=filter_step, filter_fetches=part // filter_step,
        left_stride=left_stride, right_begin=tile.depth * left_stride, right_stride=right_stride,
        strips_size=tile.depth * (left_stride + right_stride),
        lanes_down=tile.lanes_down, lanes=tile.lanes_down * tile.lanes_across,
        warps_down=tile.rows // (tile.lanes_down * tile.thread_rows), warp_rows=tile.lanes_down * tile.thread_rows,
        warp_columns=tile.lanes_across * tile.thread_columns,
        row_step=tile.lanes_down * 4, column_step=tile.lanes_across * 4,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------
# fetching patches


@inline
def place_entries(patch, begin, end, group, first_entry, lane, order, p, t):
    """Where the patch entries that a thread fetches lie at its first pixel.

    Parameters
    ----------
    patch : tuple of local arrays
        ``(walk, ends, above, before, places)``.  `walk` is the pixel, the row and the column of x under its first
        entry, where in x that is, and past which column and row the next line and the next picture begin.  The
        others are, for each entry, past which pixel it is not fetched any more, and how many rows, columns
        and numbers of x it lies from the first.
    """
    walk, ends, above, before, places = patch
    pixel = int32(begin + order)
    picture, i, j = pixel_place(pixel, p.out_height, p.out_width)
    for e in range(t.patch_each):
        entry = int32(first_entry + lane * t.patch_width + e * t.patch_apart)
        cell = divide(entry, p.group_channels)
        a = divide(cell, p.kernel_width)
        above[e] = int32(a * p.dilation_height - p.pad_top)
        before[e] = int32((cell - a * p.kernel_width) * p.dilation_width - p.pad_left)
        channel = group * p.group_channels + entry - cell * p.group_channels
        places[e] = int32((above[e] * p.width + before[e]) * p.channels + channel)
        ends[e] = end if entry < p.entries else int32(0)
    walk[0] = pixel
    walk[1] = int32(i * p.stride_height + above[0])
    walk[2] = int32(j * p.stride_width + before[0])
    walk[3] = int32(
        ((picture * p.height + i * p.stride_height) * p.width + j * p.stride_width) * p.channels + places[0]
    )
    # Past these the next line, and the next picture, begin.
    walk[4], walk[5] = int32(p.line_end + before[0]), int32(p.picture_end + above[0])
    for e in range(t.patch_each):
        # Seen from the first entry, the last one first, since the first one becomes zero.
        back = t.patch_each - 1 - e
        above[back] = int32(above[back] - above[0])
        before[back] = int32(before[back] - before[0])
        places[back] = int32(places[back] - places[0])


@inline
def next_pixel(walk, p, t):
    """Go on to the next pixel that a thread fetches patch entries of."""
    walk[0] = int32(walk[0] + t.patch_step)
    walk[1] = int32(walk[1] + p.down)
    walk[2] = int32(walk[2] + p.across)
    walk[3] = int32(walk[3] + p.advance)
    if walk[2] >= walk[4]:
        walk[1] = int32(walk[1] + p.stride_height)
        walk[2] = int32(walk[2] - p.line_end)
        walk[3] = int32(walk[3] + p.next_line)
    if walk[1] >= walk[5]:
        walk[1] = int32(walk[1] - p.picture_end)
        walk[3] = int32(walk[3] + p.next_picture)


@inline
def is_inside(patch, e, p):
    """Whether the patch entry that a thread is at exists."""
    walk, ends, above, before, _ = patch
    inside = (uint32(walk[1] + above[e]) < uint32(p.height)) & (uint32(walk[2] + before[e]) < uint32(p.width))
    return inside & (walk[0] < ends[e])


@inline
def copy_patches(x, patch, target, p, t):
    """Begin to copy a thread's part of a strip of patches to shared memory, with zeros for what does not exist."""
    walk, _, _, _, places = patch
    for r in range(t.parts * t.patch_fetches):
        for e in range(t.patch_each):
            source = move(x, int32(walk[3] + places[e]))
            to = move(target, r * t.patch_step * t.left_stride + e * t.patch_apart)
            if t.wide_patches:
                copy4_if(is_inside(patch, e, p), source, to)
            else:
                copy_if(is_inside(patch, e, p), source, to)
        next_pixel(walk, p, t)
    close_copies()


@inline
def read_patches(x, patch, staged, p, t):
    """Read what a thread has of a part of a strip of patches, with zeros for what does not exist."""
    walk, _, _, _, places = patch
    for r in range(t.patch_fetches):
        for e in range(t.patch_each):
            source, s = move(x, int32(walk[3] + places[e])), (r * t.patch_each + e) * t.patch_width
            if t.wide_patches:
                numbers = load4_if(is_inside(patch, e, p), source)
                staged[s], staged[s + 1], staged[s + 2], staged[s + 3] = numbers
            else:
                staged[s] = load_if(is_inside(patch, e, p), source)
        next_pixel(walk, p, t)


@inline
def put_patches(staged, target, t):
    """Write what `read_patches` read to shared memory."""
    for r in range(t.patch_fetches):
        for e in range(t.patch_each):
            to = move(target, r * t.patch_step * t.left_stride + e * t.patch_apart)
            s = (r * t.patch_each + e) * t.patch_width
            if t.wide_patches:
                store4(to, staged[s], staged[s + 1], staged[s + 2], staged[s + 3])
            else:
                store(to, staged[s])


# ---------------------------------------------------------------------------------------------------
# fetching gradients


@inline
def read_gradients(dy, y, place, ends, staged, values, sloped, p, t):
    """Read what a thread has of a part of a strip of dy, and of y if it matters, with zeros for what does not exist."""
    for r in range(t.filter_fetches):
        for e in range(t.filter_each):
            wanted, s = place[0] < ends[e], (r * t.filter_each + e) * t.filter_width
            at = int32(place[0] + e * t.filter_apart)
            if t.wide_filters:
                staged[s], staged[s + 1], staged[s + 2], staged[s + 3] = load4_if(wanted, move(dy, at))
                if sloped:
                    values[s], values[s + 1], values[s + 2], values[s + 3] = load4_if(wanted, move(y, at))
            else:
                staged[s] = load_if(wanted, move(dy, at))
                if sloped:
                    values[s] = load_if(wanted, move(y, at))
        place[0] = int32(place[0] + t.filter_step * p.out_channels)


@inline
def put_gradients(staged, values, bias, target, sloped, activation, alpha, t):
    """Apply the slope to what `read_gradients` read, add it to the gradient of the bias, and write it."""
    for r in range(t.filter_fetches):
        for e in range(t.filter_each):
            for n in range(t.filter_width):
                own = e * t.filter_width + n
                s = r * t.filter_each * t.filter_width + own
                if sloped:
                    staged[s] = staged[s] * slope_from_value(activation, alpha, values[s])
                bias[own] += staged[s]
            to = move(target, r * t.filter_step * t.right_stride + e * t.filter_apart)
            s = (r * t.filter_each + e) * t.filter_width
            if t.wide_filters:
                store4(to, staged[s], staged[s + 1], staged[s + 2], staged[s + 3])
            else:
                store(to, staged[s])


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
def _tiled_kernel(tile, patch_width, filter_width, copying, activation, fragments=None):
    """The kernel for a tile.

    Parameters
    ----------
    tile : tiles.RegisterTile
    patch_width, filter_width : int
        How many channels, and how many filters, are fetched at once: 4 or 1.
    copying : bool
        Whether the GPU copies asynchronously.
    activation : int
    fragments : int, optional
        How tensor cores multiply: see `instructions.multiply_fragment_steps`.  Default: they do not.
    """
    on_tensor_cores = fragments is not None
    t = _layout(tile, patch_width, filter_width, fragments)
    thread_rows, thread_columns, thread_sums = tile.thread_rows, tile.thread_columns, tile.thread_sums
    rows, columns, row_step, column_step, parts, part = t.rows, t.columns, t.row_step, t.column_step, t.parts, t.part
    depth, left_stride, right_stride = tile.depth, t.left_stride, t.right_stride
    patch_each, filter_numbers = t.patch_each, t.filter_each * filter_width
    staged_patches = t.patch_fetches * t.patch_each * patch_width
    staged_gradients = t.filter_fetches * filter_numbers
    strips_size, both_sizes, threads = t.strips_size, 2 * t.strips_size, tile.threads
    sloped = activation != LINEAR

    @cuda.jit(cache=True, **toolkit.bounds(tile.threads, tile.blocks))
    def correlate2d_gradient_filters_kernel(x, dy, y, p, alpha, chunk_sums, chunk_bias):
        strips = cuda.shared.array(both_sizes, np.float32, alignment=ALIGNMENT)
        sums = cuda.local.array(thread_sums, np.float32)
        bias = cuda.local.array(filter_numbers, np.float32)
        patch = (
            cuda.local.array(6, np.int32),
            cuda.local.array(patch_each, np.int32),
            cuda.local.array(patch_each, np.int32),
            cuda.local.array(patch_each, np.int32),
            cuda.local.array(patch_each, np.int32),
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
        lane, order = int32(thread % t.patch_lanes), int32(thread // t.patch_lanes)
        place_entries(patch, begin, end, group, first_entry, lane, order, p, t)
        left_target = pin(move(base, order * left_stride + lane * t.patch_width))
        lane, order = int32(thread % t.filter_lanes), int32(thread // t.filter_lanes)
        f, own_column = int32(first_filter + lane * t.filter_width), int32(lane * t.filter_width)
        place[0] = int32((begin + order) * p.out_channels + group * p.group_filters + f)
        for e in range(t.filter_each):
            # Places of one filter grow from pixel to pixel, so that one comparison knows both ends.
            ends[e] = int32(end * p.out_channels) if f + e * t.filter_apart < p.group_filters else int32(0)
        right_target = pin(move(base, t.right_begin + order * right_stride + own_column))

        # What it multiplies.
        lane = int32(thread % t.lanes)
        if on_tensor_cores:
            warp = thread // t.lanes
            row = int32(warp % t.warps_down * t.warp_rows + fragment_corner_steps(lane, left_stride))
            column = int32(warp // t.warps_down * t.warp_columns + fragment_corner_steps(lane, right_stride))
        else:
            row, column = own_corner(thread, t)
        left, right = pin(move(base, row)), pin(move(base, t.right_begin + column))

        for h in range(parts):
            read_gradients(dy, y, place, ends, gradients, values, sloped, p, t)
            if not copying:
                read_patches(x, patch, entries, p, t)
                put_patches(entries, move(left_target, h * part * left_stride), t)
            to_right = move(right_target, h * part * right_stride)
            put_gradients(gradients, values, bias, to_right, sloped, activation, alpha, t)
        if copying:
            copy_patches(x, patch, left_target, p, t)

        # What is fetched lies one pair of strips from what is multiplied, before it or after it by turns.
        swap = int32(strips_size)
        rest = divide(int32(end - begin + (depth - 1)), int32(depth))
        while rest > 0:
            left_target, right_target = move(left_target, swap), move(right_target, swap)
            if copying:
                await_copies(0)
            cuda.syncthreads()
            # Past the chunk's end nothing is fetched but zeros, and nothing is made of them.
            if copying:
                copy_patches(x, patch, left_target, p, t)
            else:
                read_patches(x, patch, entries, p, t)
            read_gradients(dy, y, place, ends, gradients, values, sloped, p, t)
            if on_tensor_cores:
                multiply_fragment_steps(
                    sums, left, right, lane,
                    thread_rows, thread_columns, depth, left_stride, right_stride, fragments,
                )  # fmt: skip
            else:
                multiply_steps(
                    sums, left, right,
                    thread_rows, thread_columns, part, left_stride, right_stride, row_step, column_step,
                )  # fmt: skip
            if not copying:
                put_patches(entries, left_target, t)
                read_patches(x, patch, entries, p, t)
            put_gradients(gradients, values, bias, right_target, sloped, activation, alpha, t)
            if not on_tensor_cores:
                read_gradients(dy, y, place, ends, gradients, values, sloped, p, t)
                multiply_steps(
                    sums, move(left, part * left_stride), move(right, part * right_stride),
                    thread_rows, thread_columns, part, left_stride, right_stride, row_step, column_step,
                )  # fmt: skip
                if not copying:
                    put_patches(entries, move(left_target, part * left_stride), t)
                to_right = move(right_target, part * right_stride)
                put_gradients(gradients, values, bias, to_right, sloped, activation, alpha, t)
            left, right = move(left, swap), move(right, swap)
            swap = int32(-swap)
            rest = int32(rest - 1)

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
            if copying:
                await_copies(0)
            cuda.syncthreads()
            order, own_column = int32(thread // t.filter_lanes), int32(thread % t.filter_lanes * t.filter_width)
            for e in range(t.filter_each):
                to, s = move(base, int32(order * columns + own_column + e * t.filter_apart)), e * t.filter_width
                if t.wide_filters:
                    store4(to, bias[s], bias[s + 1], bias[s + 2], bias[s + 3])
                else:
                    store(to, bias[s])
            cuda.syncthreads()
            column = thread
            while column < columns:
                total = load(move(base, column))
                for other in range(1, t.filter_step):
                    total += load(move(base, int32(other * columns + column)))
                f = int32(first_filter + column)
                if f < p.group_filters:
                    store(move(chunk_bias, int32(split * p.out_channels + group_first + f)), total)
                column = int32(column + threads)

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


@cuda.jit(cache=True)
def _sum_chunks(chunk_sums, splits, lanes, dfilters, dbias):
    """Add up what chunks have of each weight.

    Neighbouring threads have neighbouring weights; `lanes` threads share the chunks of one, each every `lanes`-th.
    Four numbers are asked for before one is added, since what bounds this is how long memory takes to answer.
    """
    real = chunk_sums.dtype.type
    partial = cuda.shared.array(SUM_THREADS, chunk_sums.dtype)
    thread = int32(cuda.threadIdx.x)
    columns = quotient(SUM_THREADS, lanes)
    lane = quotient(thread, columns)
    column = int32(thread - lane * columns)
    i = cuda.blockIdx.x * columns + column
    place, step = i, dfilters.size
    if i >= dfilters.size:
        place, step = splits * dfilters.size + i - dfilters.size, dbias.size
    total = real(0)
    if i < dfilters.size + dbias.size:
        split = lane
        while split < splits - 3 * lanes:
            a = chunk_sums[split * step + place]
            b = chunk_sums[(split + lanes) * step + place]
            c = chunk_sums[(split + 2 * lanes) * step + place]
            d = chunk_sums[(split + 3 * lanes) * step + place]
            total = total + a + b + c + d
            split += 4 * lanes
        while split < splits:
            total += chunk_sums[split * step + place]
            split += lanes
    partial[thread] = total
    cuda.syncthreads()
    if lane == 0 and i < dfilters.size + dbias.size:
        for other in range(1, lanes):
            total += partial[other * columns + column]
        if i < dfilters.size:
            dfilters[i] = total
        else:
            dbias[i - dfilters.size] = total
