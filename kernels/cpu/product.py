"""Products of a matrix given by tables of offsets with a matrix of numbers; see `simd` for the tile they are made of.

B and C are cut into *panels* of two vectors' width.  AVX-512 has registers for tiles of two whole panels: as long as
there are as many, they take the next two, and read half as much of A for a multiply-add.  The last panel ends where the
matrix ends, and so may overlap the one before: its columns are computed twice, to the same bits, and no store needs a
mask.  A last panel of a single vector joins the one before in a tile of three vectors and fewer rows: by itself it
would load almost as much as a wide one.  A matrix narrower than one vector is computed in a scratch of one vector's
width.
"""

import functools

import numpy as np
from numba import njit

from .compiling import INNER
from .processor import DOUBLE_ROWS, LANEWISE_ROWS, NARROW_ROWS, REGISTER_BYTES, WIDE_ROWS, WIDEST_ROWS
from .simd import FOUR, double_tile, lanewise_tile, narrow_tile, wide_tile, widest_tile
from .vectors import copy_part, copy_vector, lanes_of, turn_square

# Bytes of a B that stays in the first-level cache.
NEAR_BYTES = 1 << 14


def lanes(dtype):
    """Numbers in a vector register."""
    return REGISTER_BYTES // np.dtype(dtype).itemsize


def panels(width, dtype):
    """Panels of a matrix of so many columns."""
    return -(-width // (2 * lanes(dtype)))


@functools.lru_cache(maxsize=256)
def steps(count, step):
    """The table of a stored matrix: ``0, step, 2 step, ...``."""
    return np.arange(count, dtype=np.int64) * step


def in_fours(columns, b_rows, dtype):
    """Whether columns of A, and rows of B in a panel, lie side by side within all whole fours of the tables."""
    return all(
        (np.diff(table[: table.size // 4 * 4].reshape(-1, 4)) == step).all()
        for table, step in ((columns, 1), (b_rows, 2 * lanes(dtype)))
    )


@njit(**INNER)
def panel_start(panel, width, lanes):
    """First column of a panel: the last one ends with the matrix."""
    left = width - 2 * lanes * panel
    if left > lanes:
        return max(min(2 * lanes * panel, width - 2 * lanes), 0)
    return max(min(2 * lanes * panel, width - lanes), 0)


@njit(**INNER)
def product(
    a, a_origin, rows, columns, b, b_origin, b_rows, fours, b_panel,
    bias, floor, c, c_origin, c_rows, c_panel, width, add, source, ahead, ahead_step,
):  # fmt: skip
    """``C[m, n] = sum_k a[a_origin + rows[m] + columns[k]] B[k, n]``, for all rows and columns of the tables.

    Parameters
    ----------
    a, a_origin, rows, columns : array, int, arrays of int64
    b, b_origin, b_rows, fours, b_panel : array, int, array of int64, bool, int
        Row k of B starts at ``b_origin + b_rows[k]``; panel p of it at ``p b_panel``, or at its column where b_panel
        is 0.  `fours` is what `in_fours` says of columns and b_rows.
    bias, floor : array, number
        Added to each row of C; what is below `floor` then becomes it.
    c, c_origin, c_rows, c_panel : array, int, array of int64, int
        Row m of C starts at ``c_origin + c_rows[m]``; panels as in b.
    width : int
        Columns of C, at least one vector of them.
    add : bool
        Add to C instead, without bias and floor; its panels may not overlap then.  The vectors of one tile may: all
        their sums are loaded before any is stored.
    source, ahead, ahead_step : array or None, int, int
        What the caller reads next: tiles of two panels ask for a line of it from ``source[ahead]`` on, and then one
        `ahead_step` further, with each four columns of A that lie side by side.

    Returns
    -------
    int
        Where that ended.

    A small B is read again for the rows of each tile, so that C is passed through once: where sums have few terms, it
    is writing them that takes the time.

    Callers write ``np.intp(0)`` and ``bool(0)`` for literal zeros: Numba would compile this once more for 0.
    """
    lanes = lanes_of(a)
    doubles = width // (4 * lanes) if DOUBLE_ROWS else 0
    near = columns.size * width * a.itemsize <= NEAR_BYTES and width % (2 * lanes) == 0
    if near and not (doubles and width == 4 * lanes):
        for row in range(0, rows.size, WIDE_ROWS):
            for start in range(0, width, 2 * lanes):
                b_start = b_origin + (start // (2 * lanes) * b_panel if b_panel else start)
                c_start = c_origin + (start // (2 * lanes) * c_panel if c_panel else start)
                wide_tile(
                    a, a_origin, rows, row, columns, b, b_start, b_rows, fours,
                    bias, start, floor, c, c_start, c_rows, lanes, lanes, lanes, add, None, 0, 0,
                )  # fmt: skip
        return ahead
    for double in range(doubles):
        start = double * 4 * lanes
        b_start = b_origin + (2 * double * b_panel if b_panel else start)
        c_start = c_origin + (2 * double * c_panel if c_panel else start)
        b_last = b_panel + lanes if b_panel else 3 * lanes
        c_last = c_panel + lanes if c_panel else 3 * lanes
        for row in range(0, rows.size, DOUBLE_ROWS):
            double_tile(
                a, a_origin, rows, row, columns, b, b_start, b_rows, fours,
                bias, start, floor, c, c_start, c_rows, b_last, 3 * lanes, c_last, add, source, ahead, ahead_step,
            )  # fmt: skip
            ahead += columns.size // FOUR * ahead_step
    for panel in range(2 * doubles, (width + 2 * lanes - 1) // (2 * lanes)):
        start = panel_start(panel, width, lanes)
        left = width - start
        b_start = b_origin + (panel * b_panel if b_panel else start)
        c_start = c_origin + (panel * c_panel if c_panel else start)
        if 2 * lanes < left <= 3 * lanes:
            # With what is left for the last panel.
            last = left - lanes
            b_last, c_last = b_panel if b_panel else last, c_panel if c_panel else last
            for row in range(0, rows.size, WIDEST_ROWS):
                widest_tile(
                    a, a_origin, rows, row, columns, b, b_start, b_rows, fours,
                    bias, start, floor, c, c_start, c_rows, b_last, last, c_last, add, None, 0, 0,
                )  # fmt: skip
            break
        if left > lanes:
            second = min(lanes, left - lanes)
            for row in range(0, rows.size, WIDE_ROWS):
                wide_tile(
                    a, a_origin, rows, row, columns, b, b_start, b_rows, fours,
                    bias, start, floor, c, c_start, c_rows, second, second, second, add, None, 0, 0,
                )  # fmt: skip
        else:
            for row in range(0, rows.size, NARROW_ROWS):
                narrow_tile(
                    a, a_origin, rows, row, columns, b, b_start, b_rows, fours,
                    bias, start, floor, c, c_start, c_rows, 0, 0, 0, add, None, 0, 0,
                )  # fmt: skip
    return ahead


@njit(**INNER)
def product_lanewise(
    a, a_origin, rows, columns, b, b_origin, b_rows, b_panel, bias, floor, c, c_origin, c_rows, c_panel, width, add
):
    """As `product` with an A of its own for each column n of C, next to the one before in memory.

    ``C[m, n] = sum_k a[a_origin + rows[m] + columns[k] + n] B[k, n]``: what a correlation is whose channels do not
    mix.  There is nothing to reuse but B, so that loads, not multiplications, are the bound.  All columns of a tile's
    rows come before the next rows, so that A and C are passed through once, from end to end.
    """
    lanes = lanes_of(a)
    for row in range(0, rows.size, LANEWISE_ROWS):
        for panel in range((width + 2 * lanes - 1) // (2 * lanes)):
            start = panel_start(panel, width, lanes)
            for vector in range(min((width - 2 * lanes * panel + lanes - 1) // lanes, 2)):
                shift = min(vector * lanes, width - start - lanes)
                b_start = b_origin + (panel * b_panel if b_panel else start) + shift
                c_start = c_origin + (panel * c_panel if c_panel else start) + shift
                lanewise_tile(
                    a, a_origin + start + shift, rows, row, columns, b, b_start, b_rows, bool(0),
                    bias, start + shift, floor, c, c_start, c_rows, 0, 0, 0, add, None, 0, 0,
                )  # fmt: skip


@njit(**INNER)
def pack_panel(b, place, step, depth, count, turned, packed, into):
    """Copy one panel of B: `depth` rows of `count` numbers, the first at `place`, and zeros beside them.

    Row k starts at ``place + k step``; of a B that is given turned over, column n does, at ``place + n step``.
    """
    lanes = lanes_of(b)
    if count < 2 * lanes:
        packed[into : into + depth * 2 * lanes] = 0
    whole = count - count % lanes
    if turned:
        for k in range(0, depth - lanes + 1, lanes):
            for lane in range(0, whole, lanes):
                turn_square(b, place + lane * step + k, step, packed, into + k * 2 * lanes + lane, 2 * lanes)
        for lane in range(count):
            for k in range(depth - depth % lanes if lane < whole else 0, depth):
                packed[into + k * 2 * lanes + lane] = b[place + lane * step + k]
    else:
        for k in range(depth):
            for lane in range(0, whole, lanes):
                copy_vector(b, place + k * step + lane, packed, into + k * 2 * lanes + lane)
            if whole < count:
                copy_part(b, place + k * step + whole, count - whole, packed, into + k * 2 * lanes + whole)
