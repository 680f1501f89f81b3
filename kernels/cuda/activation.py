"""Activations, elementwise and softmax by row.

Elementwise kernels: one thread for each element, in strides of the grid; neighbouring threads on neighbouring
elements.  Softmax: one warp for each row, its lanes on neighbouring columns, partial results in shared
memory.  All are bounded by memory traffic: the rows of softmax are read three times, but from the cache
after the first.
"""

import math

import numpy as np

from . import formulas, tiles, toolkit
from .formulas import largest_of_row, sum_of_row
from .toolkit import cuda

ROWS, LANES = tiles.ROWS_OF_BLOCK, tiles.ROW_LANES


def activate(x, activation, alpha, y):
    """The activation numbered `activation`, elementwise."""
    x, y = toolkit.flat(x), toolkit.flat(y)
    blocks, threads = tiles.element_grid(y.size)
    toolkit.launch(_activate, blocks, threads, x, np.int32(activation), y.dtype.type(alpha), y)


def activate_gradient(x, dy, activation, alpha, dx):
    """``dx = dy * activation'(x)``."""
    x, dy, dx = (toolkit.flat(array) for array in (x, dy, dx))
    blocks, threads = tiles.element_grid(dx.size)
    toolkit.launch(_activate_gradient, blocks, threads, x, dy, np.int32(activation), dx.dtype.type(alpha), dx)


def relu(x, negative_slope, max_value, threshold, y):
    """Keras's general ReLU."""
    x, y = toolkit.flat(x), toolkit.flat(y)
    real = y.dtype.type
    blocks, threads = tiles.element_grid(y.size)
    toolkit.launch(_relu, blocks, threads, x, real(negative_slope), real(max_value), real(threshold), y)


def relu_gradient(x, dy, negative_slope, max_value, threshold, dx):
    """``dx = dy * relu'(x)``."""
    x, dy, dx = (toolkit.flat(array) for array in (x, dy, dx))
    real = dx.dtype.type
    blocks, threads = tiles.element_grid(dx.size)
    parameters = real(negative_slope), real(max_value), real(threshold)
    toolkit.launch(_relu_gradient, blocks, threads, x, dy, *parameters, dx)


def softmax(x, y):
    """Softmax of each row, from its distance to the row's maximum: nothing can overflow."""
    blocks, threads = tiles.row_grid(x.shape[0])
    toolkit.launch(_softmax, blocks, threads, x, y)


def softmax_gradient(y, dy, dx):
    """``dx = y * (dy - sum(dy * y))`` of each row, from the softmax y."""
    blocks, threads = tiles.row_grid(y.shape[0])
    toolkit.launch(_softmax_gradient, blocks, threads, y, dy, dx)


@cuda.jit(cache=True)
def _activate(x, activation, alpha, y):
    i = cuda.grid(1)
    while i < y.size:
        y[i] = formulas.activate(activation, alpha, x[i])
        i += cuda.gridsize(1)


@cuda.jit(cache=True)
def _activate_gradient(x, dy, activation, alpha, dx):
    i = cuda.grid(1)
    while i < dx.size:
        dx[i] = dy[i] * formulas.slope(activation, alpha, x[i])
        i += cuda.gridsize(1)


@cuda.jit(cache=True)
def _relu(x, negative_slope, max_value, threshold, y):
    i = cuda.grid(1)
    while i < y.size:
        y[i] = formulas.clip_relu(negative_slope, max_value, threshold, x[i])
        i += cuda.gridsize(1)


@cuda.jit(cache=True)
def _relu_gradient(x, dy, negative_slope, max_value, threshold, dx):
    i = cuda.grid(1)
    while i < dx.size:
        dx[i] = dy[i] * formulas.clip_relu_slope(negative_slope, max_value, threshold, x[i])
        i += cuda.gridsize(1)


@cuda.jit(cache=True)
def _softmax(x, y):
    real = x.dtype.type
    partial = cuda.shared.array((ROWS, LANES), x.dtype)
    lane, row_of_block = cuda.threadIdx.x, cuda.threadIdx.y
    rows, columns = x.shape
    first_row = cuda.blockIdx.x * ROWS
    while first_row < rows:
        # Lanes past the last row have no columns to work on, but take part in every barrier.
        row = first_row + row_of_block
        end = columns if row < rows else 0

        largest = real(-math.inf)
        for column in range(lane, end, LANES):
            largest = formulas.larger(largest, x[row, column])
        partial[row_of_block, lane] = largest
        cuda.syncthreads()
        largest = largest_of_row(partial, row_of_block)
        cuda.syncthreads()

        total = real(0)
        for column in range(lane, end, LANES):
            total += real(math.exp(x[row, column] - largest))
        partial[row_of_block, lane] = total
        cuda.syncthreads()
        total = sum_of_row(partial, row_of_block)
        cuda.syncthreads()

        for column in range(lane, end, LANES):
            y[row, column] = real(math.exp(x[row, column] - largest)) / total
        first_row += cuda.gridDim.x * ROWS


@cuda.jit(cache=True)
def _softmax_gradient(y, dy, dx):
    real = y.dtype.type
    partial = cuda.shared.array((ROWS, LANES), y.dtype)
    lane, row_of_block = cuda.threadIdx.x, cuda.threadIdx.y
    rows, columns = y.shape
    first_row = cuda.blockIdx.x * ROWS
    while first_row < rows:
        row = first_row + row_of_block
        end = columns if row < rows else 0

        total = real(0)
        for column in range(lane, end, LANES):
            total += dy[row, column] * y[row, column]
        partial[row_of_block, lane] = total
        cuda.syncthreads()
        total = sum_of_row(partial, row_of_block)
        cuda.syncthreads()

        for column in range(lane, end, LANES):
            dx[row, column] = y[row, column] * (dy[row, column] - total)
        first_row += cuda.gridDim.x * ROWS
