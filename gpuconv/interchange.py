"""Arrays in, arrays out: compute where the caller's arrays live, and answer in kind.

========================================  ==================  ======================
the caller's array                        computed on         comes back as
========================================  ==================  ======================
NumPy array, list, number                 the device in use   NumPy array
CuPy, PyTorch, JAX or Numba array on GPU  CUDA, without copy  the same kind of array
========================================  ==================  ======================

A GPU array is one that offers ``__cuda_array_interface__`` (read with Numba's
``cuda.as_cuda_array``) or DLPack with a CUDA device (read with CuPy).
"""

import numpy as np

from . import checks
from . import device as devices

# DLPack's number for CUDA memory.
_DLPACK_CUDA = 2


class Borrowed:
    """The caller's arrays as arrays of the device that will compute.

    Parameters
    ----------
    **arrays
        By argument name, for messages.  All on a GPU, or none.  NumPy arrays become float64 if
        one of them is, else float32; GPU arrays must all be of one of these types already.

    Attributes
    ----------
    device : module
    arrays : list
        Arrays of the device, in order.
    dtype : numpy.dtype
    """

    def __init__(self, **arrays):
        on_gpu = [lives_on_gpu(array) for array in arrays.values()]
        if any(on_gpu):
            if not all(on_gpu):
                raise TypeError(f"{', '.join(arrays)}: expected all arrays on the GPU or none, received a mixture")
            self.device = devices.module(devices.resolve("cuda"))
            self._example = next(iter(arrays.values()))
            self.arrays = [_as_numba(array) for array in arrays.values()]
            dtypes = {np.dtype(array.dtype) for array in self.arrays}
            if len(dtypes) != 1 or not dtypes <= {np.dtype("float32"), np.dtype("float64")}:
                raise TypeError(
                    f"{', '.join(arrays)}: expected GPU arrays of one dtype, float32 or float64, "
                    f"received {sorted(map(str, dtypes))}"
                )
            if not all(_is_contiguous(array) for array in self.arrays):
                raise ValueError(
                    f"{', '.join(arrays)}: expected C-contiguous GPU arrays, channels last, received strided ones; "
                    "copy them first, with ascontiguousarray() or contiguous()"
                )
            self.dtype = dtypes.pop()
        else:
            self.device = devices.current()
            self._example = None
            hosts = [_numeric(name, array) for name, array in arrays.items()]
            self.dtype = np.dtype("float64" if any(host.dtype == np.float64 for host in hosts) else "float32")
            self.arrays = [self.device.from_host(np.ascontiguousarray(host, self.dtype)) for host in hosts]

    def empty(self, shape, dtype=None):
        """A new array of the device."""
        return self.device.empty(tuple(shape), np.dtype(dtype or self.dtype))

    def give_back(self, array):
        """A new array of the device, which the caller gets in the kind of its own arrays."""
        if self._example is None:
            return array if isinstance(array, np.ndarray) else self.device.to_host(array)
        self.device.synchronize()
        return _as_kind_of(self._example, array)


def lives_on_gpu(array):
    """Whether `array` is an array on a GPU (or in Numba's simulation of one)."""
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__cuda_array_interface__") or hasattr(array, "copy_to_host"):
        return True
    return hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] == _DLPACK_CUDA


def _numeric(name, array):
    # Unlike data to train on, operands may hold NaN and infinities: these propagate.
    array = checks.array_of_numbers(name, array)
    if array.size == 0:
        raise ValueError(f"{name}: expected at least one element, received an empty array of shape {array.shape}")
    return array


def _is_contiguous(array):
    """Whether the elements lie one after another, the last axis fastest."""
    step = array.dtype.itemsize
    for extent, stride in zip(reversed(array.shape), reversed(array.strides), strict=True):
        if extent != 1 and stride != step:
            return False
        step *= extent
    return True


def _as_numba(array):
    if hasattr(array, "copy_to_host"):
        return array
    from numba import cuda

    if hasattr(array, "__cuda_array_interface__"):
        return cuda.as_cuda_array(array)
    import cupy

    return cuda.as_cuda_array(cupy.from_dlpack(array))


def _as_kind_of(example, array):
    library = type(example).__module__.partition(".")[0]
    if library in ("numba", "numba_cuda"):
        return array
    if library == "torch":
        import torch

        return torch.as_tensor(array, device=example.device)
    import cupy

    copied = cupy.asarray(array)
    return copied if library == "cupy" else example.__array_namespace__().from_dlpack(copied)


def shape_of(name, array, rank):
    """The shape of an array-like, which must have `rank` axes."""
    shape = tuple(array.shape) if hasattr(array, "shape") else checks.array_of_numbers(name, array).shape
    if len(shape) != rank:
        axes = {4: "(batch, height, width, channels)", 2: "(rows, columns)", 1: "(channels,)"}[rank]
        raise ValueError(f"{name}: expected {rank} axes, {axes}, received shape {shape}")
    if 0 in shape:
        raise ValueError(f"{name}: expected at least one element, received an empty array of shape {shape}")
    return shape
