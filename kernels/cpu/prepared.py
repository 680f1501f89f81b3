"""Kernels of the table whose work begins in Python: plans, scratch memory, and then one compiled call."""

import functools


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
