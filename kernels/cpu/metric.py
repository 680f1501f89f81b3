"""Accuracies: the share of correct answers of each row."""

from numba import njit

from .compiling import INNER


@njit(**INNER)
def _argmax(row):
    """Place of the first largest entry; NaN counts as larger than any number, as for NumPy."""
    place, largest = 0, row[0]
    for j in range(1, row.size):
        if not row[j] <= largest and largest == largest:
            place, largest = j, row[j]
    return place


@njit(cache=True, nogil=True, error_model="numpy")
def sparse_accuracy(predictions, labels, hits):
    """1 where the largest prediction stands at the label, else 0."""
    for i in range(hits.size):
        hits[i] = _argmax(predictions[i]) == labels[i]


@njit(cache=True, nogil=True, error_model="numpy")
def categorical_accuracy(predictions, targets, hits):
    """1 where the largest prediction stands at the largest target, else 0."""
    for i in range(hits.size):
        hits[i] = _argmax(predictions[i]) == _argmax(targets[i])


@njit(cache=True, nogil=True, error_model="numpy")
def binary_accuracy(predictions, targets, threshold, hits):
    """The share of columns where prediction and target lie on the same side."""
    rows, columns = predictions.shape
    for i in range(rows):
        right = predictions.dtype.type(0)
        for j in range(columns):
            if (predictions[i, j] > threshold) == (targets[i, j] > 0.5):
                right += predictions.dtype.type(1)
        hits[i] = right / predictions.dtype.type(columns)
