"""Arrays of the CPU device are NumPy arrays."""

import math

import numpy as np

from .workspace import LINE_BYTES

# Where a small array starts makes no difference that is worth the time to choose it.
LARGE_BYTES = 1 << 16


def empty(shape, dtype):
    """A new array with undefined contents; a large one starts with a line of the cache.

    Most of NumPy's start 16 bytes behind one, so that each vector of 64 bytes is stored to two lines.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LARGE_BYTES:
        return np.empty(shape, dtype)
    memory = np.empty(size + LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % LINE_BYTES
    return memory[start : start + size].view(dtype).reshape(shape)


def zeros(shape, dtype):
    """A new array of zeros."""
    return np.zeros(shape, dtype)


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
