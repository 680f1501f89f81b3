"""Refusals: every message says what was expected and what was received, before any work is done."""

import math
from numbers import Real

import numpy as np

from .kernels.geometry import is_integer


def integer(name, value, smallest):
    """`value` as an int, if it is an integer >= `smallest`."""
    if not is_integer(value):
        raise TypeError(f"{name}: expected an integer >= {smallest}, received {value!r}")
    if value < smallest:
        raise ValueError(f"{name}: expected an integer >= {smallest}, received {value!r}")
    return int(value)


def real(name, value, low=None, high=None, open_high=False):
    """`value` as a float, if it is a finite number from `low` to `high`."""
    wanted = "a finite number"
    if low is not None and high is not None:
        wanted += f" in [{low}, {high}" + (")" if open_high else "]")
    elif low is not None:
        wanted += f" >= {low}"
    if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected {wanted}, received {value!r}")
    number = float(value)
    too_high = high is not None and (number >= high if open_high else number > high)
    if not math.isfinite(number) or (low is not None and number < low) or too_high:
        raise ValueError(f"{name}: expected {wanted}, received {value!r}")
    return number


def choice(name, value, allowed):
    """`value`, if it is one of the strings `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        listed = ", ".join(repr(entry) for entry in sorted(allowed))
        raise ValueError(f"{name}: expected one of {listed}, received {value!r}")
    return value


def boolean(name, value):
    """`value`, if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, received {value!r}")
    return bool(value)


def array_of_numbers(name, values):
    """`values` as a NumPy array of booleans, integers or floats."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise ValueError(f"{name}: expected rows of one length, received {type(values).__name__} of several") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers (bool, integer or float), received dtype {array.dtype}")
    return array


def numeric_array(name, values):
    """`values` as a NumPy array of booleans, integers or floats, with at least one element, all finite."""
    array = array_of_numbers(name, values)
    if array.size == 0:
        raise ValueError(f"{name}: expected at least one sample, received an empty array of shape {array.shape}")
    if array.dtype.kind == "f" and not _all_finite(array):
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name}: expected finite numbers, received {array[first]} at index {first}")
    return array


def _all_finite(array):
    """Whether all numbers are finite, without an array of answers: memory is what this waits for."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):
            return True
    # Large numbers may have a sum that is too large.
    return bool(np.isfinite([array.max(), array.min()]).all())


def floats(name, array, dtype):
    """The finite `array` in a floating `dtype`, C-contiguous, if that can hold its numbers."""
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype)
    if array.dtype.itemsize > converted.dtype.itemsize and not np.isfinite(converted).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(converted))[0])
        raise ValueError(f"{name}: expected numbers within {converted.dtype}, received {array[first]} at index {first}")
    return converted


def lookup(name, identifier, registry, base):
    """Read a Keras identifier: an instance of `base`, a subclass of it, or a registered name."""
    if isinstance(identifier, base):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, base):
        return identifier()
    if isinstance(identifier, str):
        choice(name, identifier, registry)
        return registry[identifier]()
    raise TypeError(f"{name}: expected a string or a {base.__name__}, received {identifier!r}")
