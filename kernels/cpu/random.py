"""Dropout, with a mask that is computed rather than stored."""

import numpy as np
from numba import njit

from .formulas import philox4x32
from .threads import share

# Multiply-adds that one block of four words costs, roughly.
BLOCK_WORK = 64


def dropout(x, rate, seed, stream, step, y):
    """Each element is zero with probability `rate`, else multiplied by 1 / (1 - rate).

    Element i takes word ``i % 4`` of Philox with counter ``(i // 4, stream, step)`` and key
    `seed`: the same mask on every device and for any number of threads, and again in the
    backward pass, where `x` is the gradient.
    """
    blocks = -(-x.size // 4)
    numbers = np.uint64(seed), np.uint32(stream), np.uint32(step)
    share(_dropout_blocks, blocks, blocks * BLOCK_WORK, x.reshape(-1), rate, *numbers, y.reshape(-1))


@njit(cache=True, nogil=True, error_model="numpy")
def _dropout_blocks(first_block, last_block, x, rate, seed, stream, step, y):
    threshold = np.uint32(rate * 4294967296.0)
    scale = x.dtype.type(1.0 / (1.0 - rate))
    key0 = np.uint32(seed & np.uint64(0xFFFFFFFF))
    key1 = np.uint32(seed >> np.uint64(32))
    for block in range(first_block, last_block):
        low = np.uint32(np.uint64(block) & np.uint64(0xFFFFFFFF))
        high = np.uint32(np.uint64(block) >> np.uint64(32))
        words = philox4x32(low, high, stream, step, key0, key1)
        for i in range(4 * block, min(4 * block + 4, x.size)):
            # A product with zero would keep NaN; a dropped element is gone.
            y[i] = x[i] * scale if words[i - 4 * block] >= threshold else x.dtype.type(0)
