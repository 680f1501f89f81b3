"""Where the tiles of `winograd` and `winograd_input` lie.

A correlation of dilation d is d x d ordinary ones, interleaved: of the outputs 0, d, 2 d, ... of either axis, which see
inputs d apart, then of those from 1 on, and so forth.  So the cells of a tile lie d apart, and all else is the same.
Tiles are numbered through all pictures, line by line.
"""

import numpy as np
from numba import njit

from .compiling import INNER


def tile_starts(extent, tile, dilation):
    """First cells of the tiles along one axis: those of cells 0, d, 2 d, ..., then those of 1, d + 1, ..."""
    phases = [np.arange(phase, extent, tile * dilation, np.int64) for phase in range(min(dilation, extent))]
    return np.concatenate(phases)


@njit(**INNER)
def place_of(tile, tables, plan):
    """Picture, line and column where a tile starts; `tables` are the `tile_starts` of both axes."""
    tile_line, tile_column = divmod(tile, plan.tile_columns)
    picture, tile_line = divmod(tile_line, plan.tile_lines)
    lines, columns = tables
    return picture, lines[tile_line], columns[tile_column]


@njit(**INNER)
def part_inside(first, step, count, extent):
    """Of the cells ``first, first + step, ...``, those from the first number to before the second lie in the extent."""
    start = min(max((step - 1 - first) // step, 0), count)
    return start, min(max((extent - first + step - 1) // step, start), count)
