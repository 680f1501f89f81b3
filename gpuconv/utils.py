"""Odds and ends that Keras users look for here."""

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
