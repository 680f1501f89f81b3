"""Kernels of the table whose work begins in Python: plans, scratch memory, and then one compiled call."""

import functools

from ..formulas import LINEAR
from .workspace import workspace, zeros


def prepared(function):
    """Make a kernel of a function that returns the compiled function and its arguments.

    The kernel calls it; ``kernel.prepare(...)`` returns both, for who calls it with the same arguments again and again:
    in the same thread, whose scratch memory may be among them.
    """

    @functools.wraps(function)
    def kernel(*arguments):
        compiled, its_arguments = function(*arguments)
        compiled(*its_arguments)

    kernel.prepare = function
    return kernel


def both_directions(compiled, plan):
    """Make a correlation and its gradient by input of one compiled function, which computes target from source.

    Parameters
    ----------
    compiled : callable
        Of the source, values and formula of the slopes that it is multiplied by, filters, bias, activation, target,
        the plan's numbers, and scratch memory.
    plan : callable
        Makes of a geometry, a dtype and whether it is the gradient the numbers and the size of the scratch memory.
    """

    def call(source, values, slope, slope_alpha, filters, bias, geometry, activation, alpha, target, backward):
        numbers, scratch_size = plan(geometry, target.dtype, backward)
        return compiled, (
            source, values, slope, slope_alpha, filters, bias, activation, alpha, target, numbers,
            workspace(scratch_size, target.dtype),
        )  # fmt: skip

    @prepared
    def correlate2d(x, filters, bias, geometry, activation, alpha, y):
        """Forward."""
        return call(x, x, LINEAR, 0.0, filters, bias, geometry, activation, alpha, y, False)

    @prepared
    def correlate2d_gradient_input(dy, y, filters, geometry, activation, alpha, dx):
        """Gradient by input."""
        none = zeros(dx.dtype, geometry.channels)
        return call(dy, y, activation, alpha, filters, none, geometry, LINEAR, 0.0, dx, True)

    return correlate2d, correlate2d_gradient_input
