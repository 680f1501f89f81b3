"""Batch normalization, on x as a matrix (rows, channels).

Everything here goes down columns.  A block owns up to 32 neighbouring columns, a lane one vector of them, so that each
row of a block is one run of memory; the rows of a chunk are dealt out among the rows of the block.  What a lane needs
of its columns (mean, deviation, gamma, beta) it reads once and keeps.

Sums over a column go in a fixed order: each lane adds up its own rows; lanes of a warp that have the same columns add
their sums by shuffles, warps by shared memory.  Where the rows are many, they are split into chunks, whose sums
another kernel adds, one warp for each column.

Memory traffic, for each float32 number: `batch_moments` reads 4 bytes, `normalize` reads 4 and writes 4,
`batch_normalization_gradient` reads x and dy for the sums and once more for dx: 20 bytes.  Memory bounds all of them.
"""

import functools
import math

import numpy as np

from . import tiles, toolkit
from .formulas import inline
from .lanes import exchange, sum_of_lanes
from .toolkit import cuda
from .vectors import read, read_part, read_vector, write, write_part, write_vector

WARP = tiles.WARP


def batch_moments(x, mean, variance):
    """Mean and variance (over all rows, not rows - 1) of each column, in one pass."""
    real, (rows, columns) = x.dtype.type, x.shape
    x, mean, variance = map(toolkit.address, (x, mean, variance))
    tile = tiles.column_tile(real, columns, x)
    blocks, threads, chunk = tiles.column_grid(rows, columns, tile)
    chunks = blocks[1]
    sizes = np.int32(rows), np.int32(columns), np.int32(chunk), np.int32(chunks)
    if chunks == 1:
        toolkit.launch(_moments_kernel(real, tile), blocks, threads, x, *sizes, mean, variance)
        return
    parts = toolkit.workspace(2 * chunks * columns, real)
    of_chunks = toolkit.address(parts), toolkit.address(parts, chunks * columns)
    toolkit.launch(_moments_kernel(real, tile), blocks, threads, x, *sizes, *of_chunks)
    toolkit.launch(_merge_moments_kernel(real), *tiles.warp_grid(columns), *of_chunks, *sizes, mean, variance)


def normalize(x, mean, variance, gamma, beta, epsilon, y):
    """``y = gamma (x - mean) / sqrt(variance + epsilon) + beta``."""
    real, (rows, columns) = y.dtype.type, y.shape
    x, mean, variance, gamma, beta, y = map(toolkit.address, (x, mean, variance, gamma, beta, y))
    tile = tiles.column_tile(real, columns, x, mean, variance, gamma, beta, y)
    blocks, threads, chunk = tiles.column_grid(rows, columns, tile)
    sizes = np.int32(rows), np.int32(columns), np.int32(chunk)
    kernel = _normalize_kernel(real, tile)
    toolkit.launch(kernel, blocks, threads, x, mean, variance, gamma, beta, real(epsilon), *sizes, y)


def batch_normalization_gradient(x, mean, variance, gamma, dy, epsilon, dx, dgamma, dbeta):
    """The gradients of `normalize` when mean and variance are those of `x` itself."""
    real, (rows, columns) = dx.dtype.type, dx.shape
    arrays = x, mean, variance, gamma, dy, dx, dgamma, dbeta
    x, mean, variance, gamma, dy, dx, dgamma, dbeta = addresses = tuple(map(toolkit.address, arrays))
    tile = tiles.column_tile(real, columns, *addresses)
    blocks, threads, chunk = tiles.column_grid(rows, columns, tile)
    chunks = blocks[1]
    sizes = np.int32(rows), np.int32(columns), np.int32(chunk), np.int32(chunks)
    sums = dgamma, dbeta
    if chunks > 1:
        parts = toolkit.workspace(2 * chunks * columns, real)
        sums = toolkit.address(parts), toolkit.address(parts, chunks * columns)
    kernel = _column_gradients_kernel(real, tile)
    toolkit.launch(kernel, blocks, threads, x, mean, variance, dy, real(epsilon), *sizes, *sums)
    if chunks > 1:
        kernel = _add_chunks_kernel(real)
        toolkit.launch(kernel, *tiles.warp_grid(columns), *sums, np.int32(columns), np.int32(chunks), dgamma, dbeta)
    inputs = x, mean, variance, gamma, dy, real(epsilon), *sizes[:3], dgamma, dbeta
    toolkit.launch(_input_gradient_kernel(real, tile), blocks, threads, *inputs, dx)


def moving_average(new, momentum, average):
    """``average = momentum * average + (1 - momentum) * new``."""
    real, size = average.dtype.type, average.size
    new, average = toolkit.address(new), toolkit.address(average)
    width = tiles.vector_width(real, new, average)
    kernel = _moving_average_kernel(real, width)
    shares = real(momentum), real(1 - momentum)
    toolkit.launch(kernel, *tiles.vector_grid(size, width), new, *shares, np.int32(size), average)


@inline
def merged_squares(count, total, squares, other_count, other_total, other_squares):
    """The sum of the squared distances from the mean of two sets together, from counts, sums and those of each.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    """
    if count == type(total)(0):
        return other_squares
    if other_count == type(total)(0):
        return squares
    distance = total / count - other_total / other_count
    return squares + other_squares + distance * distance * (count * (other_count / (count + other_count)))


@functools.cache
def _moments_kernel(real, tile):
    lanes, rows_of_block, width = tile
    columns_of_block, warps = lanes * width, tile.warps

    @cuda.jit(cache=True)
    def moments_kernel(x, rows, columns, chunk, chunks, means, variances):
        # For each column of the block and each warp, what the warp knows of it.
        counts = cuda.shared.array((warps, columns_of_block), real)
        totals = cuda.shared.array((warps, columns_of_block), real)
        squares = cuda.shared.array((warps, columns_of_block), real)
        values = cuda.local.array(width, real)
        total = cuda.local.array(width, real)
        square = cuda.local.array(width, real)
        lane, row_of_block = cuda.threadIdx.x, cuda.threadIdx.y
        column = cuda.blockIdx.x * columns_of_block + lane * width
        for k in range(width):
            total[k] = real(0)
            square[k] = real(0)
        # Lanes without columns have no rows to work on, but take part in every exchange and barrier.
        row = cuda.blockIdx.y * chunk + row_of_block
        end = (cuda.blockIdx.y + 1) * chunk
        count, share = real(0), real(0)
        while row < end and row < rows and column < columns:
            read_vector(values, 0, x, row * columns + column, width)
            # Welford (1962): distances from the mean of the numbers so far, and from the mean with the new one.
            last_share = share
            count += real(1)
            share = real(1) / count
            for k in range(width):
                before = values[k] - total[k] * last_share
                total[k] += values[k]
                square[k] += before * (values[k] - total[k] * share)
            row += rows_of_block

        # Lanes of a warp that have the same columns lie `lanes`, `2 lanes`, ... apart.
        distance = lanes
        while distance < WARP:
            other_count = exchange(count, distance)
            for k in range(width):
                other_total, other_square = exchange(total[k], distance), exchange(square[k], distance)
                square[k] = merged_squares(count, total[k], square[k], other_count, other_total, other_square)
                total[k] += other_total
            count += other_count
            distance <<= 1

        own = row_of_block * lanes + lane
        if own % WARP < lanes:
            for k in range(width):
                counts[own // WARP, lane * width + k] = count
                totals[own // WARP, lane * width + k] = total[k]
                squares[own // WARP, lane * width + k] = square[k]
        cuda.syncthreads()
        column = cuda.blockIdx.x * columns_of_block + own
        if own < columns_of_block and column < columns:
            count, all_total, all_square = counts[0, own], totals[0, own], squares[0, own]
            for other in range(1, warps):
                all_square = merged_squares(
                    count, all_total, all_square, counts[other, own], totals[other, own], squares[other, own]
                )
                all_total += totals[other, own]
                count += counts[other, own]
            place = column * chunks + cuda.blockIdx.y
            write(means, place, real, all_total / count)
            write(variances, place, real, all_square / count)

    return moments_kernel


@functools.cache
def _merge_moments_kernel(real):
    @cuda.jit(cache=True)
    def merge_moments_kernel(means, variances, rows, columns, chunk, chunks, mean, variance):
        lane = cuda.threadIdx.x
        column = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        count, total, square = real(0), real(0), real(0)
        number = lane
        while number < chunks and column < columns:
            other_count = real(chunk if number < chunks - 1 else rows - number * chunk)
            other_total = read(means, column * chunks + number, real) * other_count
            other_square = read(variances, column * chunks + number, real) * other_count
            square = merged_squares(count, total, square, other_count, other_total, other_square)
            total += other_total
            count += other_count
            number += WARP
        distance = 1
        while distance < WARP:
            other_count, other_total = exchange(count, distance), exchange(total, distance)
            other_square = exchange(square, distance)
            square = merged_squares(count, total, square, other_count, other_total, other_square)
            total += other_total
            count += other_count
            distance <<= 1
        if lane == 0 and column < columns:
            write(mean, column, real, total / count)
            write(variance, column, real, square / count)

    return merge_moments_kernel


@functools.cache
def _normalize_kernel(real, tile):
    lanes, rows_of_block, width = tile
    columns_of_block = lanes * width

    @cuda.jit(cache=True)
    def normalize_kernel(x, mean, variance, gamma, beta, epsilon, rows, columns, chunk, y):
        values = cuda.local.array(width, real)
        center = cuda.local.array(width, real)
        factor = cuda.local.array(width, real)
        shift = cuda.local.array(width, real)
        column = cuda.blockIdx.x * columns_of_block + cuda.threadIdx.x * width
        if column < columns:
            read_vector(center, 0, mean, column, width)
            read_vector(factor, 0, gamma, column, width)
            read_vector(shift, 0, beta, column, width)
            read_vector(values, 0, variance, column, width)
            for k in range(width):
                factor[k] /= real(math.sqrt(values[k] + epsilon))
            row = cuda.blockIdx.y * chunk + cuda.threadIdx.y
            end = (cuda.blockIdx.y + 1) * chunk
            while row < end and row < rows:
                read_vector(values, 0, x, row * columns + column, width)
                for k in range(width):
                    values[k] = (values[k] - center[k]) * factor[k] + shift[k]
                write_vector(values, 0, y, row * columns + column, width)
                row += rows_of_block

    return normalize_kernel


@functools.cache
def _column_gradients_kernel(real, tile):
    lanes, rows_of_block, width = tile
    columns_of_block, warps = lanes * width, tile.warps

    @cuda.jit(cache=True)
    def column_gradients_kernel(x, mean, variance, dy, epsilon, rows, columns, chunk, chunks, gamma_sums, beta_sums):
        gamma_partial = cuda.shared.array((warps, columns_of_block), real)
        beta_partial = cuda.shared.array((warps, columns_of_block), real)
        values = cuda.local.array(width, real)
        gradient = cuda.local.array(width, real)
        center = cuda.local.array(width, real)
        gamma_sum = cuda.local.array(width, real)
        beta_sum = cuda.local.array(width, real)
        lane, row_of_block = cuda.threadIdx.x, cuda.threadIdx.y
        column = cuda.blockIdx.x * columns_of_block + lane * width
        for k in range(width):
            gamma_sum[k] = real(0)
            beta_sum[k] = real(0)
        if column < columns:
            read_vector(center, 0, mean, column, width)
            row = cuda.blockIdx.y * chunk + row_of_block
            end = (cuda.blockIdx.y + 1) * chunk
            while row < end and row < rows:
                read_vector(values, 0, x, row * columns + column, width)
                read_vector(gradient, 0, dy, row * columns + column, width)
                for k in range(width):
                    gamma_sum[k] += gradient[k] * (values[k] - center[k])
                    beta_sum[k] += gradient[k]
                row += rows_of_block

        # Lanes of a warp that have the same columns lie `lanes`, `2 lanes`, ... apart.
        distance = lanes
        while distance < WARP:
            for k in range(width):
                gamma_sum[k] += exchange(gamma_sum[k], distance)
                beta_sum[k] += exchange(beta_sum[k], distance)
            distance <<= 1

        own = row_of_block * lanes + lane
        if own % WARP < lanes:
            for k in range(width):
                gamma_partial[own // WARP, lane * width + k] = gamma_sum[k]
                beta_partial[own // WARP, lane * width + k] = beta_sum[k]
        cuda.syncthreads()
        column = cuda.blockIdx.x * columns_of_block + own
        if own < columns_of_block and column < columns:
            gamma_total, beta_total = gamma_partial[0, own], beta_partial[0, own]
            for other in range(1, warps):
                gamma_total += gamma_partial[other, own]
                beta_total += beta_partial[other, own]
            deviation = real(math.sqrt(read(variance, column, real) + epsilon))
            place = column * chunks + cuda.blockIdx.y
            write(gamma_sums, place, real, gamma_total / deviation)
            write(beta_sums, place, real, beta_total)

    return column_gradients_kernel


@functools.cache
def _add_chunks_kernel(real):
    @cuda.jit(cache=True)
    def add_chunks_kernel(gamma_sums, beta_sums, columns, chunks, dgamma, dbeta):
        lane = cuda.threadIdx.x
        column = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        gamma_total, beta_total = real(0), real(0)
        number = lane
        while number < chunks and column < columns:
            gamma_total += read(gamma_sums, column * chunks + number, real)
            beta_total += read(beta_sums, column * chunks + number, real)
            number += WARP
        gamma_total, beta_total = sum_of_lanes(gamma_total, WARP), sum_of_lanes(beta_total, WARP)
        if lane == 0 and column < columns:
            write(dgamma, column, real, gamma_total)
            write(dbeta, column, real, beta_total)

    return add_chunks_kernel


@functools.cache
def _input_gradient_kernel(real, tile):
    lanes, rows_of_block, width = tile
    columns_of_block = lanes * width

    @cuda.jit(cache=True)
    def input_gradient_kernel(x, mean, variance, gamma, dy, epsilon, rows, columns, chunk, dgamma, dbeta, dx):
        # What dy does by way of the mean (dbeta) and of the variance (dgamma) is taken off.
        values = cuda.local.array(width, real)
        gradient = cuda.local.array(width, real)
        center = cuda.local.array(width, real)
        inverse = cuda.local.array(width, real)
        factor = cuda.local.array(width, real)
        by_mean = cuda.local.array(width, real)
        by_variance = cuda.local.array(width, real)
        column = cuda.blockIdx.x * columns_of_block + cuda.threadIdx.x * width
        if column < columns:
            read_vector(center, 0, mean, column, width)
            read_vector(inverse, 0, variance, column, width)
            read_vector(factor, 0, gamma, column, width)
            read_vector(by_mean, 0, dbeta, column, width)
            read_vector(by_variance, 0, dgamma, column, width)
            for k in range(width):
                inverse[k] = real(1) / real(math.sqrt(inverse[k] + epsilon))
                factor[k] *= inverse[k]
                by_mean[k] /= real(rows)
                by_variance[k] *= inverse[k] / real(rows)
            row = cuda.blockIdx.y * chunk + cuda.threadIdx.y
            end = (cuda.blockIdx.y + 1) * chunk
            while row < end and row < rows:
                read_vector(values, 0, x, row * columns + column, width)
                read_vector(gradient, 0, dy, row * columns + column, width)
                for k in range(width):
                    shared_part = by_mean[k] + (values[k] - center[k]) * by_variance[k]
                    gradient[k] = factor[k] * (gradient[k] - shared_part)
                write_vector(gradient, 0, dx, row * columns + column, width)
                row += rows_of_block

    return input_gradient_kernel


@functools.cache
def _moving_average_kernel(real, width):
    @cuda.jit(cache=True)
    def moving_average_kernel(new, momentum, rest, size, average):
        value = cuda.local.array(width, real)
        old = cuda.local.array(width, real)
        place = cuda.grid(1) * width
        while place < size:
            read_part(value, 0, new, place, size, real(0), width)
            read_part(old, 0, average, place, size, real(0), width)
            for k in range(width):
                old[k] = momentum * old[k] + rest * value[k]
            write_part(old, 0, average, place, size, width)
            place += cuda.gridsize(1) * width

    return moving_average_kernel
