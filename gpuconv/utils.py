"""Odds and ends that Keras users look for here."""

import itertools
import math
import random

import numpy as np

from . import checks, seeds


def to_categorical(x, num_classes=None):
    """One-hot rows for class numbers.

    Parameters
    ----------
    x : array_like of int
        Class numbers; an axis of length 1 at the end is dropped.
    num_classes : int, optional
        Default: the largest class number plus one.

    Returns
    -------
    numpy.ndarray
        Of shape ``(*x.shape, num_classes)``, float64 as in Keras.

    Raises
    ------
    ValueError
        If a class number is negative, not whole, or not below `num_classes`.

    Examples
    --------
    >>> to_categorical([0, 2])
    array([[1., 0., 0.],
           [0., 0., 1.]])
    """
    given = checks.numeric_array("x", x)
    if given.min() < 0 or given.max() >= 2**31:
        wrong = given.min() if given.min() < 0 else given.max()
        raise ValueError(f"x: expected class numbers from 0 to 2**31 - 1, received {wrong}")
    labels = given.astype(np.int64)
    if not np.array_equal(labels, given):
        raise ValueError("x: expected whole class numbers, received fractions")
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    classes = int(labels.max()) + 1 if num_classes is None else checks.integer("num_classes", num_classes, 1)
    if labels.max() >= classes:
        raise ValueError(f"x: expected class numbers in [0, {classes}), received {labels.max()}")
    return np.eye(classes)[labels]


def set_random_seed(seed):
    """Fix everything random that follows: initial weights, shuffles, dropout.

    Also seeds Python's and NumPy's global generators, as in Keras.  The same seed gives
    bitwise the same run on one kind of device, for any number of threads.

    Parameters
    ----------
    seed : int
        From 0 to 2**32 - 1.
    """
    seed = checks.integer("seed", seed, 0)
    if seed >= 2**32:
        raise ValueError(f"seed: expected an integer below 2**32, received {seed}")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global generator is the point
    seeds.set_root(seed)


def count_dense_parameters(inputs, *units, use_bias=True):
    """The number of weights and biases of dense layers one after another, exactly.

    ``sum_l (n_{l-1} + 1) n_l`` for n_0 inputs and layers of n_1, n_2, ... units; without biases
    ``sum_l n_{l-1} n_l``.

    Parameters
    ----------
    inputs : int
    *units : int
        Units of each layer, one or more.
    use_bias : bool, default True

    Returns
    -------
    int

    Raises
    ------
    TypeError, ValueError
        If an extent is not an integer of 1 or more, or there is no layer.

    Examples
    --------
    A million samples of sound, ten thousand hidden units, one output:

    >>> f"{count_dense_parameters(10**6, 10**4, 1):,}"
    '10,000,020,001'
    """
    if not units:
        raise ValueError("units: expected the units of at least one layer, received none")
    widths = [checks.integer("inputs", inputs, 1), *(checks.integer("units", width, 1) for width in units)]
    bias = int(checks.boolean("use_bias", use_bias))
    return sum((before + bias) * after for before, after in itertools.pairwise(widths))


def count_correlation_parameters(kernel_size, channels, filters, groups=1, use_bias=True):
    """The number of weights and biases of a convolutional layer, which the size of the picture has no part in.

    ``(k_1 k_2 ... channels / groups + 1) filters``; without biases ``k_1 k_2 ... channels / groups filters``.

    Parameters
    ----------
    kernel_size : int or tuple of int
        Cells of a filter along each axis; an integer stands for a square of two axes, a tuple may have any number
        of axes, such as ``(64,)`` for sound.
    channels : int
        Channels of the input.
    filters : int
    groups : int, default 1
        As in `functional.correlate2d`; both `channels` and `filters` must be multiples of it.
    use_bias : bool, default True

    Returns
    -------
    int

    Raises
    ------
    TypeError, ValueError
        If an argument is not an integer of 1 or more, or the groups do not fit.

    Examples
    --------
    Ten filters over a picture in colours, of any size:

    >>> count_correlation_parameters((3, 3), channels=3, filters=10)
    280
    """
    extents = kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size, kernel_size)
    if not extents:
        raise ValueError(f"kernel_size: expected at least one axis, received {kernel_size!r}")
    extents = [checks.integer("kernel_size", extent, 1) for extent in extents]
    channels, filters, groups = (
        checks.integer(name, value, 1)
        for name, value in (("channels", channels), ("filters", filters), ("groups", groups))
    )
    if channels % groups or filters % groups:
        raise ValueError(
            f"groups: expected a divisor of {channels} channels and of {filters} filters, received {groups}"
        )
    bias = int(checks.boolean("use_bias", use_bias))
    return (math.prod(extents) * (channels // groups) + bias) * filters
