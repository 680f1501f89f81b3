"""Batches out of a data set and into one, and sums that stay on the device."""

import numpy as np
from numba import njit

from .blocks import BLOCK, MOVE
from .compiling import INNER, KERNEL
from .fetching import fetch
from .local import local_array
from .threads import share
from .views import flat, part
from .workspace import LINE_BYTES

# Elements that are added up before they join the total, and parts of the elements that have totals of their own.
SUM_BLOCK = 256
PARTS = 64

# Rows of a batch that are asked for before they are copied, and cache lines of each: memory answers after the time that
# some hundred instructions take, and the processor sees by itself how a long row goes on.
ROWS_AHEAD, MOST_LINES_AHEAD = 12, 8


@njit(**KERNEL)
def gather(source, order, start, batch):
    """batch[i] = source[order[start + i]]."""
    rows, columns = batch.shape
    step = max(BLOCK // max(columns, 1), 1)
    share(_gather, (source, order, start, batch, step), (rows + step - 1) // step, batch.size * MOVE)


@njit(**INNER)
def _gather(first, last, worker, source, order, start, batch, step):
    columns = batch.shape[1]
    reach = min(columns, MOST_LINES_AHEAD * LINE_BYTES // batch.itemsize)
    numbers, copies = flat(source), flat(batch)
    begin, end = first * step, min(last * step, batch.shape[0])
    for i in range(begin, end):
        # Before the first row, for all of those ahead.
        for ahead in range(i + ROWS_AHEAD if i > begin else i, min(i + ROWS_AHEAD + 1, end)):
            fetch(numbers, order[start + ahead] * columns, reach)
        source_row = part(numbers, order[start + i] * columns, columns)
        batch_row = part(copies, i * columns, columns)
        for j in range(columns):
            batch_row[j] = source_row[j]


@njit(**KERNEL)
def put(batch, start, rows):
    """rows[start + i] = batch[i]."""
    first = start * batch.shape[1]
    share(_put, (flat(batch), first, flat(rows)), (batch.size + BLOCK - 1) // BLOCK, batch.size * MOVE)


@njit(**INNER)
def _put(first, last, worker, batch, place, rows):
    for i in range(first * BLOCK, min(last * BLOCK, batch.size)):
        rows[place + i] = batch[i]


@njit(**KERNEL)
def sum_into(values, place, totals):
    """totals[place] = sum of values, block by block."""
    step = (values.size // PARTS // SUM_BLOCK + 1) * SUM_BLOCK
    parts = (values.size + step - 1) // step
    sums = local_array(PARTS, np.float64)
    share(_sums, (values, sums, step), parts, values.size * MOVE)
    total = 0.0
    for k in range(parts):
        total += sums[k]
    totals[place] = total


@njit(**INNER)
def _sums(first, last, worker, values, sums, step):
    for k in range(first, last):
        sums[k] = 0.0
        for start in range(k * step, min((k + 1) * step, values.size), SUM_BLOCK):
            sums[k] += _sum(part(values, start, min(SUM_BLOCK, values.size - start)))


# In the order that suits vectors.
@njit(fastmath={"reassoc"}, **INNER)
def _sum(values):
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    return total
