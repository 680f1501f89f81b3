"""How work is cut into blocks of threads: every tile size of the package, chosen in one place.

A GPU wants blocks of hundreds of threads.  The simulator runs each CUDA thread as a thread of
Python, and gets blocks of 16 and grids of few blocks, whose edges small test shapes already cross.
The order of every sum follows from these numbers and the shapes, so that results are repeatable.
"""

import functools
from typing import NamedTuple

from ..geometry import LARGEST_INT32
from .toolkit import SIMULATED


class ProductTile(NamedTuple):
    """One block's part of a matrix product, and each thread's part of it.

    A block computes `rows` x `columns` sums, taking `depth` terms of each from shared memory at
    a time; each thread keeps `thread_rows` x `thread_columns` of the sums in registers.
    """

    rows: int
    columns: int
    depth: int
    thread_rows: int
    thread_columns: int

    @property
    def threads(self):
        """Threads of a block."""
        return (self.rows // self.thread_rows) * (self.columns // self.thread_columns)


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


class Split(NamedTuple):
    """How `count` blocks share the entries of a patch: so many kernel rows each, or so many channels of one cell."""

    count: int
    rows: int
    channels: int


# A correlation's mask of cells.
MASK_BITS = 32

if SIMULATED:
    SPLIT_TILE, MOST_SPLIT_BLOCKS, SPLIT_ENTRIES = 8, 4, 24
    REGISTER_TILES = (RegisterTile(16, 16, 8, 3, 4, 8, 4, 2, 1), RegisterTile(8, 8, 4, 2, 2, 4, 4, 2, 1))
    SCALAR_TILES = (RegisterTile(8, 8, 8, 2, 2, 4, 4, 2, 1),)
    _WIDE, _NARROW = ProductTile(8, 8, 4, 2, 2), ProductTile(16, 4, 4, 2, 2)
    ELEMENT_THREADS, MOST_ELEMENT_BLOCKS = 8, 3
    ROW_LANES, ROWS_OF_BLOCK, MOST_ROW_BLOCKS = 4, 2, 4
    COLUMNS_OF_BLOCK, COLUMN_LANES = 4, 4
    SUM_THREADS, SUM_BLOCKS = 8, 3
    SPLIT_BLOCKS, SPLIT_DEPTH = 4, 16
else:
    # Sums are split if tiles of this size are fewer than so many, but not below so many entries.
    SPLIT_TILE, MOST_SPLIT_BLOCKS, SPLIT_ENTRIES = 64, 128, 128
    REGISTER_TILES = (
        RegisterTile(128, 128, 16, 2, 8, 8, 8, 4, 2),
        RegisterTile(128, 64, 16, 3, 8, 8, 8, 4, 2),
        RegisterTile(64, 64, 16, 3, 8, 8, 8, 4, 4),
        RegisterTile(128, 32, 8, 4, 8, 8, 8, 4, 4),
    )
    # For channels that are fetched one by one: more threads to a tile, each with fewer of its addresses to keep.
    SCALAR_TILES = (RegisterTile(64, 64, 16, 3, 4, 8, 8, 4, 3), RegisterTile(128, 32, 8, 4, 4, 8, 8, 4, 3))
    _WIDE, _NARROW = ProductTile(64, 64, 16, 4, 4), ProductTile(128, 16, 16, 4, 2)
    # Elementwise kernels: one thread an element until the grid is full, then in strides of the grid.
    ELEMENT_THREADS, MOST_ELEMENT_BLOCKS = 256, 16384
    # Row by row kernels: a warp for each row, some rows to a block.
    ROW_LANES, ROWS_OF_BLOCK, MOST_ROW_BLOCKS = 32, 4, 16384
    # Column sums: neighbouring threads on neighbouring columns, several rows at once.
    COLUMNS_OF_BLOCK, COLUMN_LANES = 32, 16
    # Sums over everything: a fixed number of blocks, then one block over their sums.
    SUM_THREADS, SUM_BLOCKS = 256, 256
    # Filter gradients: pixels are split until the grid has about this many blocks, but not below this many pixels.
    SPLIT_BLOCKS, SPLIT_DEPTH = 512, 256


def register_tile(pixels, filters, layers, channels, patch_width, multiprocessors):
    """The tile in which the busiest multiprocessor has least to do.

    Its work are the sums of its share of the blocks, of which those of ragged tiles are wasted; with fewer than 8
    warps it works more slowly.  The order of sums is the same in all tiles, so that the choice changes no result.

    Parameters
    ----------
    pixels, filters : int
        Of a group.
    layers : int
        How many such products there are.
    channels : int
        Of a group: the largest tile wants a multiple of its depth, or its addresses take too many registers.
    patch_width : int
        How many channels are fetched at once.
    multiprocessors : int
    """

    def cost(tile):
        blocks = blocks_for(pixels, tile.rows) * blocks_for(filters, tile.columns) * layers
        own = blocks_for(blocks, multiprocessors)
        return own * tile.rows * tile.columns / min(1, own * tile.threads / 256)

    tiles = REGISTER_TILES if patch_width == 4 else SCALAR_TILES
    fitting = [tile for tile in tiles if tile.threads < 256 or channels % tile.depth == 0]
    return min(fitting, key=cost)


@functools.lru_cache(maxsize=4096)
def split(g):
    """How blocks share the entries of a correlation's patches, or None if each has all of them.

    They do if the window has more cells than a mask has bits, or if even small tiles are too few for a GPU and the
    sums are long.  Fixed by the shapes alone, so that the order of every sum is.
    """
    cells, channels = g.kernel_height * g.kernel_width, g.channels // g.groups
    if g.groups > 1 or g.kernel_width > MASK_BITS:
        return None
    blocks = blocks_for(g.batch * g.out_height * g.out_width, SPLIT_TILE) * blocks_for(g.out_channels, SPLIT_TILE)
    wanted = min(blocks_for(MOST_SPLIT_BLOCKS, blocks), cells * channels // SPLIT_ENTRIES)
    if cells == 1:
        part = blocks_for(blocks_for(channels, max(1, wanted)), 16) * 16
        count = blocks_for(channels, part)
        return Split(count, 1, part) if count > 1 else None
    rows = max(1, min(blocks_for(g.kernel_height, max(1, wanted)), MASK_BITS // g.kernel_width))
    count = blocks_for(g.kernel_height, rows)
    return Split(count, rows, 0) if count > 1 else None


def product_tile(columns):
    """The tile for a product with so many columns: a narrow one where a wide one would stay mostly empty."""
    return _NARROW if columns <= _NARROW.columns else _WIDE


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


def row_grid(rows):
    """Grid and block ``(lanes, rows of a block)`` for a kernel over the rows of a matrix."""
    return (min(blocks_for(rows, ROWS_OF_BLOCK), MOST_ROW_BLOCKS),), (ROW_LANES, ROWS_OF_BLOCK)


def column_grid(columns):
    """Grid and block ``(columns of a block, lanes)`` for a kernel that sums the columns of a matrix."""
    return (blocks_for(columns, COLUMNS_OF_BLOCK),), (COLUMNS_OF_BLOCK, COLUMN_LANES)


def blocks_for(count, size):
    """How many blocks of `size` hold `count`."""
    return -(-int(count) // size)


def splits(terms, blocks):
    """Into how many chunks, of what size, long sums are split when their tiles are only so many `blocks`.

    Fixed by the shapes alone, so that the order of every sum is.
    """
    wanted = min(blocks_for(SPLIT_BLOCKS, blocks), blocks_for(terms, SPLIT_DEPTH))
    chunk = blocks_for(blocks_for(terms, wanted), 16) * 16 if wanted > 1 else int(terms)
    return blocks_for(terms, chunk), chunk
