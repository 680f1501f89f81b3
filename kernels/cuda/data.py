"""Batches gathered on the device from the data set that lives there, and sums that stay there.

Gathering: one thread for each element, neighbouring threads on neighbouring elements of a row; bounded by memory
traffic.  Summing: one block in strides, then its partial sums in a fixed order; batches are short.
"""

import numpy as np

from . import tiles, toolkit
from .formulas import quotient
from .toolkit import cuda

SUM_THREADS = tiles.SUM_THREADS


def gather(source, order, start, batch):
    """``batch[i] = source[order[start + i]]``."""
    features = batch.size // batch.shape[0] if batch.shape[0] else 0
    blocks, threads = tiles.element_grid(batch.size)
    source, batch = toolkit.flat(source), toolkit.flat(batch)
    toolkit.launch(_gather, blocks, threads, source, order, np.int32(start), np.int32(features), batch)


def sum_into(values, place, totals):
    """``totals[place] = sum(values)``."""
    toolkit.launch(_sum_into, (1,), (SUM_THREADS,), values, np.int32(place), totals)


@cuda.jit(cache=True)
def _gather(source, order, start, features, batch):
    i = cuda.grid(1)
    while i < batch.size:
        row = quotient(i, features)
        # 64 bits: a data set may have more elements than a batch ever has.
        batch[i] = source[np.int64(order[start + row]) * features + (i - row * features)]
        i += cuda.gridsize(1)


@cuda.jit(cache=True)
def _sum_into(values, place, totals):
    partial = cuda.shared.array(SUM_THREADS, totals.dtype)
    thread = cuda.threadIdx.x
    total = totals.dtype.type(0)
    for i in range(thread, values.size, SUM_THREADS):
        total += values[i]
    partial[thread] = total
    cuda.syncthreads()
    if thread == 0:
        for k in range(1, SUM_THREADS):
            total += partial[k]
        totals[place] = total
