"""Scratch memory, kept from call to call: a step of training allocates none."""

import contextlib
import functools
import threading

import numpy as np

from .memory import LINE_BYTES, empty

# The smallest buffer, and larger ones have powers of two, so that few are ever made: calls that are recorded to be
# repeated keep each one alive that they were made with.  Pages that nobody writes take no memory, but for arrays from
# 4 MiB on, for which NumPy asks the system for large pages.
FEWEST_BYTES = (1 << 22) - 4096


class _Buffers(threading.local):
    """One buffer for each type of number, of each thread; and others for calls that it lets run at the same time."""

    def __init__(self):
        self.of, self.others = {}, {}


_buffers = _Buffers()


def workspace(count, dtype):
    """An array of at least `count` elements, the same one at the next call of this thread."""
    buffer = _buffers.of.get(dtype)
    if buffer is None or buffer.size < count:
        size = max(FEWEST_BYTES, 1 << (count * dtype.itemsize - 1).bit_length())
        # Panels start where cache lines do.
        buffer = _buffers.of[dtype] = empty((size // dtype.itemsize,), dtype)
    return buffer


@contextlib.contextmanager
def other_scratch(number):
    """For the length of a ``with`` block, `workspace` gives other arrays: the same ones for the same number."""
    own, _buffers.of = _buffers.of, _buffers.others.setdefault(number, {})
    try:
        yield
    finally:
        _buffers.of = own


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
