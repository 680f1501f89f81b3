"""The two operands of a convolution, checked and brought to one dtype, as SciPy does."""

import numpy as np

MODES = ("full", "same", "valid")


def operand(name, values, rank):
    """`values` as a NumPy array of `rank` axes, not empty, of booleans, integers, floats or complex numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise ValueError(f"{name}: expected rows of one length, received {type(values).__name__} of several") from None
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name}: expected numbers, received dtype {array.dtype}")
    if array.ndim != rank:
        axes = {1: "1 axis", 2: "2 axes, (height, width)"}[rank]
        raise ValueError(f"{name}: expected {axes}, received shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name}: expected at least one element, received an empty array of shape {array.shape}")
    return array


def pair(rank, **operands):
    """Both operands in the dtype of the result, NumPy's common dtype of the two.

    Raises
    ------
    TypeError
        If that is none of integers, float32, float64, complex64 and complex128.
    """
    arrays = [operand(name, values, rank) for name, values in operands.items()]
    dtype = np.result_type(*arrays)
    if dtype.kind not in "iu" and dtype.newbyteorder("=").char not in "fdFD":
        raise TypeError(
            f"{', '.join(operands)}: expected integers, float32, float64, complex64 or complex128, "
            f"received {' and '.join(str(array.dtype) for array in arrays)}"
        )
    dtype = dtype.newbyteorder("=")
    return [np.ascontiguousarray(array, dtype) for array in arrays]


def finite_vector(name, values):
    """`values` as a vector of finite integers, floats or complex numbers."""
    array = operand(name, values, 1)
    if not np.isfinite(array).all():
        first = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name}: expected finite numbers, received {array[first]} at index {first}")
    return array
