"""Penalties on weights, with Keras's names and factors.

The penalty of a weight array joins the reported loss, and its gradient the gradient::

    L1: l1 sum |w|        L2: l2 sum w^2        (no factor 1/2)
"""

import numpy as np

from . import checks


class Regularizer:
    """``l1 * sum(abs(w)) + l2 * sum(w**2)``; the base of the others.

    Examples
    --------
    >>> L1L2(l1=0.25, l2=0.5)(np.array([1.0, -2.0]))
    3.25
    """

    def __init__(self, l1=0.0, l2=0.0):
        self.l1 = checks.real("l1", l1, low=0.0)
        self.l2 = checks.real("l2", l2, low=0.0)

    def __call__(self, weights):
        """The penalty of an array of weights, as a float."""
        weights = np.asarray(weights, np.float64)
        return float(self.l1 * np.abs(weights).sum() + self.l2 * np.square(weights).sum())

    def __repr__(self):
        return f"{type(self).__name__}(l1={self.l1}, l2={self.l2})"


class L1L2(Regularizer):
    """Both penalties; default none."""


class L1(Regularizer):
    """``l1 * sum(abs(w))``, default ``l1=0.01``."""

    def __init__(self, l1=0.01):
        super().__init__(l1=l1)


class L2(Regularizer):
    """``l2 * sum(w**2)``, default ``l2=0.01``."""

    def __init__(self, l2=0.01):
        super().__init__(l2=l2)


def _l1_l2():
    return L1L2(0.01, 0.01)


# Keras's lowercase aliases.
l1 = L1
l2 = L2
l1_l2 = L1L2

_REGISTRY = {"l1": L1, "L1": L1, "l2": L2, "L2": L2, "l1_l2": _l1_l2, "L1L2": _l1_l2}


def get(identifier, name="regularizer"):
    """Read a Keras identifier: None, a name such as ``'l2'``, a class or an instance."""
    return None if identifier is None else checks.lookup(name, identifier, _REGISTRY, Regularizer)
