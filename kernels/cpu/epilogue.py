"""What stands before and after a product: slopes of the incoming gradient, activation of the outgoing value."""

from numba import njit

from ..formulas import LINEAR, RELU
from .compiling import INNER
from .formulas import activate, slope_from_value


@njit(**INNER)
def finish(values, first, last, activation, alpha):
    """Apply an activation to ``values[first:last]``, which the product has just left in the cache."""
    part = values[first:last]
    for place in range(part.size):
        part[place] = activate(activation, alpha, part[place])


@njit(**INNER)
def multiply_by_slope(dy, y, start, count, activation, alpha, dz, place):
    """``dz = dy * activation'(z)`` for `count` numbers, from dy and y at `start` to dz at `place`."""
    incoming, values, outgoing = dy[start : start + count], y[start : start + count], dz[place : place + count]
    if activation == LINEAR:
        for i in range(count):
            outgoing[i] = incoming[i]
    elif activation == RELU:
        for i in range(count):
            outgoing[i] = incoming[i] * slope_from_value(RELU, alpha, values[i])
    else:
        for i in range(count):
            outgoing[i] = incoming[i] * slope_from_value(activation, alpha, values[i])
