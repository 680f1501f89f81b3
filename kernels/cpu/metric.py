"""Accuracies: the share of correct answers of each row."""

import numpy as np
from numba import njit

from .compiling import INNER, KERNEL
from .local import local_array
from .rows import FEW_COLUMNS, MOST_LANES, argmax_of_rows, row_argmax
from .vectors import lanes_of


@njit(**INNER)
def _rows_at_once(matrix):
    """How many rows of a matrix are compared at once: those of a vector if they are short, and many enough."""
    lanes = lanes_of(matrix)
    return lanes if lanes <= matrix.shape[1] <= FEW_COLUMNS and lanes <= matrix.shape[0] else 1


@njit(**KERNEL)
def sparse_accuracy(predictions, labels, hits):
    """1 where the largest prediction stands at the label, else 0."""
    columns, flat, some = predictions.shape[1], predictions.reshape(-1), _rows_at_once(predictions)
    places = local_array(MOST_LANES, np.int32)
    for row in range(0, hits.size, some):
        if some == 1:
            hits[row] = row_argmax(flat, row * columns, columns) == labels[row]
        else:
            start = min(row, hits.size - some)
            argmax_of_rows(flat, start, columns, places)
            for i in range(some):
                hits[start + i] = places[i] == labels[start + i]


@njit(**KERNEL)
def categorical_accuracy(predictions, targets, hits):
    """1 where the largest prediction stands at the largest target, else 0."""
    columns, flat, flat_targets = predictions.shape[1], predictions.reshape(-1), targets.reshape(-1)
    some = _rows_at_once(predictions)
    places, wanted = local_array(MOST_LANES, np.int32), local_array(MOST_LANES, np.int32)
    for row in range(0, hits.size, some):
        if some == 1:
            hits[row] = row_argmax(flat, row * columns, columns) == row_argmax(flat_targets, row * columns, columns)
        else:
            start = min(row, hits.size - some)
            argmax_of_rows(flat, start, columns, places)
            argmax_of_rows(flat_targets, start, columns, wanted)
            for i in range(some):
                hits[start + i] = places[i] == wanted[i]


@njit(**KERNEL)
def binary_accuracy(predictions, targets, threshold, hits):
    """The share of columns where prediction and target lie on the same side."""
    rows, columns = predictions.shape
    for i in range(rows):
        right = predictions.dtype.type(0)
        for j in range(columns):
            if (predictions[i, j] > threshold) == (targets[i, j] > 0.5):
                right += predictions.dtype.type(1)
        hits[i] = right / predictions.dtype.type(columns)
