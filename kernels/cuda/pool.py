"""Max and average pooling, and their gradients.

One thread for each vector of neighbouring channels of the result, 16 bytes where a pixel has a multiple of that, so
that all reads and writes of a warp are runs of memory.  The numbers of the winning cells of a vector are one access,
too: four bytes beside 16 of `y`.  Each input is read once from memory, again from the cache where windows overlap.

Windows that tile the picture, as 2 x 2 cells in steps of 2 do, have a gradient of their own: one thread for each vector
of windows writes all cells of its window, and reads the window's gradient once.  Else the gradient is a gather: every
input cell looks up the windows that cover it, so that nothing is added up by more than one thread.

Memory bounds it.  Of 2 x 2 windows and float32 numbers, for each number of `y`: 16 bytes are read, 5 written; by the
gradient 5 read, 16 written.

Kernels are made for a floating type, the width of vectors and a window, which are constants to the compiler: loops over
the cells of a window unroll, and its reads are in flight together.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from . import tiles, toolkit
from .formulas import inline_early, pixel_place, quotient
from .toolkit import cuda
from .vectors import read_vector, write_vector


class Window(NamedTuple):
    """What a kernel is made for: the cells of a window, the steps between windows, the padding before the first."""

    height: int
    width: int
    step_height: int
    step_width: int
    pad_top: int
    pad_left: int
    padded: bool


def max_pool2d(x, geometry, y, winner):
    """The largest cell of each window, and its number in the window, row by row."""
    real, kind = y.dtype.type, winner.dtype.type
    x, y, winner = map(toolkit.address, (x, y, winner))
    width = tiles.row_width(real, geometry.channels, x, y, winner)
    problem = _problem(geometry, width)
    kernel = _max_pool2d_kernel(real, kind, width, problem.window)
    toolkit.launch(kernel, *tiles.element_grid(problem.outputs), x, *problem.extents, y, winner)


def max_pool2d_gradient(dy, winner, geometry, dx):
    """Each gradient goes to the cell that won."""
    real, kind = dx.dtype.type, winner.dtype.type
    dy, winner, dx = map(toolkit.address, (dy, winner, dx))
    width = tiles.row_width(real, geometry.channels, dy, winner, dx)
    problem = _problem(geometry, width)
    make = _tiled_max_gradient_kernel if problem.tiled else _max_pool2d_gradient_kernel
    kernel = make(real, kind, width, problem.window)
    toolkit.launch(kernel, *tiles.element_grid(problem.gradients), dy, winner, *problem.extents, dx)


def average_pool2d(x, geometry, y):
    """The mean of the real cells of each window."""
    real = y.dtype.type
    x, y = toolkit.address(x), toolkit.address(y)
    width = tiles.row_width(real, geometry.channels, x, y)
    problem = _problem(geometry, width)
    kernel = _average_pool2d_kernel(real, width, problem.window)
    toolkit.launch(kernel, *tiles.element_grid(problem.outputs), x, *problem.extents, y)


def average_pool2d_gradient(dy, geometry, dx):
    """Each gradient is shared out evenly among the real cells of its window."""
    real = dx.dtype.type
    dy, dx = toolkit.address(dy), toolkit.address(dx)
    width = tiles.row_width(real, geometry.channels, dy, dx)
    problem = _problem(geometry, width)
    make = _tiled_average_gradient_kernel if problem.tiled else _average_pool2d_gradient_kernel
    kernel = make(real, width, problem.window)
    toolkit.launch(kernel, *tiles.element_grid(problem.gradients), dy, *problem.extents, dx)


class Problem(NamedTuple):
    """What follows from a geometry and the width of vectors.

    `window` is what kernels are made for, `extents` what they are told: pictures, rows, columns, those of the output,
    vectors of a pixel.  `tiled` says whether every cell lies in one window, but for what is left over at the end.
    `outputs` and `gradients` count the threads of the kernels: vectors of the output; vectors of the input or, if
    tiled, of windows, those that reach beyond the end included.
    """

    window: Window
    extents: tuple
    tiled: bool
    outputs: int
    gradients: int


@functools.lru_cache(maxsize=1024)
def _problem(geometry, width):
    g, vectors = geometry, geometry.channels // width
    padded = any((g.pad_top, g.pad_bottom, g.pad_left, g.pad_right))
    window = Window(g.kernel_height, g.kernel_width, g.stride_height, g.stride_width, g.pad_top, g.pad_left, padded)
    extents = g.batch, g.height, g.width, g.out_height, g.out_width, vectors
    tiled = not padded and (g.stride_height, g.stride_width) == (g.kernel_height, g.kernel_width)
    high, wide = g.height, g.width
    if tiled:
        high, wide = tiles.blocks_for(g.height, g.kernel_height), tiles.blocks_for(g.width, g.kernel_width)
    outputs, gradients = g.out_height * g.out_width, high * wide
    return Problem(
        window, tuple(np.int32(extent) for extent in extents), tiled,
        g.batch * outputs * vectors, g.batch * gradients * vectors,
    )  # fmt: skip


@inline_early
def covering(cell, step, extent, windows):
    """The windows ``begin <= window < end`` that cover a cell on one axis, which is counted from the padding on."""
    begin = 0
    if cell >= extent:
        begin = quotient(cell - extent, step) + 1
    end = quotient(cell, step) + 1
    return begin, end if end < windows else windows


@inline_early
def real_cells(window, step, pad, extent, cells):
    """How many cells of a window lie in the picture on one axis, which has so many `cells`."""
    begin = window * step - pad
    end = begin + extent
    return (end if end < cells else cells) - (begin if begin > 0 else 0)


@functools.cache
def _max_pool2d_kernel(real, kind, width, window):
    window_height, window_width, step_height, step_width, pad_top, pad_left, padded = window

    @cuda.jit(cache=True)
    def max_pool2d_kernel(x, pictures, height, row, out_height, out_width, pixel_vectors, y, winner):
        values = cuda.local.array(width, real)
        best = cuda.local.array(width, real)
        cell = cuda.local.array(width, kind)
        vector = cuda.grid(1)
        while vector < pictures * out_height * out_width * pixel_vectors:
            pixel = quotient(vector, pixel_vectors)
            picture, i, j = pixel_place(pixel, out_height, out_width)
            top, left = i * step_height - pad_top, j * step_width - pad_left
            # Any cell but the first real one has to be larger than it, or than nothing, to win.
            first = 0
            if padded:
                first = (-top if top < 0 else 0) * window_width + (-left if left < 0 else 0)
            for k in range(width):
                best[k] = real(-math.inf)
                cell[k] = kind(first)
            for a in range(window_height):
                for b in range(window_width):
                    u, v = top + a, left + b
                    if not padded or (u >= 0 and u < height and v >= 0 and v < row):
                        place = ((picture * height + u) * row + v) * pixel_vectors + (vector - pixel * pixel_vectors)
                        read_vector(values, 0, x, place * width, width)
                        for k in range(width):
                            # The first of equal cells wins, and so does the first NaN.
                            if values[k] > best[k] or (values[k] != values[k] and best[k] == best[k]):
                                best[k] = values[k]
                                cell[k] = kind(a * window_width + b)
            write_vector(best, 0, y, vector * width, width)
            write_vector(cell, 0, winner, vector * width, width)
            vector += cuda.gridsize(1)

    return max_pool2d_kernel


@functools.cache
def _max_pool2d_gradient_kernel(real, kind, width, window):
    window_height, window_width, step_height, step_width, pad_top, pad_left, _ = window

    @cuda.jit(cache=True)
    def max_pool2d_gradient_kernel(dy, winner, pictures, height, row, out_height, out_width, pixel_vectors, dx):
        total = cuda.local.array(width, real)
        gradient = cuda.local.array(width, real)
        cell = cuda.local.array(width, kind)
        vector = cuda.grid(1)
        while vector < pictures * height * row * pixel_vectors:
            pixel = quotient(vector, pixel_vectors)
            picture, u, v = pixel_place(pixel, height, row)
            u, v = u + pad_top, v + pad_left
            first_i, last_i = covering(u, step_height, window_height, out_height)
            first_j, last_j = covering(v, step_width, window_width, out_width)
            for k in range(width):
                total[k] = real(0)
            for i in range(first_i, last_i):
                for j in range(first_j, last_j):
                    own = (u - i * step_height) * window_width + v - j * step_width
                    place = ((picture * out_height + i) * out_width + j) * pixel_vectors
                    place = (place + (vector - pixel * pixel_vectors)) * width
                    read_vector(gradient, 0, dy, place, width)
                    read_vector(cell, 0, winner, place, width)
                    for k in range(width):
                        if cell[k] == own:
                            total[k] += gradient[k]
            write_vector(total, 0, dx, vector * width, width)
            vector += cuda.gridsize(1)

    return max_pool2d_gradient_kernel


@functools.cache
def _tiled_max_gradient_kernel(real, kind, width, window):
    window_height, window_width = window[:2]

    @cuda.jit(cache=True)
    def tiled_max_gradient_kernel(dy, winner, pictures, height, row, out_height, out_width, pixel_vectors, dx):
        values = cuda.local.array(width, real)
        gradient = cuda.local.array(width, real)
        cell = cuda.local.array(width, kind)
        high = quotient(height + window_height - 1, window_height)
        wide = quotient(row + window_width - 1, window_width)
        vector = cuda.grid(1)
        while vector < pictures * high * wide * pixel_vectors:
            tile = quotient(vector, pixel_vectors)
            channels = vector - tile * pixel_vectors
            picture, i, j = pixel_place(tile, high, wide)
            # What is left over at the end has no winner.
            for k in range(width):
                gradient[k] = real(0)
                cell[k] = kind(0)
            if i < out_height and j < out_width:
                place = (((picture * out_height + i) * out_width + j) * pixel_vectors + channels) * width
                read_vector(gradient, 0, dy, place, width)
                read_vector(cell, 0, winner, place, width)
            for a in range(window_height):
                for b in range(window_width):
                    u, v = i * window_height + a, j * window_width + b
                    if u < height and v < row:
                        for k in range(width):
                            values[k] = gradient[k] if cell[k] == a * window_width + b else real(0)
                        place = ((picture * height + u) * row + v) * pixel_vectors + channels
                        write_vector(values, 0, dx, place * width, width)
            vector += cuda.gridsize(1)

    return tiled_max_gradient_kernel


@functools.cache
def _average_pool2d_kernel(real, width, window):
    window_height, window_width, step_height, step_width, pad_top, pad_left, padded = window

    @cuda.jit(cache=True)
    def average_pool2d_kernel(x, pictures, height, row, out_height, out_width, pixel_vectors, y):
        values = cuda.local.array(width, real)
        line = cuda.local.array(width, real)
        total = cuda.local.array(width, real)
        vector = cuda.grid(1)
        while vector < pictures * out_height * out_width * pixel_vectors:
            pixel = quotient(vector, pixel_vectors)
            picture, i, j = pixel_place(pixel, out_height, out_width)
            top, left = i * step_height - pad_top, j * step_width - pad_left
            for k in range(width):
                total[k] = real(0)
            for a in range(window_height):
                # Line by line, so that the mean of a large window keeps its digits.
                for k in range(width):
                    line[k] = real(0)
                for b in range(window_width):
                    u, v = top + a, left + b
                    if not padded or (u >= 0 and u < height and v >= 0 and v < row):
                        place = ((picture * height + u) * row + v) * pixel_vectors + (vector - pixel * pixel_vectors)
                        read_vector(values, 0, x, place * width, width)
                        for k in range(width):
                            line[k] += values[k]
                for k in range(width):
                    total[k] += line[k]
            cells = window_height * window_width
            if padded:
                cells = real_cells(i, step_height, pad_top, window_height, height)
                cells *= real_cells(j, step_width, pad_left, window_width, row)
            for k in range(width):
                total[k] /= real(cells)
            write_vector(total, 0, y, vector * width, width)
            vector += cuda.gridsize(1)

    return average_pool2d_kernel


@functools.cache
def _average_pool2d_gradient_kernel(real, width, window):
    window_height, window_width, step_height, step_width, pad_top, pad_left, _ = window

    @cuda.jit(cache=True)
    def average_pool2d_gradient_kernel(dy, pictures, height, row, out_height, out_width, pixel_vectors, dx):
        total = cuda.local.array(width, real)
        gradient = cuda.local.array(width, real)
        vector = cuda.grid(1)
        while vector < pictures * height * row * pixel_vectors:
            pixel = quotient(vector, pixel_vectors)
            picture, u, v = pixel_place(pixel, height, row)
            first_i, last_i = covering(u + pad_top, step_height, window_height, out_height)
            first_j, last_j = covering(v + pad_left, step_width, window_width, out_width)
            for k in range(width):
                total[k] = real(0)
            for i in range(first_i, last_i):
                cells_high = real_cells(i, step_height, pad_top, window_height, height)
                for j in range(first_j, last_j):
                    cells = cells_high * real_cells(j, step_width, pad_left, window_width, row)
                    place = ((picture * out_height + i) * out_width + j) * pixel_vectors
                    place = (place + (vector - pixel * pixel_vectors)) * width
                    read_vector(gradient, 0, dy, place, width)
                    for k in range(width):
                        total[k] += gradient[k] / real(cells)
            write_vector(total, 0, dx, vector * width, width)
            vector += cuda.gridsize(1)

    return average_pool2d_gradient_kernel


@functools.cache
def _tiled_average_gradient_kernel(real, width, window):
    window_height, window_width = window[:2]

    @cuda.jit(cache=True)
    def tiled_average_gradient_kernel(dy, pictures, height, row, out_height, out_width, pixel_vectors, dx):
        gradient = cuda.local.array(width, real)
        high = quotient(height + window_height - 1, window_height)
        wide = quotient(row + window_width - 1, window_width)
        vector = cuda.grid(1)
        while vector < pictures * high * wide * pixel_vectors:
            tile = quotient(vector, pixel_vectors)
            channels = vector - tile * pixel_vectors
            picture, i, j = pixel_place(tile, high, wide)
            # What is left over at the end has no window.
            for k in range(width):
                gradient[k] = real(0)
            if i < out_height and j < out_width:
                place = ((picture * out_height + i) * out_width + j) * pixel_vectors + channels
                read_vector(gradient, 0, dy, place * width, width)
                for k in range(width):
                    gradient[k] /= real(window_height * window_width)
            for a in range(window_height):
                for b in range(window_width):
                    u, v = i * window_height + a, j * window_width + b
                    if u < height and v < row:
                        place = ((picture * height + u) * row + v) * pixel_vectors + channels
                        write_vector(gradient, 0, dx, place * width, width)
            vector += cuda.gridsize(1)

    return tiled_average_gradient_kernel
