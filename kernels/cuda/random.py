"""Dropout, with a mask that is a function of (seed, stream, step, place) and is never stored.

One thread for each four elements, which take the four words of one Philox block: Salmon, Moraes, Dror and
Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).  Each element is read and written once, four at a time, 8
bytes for each float32 number; ten rounds of two wide multiplications, shared by four elements, cost about as much.
"""

import functools

import numpy as np

from . import tiles, toolkit
from .counting import counted, current
from .formulas import philox4x32
from .toolkit import cuda
from .vectors import read_part, write_part


def dropout(x, rate, seed, stream, step, y):
    """Drop elements with probability `rate`, and scale what stays by ``1 / (1 - rate)``."""
    real, size = y.dtype.type, y.size
    x, y = toolkit.address(x), toolkit.address(y)
    threshold, scale = np.uint32(int(rate * 2**32)), real(1 / (1 - rate))
    key = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)
    kernel = _dropout_kernel(real, 4 if tiles.vector_width(real, x, y) > 1 else 1)
    words = np.uint32(stream), *counted(step, lambda step: np.uint32(step & 0xFFFFFFFF))
    toolkit.launch(kernel, *tiles.vector_grid(size, 4), x, threshold, scale, *key, *words, np.int32(size), y)


@functools.cache
def _dropout_kernel(real, width):
    @cuda.jit(cache=True)
    def dropout_kernel(x, threshold, scale, low_key, high_key, stream, step, step_place, size, y):
        step = current(step, step_place, np.uint32)
        values = cuda.local.array(4, real)
        words = cuda.local.array(4, np.uint32)
        block = cuda.grid(1)
        while block * 4 < size:
            low, high = np.uint32(block & 0xFFFFFFFF), np.uint32(block >> 32)
            words[0], words[1], words[2], words[3] = philox4x32(low, high, stream, step, low_key, high_key)
            for first in range(0, 4, width):
                read_part(values, first, x, 4 * block + first, size, real(0), width)
            for k in range(4):
                # A product with zero would keep NaN; a dropped element is gone.
                values[k] = real(0) if words[k] < threshold else values[k] * scale
            for first in range(0, 4, width):
                write_part(values, first, y, 4 * block + first, size, width)
            block += cuda.gridsize(1)

    return dropout_kernel
