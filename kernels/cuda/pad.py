"""Zeros around the pictures, and the way back.

One thread for each vector of neighbouring channels of the result, 16 bytes where a pixel has a multiple of that.
Every number of the result is written once, and what it is made of is read once: up to 8 bytes for each float32 number.
Memory bounds it.
"""

import functools

import numpy as np

from . import tiles, toolkit
from .formulas import pixel_place, quotient
from .toolkit import cuda
from .vectors import read_vector, write_vector


def zero_pad2d(x, top, left, y):
    """The picture with `top` rows and `left` columns of zeros before it, and zeros up to the extent of y after it."""
    _move(x, -top, -left, y)


def crop2d(x, top, left, y):
    """The part of the picture that begins at row `top` and column `left`, as large as y."""
    _move(x, top, left, y)


def _move(x, top, left, y):
    real, extents = y.dtype.type, (*x.shape[1:3], *y.shape[1:3])
    channels, size = y.shape[3], y.size
    x, y = toolkit.address(x), toolkit.address(y)
    width = tiles.row_width(real, channels, x, y)
    sizes = (np.int32(extent) for extent in (top, left, *extents, channels // width, size // width))
    toolkit.launch(_window_kernel(real, width), *tiles.element_grid(size // width), x, *sizes, y)


@functools.cache
def _window_kernel(real, width):
    @cuda.jit(cache=True)
    def window_kernel(x, top, left, x_height, x_width, y_height, y_width, pixel_vectors, vectors, y):
        # y is a window onto x that begins at (top, left), with zeros where there is no x.
        values = cuda.local.array(width, real)
        vector = cuda.grid(1)
        while vector < vectors:
            pixel = quotient(vector, pixel_vectors)
            picture, i, j = pixel_place(pixel, y_height, y_width)
            u, v = i + top, j + left
            if u >= 0 and u < x_height and v >= 0 and v < x_width:
                origin = ((picture * x_height + u) * x_width + v) * pixel_vectors + (vector - pixel * pixel_vectors)
                read_vector(values, 0, x, origin * width, width)
            else:
                for k in range(width):
                    values[k] = real(0)
            write_vector(values, 0, y, vector * width, width)
            vector += cuda.gridsize(1)

    return window_kernel
