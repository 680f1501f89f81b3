"""Metrics: one value of `hits` for each row.

`rows` describes how rows are shared among lanes.  Predictions and targets are read once, 4 bytes for each float32
number of each.  The few classes of a classifier take the time that any launch takes.
"""

import functools
import math

import numpy as np

from . import tiles, toolkit
from .formulas import inline
from .lanes import exchange, sum_of_lanes
from .rows import column_of, read_row
from .toolkit import cuda
from .vectors import read, write


def sparse_accuracy(predictions, labels, hits):
    """1 where the largest prediction is that of the label; the first of equals counts."""
    _launch(_sparse_accuracy_kernel, predictions, labels, hits)


def categorical_accuracy(predictions, targets, hits):
    """1 where predictions and targets are largest at the same place."""
    _launch(_categorical_accuracy_kernel, predictions, targets, hits)


def binary_accuracy(predictions, targets, threshold, hits):
    """The part of the columns on whose side of the threshold predictions and targets agree."""
    _launch(_binary_accuracy_kernel, predictions, targets, hits, hits.dtype.type(threshold))


def _launch(make, predictions, truth, hits, *threshold):
    real, (rows, columns) = hits.dtype.type, predictions.shape
    predictions, truth, hits = map(toolkit.address, (predictions, truth, hits))
    tile = tiles.row_tile(real, columns, predictions, truth)
    toolkit.launch(
        make(real, tile), *tiles.row_grid(rows, tile),
        predictions, truth, np.int32(rows), np.int32(columns), *threshold, hits,
    )  # fmt: skip


@inline
def precedes(value, column, other, other_column):
    """Whether a number is the one that a search for the largest stops at: the first of equals, or the first NaN."""
    if value != value or other != other:
        return value != value and (other == other or column < other_column)
    return value > other or (value == other and column < other_column)


@inline
def largest_column(values, matrix, begin, end, columns, lanes, held, width, step, chunk, covered):
    """The column in which the row from `begin` to `end` is largest, the same for all of its lanes."""
    lane_column = cuda.threadIdx.x * width
    # All numbers of the row precede the one behind its last column.
    best, best_column = values.dtype.type(-math.inf), columns
    for first in range(0, covered, chunk):
        read_row(values, matrix, begin + lane_column + first, end, best, held, width, step)
        for k in range(held):
            column = np.int32(lane_column + first + column_of(k, width, step))
            if column < columns and precedes(values[k], column, best, best_column):
                best, best_column = values[k], column
    distance = lanes >> 1
    while distance > 0:
        other, other_column = exchange(best, distance), exchange(best_column, distance)
        if precedes(other, other_column, best, best_column):
            best, best_column = other, other_column
        distance >>= 1
    return best_column


@functools.cache
def _sparse_accuracy_kernel(real, tile):
    lanes, rows_of_block, held, width = tile.lanes, tile.rows, tile.held, tile.width
    step, chunk, covered = tile.step, tile.chunk, tile.covered

    @cuda.jit(cache=True)
    def sparse_accuracy_kernel(predictions, labels, rows, columns, hits):
        values = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * rows_of_block
        while first_row < rows:
            number = first_row + cuda.threadIdx.y
            row = number if number < rows else rows - 1
            begin = row * columns
            end = begin + columns
            place = largest_column(values, predictions, begin, end, columns, lanes, held, width, step, chunk, covered)
            if cuda.threadIdx.x == 0 and number < rows:
                write(hits, row, real, real(1) if place == read(labels, row, np.int32) else real(0))
            first_row += cuda.gridDim.x * rows_of_block

    return sparse_accuracy_kernel


@functools.cache
def _categorical_accuracy_kernel(real, tile):
    lanes, rows_of_block, held, width = tile.lanes, tile.rows, tile.held, tile.width
    step, chunk, covered = tile.step, tile.chunk, tile.covered

    @cuda.jit(cache=True)
    def categorical_accuracy_kernel(predictions, targets, rows, columns, hits):
        values = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * rows_of_block
        while first_row < rows:
            number = first_row + cuda.threadIdx.y
            row = number if number < rows else rows - 1
            begin = row * columns
            end = begin + columns
            place = largest_column(values, predictions, begin, end, columns, lanes, held, width, step, chunk, covered)
            true_place = largest_column(values, targets, begin, end, columns, lanes, held, width, step, chunk, covered)
            if cuda.threadIdx.x == 0 and number < rows:
                write(hits, row, real, real(1) if place == true_place else real(0))
            first_row += cuda.gridDim.x * rows_of_block

    return categorical_accuracy_kernel


@functools.cache
def _binary_accuracy_kernel(real, tile):
    lanes, rows_of_block, held, width = tile.lanes, tile.rows, tile.held, tile.width
    step, chunk, covered = tile.step, tile.chunk, tile.covered

    @cuda.jit(cache=True)
    def binary_accuracy_kernel(predictions, targets, rows, columns, threshold, hits):
        prediction = cuda.local.array(held, real)
        target = cuda.local.array(held, real)
        lane_place = cuda.threadIdx.x * width
        first_row = cuda.blockIdx.x * rows_of_block
        while first_row < rows:
            number = first_row + cuda.threadIdx.y
            row = number if number < rows else rows - 1
            begin = row * columns + lane_place
            end = (row + 1) * columns
            agreeing = np.int32(0)
            for first in range(0, covered, chunk):
                read_row(prediction, predictions, begin + first, end, real(0), held, width, step)
                read_row(target, targets, begin + first, end, real(0), held, width, step)
                for k in range(held):
                    inside = begin + first + column_of(k, width, step) < end
                    if inside and (prediction[k] > threshold) == (target[k] > real(0.5)):
                        agreeing += np.int32(1)
            agreeing = sum_of_lanes(agreeing, lanes)
            if cuda.threadIdx.x == 0 and number < rows:
                write(hits, row, real, real(agreeing) / real(columns))
            first_row += cuda.gridDim.x * rows_of_block

    return binary_accuracy_kernel
