"""Batches out of a data set, and sums that stay on the device."""

import numpy as np
from numba import njit

from .blocks import BLOCK, MOVE
from .compiling import INNER
from .local import local_array
from .threads import share

# Elements that are added up before they join the total, and parts of the elements that have totals of their own.
SUM_BLOCK = 256
PARTS = 64


@njit(cache=True, nogil=True, error_model="numpy")
def gather(source, order, start, batch):
    """batch[i] = source[order[start + i]]."""
    rows, columns = batch.shape
    step = max(BLOCK // max(columns, 1), 1)
    share(_gather, (source, order, start, batch, step), (rows + step - 1) // step, batch.size * MOVE)


@njit(**INNER)
def _gather(first, last, worker, source, order, start, batch, step):
    for i in range(first * step, min(last * step, batch.shape[0])):
        source_row, batch_row = source[order[start + i]], batch[i]
        for j in range(batch_row.size):
            batch_row[j] = source_row[j]


@njit(cache=True, nogil=True, error_model="numpy")
def sum_into(values, place, totals):
    """totals[place] = sum of values, block by block."""
    part = (values.size // PARTS // SUM_BLOCK + 1) * SUM_BLOCK
    parts = (values.size + part - 1) // part
    sums = local_array(PARTS, np.float64)
    share(_sums, (values, sums, part), parts, values.size * MOVE)
    total = 0.0
    for k in range(parts):
        total += sums[k]
    totals[place] = total


@njit(**INNER)
def _sums(first, last, worker, values, sums, part):
    for k in range(first, last):
        sums[k] = 0.0
        for start in range(k * part, min((k + 1) * part, values.size), SUM_BLOCK):
            sums[k] += _sum(values[start : min(start + SUM_BLOCK, values.size)])


# In the order that suits vectors.
@njit(fastmath={"reassoc"}, **INNER)
def _sum(values):
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    return total
