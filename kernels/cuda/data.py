"""Batches out of the data set that lives on the device and into one, and sums that stay there.

Rows are copied as bytes, whatever they mean: one thread for each 16 bytes of a row where rows begin at multiples of
that, else for each word or byte.  Every byte of the batch is read and written once, and gathering reads 4 bytes of
`order` for each row; memory bounds it.  `sums` describes the sums.
"""

import functools

import numpy as np

from . import tiles, toolkit
from .counting import counted, current
from .formulas import quotient
from .sums import add_up
from .toolkit import cuda
from .vectors import read, read_vector, write_vector


def gather(source, order, start, batch):
    """``batch[i] = source[order[start + i]]``."""
    kind, numbers, row_units, units = _units(batch, source)
    source, order, batch = map(toolkit.address, (source, order, batch))
    sizes = *counted(start, np.int32), np.int32(row_units), np.int32(units)
    toolkit.launch(_gather_kernel(kind, numbers), *tiles.element_grid(units), source, order, *sizes, batch)


def put(batch, start, rows):
    """``rows[start + i] = batch[i]``."""
    kind, numbers, row_units, units = _units(batch, rows)
    batch, rows = map(toolkit.address, (batch, rows))
    sizes = *counted(start, np.int32), np.int32(row_units), np.int32(units)
    toolkit.launch(_put_kernel(kind, numbers), *tiles.element_grid(units), batch, *sizes, rows)


def _units(batch, other):
    """What is copied at once, as a type and how many of it, how many times for a row, and for the whole batch."""
    features = batch.size // batch.shape[0] if batch.shape[0] else 0
    row_bytes = features * batch.dtype.itemsize
    if row_bytes % tiles.WIDEST == 0 and all(toolkit.is_aligned(toolkit.address(array)) for array in (batch, other)):
        units = row_bytes // tiles.WIDEST
        return np.uint32, tiles.WIDEST // 4, units, batch.shape[0] * units
    return batch.dtype.type, 1, features, batch.size


def sum_into(values, place, totals):
    """``totals[place] = sum(values)``."""
    add_up(toolkit.address(values), values.size, totals.dtype.type, place, toolkit.address(totals))


@functools.cache
def _gather_kernel(kind, numbers):
    @cuda.jit(cache=True)
    def gather_kernel(source, order, start, start_place, row_units, units, batch):
        start = current(start, start_place, np.int32)
        unit_of_data = cuda.local.array(numbers, kind)
        unit = cuda.grid(1)
        while unit < units:
            row = quotient(unit, row_units)
            # 64 bits: a data set may have more elements than a batch ever has.
            origin = np.int64(read(order, start + row, np.int32)) * row_units + (unit - row * row_units)
            read_vector(unit_of_data, 0, source, origin * numbers, numbers)
            write_vector(unit_of_data, 0, batch, unit * numbers, numbers)
            unit += cuda.gridsize(1)

    return gather_kernel


@functools.cache
def _put_kernel(kind, numbers):
    @cuda.jit(cache=True)
    def put_kernel(batch, start, start_place, row_units, units, rows):
        # 64 bits, as above.
        origin = np.int64(current(start, start_place, np.int32)) * row_units
        unit_of_data = cuda.local.array(numbers, kind)
        unit = cuda.grid(1)
        while unit < units:
            read_vector(unit_of_data, 0, batch, unit * numbers, numbers)
            write_vector(unit_of_data, 0, rows, (origin + unit) * numbers, numbers)
            unit += cuda.gridsize(1)

    return put_kernel
