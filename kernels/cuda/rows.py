"""How the rows of a matrix are shared among the lanes of a warp, for everything that works row by row.

A row lies on as few neighbouring lanes as hold it (`tiles.row_tile`): ten classes take 16 lanes, so that a warp works
on two rows, a hundred take a warp with four numbers on each lane.  A lane reads its numbers, vectors of them where
rows begin at multiples of 16 bytes, into registers once, and does all of its work there; sums go from lane to lane by
shuffles, without barriers.  A row longer than all registers of its lanes is taken in chunks, which each pass over the
row reads again::

    for first in range(0, t.covered, t.chunk):
        if t.covered > t.chunk:                 # else the numbers are still there
            read_row(...)

Lanes past the last column hold fillers that change nothing; those past the last row repeat it, and write nothing; all
take part in every exchange.
The order of every sum follows from the tile, and with it from the number of columns alone.

In the kernels, `t` is the `tiles.RowTile`; its width, which instructions want as a plain constant, is an argument too.
"""

import math

from .formulas import inline, larger
from .lanes import largest_of_lanes
from .toolkit import cuda
from .vectors import read_vector, write_vector


@inline
def row_of_lane(first_row, rows, columns, width):
    """The row that a lane works on, of those of a block.

    Returns its number, the place of the lane's first number, the place where the row ends, and where what may be
    written ends: nowhere past the last row.
    """
    number = first_row + cuda.threadIdx.y
    row = number if number < rows else rows - 1
    end = (row + 1) * columns
    return row, row * columns + cuda.threadIdx.x * width, end, end if number < rows else 0


@inline
def speaks_for_row(write_end):
    """Whether a lane is the one lane that writes its row's single number (a loss, a hit)."""
    return cuda.threadIdx.x == 0 and write_end > 0


@inline
def read_row(values, address, place, end, filler, width, t):
    """Read the numbers that a lane holds, from `place` on; fillers from `end` on."""
    for first in range(0, t.held, width):
        at = place + first // width * t.step
        if at < end:
            read_vector(values, first, address, at, width)
        else:
            for k in range(width):
                values[first + k] = filler


@inline
def write_row(values, address, place, end, width, t):
    """Write what `read_row` reads."""
    for first in range(0, t.held, width):
        at = place + first // width * t.step
        if at < end:
            write_vector(values, first, address, at, width)


@inline
def column_of(number, width, t):
    """How many columns behind a lane's first one its number `number` lies."""
    return number // width * t.step + number % width


@inline
def read_largest(values, address, begin, end, width, t):
    """The largest number of a row, the same for all of its lanes; NaN if there is one."""
    largest = values.dtype.type(-math.inf)
    for first in range(0, t.covered, t.chunk):
        read_row(values, address, begin + first, end, values.dtype.type(-math.inf), width, t)
        for k in range(t.held):
            largest = larger(largest, values[k])
    return largest_of_lanes(largest, t.lanes)


@inline
def read_powers(values, address, place, end, largest, width, t):
    """Read a lane's numbers again and let each be ``exp(number - largest)``."""
    read_row(values, address, place, end, values.dtype.type(-math.inf), width, t)
    for k in range(t.held):
        values[k] = values.dtype.type(math.exp(values[k] - largest))
