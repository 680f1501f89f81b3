"""Arrays of the CPU device are NumPy arrays.

Those that are made here begin where a line of the cache does.  NumPy's large ones begin 16 bytes behind, so that half
of the vectors of 32 bytes, and all of 64, lie in two lines: storing such a vector takes as long as storing two.
"""

import math

import numpy as np

LINE_BYTES = 64

# Smaller arrays are NumPy's: finding a line's beginning takes longer than what it saves.
LARGE = 1 << 16


def empty(shape, dtype):
    """A new array with undefined contents."""
    return _from_a_line_on(np.empty, shape, dtype)


def zeros(shape, dtype):
    """A new array of zeros."""
    return _from_a_line_on(np.zeros, shape, dtype)


def _from_a_line_on(make, shape, dtype):
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LARGE:
        return make(shape, dtype)
    memory = make(size + LINE_BYTES, np.uint8)
    return np.ndarray(shape, dtype, memory, -memory.ctypes.data % LINE_BYTES)


def from_host(array):
    """The array itself where kernels can use it as it stands, else a copy that they can."""
    return np.require(array, requirements=["C", "A", "W"])


def to_host(array):
    """A copy that later kernels do not change."""
    return array.copy()


def copy(source, destination):
    """Copy `source` into `destination`, which has the same shape."""
    destination[...] = source


def synchronize():
    """Wait for the device: nothing to wait for, calls return when they are done."""
