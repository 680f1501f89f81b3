"""Sums over everything, in a fixed order.

A thread adds up every so many-th vector, lanes of a warp add their sums by shuffles, and the warps' sums, which meet
in shared memory, go the same way.  So one block sums up what it can read in a few rounds; of more, a fixed number of
blocks sums parts, and one block the sums of the parts.  Each number is read once, 4 bytes in float32; memory bounds
what is long, the time that any launch takes what is short.
"""

import functools

import numpy as np

from . import tiles, toolkit
from .counting import counted, current
from .formulas import inline
from .instructions import load, load4, move, store, store4
from .lanes import sum_of_lanes
from .toolkit import cuda
from .vectors import read_part, write

WARP, SUM_THREADS = tiles.WARP, tiles.SUM_THREADS
WARPS = SUM_THREADS // WARP


@inline
def sum_of_block(value, partial):
    """The sum over the `SUM_THREADS` threads of a block, known to all; `partial` is a shared number for each warp."""
    thread = cuda.threadIdx.x
    value = sum_of_lanes(value, WARP)
    if thread % WARP == 0:
        partial[thread // WARP] = value
    cuda.syncthreads()
    value = partial[thread % WARPS]
    return sum_of_lanes(value, WARPS)


@inline
def store_sum(target, parts, count, apart, wide):
    """Write the sum of `count` numbers, `apart` in shared memory from `parts` on; or those of four if `wide`."""
    if wide:
        a, b, c, d = load4(parts)
        for other in range(1, count):
            e, f, g, h = load4(move(parts, other * apart))
            a, b, c, d = a + e, b + f, c + g, d + h
        store4(target, a, b, c, d)
    else:
        total = load(parts)
        for other in range(1, count):
            total += load(move(parts, other * apart))
        store(target, total)


def add_up(values, count, real, place, totals):
    """``totals[place] = sum(values)``, of `count` numbers; `values` and `totals` are addresses."""
    width = tiles.vector_width(real, values)
    blocks = tiles.sum_blocks(count, width)
    kernel = _sum_kernel(real, width)
    if blocks > 1:
        parts = toolkit.address(toolkit.workspace(blocks, real))
        toolkit.launch(kernel, (blocks,), (SUM_THREADS,), values, np.int32(count), *counted(0, np.int32), parts)
        values, count, kernel = parts, blocks, _sum_kernel(real, tiles.vector_width(real, parts))
    toolkit.launch(kernel, (1,), (SUM_THREADS,), values, np.int32(count), *counted(place, np.int32), totals)


@functools.cache
def _sum_kernel(real, width):
    @cuda.jit(cache=True)
    def sum_kernel(values, count, first, first_place, totals):
        first = current(first, first_place, np.int32)
        numbers = cuda.local.array(width, real)
        partial = cuda.shared.array(WARPS, real)
        total = real(0)
        place = cuda.grid(1) * width
        while place < count:
            read_part(numbers, 0, values, place, count, real(0), width)
            for k in range(width):
                total += numbers[k]
            place += cuda.gridsize(1) * width
        total = sum_of_block(total, partial)
        if cuda.threadIdx.x == 0:
            write(totals, first + cuda.blockIdx.x, real, total)

    return sum_kernel
