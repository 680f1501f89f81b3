"""Max and average pooling, and their gradients.

One thread for each cell of the result, consecutive threads on consecutive channels, so that every
read and write of a warp is a run of neighbouring words.  Each input is read once from memory, by as many
threads from the cache as windows overlap; the gradients are gathers, in which every input cell looks up
the windows that cover it, so that nothing is added up by more than one thread.

What bounds it: memory traffic alone.  The number of the winning cell takes one byte beside four of `y`.
"""

from ..geometry import int32_geometry
from . import tiles, toolkit
from .formulas import inline, pixel_place, quotient
from .toolkit import cuda


def max_pool2d(x, geometry, y, winner):
    """The largest cell of each window, and its number in the window, row by row."""
    x, y, winner = (toolkit.flat(array) for array in (x, y, winner))
    blocks, threads = tiles.element_grid(y.size)
    g = int32_geometry(geometry)
    toolkit.launch(_max_pool2d, blocks, threads, x, g, y, winner)


def max_pool2d_gradient(dy, winner, geometry, dx):
    """Each gradient goes to the cell that won."""
    dy, winner, dx = (toolkit.flat(array) for array in (dy, winner, dx))
    blocks, threads = tiles.element_grid(dx.size)
    toolkit.launch(_max_pool2d_gradient, blocks, threads, dy, winner, int32_geometry(geometry), dx)


def average_pool2d(x, geometry, y):
    """The mean of the real cells of each window."""
    x, y = toolkit.flat(x), toolkit.flat(y)
    blocks, threads = tiles.element_grid(y.size)
    toolkit.launch(_average_pool2d, blocks, threads, x, int32_geometry(geometry), y)


def average_pool2d_gradient(dy, geometry, dx):
    """Each gradient is shared out evenly among the real cells of its window."""
    dy, dx = toolkit.flat(dy), toolkit.flat(dx)
    blocks, threads = tiles.element_grid(dx.size)
    toolkit.launch(_average_pool2d_gradient, blocks, threads, dy, int32_geometry(geometry), dx)


@inline
def covered(window, stride, pad, extent, cells):
    """The real cells ``begin <= cell < end`` that a window covers on one axis, `extent` wide, of `cells` cells."""
    begin = window * stride - pad
    end = begin + extent
    return begin if begin > 0 else 0, end if end < cells else cells


@inline
def covering(cell, stride, pad, extent, windows):
    """The windows ``begin <= window < end`` that cover a cell on one axis."""
    last_begin = cell + pad
    begin = 0
    if last_begin >= extent:
        begin = quotient(last_begin - extent, stride) + 1
    end = quotient(last_begin, stride) + 1
    return begin, end if end < windows else windows


@cuda.jit(cache=True)
def _max_pool2d(x, g, y, winner):
    place = cuda.grid(1)
    while place < y.size:
        pixel = quotient(place, g.channels)
        channel = place - pixel * g.channels
        picture, i, j = pixel_place(pixel, g.out_height, g.out_width)
        top, bottom = covered(i, g.stride_height, g.pad_top, g.kernel_height, g.height)
        left, right = covered(j, g.stride_width, g.pad_left, g.kernel_width, g.width)
        first_row = i * g.stride_height - g.pad_top
        first_column = j * g.stride_width - g.pad_left
        best = x[((picture * g.height + top) * g.width + left) * g.channels + channel]
        best_u, best_v = top, left
        for u in range(top, bottom):
            for v in range(left, right):
                value = x[((picture * g.height + u) * g.width + v) * g.channels + channel]
                # The first of equal cells wins, and so does the first NaN.
                if value > best or (value != value and best == best):
                    best, best_u, best_v = value, u, v
        y[place] = best
        winner[place] = winner.dtype.type((best_u - first_row) * g.kernel_width + best_v - first_column)
        place += cuda.gridsize(1)


@cuda.jit(cache=True)
def _max_pool2d_gradient(dy, winner, g, dx):
    place = cuda.grid(1)
    while place < dx.size:
        pixel = quotient(place, g.channels)
        channel = place - pixel * g.channels
        picture, u, v = pixel_place(pixel, g.height, g.width)
        first_i, last_i = covering(u, g.stride_height, g.pad_top, g.kernel_height, g.out_height)
        first_j, last_j = covering(v, g.stride_width, g.pad_left, g.kernel_width, g.out_width)
        total = dx.dtype.type(0)
        for i in range(first_i, last_i):
            for j in range(first_j, last_j):
                a = u + g.pad_top - i * g.stride_height
                b = v + g.pad_left - j * g.stride_width
                window = ((picture * g.out_height + i) * g.out_width + j) * g.channels + channel
                if winner[window] == a * g.kernel_width + b:
                    total += dy[window]
        dx[place] = total
        place += cuda.gridsize(1)


@cuda.jit(cache=True)
def _average_pool2d(x, g, y):
    real = y.dtype.type
    place = cuda.grid(1)
    while place < y.size:
        pixel = quotient(place, g.channels)
        channel = place - pixel * g.channels
        picture, i, j = pixel_place(pixel, g.out_height, g.out_width)
        top, bottom = covered(i, g.stride_height, g.pad_top, g.kernel_height, g.height)
        left, right = covered(j, g.stride_width, g.pad_left, g.kernel_width, g.width)
        total = real(0)
        for u in range(top, bottom):
            # Line by line, so that the mean of a large window keeps its digits.
            line = real(0)
            for v in range(left, right):
                line += x[((picture * g.height + u) * g.width + v) * g.channels + channel]
            total += line
        y[place] = total / real((bottom - top) * (right - left))
        place += cuda.gridsize(1)


@cuda.jit(cache=True)
def _average_pool2d_gradient(dy, g, dx):
    real = dx.dtype.type
    place = cuda.grid(1)
    while place < dx.size:
        pixel = quotient(place, g.channels)
        channel = place - pixel * g.channels
        picture, u, v = pixel_place(pixel, g.height, g.width)
        first_i, last_i = covering(u, g.stride_height, g.pad_top, g.kernel_height, g.out_height)
        first_j, last_j = covering(v, g.stride_width, g.pad_left, g.kernel_width, g.out_width)
        total = real(0)
        for i in range(first_i, last_i):
            top, bottom = covered(i, g.stride_height, g.pad_top, g.kernel_height, g.height)
            for j in range(first_j, last_j):
                left, right = covered(j, g.stride_width, g.pad_left, g.kernel_width, g.width)
                window = ((picture * g.out_height + i) * g.out_width + j) * g.channels + channel
                total += dy[window] / real((bottom - top) * (right - left))
        dx[place] = total
        place += cuda.gridsize(1)
