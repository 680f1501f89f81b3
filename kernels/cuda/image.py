"""Cross-correlation of one picture, without batch and channels, in float32 or float64.

::

    y[i, j] = sum_{a, b} X[i + a, j + b] kernel[a, b]

X is the picture x continued beyond its edges: ``X[p, q] = x[rows[p], columns[q]]``, and `fillvalue` where
rows[p] or columns[q] is -1.  So two vectors of indices hold every boundary: zeros, wrapped, mirrored.

One thread for each four neighbouring output pixels of a row.  Along a row of the kernel it keeps the four cells of X
that they see in registers: each step brings one new cell, for four multiply-adds.  A warp reads the kernel's cells
together, and of the picture what the cache holds.  Memory sees the picture and y once each, 8 bytes a pixel, so that
reads from the cache, three for each four multiply-adds, bound all but tiny kernels.
"""

import functools

import numpy as np

from . import tiles, toolkit
from .formulas import inline, quotient
from .toolkit import cuda
from .vectors import read, write_part

PIXELS = 4


def correlate_image(x, rows, columns, fillvalue, kernel, y):
    """Every output pixel is one sum, in the order of the kernel's cells."""
    real, (out_height, out_width) = y.dtype.type, y.shape
    row_groups = tiles.blocks_for(out_width, PIXELS)
    sizes = (x.shape[1], *kernel.shape, out_height, out_width, row_groups)
    x, rows, columns, kernel, y = map(toolkit.address, (x, rows, columns, kernel, y))
    width = PIXELS if tiles.row_width(real, out_width, y) > 1 and out_width % PIXELS == 0 else 1
    toolkit.launch(
        _sum_pixels_kernel(real, width), *tiles.element_grid(out_height * row_groups),
        x, rows, columns, real(fillvalue), kernel, *(np.int32(size) for size in sizes), y,
    )  # fmt: skip


@inline
def continued(x, line, columns, place, last, fillvalue, real):
    """The cell of X in column `place`, before the column `last`, and in the row of x that begins at `line`."""
    if line >= 0 and place < last:
        column = read(columns, place, np.int32)
        if column >= 0:
            return read(x, line + column, real)
    return fillvalue


@functools.cache
def _sum_pixels_kernel(real, width):
    @cuda.jit(cache=True)
    def sum_pixels_kernel(
        x, rows, columns, fillvalue, kernel, x_width, kernel_height, kernel_width, height, row, groups, y
    ):
        cells = cuda.local.array(PIXELS, real)
        totals = cuda.local.array(PIXELS, real)
        last = row + kernel_width - 1
        group = cuda.grid(1)
        while group < height * groups:
            i = quotient(group, groups)
            j = (group - i * groups) * PIXELS
            for k in range(PIXELS):
                totals[k] = real(0)
            for a in range(kernel_height):
                line = np.int64(read(rows, i + a, np.int32)) * x_width
                for k in range(PIXELS - 1):
                    cells[k + 1] = continued(x, line, columns, j + k, last, fillvalue, real)
                for b in range(kernel_width):
                    for k in range(PIXELS - 1):
                        cells[k] = cells[k + 1]
                    cells[PIXELS - 1] = continued(x, line, columns, j + b + PIXELS - 1, last, fillvalue, real)
                    weight = read(kernel, a * kernel_width + b, real)
                    for k in range(PIXELS):
                        totals[k] += cells[k] * weight
            for first in range(0, PIXELS, width):
                write_part(totals, first, y, i * row + j + first, (i + 1) * row, width)
            group += cuda.gridsize(1)

    return sum_pixels_kernel
