"""How the rows of a matrix are shared among the lanes of a warp, for everything that works row by row.

A row lies on as few neighbouring lanes as hold it (`tiles.row_tile`): ten classes take 16 lanes, so that a warp works
on two rows, a hundred take a warp with four numbers on each lane.  A lane reads its numbers, vectors of them where
rows begin at multiples of 16 bytes, into registers once, and does all of its work there; sums go from lane to lane by
shuffles, without barriers.  A row longer than all registers of its lanes is taken in chunks, which each pass over the
row reads again::

    for first in range(0, covered, chunk):
        if covered > chunk:                 # else the numbers are still there
            read_row(...)

Lanes past the last column hold fillers that change nothing; those past the last row repeat it, and write nothing; all
take part in every exchange.
The order of every sum follows from the tile, and with it from the number of columns alone.
"""

from .formulas import inline
from .vectors import read_vector, write_vector


@inline
def read_row(values, address, place, end, filler, held, width, step):
    """Read the `held` numbers of a lane: vectors of `width`, `step` apart, from `place` on; fillers from `end` on."""
    for first in range(0, held, width):
        at = place + first // width * step
        if at < end:
            read_vector(values, first, address, at, width)
        else:
            for k in range(width):
                values[first + k] = filler


@inline
def write_row(values, address, place, end, held, width, step):
    """Write what `read_row` reads."""
    for first in range(0, held, width):
        at = place + first // width * step
        if at < end:
            write_vector(values, first, address, at, width)


@inline
def column_of(number, width, step):
    """How many columns behind a lane's first one its number `number` lies."""
    return number // width * step + number % width
