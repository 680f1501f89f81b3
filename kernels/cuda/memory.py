"""Device memory, and copies on the device's stream."""

import numpy as np

from . import toolkit


def empty(shape, dtype):
    """A device array with unspecified contents."""
    return toolkit.allocate(shape, dtype)


def zeros(shape, dtype):
    """A device array of zeros, copied from the host: it is made once, not in every step."""
    return from_host(np.zeros(shape, dtype))


def from_host(array):
    """A contiguous copy of a NumPy array on the device."""
    array = np.ascontiguousarray(array)
    # NumPy gives a new axis of length 1 any stride, even 0, in which Numba sees a broadcast: have them made anew.
    array = array.reshape(-1).reshape(array.shape)
    placed = toolkit.allocate(array.shape, array.dtype)
    placed.copy_to_device(array, stream=toolkit.stream())
    return placed


def to_host(array):
    """A copy of a device array as a NumPy array; waits for the kernels that fill it."""
    host = array.copy_to_host(stream=toolkit.stream())
    synchronize()
    return host


def copy(source, destination):
    """Copy between device arrays of one shape, on the device."""
    destination.copy_to_device(source, stream=toolkit.stream())


def synchronize():
    """Wait until all launched kernels have ended."""
    toolkit.stream().synchronize()
