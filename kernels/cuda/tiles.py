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


class RowTile(NamedTuple):
    """How the rows of a matrix are shared among threads.

    `lanes` neighbouring threads take a row, `rows` rows a block.  A lane holds `held` numbers of it in registers:
    vectors of `width` neighbouring columns, `step` columns apart.  A row is taken in `chunks` parts.
    """

    lanes: int
    rows: int
    held: int
    width: int
    chunks: int

    @property
    def step(self):
        """Columns that the vectors of all lanes make."""
        return self.lanes * self.width

    @property
    def chunk(self):
        """Columns that all lanes hold."""
        return self.lanes * self.held

    @property
    def covered(self):
        """Columns of all chunks: a row has at most so many."""
        return self.chunks * self.chunk


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
    _WIDE, _NARROW = ProductTile(8, 8, 4, 2, 2), ProductTile(16, 4, 4, 2, 2)
    ELEMENT_THREADS, MOST_ELEMENT_BLOCKS = 8, 3
    WARP, ROW_THREADS, MOST_ROW_BLOCKS, MOST_HELD = 4, 8, 4, 4
    COLUMN_THREADS, COLUMNS_OF_BLOCK, COLUMN_BLOCKS, LEAST_COLUMN_ROWS = 8, 4, 4, 8
    SUM_THREADS, SUM_BLOCKS, SUM_ROUNDS = 8, 3, 4
    SPLIT_BLOCKS, SPLIT_DEPTH = 4, 16
else:
    _WIDE, _NARROW = ProductTile(64, 64, 16, 4, 4), ProductTile(128, 16, 16, 4, 2)
    # Elementwise kernels: one thread a vector until the grid is full, then in strides of the grid.
    ELEMENT_THREADS, MOST_ELEMENT_BLOCKS = 256, 16384
    # Row by row kernels: up to a warp for each row, up to so many numbers of a row in the registers of a lane.
    WARP, ROW_THREADS, MOST_ROW_BLOCKS, MOST_HELD = 32, 128, 16384, 16
    # Column by column kernels: rows are split until the grid has about so many blocks, but not below so many rows.
    COLUMN_THREADS, COLUMNS_OF_BLOCK, COLUMN_BLOCKS, LEAST_COLUMN_ROWS = 256, 32, 512, 256
    # Sums over everything: one block for what it can add up in a few rounds, else several, then one over their sums.
    SUM_THREADS, SUM_BLOCKS, SUM_ROUNDS = 256, 256, 16
    # Filter gradients: pixels are split until the grid has about this many blocks, but not below this many pixels.
    SPLIT_BLOCKS, SPLIT_DEPTH = 512, 256


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
    return _row_tile(columns, row_width(real, columns, *addresses))


@functools.lru_cache(maxsize=1024)
def _row_tile(columns, width):
    lanes = min(_power_of_two(blocks_for(columns, width)), WARP)
    held = min(_power_of_two(blocks_for(columns, lanes * width)) * width, MOST_HELD)
    return RowTile(lanes, ROW_THREADS // lanes, held, width, blocks_for(columns, lanes * held))


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


def splits(terms, blocks):
    """Into how many chunks, of what size, long sums are split when their tiles are only so many `blocks`.

    Fixed by the shapes alone, so that the order of every sum is.
    """
    wanted = min(blocks_for(SPLIT_BLOCKS, blocks), blocks_for(terms, SPLIT_DEPTH))
    chunk = blocks_for(blocks_for(terms, wanted), 16) * 16 if wanted > 1 else int(terms)
    return blocks_for(terms, chunk), chunk
