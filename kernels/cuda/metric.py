"""Metrics: one value of `hits` for each row.

One thread for each row: rows have as many columns as there are classes, few enough to stay in the cache
while a thread walks along its row.  The time is that of the launch.
"""

from . import tiles, toolkit
from .formulas import inline
from .toolkit import cuda


def sparse_accuracy(predictions, labels, hits):
    """1 where the largest prediction is that of the label; the first of equals counts."""
    blocks, threads = tiles.element_grid(hits.size)
    toolkit.launch(_sparse_accuracy, blocks, threads, predictions, labels, hits)


def categorical_accuracy(predictions, targets, hits):
    """1 where predictions and targets are largest at the same place."""
    blocks, threads = tiles.element_grid(hits.size)
    toolkit.launch(_categorical_accuracy, blocks, threads, predictions, targets, hits)


def binary_accuracy(predictions, targets, threshold, hits):
    """The part of the columns on whose side of the threshold predictions and targets agree."""
    blocks, threads = tiles.element_grid(hits.size)
    threshold = hits.dtype.type(threshold)
    toolkit.launch(_binary_accuracy, blocks, threads, predictions, targets, threshold, hits)


@inline
def largest_place(matrix, row):
    """Where the largest number of a row stands: the first of equals, or the first NaN."""
    best, place = matrix[row, 0], 0
    for column in range(1, matrix.shape[1]):
        value = matrix[row, column]
        if value > best or (value != value and best == best):
            best, place = value, column
    return place


@cuda.jit(cache=True)
def _sparse_accuracy(predictions, labels, hits):
    real = hits.dtype.type
    row = cuda.grid(1)
    while row < hits.size:
        hits[row] = real(1) if largest_place(predictions, row) == labels[row] else real(0)
        row += cuda.gridsize(1)


@cuda.jit(cache=True)
def _categorical_accuracy(predictions, targets, hits):
    real = hits.dtype.type
    row = cuda.grid(1)
    while row < hits.size:
        hits[row] = real(1) if largest_place(predictions, row) == largest_place(targets, row) else real(0)
        row += cuda.gridsize(1)


@cuda.jit(cache=True)
def _binary_accuracy(predictions, targets, threshold, hits):
    real = hits.dtype.type
    row = cuda.grid(1)
    while row < hits.size:
        agreeing = 0
        for column in range(predictions.shape[1]):
            if (predictions[row, column] > threshold) == (targets[row, column] > real(0.5)):
                agreeing += 1
        hits[row] = real(agreeing) / real(predictions.shape[1])
        row += cuda.gridsize(1)
