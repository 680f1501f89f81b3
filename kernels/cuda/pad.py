"""Zeros around the pictures, and the way back.

One thread for each cell of the result, consecutive threads on consecutive channels; bounded by memory
traffic: every input is read once, every output written once.
"""

import numpy as np

from . import tiles, toolkit
from .formulas import pixel_place, quotient
from .toolkit import cuda


def zero_pad2d(x, top, left, y):
    """The picture with `top` rows and `left` columns of zeros before it, and zeros up to the extent of y after it."""
    _move(x, -top, -left, y)


def crop2d(x, top, left, y):
    """The part of the picture that begins at row `top` and column `left`, as large as y."""
    _move(x, top, left, y)


def _move(x, top, left, y):
    blocks, threads = tiles.element_grid(y.size)
    toolkit.launch(_window, blocks, threads, x, np.int32(top), np.int32(left), y)


@cuda.jit(cache=True)
def _window(x, top, left, y):
    # y is a window onto x that begins at (top, left), with zeros where there is no x.
    place = cuda.grid(1)
    while place < y.size:
        pixel = quotient(place, y.shape[3])
        channel = place - pixel * y.shape[3]
        picture, i, j = pixel_place(pixel, y.shape[1], y.shape[2])
        u, v = i + top, j + left
        value = y.dtype.type(0)
        if u >= 0 and u < x.shape[1] and v >= 0 and v < x.shape[2]:
            value = x[picture, u, v, channel]
        y[picture, i, j, channel] = value
        place += cuda.gridsize(1)
