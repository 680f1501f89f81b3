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
    again : callable, optional
        What it is in the first call after the repetition has been told to restart; `value` by default.
    """

    def __new__(cls, value, step=1, again=None):
        counter = super().__new__(cls, value)
        counter.step = step
        counter.again = again or (lambda: value)
        return counter


def now(arguments):
    """The arguments of the first call: counters as plain numbers."""
    return [int(argument) if isinstance(argument, Counter) else argument for argument in arguments]


def counters_of(calls):
    """The counters among the arguments of calls, in order."""
    return [argument for _, arguments in calls for argument in arguments if isinstance(argument, Counter)]


def repetition(calls):
    """Make calls again that have been made once.

    Parameters
    ----------
    calls : list of tuple ``(kernel, arguments)``

    Returns
    -------
    callable
        ``repeat(times)`` makes all of the calls, in order, so many times more.  After ``repeat.restart()``, which makes
        none, counters begin anew (`Counter.again`).
    """
    return _Repetition(calls)


class _Repetition:
    def __init__(self, calls):
        self._calls, self._counters = calls, counters_of(calls)
        self._values = [counter + counter.step for counter in self._counters]

    def restart(self):
        self._values = [counter.again() for counter in self._counters]

    def __call__(self, times):
        for _ in range(times):
            values = iter(self._values)
            for kernel, arguments in self._calls:
                kernel(*(next(values) if isinstance(argument, Counter) else argument for argument in arguments))
            self._values = [value + counter.step for value, counter in zip(self._values, self._counters, strict=True)]
