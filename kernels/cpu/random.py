"""Dropout, with a mask that is computed rather than stored."""

import numpy as np
from numba import njit, prange

from .formulas import philox4x32
from .threads import CHUNK


def dropout(x, rate, seed, stream, step, y):
    """Each element is zero with probability `rate`, else multiplied by 1 / (1 - rate).

    Element i takes word ``i % 4`` of Philox with counter ``(i // 4, stream, step)`` and key
    `seed`: the same mask on every device and for any number of threads, and again in the
    backward pass, where `x` is the gradient.
    """
    _dropout(x.reshape(-1), rate, np.uint64(seed), np.uint32(stream), np.uint32(step), y.reshape(-1))


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def _dropout(x, rate, seed, stream, step, y):
    threshold = np.uint32(rate * 4294967296.0)
    scale = x.dtype.type(1.0 / (1.0 - rate))
    key0 = np.uint32(seed & np.uint64(0xFFFFFFFF))
    key1 = np.uint32(seed >> np.uint64(32))
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        # CHUNK is a multiple of four, so blocks of four words do not cross tasks.
        for first in range(np.intp(chunk) * CHUNK, min(np.intp(chunk) * CHUNK + CHUNK, x.size), 4):
            block = np.uint64(first // 4)
            low = np.uint32(block & np.uint64(0xFFFFFFFF))
            words = philox4x32(low, np.uint32(block >> np.uint64(32)), stream, step, key0, key1)
            for k in range(min(4, x.size - first)):
                # A product with zero would keep NaN; a dropped element is gone.
                y[first + k] = x[first + k] * scale if words[k] >= threshold else x.dtype.type(0)
