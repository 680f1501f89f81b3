"""How work is cut into blocks of threads: every tile size of the package, chosen in one place.

A GPU wants blocks of hundreds of threads.  The simulator runs each CUDA thread as a thread of
Python, and gets blocks of 16 and grids of few blocks, whose edges small test shapes already cross.
The order of every sum follows from these numbers and the shapes, so that results are repeatable.
"""

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


if SIMULATED:
    _WIDE, _NARROW = ProductTile(8, 8, 4, 2, 2), ProductTile(16, 4, 4, 2, 2)
    ELEMENT_THREADS, MOST_ELEMENT_BLOCKS = 8, 3
    ROW_LANES, ROWS_OF_BLOCK, MOST_ROW_BLOCKS = 4, 2, 4
    COLUMNS_OF_BLOCK, COLUMN_LANES = 4, 4
    SUM_THREADS, SUM_BLOCKS = 8, 3
    FILTER_TILES = (RegisterTile(16, 8, 4, 2, 4, 4, 2, 2, 1), RegisterTile(8, 8, 4, 2, 4, 4, 2, 2, 1))
    SPLIT_THREADS, SPLIT_DEPTH = 16, 16
    FIRST_THREADS = 8
else:
    _WIDE, _NARROW = ProductTile(64, 64, 16, 4, 4), ProductTile(128, 16, 16, 4, 2)
    # Elementwise kernels: one thread an element until the grid is full, then in strides of the grid.
    ELEMENT_THREADS, MOST_ELEMENT_BLOCKS = 256, 16384
    # Row by row kernels: a warp for each row, some rows to a block.
    ROW_LANES, ROWS_OF_BLOCK, MOST_ROW_BLOCKS = 32, 4, 16384
    # Column sums: neighbouring threads on neighbouring columns, several rows at once.
    COLUMNS_OF_BLOCK, COLUMN_LANES = 32, 16
    # Sums over everything: a fixed number of blocks, then one block over their sums.
    SUM_THREADS, SUM_BLOCKS = 256, 256
    FILTER_TILES = (
        RegisterTile(128, 128, 16, 2, 8, 8, 8, 4, 1),
        RegisterTile(128, 64, 16, 2, 8, 8, 8, 4, 3),
        RegisterTile(64, 64, 16, 2, 8, 8, 8, 4, 6),
        RegisterTile(128, 32, 16, 2, 8, 8, 8, 4, 6),
        RegisterTile(32, 32, 16, 2, 4, 8, 8, 4, 16),
    )
    # Filter gradients: pixels are split until the grid has about this many threads, but not below this many pixels.
    SPLIT_THREADS, SPLIT_DEPTH = 65536, 128
    # A network's first layer.
    FIRST_THREADS = 128


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


def filter_tile(entries, filters):
    """The tile for a gradient by filters: the one whose blocks cost least, work on what does not exist included."""

    def cost(tile):
        row_blocks, column_blocks = product_blocks(tile, entries, filters)
        # A number that is fetched costs as much as about 8 multiply-adds.
        return row_blocks * column_blocks * (tile.rows * tile.columns + 8 * (tile.rows + tile.columns))

    return min(FILTER_TILES, key=cost)


def splits(terms, blocks, threads):
    """Into how many chunks, of what size, long sums are split when their tiles are so many blocks of threads.

    Fixed by the shapes alone, so that the order of every sum is.
    """
    wanted = min(blocks_for(SPLIT_THREADS, blocks * threads), blocks_for(terms, SPLIT_DEPTH))
    chunk = blocks_for(blocks_for(terms, wanted), 16) * 16 if wanted > 1 else int(terms)
    return blocks_for(terms, chunk), chunk
