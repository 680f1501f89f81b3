"""Reading dz, the gradient by what an activation was applied to: ``dy * activation'(z)``, from the value y.

For kernels that read it a few times at most; each time the slope is computed anew, which is little beside the reading.
With the activation `LINEAR` they read any array: y is not looked at.
"""

from .formulas import inline, slope_from_value
from .instructions import load4_if, load_if, move


@inline
def dz_if(wanted, dy, y, place, activation, alpha):
    """dz at a place, or zero, without looking there, if not `wanted`."""
    gradient = load_if(wanted, move(dy, place))
    if activation != 0:
        gradient = gradient * slope_from_value(activation, alpha, load_if(wanted, move(y, place)))
    return gradient


@inline
def dz4_if(wanted, dy, y, place, activation, alpha):
    """The four numbers of dz from a place on, which is a multiple of 4, or zeros."""
    numbers = load4_if(wanted, move(dy, place))
    if activation != 0:
        numbers = times_slopes(numbers, load4_if(wanted, move(y, place)), activation, alpha)
    return numbers


@inline
def times_slopes(gradients, values, activation, alpha):
    """Four numbers of dz, from those of dy and y."""
    a, b, c, d = gradients
    e, f, g, h = values
    a = a * slope_from_value(activation, alpha, e)
    b = b * slope_from_value(activation, alpha, f)
    c = c * slope_from_value(activation, alpha, g)
    d = d * slope_from_value(activation, alpha, h)
    return a, b, c, d
