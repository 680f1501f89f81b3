"""Arrays of the CPU device are NumPy arrays."""

import numpy as np


def empty(shape, dtype):
    """A new array with undefined contents."""
    return np.empty(shape, dtype)


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
