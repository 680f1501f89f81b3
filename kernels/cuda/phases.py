"""The gradient of a correlation by its input, as correlations: one for each remainder of a pixel by the strides.

With stride 1, an input pixel's gradient is the correlation of dz, padded, with the filters turned by half a circle.
With strides, the input pixels ``u`` of one remainder of ``u / s``, a *phase*, are such a correlation with every s-th
filter cell: nothing is multiplied by the zeros that lie between the outputs.

`product` has all phases in one launch: `hull_of` is what is as large as the largest of them along each axis, and
`product.phase_of` finds within its kernel what `phases_of` finds for `narrow`.  `depthwise` goes without phases.
"""

import functools
from math import gcd
from typing import NamedTuple

from ..geometry import Geometry


class Phase(NamedTuple):
    """The input pixels of one remainder of ``(u / stride_height, v / stride_width)``, as outputs of a correlation.

    `geometry` is that of the correlation of dz.  Its filters begin with cell `first_cell`, from which the cell of its
    next row and of its next column lie `cell_steps` away.  Its pixels begin with number `first_pixel` of dx, where
    pictures, rows and columns lie `places` apart.
    """

    geometry: Geometry
    first_cell: int
    cell_steps: tuple
    first_pixel: int
    places: tuple


@functools.lru_cache(maxsize=1024)
def phases_of(g):
    """The phases of a correlation's gradient by its input."""
    vertical = _axis_phases(g.height, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top)
    horizontal = _axis_phases(g.width, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left)
    row = g.width * g.channels
    phases = []
    for u, rows, (own_row, row_step), kernel_height, dilation_height, pad_top in vertical:
        for v, columns, (own_column, column_step), kernel_width, dilation_width, pad_left in horizontal:
            geometry = Geometry(
                g.batch, g.out_height, g.out_width, g.out_channels,
                kernel_height, kernel_width, 1, 1, dilation_height, dilation_width, pad_top, 0, pad_left, 0,
                g.groups, rows, columns, g.channels,
            )  # fmt: skip
            phases.append(
                Phase(
                    geometry,
                    own_row * g.kernel_width + own_column,
                    (row_step * g.kernel_width, column_step),
                    (u * g.width + v) * g.channels,
                    (g.height * row, g.stride_height * row, g.stride_width * g.channels),
                )
            )
    return tuple(phases)


@functools.lru_cache(maxsize=1024)
def hull_of(g):
    """A correlation of dz with as many rows and columns of outputs and of filter cells as its phases have at most."""
    geometries = [phase.geometry for phase in phases_of(g)]
    # Those of pixels that nobody saw have no dilation either.
    names = "out_height", "out_width", "kernel_height", "kernel_width", "dilation_height", "dilation_width"
    return geometries[0]._replace(**{name: max(getattr(one, name) for one in geometries) for name in names})


def _axis_phases(extent, cells, stride, dilation, pad):
    """For the pixels of each remainder along an axis: the first, how many, and the correlation that they are of.

    That is its first cell, and the step to the next; how many they are; dilation and padding.

    An input at ``u = remainder + t stride`` was seen by output ``(u + pad - cell dilation) / stride`` through every
    cell for which that is a whole number.  From cell to cell of those, from the last to the first, the output moves on
    by the dilation of a correlation that begins ``pad`` of it before t.
    """
    phases = []
    for remainder in range(min(stride, extent)):
        pixels = -(-(extent - remainder) // stride)
        _, count, last, begin = phase_cells(remainder, cells, stride, dilation, pad)
        if count:
            common = gcd(dilation, stride)
            phases.append((remainder, pixels, (last, -(stride // common)), count, dilation // common, begin))
        else:
            # Nobody saw these pixels: a window outside of the outputs.
            phases.append((remainder, pixels, (0, 0), 1, 1, pixels))
    return phases


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
