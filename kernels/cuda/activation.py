"""Activations, elementwise and softmax by row.

Elementwise kernels: one thread for each vector of 16 bytes, in strides of the grid.  They read and write each number
once (`activate`: 8 bytes for each float32 number, a gradient 12), and memory is what bounds them.

Softmax: `rows` describes how rows are shared among lanes.  Each number is read and written once (8 bytes, the gradient
12), unless a row is longer than what its lanes hold, 512 columns: then it is read three times (the gradient two times),
from the cache after the first.  Memory bounds it, and for the few classes of a classifier the time that any launch
takes.

Kernels are made for a floating type, a width of the vectors and an activation, which are constants to the compiler.
"""

import functools
import math

import numpy as np

from . import formulas, tiles, toolkit
from .lanes import sum_of_lanes
from .rows import read_largest, read_powers, read_row, row_of_lane, write_row
from .toolkit import cuda
from .vectors import read_part, write_part


def activate(x, activation, alpha, y):
    """The activation numbered `activation`, elementwise."""
    real, size = y.dtype.type, y.size
    x, y = toolkit.address(x), toolkit.address(y)
    width = tiles.vector_width(real, x, y)
    kernel = _activate_kernel(real, width, int(activation))
    toolkit.launch(kernel, *tiles.vector_grid(size, width), x, real(alpha), np.int32(size), y)


def activate_gradient(x, dy, activation, alpha, dx):
    """``dx = dy * activation'(x)``."""
    real, size = dx.dtype.type, dx.size
    x, dy, dx = toolkit.address(x), toolkit.address(dy), toolkit.address(dx)
    width = tiles.vector_width(real, x, dy, dx)
    kernel = _activate_gradient_kernel(real, width, int(activation))
    toolkit.launch(kernel, *tiles.vector_grid(size, width), x, dy, real(alpha), np.int32(size), dx)


def relu(x, negative_slope, max_value, threshold, y):
    """Keras's general ReLU."""
    real, size = y.dtype.type, y.size
    x, y = toolkit.address(x), toolkit.address(y)
    width = tiles.vector_width(real, x, y)
    parameters = real(negative_slope), real(max_value), real(threshold)
    toolkit.launch(_relu_kernel(real, width), *tiles.vector_grid(size, width), x, *parameters, np.int32(size), y)


def relu_gradient(x, dy, negative_slope, max_value, threshold, dx):
    """``dx = dy * relu'(x)``."""
    real, size = dx.dtype.type, dx.size
    x, dy, dx = toolkit.address(x), toolkit.address(dy), toolkit.address(dx)
    width = tiles.vector_width(real, x, dy, dx)
    parameters = real(negative_slope), real(max_value), real(threshold)
    kernel = _relu_gradient_kernel(real, width)
    toolkit.launch(kernel, *tiles.vector_grid(size, width), x, dy, *parameters, np.int32(size), dx)


def softmax(x, y):
    """Softmax of each row, from its distance to the row's maximum: nothing can overflow."""
    real, (rows, columns) = y.dtype.type, y.shape
    x, y = toolkit.address(x), toolkit.address(y)
    tile = tiles.row_tile(real, columns, x, y)
    kernel = _softmax_kernel(real, tile)
    toolkit.launch(kernel, *tiles.row_grid(rows, tile), x, np.int32(rows), np.int32(columns), y)


def softmax_gradient(y, dy, dx):
    """``dx = y * (dy - sum(dy * y))`` of each row, from the softmax y."""
    real, (rows, columns) = dx.dtype.type, dx.shape
    y, dy, dx = toolkit.address(y), toolkit.address(dy), toolkit.address(dx)
    tile = tiles.row_tile(real, columns, y, dy, dx)
    kernel = _softmax_gradient_kernel(real, tile)
    toolkit.launch(kernel, *tiles.row_grid(rows, tile), y, dy, np.int32(rows), np.int32(columns), dx)


@functools.cache
def _activate_kernel(real, width, activation):
    @cuda.jit(cache=True)
    def activate_kernel(x, alpha, size, y):
        z = cuda.local.array(width, real)
        place = cuda.grid(1) * width
        while place < size:
            read_part(z, 0, x, place, size, real(0), width)
            for k in range(width):
                z[k] = formulas.activate(activation, alpha, z[k])
            write_part(z, 0, y, place, size, width)
            place += cuda.gridsize(1) * width

    return activate_kernel


@functools.cache
def _activate_gradient_kernel(real, width, activation):
    @cuda.jit(cache=True)
    def activate_gradient_kernel(x, dy, alpha, size, dx):
        z = cuda.local.array(width, real)
        gradient = cuda.local.array(width, real)
        place = cuda.grid(1) * width
        while place < size:
            read_part(z, 0, x, place, size, real(0), width)
            read_part(gradient, 0, dy, place, size, real(0), width)
            for k in range(width):
                gradient[k] *= formulas.slope(activation, alpha, z[k])
            write_part(gradient, 0, dx, place, size, width)
            place += cuda.gridsize(1) * width

    return activate_gradient_kernel


@functools.cache
def _relu_kernel(real, width):
    @cuda.jit(cache=True)
    def relu_kernel(x, negative_slope, max_value, threshold, size, y):
        z = cuda.local.array(width, real)
        place = cuda.grid(1) * width
        while place < size:
            read_part(z, 0, x, place, size, real(0), width)
            for k in range(width):
                z[k] = formulas.clip_relu(negative_slope, max_value, threshold, z[k])
            write_part(z, 0, y, place, size, width)
            place += cuda.gridsize(1) * width

    return relu_kernel


@functools.cache
def _relu_gradient_kernel(real, width):
    @cuda.jit(cache=True)
    def relu_gradient_kernel(x, dy, negative_slope, max_value, threshold, size, dx):
        z = cuda.local.array(width, real)
        gradient = cuda.local.array(width, real)
        place = cuda.grid(1) * width
        while place < size:
            read_part(z, 0, x, place, size, real(0), width)
            read_part(gradient, 0, dy, place, size, real(0), width)
            for k in range(width):
                gradient[k] *= formulas.clip_relu_slope(negative_slope, max_value, threshold, z[k])
            write_part(gradient, 0, dx, place, size, width)
            place += cuda.gridsize(1) * width

    return relu_gradient_kernel


@functools.cache
def _softmax_kernel(real, t):
    held, width = t.held, t.width

    @cuda.jit(cache=True)
    def softmax_kernel(x, rows, columns, y):
        z = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * t.rows
        while first_row < rows:
            _, begin, end, write_end = row_of_lane(first_row, rows, columns, width)

            largest = read_largest(z, x, begin, end, width, t)

            total = real(0)
            for first in range(0, t.covered, t.chunk):
                if t.covered > t.chunk:
                    read_row(z, x, begin + first, end, real(-math.inf), width, t)
                for k in range(held):
                    z[k] = real(math.exp(z[k] - largest))
                    total += z[k]
            scale = real(1) / sum_of_lanes(total, t.lanes)

            for first in range(0, t.covered, t.chunk):
                if t.covered > t.chunk:
                    read_powers(z, x, begin + first, end, largest, width, t)
                for k in range(held):
                    z[k] *= scale
                write_row(z, y, begin + first, write_end, width, t)
            first_row += cuda.gridDim.x * t.rows

    return softmax_kernel


@functools.cache
def _softmax_gradient_kernel(real, t):
    held, width = t.held, t.width

    @cuda.jit(cache=True)
    def softmax_gradient_kernel(y, dy, rows, columns, dx):
        value = cuda.local.array(held, real)
        gradient = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * t.rows
        while first_row < rows:
            _, begin, end, write_end = row_of_lane(first_row, rows, columns, width)

            total = real(0)
            for first in range(0, t.covered, t.chunk):
                read_row(value, y, begin + first, end, real(0), width, t)
                read_row(gradient, dy, begin + first, end, real(0), width, t)
                for k in range(held):
                    total += gradient[k] * value[k]
            total = sum_of_lanes(total, t.lanes)

            for first in range(0, t.covered, t.chunk):
                if t.covered > t.chunk:
                    read_row(value, y, begin + first, end, real(0), width, t)
                    read_row(gradient, dy, begin + first, end, real(0), width, t)
                for k in range(held):
                    gradient[k] = value[k] * (gradient[k] - total)
                write_row(gradient, dx, begin + first, write_end, width, t)
            first_row += cuda.gridDim.x * t.rows

    return softmax_gradient_kernel
