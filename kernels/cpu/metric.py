"""Accuracies: the share of correct answers of each row."""

from numba import njit

from .compiling import KERNEL
from .rows import row_argmax


@njit(**KERNEL)
def sparse_accuracy(predictions, labels, hits):
    """1 where the largest prediction stands at the label, else 0."""
    columns, flat = predictions.shape[1], predictions.reshape(-1)
    for i in range(hits.size):
        hits[i] = row_argmax(flat, i * columns, columns) == labels[i]


@njit(**KERNEL)
def categorical_accuracy(predictions, targets, hits):
    """1 where the largest prediction stands at the largest target, else 0."""
    columns, flat, flat_targets = predictions.shape[1], predictions.reshape(-1), targets.reshape(-1)
    for i in range(hits.size):
        hits[i] = row_argmax(flat, i * columns, columns) == row_argmax(flat_targets, i * columns, columns)


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
