"""How work is cut into blocks of threads: every tile size of the package, chosen in one place.

A GPU wants blocks of hundreds of threads.  The simulator runs each CUDA thread as a thread of
Python, and gets blocks of 16 and grids of few blocks, whose edges small test shapes already cross.
The order of every sum follows from these numbers and the shapes, so that results are repeatable.
"""

import functools
from typing import NamedTuple

import numpy as np

from ..geometry import LARGEST_INT32
from . import toolkit
from .toolkit import SIMULATED

# Bytes that one access moves at most.
WIDEST = 16


class RegisterTile(NamedTuple):
    """One block's part of the products of `product`, and each thread's part of it.

    A block computes `rows` x `columns` sums, taking `depth` terms of each from shared memory at a time, where
    `stages` such strips have room.  A thread keeps `thread_rows` x `thread_columns` of the sums in registers, a warp
    has `lanes_down` x `lanes_across` threads.  Registers are allotted so that `blocks` blocks fit on a multiprocessor.
    """

    rows: int
    columns: int
    depth: int
    stages: int
    thread_rows: int
    thread_columns: int
    lanes_down: int
    lanes_across: int
    blocks: int

    @property
    def threads(self):
        """Threads of a block."""
        return (self.rows // self.thread_rows) * (self.columns // self.thread_columns)

    @property
    def thread_sums(self):
        """Sums of a thread."""
        return self.thread_rows * self.thread_columns

    def staged(self):
        """The tile for strips that pass through registers: two have room, and there are registers for fewer blocks."""
        return self._replace(stages=2, blocks=max(1, self.blocks // 2))

    def roomier(self):
        """The tile with registers for two thirds of the blocks, for kernels that keep more addresses."""
        return self._replace(blocks=max(1, self.blocks * 2 // 3))


class Split(NamedTuple):
    """How `count` blocks share the entries of a patch: so many kernel rows each, or so many channels of one cell."""

    count: int
    rows: int
    channels: int


# A correlation's mask of cells.
MASK_BITS = 32


class RowTile(NamedTuple):
    """How the rows of a matrix are shared among threads.

    `lanes` neighbouring threads take a row, `rows` rows a block.  A lane holds `held` numbers of it in registers:
    vectors of `width` neighbouring columns, `step` columns apart.  All lanes hold `chunk` columns at a time, and
    `covered` in all: a row has at most so many.
    """

    lanes: int
    rows: int
    held: int
    width: int
    step: int
    chunk: int
    covered: int


class ColumnTile(NamedTuple):
    """How the columns of a matrix are shared among threads.

    `lanes` neighbouring threads take `width` neighbouring columns each, `rows` rows of them at once.
    """

    lanes: int
    rows: int
    width: int

    @property
    def warps(self):
        """Warps of a block."""
        return self.lanes * self.rows // WARP


if SIMULATED:
    LEAST_SPLIT, SPLIT_TILE, MOST_SPLIT_BLOCKS, SPLIT_ENTRIES = 48, 8, 4, 24
    REGISTER_TILES = (RegisterTile(16, 16, 8, 3, 4, 8, 4, 2, 1), RegisterTile(8, 8, 4, 2, 2, 4, 4, 2, 1))
    SCALAR_TILES = (RegisterTile(8, 8, 8, 2, 2, 4, 4, 2, 1),)
    THREE_PRODUCT_TILES = FRAGMENT_TILES = (RegisterTile(16, 32, 16, 2, 2, 8, 8, 4, 1),)
    ELEMENT_THREADS, MOST_ELEMENT_BLOCKS = 8, 3
    FILTER_TILES = (RegisterTile(16, 8, 8, 2, 4, 4, 2, 2, 1), RegisterTile(8, 8, 4, 2, 4, 4, 2, 2, 1))
    FILTER_COPIED_TILES = FILTER_SCALAR_TILES = FILTER_TILES
    FILTER_FRAGMENT_TILES = (RegisterTile(32, 32, 16, 2, 4, 8, 8, 4, 1),)
    CHUNK_THREADS, SMALLEST_CHUNK, CHUNK_COST = 16, 16, 16
    CHUNK_SUM_THREADS, CHUNK_SUM_COLUMNS, MANY_CHUNKS = 8, (4, 4), 32
    FIRST_THREADS = 8
    NARROW_THREADS, NARROW_LANES = 8, (4, 2)
    DEPTHWISE_THREADS, DEPTHWISE_LANES, DEPTHWISE_BLOCKS, FEWEST_RUNS = 8, 4, 4, 2
    WARP, ROW_THREADS, MOST_ROW_BLOCKS, MOST_HELD = 4, 8, 4, 4
    COLUMN_THREADS, COLUMNS_OF_BLOCK, COLUMN_BLOCKS, LEAST_COLUMN_ROWS = 8, 4, 4, 8
    SUM_THREADS, SUM_BLOCKS, SUM_ROUNDS = 8, 3, 4
else:
    # Sums of at least so many entries are split if tiles of this size are fewer than so many, but not below so many
    # entries: a second launch must be worth it.
    LEAST_SPLIT, SPLIT_TILE, MOST_SPLIT_BLOCKS, SPLIT_ENTRIES = 256, 64, 128, 64
    # The last one has half the sums for each thread, for grids of few blocks.
    REGISTER_TILES = (
        RegisterTile(128, 128, 16, 2, 8, 8, 8, 4, 2),
        RegisterTile(128, 64, 16, 3, 8, 8, 8, 4, 2),
        RegisterTile(64, 64, 16, 3, 8, 8, 8, 4, 4),
        RegisterTile(128, 32, 8, 4, 8, 8, 8, 4, 4),
        RegisterTile(64, 64, 16, 3, 4, 8, 8, 4, 3),
    )
    # For channels that are fetched one by one: more threads to a tile, each with fewer of its addresses to keep.  With
    # 128 x 32, a thread fetches for 16 pixels, whose places are found in a loop and kept in local memory until it has
    # fetched a strip; two loops of 8, which the compiler unrolls, would make the kernel three to five times as long.
    # The last one is for few blocks, which take as long as one of their warps: it has an eighth of the sums.
    SCALAR_TILES = (
        RegisterTile(64, 64, 16, 3, 4, 8, 8, 4, 3),
        RegisterTile(128, 32, 16, 3, 4, 8, 8, 4, 3),
        RegisterTile(32, 32, 16, 3, 2, 4, 8, 4, 6),
    )
    # For tensor cores, by warps of 64 x 32 and of 64 x 64 sums; of 32 x 32 where a larger tile would have few warps.
    # A warp of 64 x 32 has so little to multiply that deep strips pay, of which fewer begin.
    # Three products: three warps for each of the four schedulers, of which one loads while others multiply.  The last
    # two have smaller warps, of 32 x 32 and of 16 x 32 sums, for grids of few blocks.
    THREE_PRODUCT_TILES = (
        RegisterTile(128, 64, 16, 3, 8, 8, 8, 4, 3),
        RegisterTile(64, 64, 16, 3, 8, 8, 8, 4, 6),
        RegisterTile(128, 32, 16, 3, 4, 8, 8, 4, 3),
        RegisterTile(64, 32, 16, 3, 2, 8, 8, 4, 4),
    )
    FRAGMENT_TILES = (
        RegisterTile(128, 128, 16, 2, 8, 16, 8, 4, 2),
        RegisterTile(64, 128, 16, 3, 8, 16, 8, 4, 4),
        RegisterTile(64, 64, 32, 2, 8, 8, 8, 4, 4),
        RegisterTile(64, 64, 16, 3, 8, 8, 8, 4, 4),
    )
    FILTER_TILES = (
        RegisterTile(128, 128, 16, 2, 8, 8, 8, 4, 1),
        RegisterTile(128, 64, 16, 2, 8, 8, 8, 4, 3),
        RegisterTile(64, 64, 16, 2, 8, 8, 8, 4, 6),
        RegisterTile(128, 32, 16, 2, 8, 8, 8, 4, 6),
        RegisterTile(32, 32, 16, 2, 4, 8, 8, 4, 16),
    )
    # Where strips are copied: windows of 3 x 3 cells have entries in multiples of 96 and 192, so that nothing of these
    # tiles is wasted, and a thread fetches one of the 12 pixels of a strip.
    FILTER_COPIED_TILES = (
        *FILTER_TILES,
        RegisterTile(192, 64, 12, 2, 8, 8, 4, 8, 2),
        RegisterTile(96, 64, 12, 2, 8, 8, 4, 8, 4),
    )
    # For what is fetched one by one: square ones, or a thread would have too many addresses to keep; and registers for
    # those that it has, by fewer blocks.  The last one is for few blocks: its warps have half the sums.
    FILTER_SCALAR_TILES = (
        FILTER_TILES[0],
        FILTER_TILES[2]._replace(blocks=4),
        RegisterTile(32, 32, 16, 2, 4, 8, 8, 4, 12),
        RegisterTile(32, 32, 16, 2, 4, 4, 8, 4, 8),
    )
    # For tensor cores, by warps of 64 x 32 sums; of 32 x 32 where there are few blocks.
    FILTER_FRAGMENT_TILES = (
        RegisterTile(128, 64, 16, 2, 8, 8, 8, 4, 2),
        RegisterTile(64, 64, 16, 2, 8, 8, 8, 4, 4),
        RegisterTile(64, 32, 16, 2, 8, 8, 8, 4, 8),
        RegisterTile(64, 64, 16, 2, 4, 8, 8, 4, 3),
    )
    # Gradients by filters: pixels are cut, without tiles until the grid has about this many threads, but not below this
    # many pixels; to begin a chunk, and to write and to add its sums, takes as long as about so many pixels.
    CHUNK_THREADS, SMALLEST_CHUNK, CHUNK_COST = 65536, 128, 128
    # The sum over chunks: a block's threads, and how many weights they have, if chunks are few or more than so many.
    CHUNK_SUM_THREADS, CHUNK_SUM_COLUMNS, MANY_CHUNKS = 256, (32, 8), 256
    # A network's first layer.
    FIRST_THREADS = 128
    # Gradients by input of few channels: a block's threads, and how many of them may be side by side.
    NARROW_THREADS, NARROW_LANES = 128, (32, 16, 8)
    # Depthwise gradients by filters: up to so many threads side by side on channels; about so many blocks, but not with
    # fewer runs of pixels for each of their threads.
    DEPTHWISE_THREADS, DEPTHWISE_LANES, DEPTHWISE_BLOCKS, FEWEST_RUNS = 128, 32, 512, 2
    # Elementwise kernels: one thread a vector until the grid is full, then in strides of the grid.
    ELEMENT_THREADS, MOST_ELEMENT_BLOCKS = 256, 16384
    # Row by row kernels: up to a warp for each row, up to so many float32 numbers of a row in the registers of a lane.
    WARP, ROW_THREADS, MOST_ROW_BLOCKS, MOST_HELD = 32, 128, 16384, 16
    # Column by column kernels: rows are split until the grid has about so many blocks, but not below so many rows.
    COLUMN_THREADS, COLUMNS_OF_BLOCK, COLUMN_BLOCKS, LEAST_COLUMN_ROWS = 256, 32, 512, 256
    # Sums over everything: one block for what it can add up in a few rounds, else several, then one over their sums.
    SUM_THREADS, SUM_BLOCKS, SUM_ROUNDS = 256, 256, 16


def register_tile(choices, pixels, filters, layers, channels, multiprocessors):
    """The tile in which the busiest multiprocessor has least to do.

    Its work is the sums of its share of the blocks, of which those of ragged tiles are wasted, and for each term of
    these what a thread reads; with fewer than 8 warps it works more slowly.  Of equal tiles the one that wastes least
    is taken.  The order of sums is the same in all tiles, so that the choice changes no result.

    Parameters
    ----------
    choices : tuple of RegisterTile
    pixels, filters : int
        Of a group.
    layers : int
        How many such products there are.
    channels : int
        Of a group: the largest tile wants a multiple of its depth, or its addresses take too many registers; deep ones
        do too, or their last strip is mostly empty.
    multiprocessors : int
    """

    def cost(tile):
        blocks = blocks_for(pixels, tile.rows) * blocks_for(filters, tile.columns) * layers
        own, size = blocks_for(blocks, multiprocessors), tile.rows * tile.columns
        reads = 1 / tile.thread_rows + 1 / tile.thread_columns
        return own * size * (1 + reads) / min(1, own * tile.threads / 256), blocks * size

    fitting = [tile for tile in choices if (tile.threads < 256 and tile.depth <= 16) or channels % tile.depth == 0]
    return min(fitting, key=cost)


@functools.lru_cache(maxsize=4096)
def split(g, phases=1):
    """How blocks share the entries of a correlation's patches, or None if each has all of them.

    They do if the window has more cells than a mask has bits, or if even small tiles are too few for a GPU and the
    sums are long.  Fixed by the shapes alone, so that the order of every sum is.  There are as many such products as
    `phases`, none of them larger.
    """
    cells, channels = g.kernel_height * g.kernel_width, g.channels // g.groups
    if g.groups > 1 or g.kernel_width > MASK_BITS:
        return None
    pixels = g.batch * g.out_height * g.out_width
    blocks = phases * blocks_for(pixels, SPLIT_TILE) * blocks_for(g.out_channels, SPLIT_TILE)
    wanted = 1
    if cells * channels >= LEAST_SPLIT:
        wanted = min(blocks_for(MOST_SPLIT_BLOCKS, blocks), cells * channels // SPLIT_ENTRIES)
    if cells == 1:
        part = blocks_for(blocks_for(channels, wanted), 16) * 16
        count = blocks_for(channels, part)
        return Split(count, 1, part) if count > 1 else None
    rows = max(1, min(blocks_for(g.kernel_height, wanted), MASK_BITS // g.kernel_width))
    count = blocks_for(g.kernel_height, rows)
    return Split(count, rows, 0) if count > 1 else None


def product_blocks(tile, rows, columns):
    """Blocks that cover a product, as ``(row blocks, column blocks)``."""
    return blocks_for(rows, tile.rows), blocks_for(columns, tile.columns)


def element_grid(count):
    """Grid and block for a kernel over `count` elements in strides of the grid.

    Raises
    ------
    OverflowError
        If there are more than 2**31 - 1 elements.
    """
    if count > LARGEST_INT32:
        raise OverflowError(
            f"expected at most 2**31 - 1 elements on CUDA, whose kernels index with 32 bits, received {count}"
        )
    return (min(blocks_for(count, ELEMENT_THREADS), MOST_ELEMENT_BLOCKS),), (ELEMENT_THREADS,)


def vector_width(real, *addresses):
    """How many numbers a vector has: as many as 16 bytes hold if all arrays begin where vectors may, else one."""
    return WIDEST // np.dtype(real).itemsize if all(map(toolkit.is_aligned, addresses)) else 1


def vector_grid(count, width):
    """Grid and block for a kernel over `count` numbers, one thread a vector, in strides of the grid."""
    blocks, threads = element_grid(count)
    return (min(blocks_for(count, ELEMENT_THREADS * width), *blocks),), threads


def row_width(real, columns, *addresses):
    """`vector_width` of matrices: one if their rows begin where vectors may not."""
    width = vector_width(real, *addresses)
    return width if columns % width == 0 else 1


def row_tile(real, columns, *addresses):
    """As few lanes, and as few registers each, as hold a row; a longer row is taken in chunks."""
    most_held = MOST_HELD * 4 // np.dtype(real).itemsize
    return _row_tile(columns, row_width(real, columns, *addresses), most_held)


@functools.lru_cache(maxsize=1024)
def _row_tile(columns, width, most_held):
    lanes = min(_power_of_two(blocks_for(columns, width)), WARP)
    held = min(_power_of_two(blocks_for(columns, lanes * width)) * width, most_held)
    step, chunk = lanes * width, lanes * held
    return RowTile(lanes, ROW_THREADS // lanes, held, width, step, chunk, blocks_for(columns, chunk) * chunk)


def row_grid(rows, tile):
    """Grid and block ``(lanes, rows of the block)`` for a kernel over the rows of a matrix."""
    return (min(blocks_for(rows, tile.rows), MOST_ROW_BLOCKS),), (tile.lanes, tile.rows)


def warp_grid(count):
    """Grid and block ``(lanes, warps)`` for a kernel that has one warp for each of so many sums."""
    warps = ROW_THREADS // WARP
    return (blocks_for(count, warps),), (WARP, warps)


def column_tile(real, columns, *addresses):
    """As few lanes as hold the columns, but not more than `COLUMNS_OF_BLOCK` columns."""
    return _column_tile(columns, row_width(real, columns, *addresses))


@functools.lru_cache(maxsize=1024)
def _column_tile(columns, width):
    lanes = min(_power_of_two(blocks_for(columns, width)), COLUMNS_OF_BLOCK // width)
    return ColumnTile(lanes, COLUMN_THREADS // lanes, width)


def column_grid(rows, columns, tile):
    """Grid ``(column blocks, chunks of rows)``, block ``(lanes, rows of the block)``, and the rows of a chunk.

    Fixed by the shapes alone, so that the order of every sum is.
    """
    column_blocks = blocks_for(columns, tile.lanes * tile.width)
    wanted = min(blocks_for(COLUMN_BLOCKS, column_blocks), blocks_for(rows, LEAST_COLUMN_ROWS))
    chunk = blocks_for(rows, wanted)
    return (column_blocks, blocks_for(rows, chunk)), (tile.lanes, tile.rows), chunk


def sum_blocks(count, width):
    """How many blocks add up so many numbers: one for what it can do in a few rounds."""
    return 1 if count <= SUM_ROUNDS * SUM_THREADS * width else SUM_BLOCKS


def _power_of_two(count):
    """The smallest power of two that is not below `count`."""
    return 1 << max(int(count) - 1, 0).bit_length()


def blocks_for(count, size):
    """How many blocks of `size` hold `count`."""
    return -(-int(count) // size)


def filter_tile(choices, entries, filters, layers, multiprocessors):
    """The tile for a gradient by filters in which the busiest multiprocessor has least to do.

    As `register_tile`, but that chunks share out the work so finely that no whole blocks are counted, and that six
    warps work as fast as more.

    Parameters
    ----------
    choices : tuple of RegisterTile
    entries, filters : int
        Of a group.
    layers : int
        How many such products there are, at most: groups times chunks of pixels.
    multiprocessors : int
    """

    def cost(tile):
        row_blocks, column_blocks = product_blocks(tile, entries, filters)
        own = max(1, row_blocks * column_blocks * layers / multiprocessors)
        reads = 1 / tile.thread_rows + 1 / tile.thread_columns
        # A number that is fetched costs as much as about 8 multiply-adds.
        size = tile.rows * tile.columns * (1 + reads) + 8 * (tile.rows + tile.columns)
        return own * size / min(1, own * tile.threads / 192)

    return min(choices, key=cost)


def filter_fetchers(tile, patch_width, filter_width, parts):
    """How many neighbouring threads of a gradient by filters fetch one pixel's entries and filters.

    Few, since each pixel that a thread fetches costs it as much as 2 or 3 entries; but at least 8, which read lines of
    128 bytes where numbers are read four at a time, enough that none has more than 4 addresses of entries or of
    filters, and as many as there are for the pixels of one of the `parts` of a strip.
    """
    entries, filters = tile.rows // patch_width, tile.columns // filter_width
    return min(entries, filters, tile.threads, max(8, entries // 4, filters // 4, tile.threads * parts // tile.depth))


def filter_padding(fetchers, patch_width, filter_width, fragments):
    """How many numbers the strips of a gradient by filters have more than a pixel's, so that no two meet in a bank."""
    if fragments is not None:
        return 4
    # The fetchers of a warp write single numbers of 32 / fetchers pixels side by side; rows begin at multiples of 4.
    return fetchers // 4 * 4 % WARP if min(patch_width, filter_width) == 1 else 0


def chunks(pixels, blocks, threads):
    """Into how many chunks, of what size, the pixels are cut for a gradient by filters of so many blocks of threads.

    Fixed by the shapes alone, so that the order of every sum is.
    """
    wanted = min(blocks_for(CHUNK_THREADS, blocks * threads), blocks_for(pixels, SMALLEST_CHUNK))
    chunk = blocks_for(blocks_for(pixels, wanted), 16) * 16 if wanted > 1 else int(pixels)
    return blocks_for(pixels, chunk), chunk


def filter_chunks(pixels, blocks, resident):
    """Into how many chunks, of what size, the pixels are cut for a gradient by filters in tiles.

    A GPU that holds `resident` blocks at once needs ``ceil(chunks * blocks / resident)`` rounds, the last of which may
    leave most of it idle.  Taken is the number of chunks for which rounds times the length of a chunk are least.

    Parameters
    ----------
    pixels : int
    blocks : int
        Tiles of the result: blocks that share a chunk.
    resident : int
        As of `resident_blocks`.
    """

    def cut(wanted):
        chunk = blocks_for(blocks_for(pixels, wanted), 16) * 16 if wanted > 1 else int(pixels)
        return blocks_for(pixels, chunk), chunk

    def cost(choice):
        count, chunk = choice
        return blocks_for(count * blocks, resident) * (chunk + CHUNK_COST)

    most = min(blocks_for(4 * resident, blocks), blocks_for(pixels, SMALLEST_CHUNK))
    return min((cut(wanted) for wanted in range(1, most + 1)), key=cost)


def resident_blocks(tile, shared_bytes, capability, multiprocessors):
    """How many blocks of a tile of a gradient by filters a GPU holds at once, by registers and by shared memory.

    Parameters
    ----------
    tile : RegisterTile
        Its `blocks` are those that the registers of a multiprocessor are for.
    shared_bytes : int
        Of a block.
    capability : tuple of int
    multiprocessors : int
    """
    # Shared memory of a multiprocessor, in KiB, as NVIDIA's programming guide has it, of which the system takes some.
    shared = {(7, 5): 64, (8, 0): 164, (9, 0): 228, (10, 0): 228}.get(tuple(capability), 100) << 10
    own = shared_bytes + (1024 if capability >= (8, 0) else 0)
    return max(1, min(tile.blocks, shared // own)) * multiprocessors


def chunk_sum_columns(chunks):
    """How many weights a block has whose threads share so many chunks: at most a warp."""
    few, many = CHUNK_SUM_COLUMNS
    return few if chunks <= MANY_CHUNKS else many


def depthwise_lanes(vectors):
    """How many threads of a block are side by side on so many vectors of channels: a power of two."""
    return min(_power_of_two(vectors), DEPTHWISE_LANES)


def depthwise_chunks(runs, blocks, lanes):
    """Into how many chunks, of what size, runs of pixels are cut for a depthwise gradient by filters.

    Fixed by the shapes alone, so that the order of every sum is.

    Parameters
    ----------
    runs : int
    blocks, lanes : int
        Blocks that share a chunk, and their threads side by side.
    """
    shortest = FEWEST_RUNS * DEPTHWISE_THREADS // lanes
    chunk = blocks_for(runs, min(blocks_for(DEPTHWISE_BLOCKS, blocks), blocks_for(runs, shortest)))
    return blocks_for(runs, chunk), chunk
