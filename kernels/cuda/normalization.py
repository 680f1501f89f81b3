"""Batch normalization, on x as a matrix (rows, channels).

Sums over columns: a block owns 32 neighbouring columns, so that a warp reads 32 neighbouring words; its
lanes take every 16th row each, and their partial sums are added in a fixed order in shared memory.
What is left is elementwise.  All of it is bounded by memory traffic, and with few channels by how few blocks
there are.
"""

import math

from . import tiles, toolkit
from .formulas import quotient
from .toolkit import cuda

COLUMNS, LANES = tiles.COLUMNS_OF_BLOCK, tiles.COLUMN_LANES


def batch_moments(x, mean, variance):
    """Mean and variance (over all rows, not rows - 1) of each column, in two passes."""
    blocks, threads = tiles.column_grid(x.shape[1])
    toolkit.launch(_batch_moments, blocks, threads, x, mean, variance)


def normalize(x, mean, variance, gamma, beta, epsilon, y):
    """``y = gamma (x - mean) / sqrt(variance + epsilon) + beta``."""
    x, y = toolkit.flat(x), toolkit.flat(y)
    real = y.dtype.type
    blocks, threads = tiles.element_grid(y.size)
    toolkit.launch(_normalize, blocks, threads, x, mean, variance, gamma, beta, real(epsilon), y)


def batch_normalization_gradient(x, mean, variance, gamma, dy, epsilon, dx, dgamma, dbeta):
    """The gradients of `normalize` when mean and variance are those of `x` itself."""
    real = dx.dtype.type
    blocks, threads = tiles.column_grid(x.shape[1])
    toolkit.launch(_column_gradients, blocks, threads, x, mean, variance, dy, real(epsilon), dgamma, dbeta)
    blocks, threads = tiles.element_grid(dx.size)
    rows = real(x.shape[0])
    x, dy, dx = (toolkit.flat(array) for array in (x, dy, dx))
    toolkit.launch(
        _input_gradient, blocks, threads, x, mean, variance, gamma, dy, real(epsilon), rows, dgamma, dbeta, dx
    )


def moving_average(new, momentum, average):
    """``average = momentum * average + (1 - momentum) * new``."""
    new, average = toolkit.flat(new), toolkit.flat(average)
    real = average.dtype.type
    blocks, threads = tiles.element_grid(average.size)
    toolkit.launch(_moving_average, blocks, threads, new, real(momentum), real(1 - momentum), average)


@cuda.jit(cache=True)
def _batch_moments(x, mean, variance):
    real = x.dtype.type
    partial = cuda.shared.array((LANES, COLUMNS), x.dtype)
    column_of_block, lane = cuda.threadIdx.x, cuda.threadIdx.y
    column = cuda.blockIdx.x * COLUMNS + column_of_block
    rows = x.shape[0]
    # Threads past the last column have no rows to work on, but take part in every barrier.
    end = rows if column < x.shape[1] else 0

    total = real(0)
    for row in range(lane, end, LANES):
        total += x[row, column]
    partial[lane, column_of_block] = total
    cuda.syncthreads()
    total = real(0)
    for k in range(LANES):
        total += partial[k, column_of_block]
    average = total / real(rows)
    cuda.syncthreads()

    total = real(0)
    for row in range(lane, end, LANES):
        total += (x[row, column] - average) * (x[row, column] - average)
    partial[lane, column_of_block] = total
    cuda.syncthreads()
    if lane == 0 and column < x.shape[1]:
        total = real(0)
        for k in range(LANES):
            total += partial[k, column_of_block]
        mean[column] = average
        variance[column] = total / real(rows)


@cuda.jit(cache=True)
def _normalize(x, mean, variance, gamma, beta, epsilon, y):
    real = x.dtype.type
    i = cuda.grid(1)
    while i < y.size:
        column = i - quotient(i, mean.size) * mean.size
        deviation = real(math.sqrt(variance[column] + epsilon))
        y[i] = gamma[column] * ((x[i] - mean[column]) / deviation) + beta[column]
        i += cuda.gridsize(1)


@cuda.jit(cache=True)
def _column_gradients(x, mean, variance, dy, epsilon, dgamma, dbeta):
    real = x.dtype.type
    gamma_partial = cuda.shared.array((LANES, COLUMNS), x.dtype)
    beta_partial = cuda.shared.array((LANES, COLUMNS), x.dtype)
    column_of_block, lane = cuda.threadIdx.x, cuda.threadIdx.y
    column = cuda.blockIdx.x * COLUMNS + column_of_block
    end = x.shape[0] if column < x.shape[1] else 0

    gamma_sum, beta_sum = real(0), real(0)
    for row in range(lane, end, LANES):
        gamma_sum += dy[row, column] * (x[row, column] - mean[column])
        beta_sum += dy[row, column]
    gamma_partial[lane, column_of_block] = gamma_sum
    beta_partial[lane, column_of_block] = beta_sum
    cuda.syncthreads()
    if lane == 0 and column < x.shape[1]:
        gamma_sum, beta_sum = real(0), real(0)
        for k in range(LANES):
            gamma_sum += gamma_partial[k, column_of_block]
            beta_sum += beta_partial[k, column_of_block]
        dgamma[column] = gamma_sum / real(math.sqrt(variance[column] + epsilon))
        dbeta[column] = beta_sum


@cuda.jit(cache=True)
def _input_gradient(x, mean, variance, gamma, dy, epsilon, rows, dgamma, dbeta, dx):
    # What dy does by way of the mean (dbeta) and of the variance (dgamma) is taken off.
    real = x.dtype.type
    i = cuda.grid(1)
    while i < dx.size:
        column = i - quotient(i, mean.size) * mean.size
        deviation = real(math.sqrt(variance[column] + epsilon))
        normalized = (x[i] - mean[column]) / deviation
        shared_part = (dbeta[column] + normalized * dgamma[column]) / rows
        dx[i] = gamma[column] / deviation * (dy[i] - shared_part)
        i += cuda.gridsize(1)


@cuda.jit(cache=True)
def _moving_average(new, momentum, rest, average):
    i = cuda.grid(1)
    while i < average.size:
        average[i] = momentum * average[i] + rest * new[i]
        i += cuda.gridsize(1)
