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
from .rows import column_of, read_row, row_of_lane, speaks_for_row
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
def largest_column(values, matrix, begin, end, width, t):
    """The column in which a row is largest, the same for all of its lanes."""
    # All numbers of the row precede one behind its last column.
    best, best_column = values.dtype.type(-math.inf), np.int32(t.covered)
    for first in range(0, t.covered, t.chunk):
        read_row(values, matrix, begin + first, end, best, width, t)
        for k in range(t.held):
            step = first + column_of(k, width, t)
            column = np.int32(cuda.threadIdx.x * width + step)
            if begin + step < end and precedes(values[k], column, best, best_column):
                best, best_column = values[k], column
    distance = t.lanes >> 1
    while distance > 0:
        other, other_column = exchange(best, distance), exchange(best_column, distance)
        if precedes(other, other_column, best, best_column):
            best, best_column = other, other_column
        distance >>= 1
    return best_column


@functools.cache
def _sparse_accuracy_kernel(real, t):
    held, width = t.held, t.width

    @cuda.jit(cache=True)
    def sparse_accuracy_kernel(predictions, labels, rows, columns, hits):
        values = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * t.rows
        while first_row < rows:
            row, begin, end, write_end = row_of_lane(first_row, rows, columns, width)
            place = largest_column(values, predictions, begin, end, width, t)
            if speaks_for_row(write_end):
                write(hits, row, real, real(1) if place == read(labels, row, np.int32) else real(0))
            first_row += cuda.gridDim.x * t.rows

    return sparse_accuracy_kernel


@functools.cache
def _categorical_accuracy_kernel(real, t):
    held, width = t.held, t.width

    @cuda.jit(cache=True)
    def categorical_accuracy_kernel(predictions, targets, rows, columns, hits):
        values = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * t.rows
        while first_row < rows:
            row, begin, end, write_end = row_of_lane(first_row, rows, columns, width)
            place = largest_column(values, predictions, begin, end, width, t)
            true_place = largest_column(values, targets, begin, end, width, t)
            if speaks_for_row(write_end):
                write(hits, row, real, real(1) if place == true_place else real(0))
            first_row += cuda.gridDim.x * t.rows

    return categorical_accuracy_kernel


@functools.cache
def _binary_accuracy_kernel(real, t):
    held, width = t.held, t.width

    @cuda.jit(cache=True)
    def binary_accuracy_kernel(predictions, targets, rows, columns, threshold, hits):
        prediction = cuda.local.array(held, real)
        target = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * t.rows
        while first_row < rows:
            row, begin, end, write_end = row_of_lane(first_row, rows, columns, width)
            agreeing = np.int32(0)
            for first in range(0, t.covered, t.chunk):
                read_row(prediction, predictions, begin + first, end, real(0), width, t)
                read_row(target, targets, begin + first, end, real(0), width, t)
                for k in range(held):
                    inside = begin + first + column_of(k, width, t) < end
                    if inside and (prediction[k] > threshold) == (target[k] > real(0.5)):
                        agreeing += np.int32(1)
            agreeing = sum_of_lanes(agreeing, t.lanes)
            if speaks_for_row(write_end):
                write(hits, row, real, real(agreeing) / real(columns))
            first_row += cuda.gridDim.x * t.rows

    return binary_accuracy_kernel
