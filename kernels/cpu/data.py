"""Batches out of a data set, and sums that stay on the device."""

from numba import njit

# Elements that are added up before they join the total.
BLOCK = 256


@njit(cache=True, nogil=True, error_model="numpy")
def gather(source, order, start, batch):
    """batch[i] = source[order[start + i]]."""
    for i in range(batch.shape[0]):
        row = order[start + i]
        for j in range(batch.shape[1]):
            batch[i, j] = source[row, j]


@njit(cache=True, nogil=True, error_model="numpy")
def sum_into(values, place, totals):
    """totals[place] = sum of values, block by block."""
    total = totals.dtype.type(0)
    for first in range(0, values.size, BLOCK):
        part = totals.dtype.type(0)
        for i in range(first, min(first + BLOCK, values.size)):
            part += values[i]
        total += part
    totals[place] = total
