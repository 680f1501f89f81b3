"""The gradient of a correlation by its input, as correlations: one for each remainder of a pixel by the strides.

With stride 1, an input pixel's gradient is the correlation of dz, padded, with the filters turned by half a circle.
With strides, the input pixels ``u`` of one remainder of ``u / s``, a *phase*, are such a correlation with every s-th
filter cell: nothing is multiplied by the zeros that lie between the outputs.

All phases are one launch: `hull_of` is what is as large as the largest of them along each axis, and kernels find within
what each has (`product.phase_of`, `narrow.cells_of`).  In `depthwise` a thread has pixels of several phases.
"""

import functools
from math import gcd

from ..geometry import Geometry


@functools.lru_cache(maxsize=1024)
def hull_of(g):
    """A correlation of dz with as many rows and columns of outputs and of filter cells as its phases have at most.

    Without strides, it is the one phase that there is.
    """
    rows, kernel_height, dilation_height, pad_top = _hull_of_axis(
        g.height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top
    )
    columns, kernel_width, dilation_width, pad_left = _hull_of_axis(
        g.width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left
    )
    return Geometry(
        g.batch, g.out_height, g.out_width, g.out_channels,
        kernel_height, kernel_width, 1, 1, dilation_height, dilation_width, pad_top, 0, pad_left, 0,
        g.groups, rows, columns, g.channels,
    )  # fmt: skip


def _hull_of_axis(extent, cells, stride, dilation, pad):
    """Along an axis, the most pixels and cells of a phase, the dilation of all, and the padding of the first.

    An input at ``u = remainder + t stride`` was seen by output ``(u + pad - cell dilation) / stride`` through every
    cell for which that is a whole number.  From cell to cell of those, from the last to the first, the output moves on
    by the dilation of a correlation that begins ``pad`` of it before t.
    """
    phases = [phase_cells(remainder, cells, stride, dilation, pad) for remainder in range(min(stride, extent))]
    most = max(count for _, count, _, _ in phases)
    # Where nobody saw a pixel there is nothing to dilate.
    return -(-extent // stride), max(1, most), dilation // gcd(dilation, stride) if most else 1, phases[0][3]


def phase_cells(remainder, cells, stride, dilation, pad):
    """The filter cells of an axis that a phase has.

    Returns
    -------
    first, count, last : int
        How many cells earlier phases have; how many there are; and the last of them.
    begin : int
        How far before the first pixel its correlation begins.
    """
    first, count, last = 0, 0, 0
    for cell in range(cells):
        its = (cell * dilation - pad) % stride
        if its < remainder:
            first += 1
        if its == remainder:
            count += 1
            last = cell
    return first, count, last, (last * dilation - pad - remainder) // stride


def phase_place(cell, cells, stride, dilation, pad):
    """Where a filter cell of an axis stands among all, when they are sorted by phase and each phase is turned.

    Returns
    -------
    first, count, place : int
        The cells of earlier phases; those of its own; and its place among these.
    """
    remainder = (cell * dilation - pad) % stride
    first, count, place = 0, 0, 0
    for other in range(cells):
        its = (other * dilation - pad) % stride
        if its < remainder:
            first += 1
        if its == remainder:
            count += 1
            if other > cell:
                place += 1
    return first, count, place
