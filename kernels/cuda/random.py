"""Dropout, with a mask that is a function of (seed, stream, step, place) and is never stored.

One thread for each four elements, which take the four words of one Philox block: Salmon, Moraes, Dror and
Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).  Ten rounds of two wide multiplications each, shared
by four elements, cost about as much as reading and writing those does.
"""

import numpy as np

from . import tiles, toolkit
from .formulas import inline, philox4x32
from .toolkit import cuda


def dropout(x, rate, seed, stream, step, y):
    """Drop elements with probability `rate`, and scale what stays by ``1 / (1 - rate)``."""
    x, y = toolkit.flat(x), toolkit.flat(y)
    threshold, scale = np.uint32(int(rate * 2**32)), y.dtype.type(1 / (1 - rate))
    key = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)
    blocks, threads = tiles.element_grid(tiles.blocks_for(y.size, 4))
    toolkit.launch(_dropout, blocks, threads, x, threshold, scale, *key, np.uint32(stream), np.uint32(step), y)


@inline
def keep_or_drop(x, place, word, threshold, scale, y):
    """Drop one element if its word is below the threshold."""
    if place < y.size:
        y[place] = type(scale)(0) if word < threshold else x[place] * scale


@cuda.jit(cache=True)
def _dropout(x, threshold, scale, low_key, high_key, stream, step, y):
    block = cuda.grid(1)
    while block * 4 < y.size:
        low, high = np.uint32(block & 0xFFFFFFFF), np.uint32(block >> 32)
        word_0, word_1, word_2, word_3 = philox4x32(low, high, stream, step, low_key, high_key)
        keep_or_drop(x, 4 * block, word_0, threshold, scale, y)
        keep_or_drop(x, 4 * block + 1, word_1, threshold, scale, y)
        keep_or_drop(x, 4 * block + 2, word_2, threshold, scale, y)
        keep_or_drop(x, 4 * block + 3, word_3, threshold, scale, y)
        block += cuda.gridsize(1)
