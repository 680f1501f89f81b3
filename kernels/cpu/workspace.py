"""Scratch memory, kept from call to call: a step of training allocates none."""

import functools
import threading

import numpy as np

# Panels start where cache lines do.
LINE_BYTES = 64


class _Buffers(threading.local):
    """One buffer for each type of number, of each thread."""

    def __init__(self):
        self.of = {}


_buffers = _Buffers()


def workspace(count, dtype):
    """An array of at least `count` elements, the same one at the next call of this thread."""
    buffer = _buffers.of.get(dtype)
    if buffer is None or buffer.size < count:
        memory = np.empty(count * dtype.itemsize + LINE_BYTES, np.uint8)
        start = -memory.ctypes.data % LINE_BYTES
        buffer = _buffers.of[dtype] = memory[start : start + count * dtype.itemsize].view(dtype)
    return buffer


def zeros(dtype, count=0):
    """At least `count` zeros, and at least a panel of them; not to be written."""
    return _zeros(dtype, 1 << max(count + 2 * LINE_BYTES, 256).bit_length())


@functools.cache
def _zeros(dtype, count):
    return np.zeros(count, dtype)


@functools.cache
def ones(dtype):
    """A vector of ones; not to be written."""
    return np.ones(LINE_BYTES // dtype.itemsize, dtype)


# Stands for the winners where there is no pooling, with as many axes: kernels are compiled for numbers of axes.
NO_WINNERS = np.zeros((1, 1, 1, 1), np.uint8)
