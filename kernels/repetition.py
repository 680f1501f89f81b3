"""Calls of kernels that a step of training makes again and again.

`repetition` is a function of the devices' table.  This one calls the kernels from Python; the devices have quicker
ways, and CUDA falls back on this one.
"""


class Counter(int):
    """A whole number among a call's arguments that grows with every repetition.

    Parameters
    ----------
    value : int
        In the first call.
    step : int, default 1
        By how much it grows.
    """

    def __new__(cls, value, step=1):
        counter = super().__new__(cls, value)
        counter.step = step
        return counter


def now(arguments):
    """The arguments of the first call: counters as plain numbers."""
    return [int(argument) if isinstance(argument, Counter) else argument for argument in arguments]


def repetition(calls):
    """Make calls again that have been made once.

    Parameters
    ----------
    calls : list of tuple ``(kernel, arguments)``

    Returns
    -------
    callable
        ``repeat(times)`` makes all of the calls, in order, so many times more.
    """
    made = 1

    def repeat(times):
        nonlocal made
        for _ in range(times):
            for kernel, arguments in calls:
                kernel(*(a + made * a.step if isinstance(a, Counter) else a for a in arguments))
            made += 1

    return repeat
