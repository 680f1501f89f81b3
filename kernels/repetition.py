"""Calls of kernels that a step of training makes again and again.

`repetition` is a function of the devices' table.  This one calls the kernels from Python; the devices have quicker
ways, and CUDA falls back on this one.
"""

import weakref


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

    def ahead(self, by):
        """A counter that always is so much larger."""
        return Counter(int(self) + by, self.step, lambda: self.again() + by)


def now(arguments):
    """The arguments of the first call: counters as plain numbers."""
    return [int(argument) if isinstance(argument, Counter) else argument for argument in arguments]


def counters_of(calls):
    """The counters among the arguments of calls, in order."""
    return [argument for _, arguments in calls for argument in arguments if isinstance(argument, Counter)]


class Lent:
    """Calls some of whose arrays are lent: others may take their places, and nothing here keeps them alive.

    Parameters
    ----------
    calls : list of tuple ``(kernel, arguments)``
    lent : sequence of array
        Among the arguments.
    """

    def __init__(self, calls, lent):
        places = {id(array): _Place(place) for place, array in enumerate(lent)}
        self._calls = [(kernel, [places.get(id(one), one) for one in arguments]) for kernel, arguments in calls]
        self.take(lent)

    def take(self, lent):
        """Let these arrays take the places, in the same order."""
        self._lent = [weakref.ref(array) for array in lent]

    def has(self, lent):
        """Whether these are the arrays that stand there now."""
        return len(lent) == len(self._lent) and all(
            array is reference() for array, reference in zip(lent, self._lent, strict=True)
        )

    def calls(self):
        """The calls with the arrays that are lent now."""
        lent = [reference() for reference in self._lent]
        return [
            (kernel, [lent[one] if isinstance(one, _Place) else one for one in arguments])
            for kernel, arguments in self._calls
        ]


class _Place(int):
    """The place of a lent array among all of them."""


def repetition(calls, lent=()):
    """Make calls again that have been made once.

    Parameters
    ----------
    calls : list of tuple ``(kernel, arguments)``
    lent : sequence of array, optional
        Those of the arguments in whose places others may come.  They live as long as the caller keeps them: a
        repetition does not.

    Returns
    -------
    callable
        ``repeat(times)`` makes all of the calls, in order, so many times more.  After ``repeat.restart(lent)``, which
        makes none, counters begin anew (`Counter.again`), and those arrays stand in the places of the ones lent
        before.  They may have other extents.
    """
    return _Repetition(calls, lent)


class _Repetition:
    def __init__(self, calls, lent):
        self._lent, self._counters = Lent(calls, lent), counters_of(calls)
        self._values = [counter + counter.step for counter in self._counters]

    def restart(self, lent=()):
        self._lent.take(lent)
        self._values = [counter.again() for counter in self._counters]

    def __call__(self, times):
        calls = self._lent.calls()
        for _ in range(times):
            values = iter(self._values)
            for kernel, arguments in calls:
                kernel(*(next(values) if isinstance(argument, Counter) else argument for argument in arguments))
            self._values = [value + counter.step for value, counter in zip(self._values, self._counters, strict=True)]
