"""Device memory.  Numba makes one driver call for each array, so models allocate once and keep what they have."""

import numpy as np

from .toolkit import cuda


def empty(shape, dtype):
    """A device array with unspecified contents."""
    return cuda.device_array(shape, dtype)


def zeros(shape, dtype):
    """A device array of zeros, copied from the host: it is made once, not in every step."""
    return cuda.to_device(np.zeros(shape, dtype))


def from_host(array):
    """A contiguous copy of a NumPy array on the device."""
    array = np.ascontiguousarray(array)
    # NumPy gives a new axis of length 1 any stride, even 0, in which Numba sees a broadcast: have them made anew.
    return cuda.to_device(array.reshape(-1).reshape(array.shape))


def to_host(array):
    """A copy of a device array as a NumPy array; waits for the kernels that fill it."""
    return array.copy_to_host()


def copy(source, destination):
    """Copy between device arrays of one shape, on the device."""
    destination.copy_to_device(source)


def synchronize():
    """Wait until all launched kernels have ended."""
    cuda.synchronize()
