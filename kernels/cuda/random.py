"""Dropout, with a mask that is a function of (seed, stream, step, place) and is never stored.

A block of Philox decides about eight elements, and one thread draws it: Salmon, Moraes, Dror and Shaw, "Parallel random
numbers: as easy as 1, 2, 3" (2011).  A warp takes a tile of 256 elements, each half of it with vectors side by side::

    elements of a tile:   | lane 0: 4 | lane 1: 4 | ... lane 31: 4 | lane 0: 4 | ... lane 31: 4 |

Each element is read and written once, four at a time, 8 bytes for each float32 number.  Memory bounds it: the ten
rounds of two wide multiplications are shared by eight elements.
"""

import functools

import numpy as np

from ..formulas import DROPOUT_TILE
from . import tiles, toolkit
from .counting import counted, current
from .formulas import inline, philox4x32
from .toolkit import cuda
from .vectors import read_part, write_part


def dropout(x, rate, seed, stream, step, y):
    """Drop elements with probability `rate`, and scale what stays by ``1 / (1 - rate)``."""
    real, size = y.dtype.type, y.size
    x, y = toolkit.address(x), toolkit.address(y)
    threshold, scale = np.uint32(round(rate * 2**16)), real(1 / (1 - rate))
    key = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)
    kernel = _dropout_kernel(real, 4 if tiles.vector_width(real, x, y) > 1 else 1)
    words = np.uint32(stream), *counted(step, lambda step: np.uint32(step & 0xFFFFFFFF))
    toolkit.launch(kernel, *tiles.vector_grid(size, 8), x, threshold, scale, *key, *words, np.int32(size), y)


@inline
def first_element(block):
    """Eight elements for each block of the tiles before, and four for each block before this one in its tile."""
    return 8 * block - 4 * (block % (DROPOUT_TILE // 8))


@functools.cache
def _dropout_kernel(real, width):
    half = DROPOUT_TILE // 2

    @cuda.jit(cache=True)
    def dropout_kernel(x, threshold, scale, low_key, high_key, stream, step, step_place, size, y):
        step = current(step, step_place, np.uint32)
        values = cuda.local.array(8, real)
        words = cuda.local.array(4, np.uint32)
        block = cuda.grid(1)
        start = first_element(block)
        while start < size:
            for side in range(2):
                for first in range(0, 4, width):
                    read_part(values, 4 * side + first, x, start + side * half + first, size, real(0), width)
            low, high = np.uint32(block & 0xFFFFFFFF), np.uint32(block >> 32)
            words[0], words[1], words[2], words[3] = philox4x32(low, high, stream, step, low_key, high_key)
            for k in range(8):
                number = words[k // 2] >> np.uint32(k % 2 * 16) & np.uint32(0xFFFF)
                # A product with zero would keep NaN; a dropped element is gone.
                values[k] = real(0) if number < threshold else values[k] * scale
            for side in range(2):
                for first in range(0, 4, width):
                    write_part(values, 4 * side + first, y, start + side * half + first, size, width)
            block += cuda.gridsize(1)
            start = first_element(block)

    return dropout_kernel
