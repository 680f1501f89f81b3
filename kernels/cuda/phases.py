"""The gradient of a correlation by its input, as correlations: one for each remainder of a pixel by the strides.

With stride 1, an input pixel's gradient is the correlation of dz, padded, with the filters turned by half a circle.
With strides, the input pixels ``u`` of one remainder of ``u / s``, a *phase*, are such a correlation with every s-th
filter cell: nothing is multiplied by the zeros that lie between the outputs.
"""

import functools
from math import gcd
from typing import NamedTuple

from ..geometry import Geometry


class Phase(NamedTuple):
    """The input pixels of one remainder of ``(u / stride_height, v / stride_width)``, as outputs of a correlation.

    `geometry` is that of the correlation of dz.  Its filters begin with number `first_filter` of those turned; as they
    lie in memory, with cell `first_cell`, from which the cell of its next row and of its next column lie `cell_steps`
    away.  Its pixels begin with number `first_pixel` of dx, where pictures, rows and columns lie `places` apart:
    `scattered` if something lies between them.
    """

    geometry: Geometry
    first_filter: int
    first_cell: int
    cell_steps: tuple
    first_pixel: int
    places: tuple
    scattered: bool


@functools.lru_cache(maxsize=1024)
def phases_of(g):
    """The phases of a correlation's gradient by its input."""
    vertical = _axis_phases(g.height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top)
    horizontal = _axis_phases(g.width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left)
    strided = (g.stride_height, g.stride_width) != (1, 1)
    row, cell = g.width * g.channels, g.out_channels // g.groups * g.channels
    phases = []
    for u, rows, first_row, (own_row, row_step), kernel_height, dilation_height, pad_top in vertical:
        for v, columns, first_column, (own_column, column_step), kernel_width, dilation_width, pad_left in horizontal:
            geometry = Geometry(
                g.batch, g.out_height, g.out_width, g.out_channels,
                kernel_height, kernel_width, 1, 1, dilation_height, dilation_width, pad_top, 0, pad_left, 0,
                g.groups, rows, columns, g.channels,
            )  # fmt: skip
            phases.append(
                Phase(
                    geometry,
                    (first_row * g.kernel_width + kernel_height * first_column) * cell,
                    own_row * g.kernel_width + own_column,
                    (row_step * g.kernel_width, column_step),
                    (u * g.width + v) * g.channels,
                    (g.height * row, g.stride_height * row, g.stride_width * g.channels),
                    strided,
                )
            )
    return tuple(phases)


def _axis_phases(extent, cells, stride, dilation, pad):
    """For the pixels of each remainder along an axis: the first, how many, and the correlation that they are of.

    That is how many cells come before its own, among cells sorted by phase; its first cell, and the step to the next;
    how many they are; dilation and padding.

    An input at ``u = remainder + t stride`` was seen by output ``(u + pad - cell dilation) / stride`` through every
    cell for which that is a whole number.  From cell to cell of those, from the last to the first, the output moves on
    by the dilation of a correlation that begins ``pad`` of it before t.
    """
    phases = []
    for remainder in range(min(stride, extent)):
        pixels = -(-(extent - remainder) // stride)
        own = [cell for cell in range(cells) if (cell * dilation - pad - remainder) % stride == 0]
        if own:
            first = phase_place(own[-1], cells, stride, dilation, pad)[0]
            begin = (own[-1] * dilation - pad - remainder) // stride
            step = -(stride // gcd(dilation, stride))
            phases.append(
                (remainder, pixels, first, (own[-1], step), len(own), dilation // gcd(dilation, stride), begin)
            )
        else:
            # Nobody saw these pixels: a window outside of the outputs.
            phases.append((remainder, pixels, 0, (0, 0), 1, 1, pixels))
    return phases


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
