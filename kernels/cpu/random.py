"""Dropout, with a mask that is computed rather than stored."""

import numpy as np
from numba import njit

from .compiling import INNER, KERNEL
from .elementary import select
from .formulas import philox4x32
from .local import local_array
from .prepared import prepared
from .threads import share

# Multiply-adds that a word costs, roughly.
WORK = 32

# Words that are drawn before they are used, and elements of a task.
WORDS = 256
TASK = 4096


@prepared
def dropout(x, rate, seed, stream, step, y):
    """Each element is zero with probability `rate`, else multiplied by 1 / (1 - rate).

    Element i takes word ``i % 4`` of Philox with counter ``(i // 4, stream, step)`` and key
    `seed`: the same mask on every device and for any number of threads, and again in the
    backward pass, where `x` is the gradient.
    """
    # 64 bits, with a sign, as all whole numbers of repeated calls.
    return _dropout, (x, rate, int(np.uint64(seed).view(np.int64)), stream, step, y)


@njit(**KERNEL)
def _dropout(x, rate, seed, stream, step, y):
    arguments = x.reshape(-1), rate, np.uint64(seed), np.uint32(stream), np.uint32(step), y.reshape(-1)
    share(_dropout_part, arguments, (x.size + TASK - 1) // TASK, x.size * WORK)


@njit(**INNER)
def _draw(first_block, stream, step, key0, key1, words):
    """The words of consecutive blocks."""
    for block in range(words.size // 4):
        number = np.uint64(first_block + block)
        low, high = np.uint32(number & np.uint64(0xFFFFFFFF)), np.uint32(number >> np.uint64(32))
        drawn = philox4x32(low, high, stream, step, key0, key1)
        words[4 * block], words[4 * block + 1], words[4 * block + 2], words[4 * block + 3] = drawn


@njit(**INNER)
def _dropout_part(first, last, worker, x, rate, seed, stream, step, y):
    threshold = np.uint32(rate * 4294967296.0)
    scale, zero = x.dtype.type(1.0 / (1.0 - rate)), x.dtype.type(0)
    key0 = np.uint32(seed & np.uint64(0xFFFFFFFF))
    key1 = np.uint32(seed >> np.uint64(32))
    words = local_array(WORDS, np.uint32)
    for start in range(first * TASK, min(last * TASK, x.size), WORDS):
        _draw(start // 4, stream, step, key0, key1, words)
        part = slice(start, min(start + WORDS, x.size))
        x_part, y_part = x[part], y[part]
        for i in range(x_part.size):
            # A product with zero would keep NaN; a dropped element is gone.
            y_part[i] = select(words[i] >= threshold, x_part[i] * scale, zero)
