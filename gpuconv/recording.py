"""Steps of training that are taken again: which kernel gets which arrays is found out once.

A step's arrays stay where they are, so that the second step makes the same calls as the first.  A
`Recorder` stands in for the device during the first and keeps them; the device makes them again, many steps at a time,
without the layers' and the kernels' Python in between, which for small networks takes longer than the arithmetic.
"""

import contextlib

from .kernels.repetition import now

# Calls that a repeated step does without: what they make is there already.
_MEMORY = ("empty", "zeros", "from_host", "to_host", "synchronize")


class Recorder:
    """A device that remembers the calls of its kernels.

    Parameters
    ----------
    device : module
        The device that computes.
    """

    def __init__(self, device):
        self._device = device
        self._calls = []

    def __getattr__(self, name):
        kernel = getattr(self._device, name)
        if name in _MEMORY:
            return kernel

        def recorded(*arguments):
            self._calls.append((kernel, arguments))
            kernel(*now(arguments))

        return recorded

    def repetition(self, lent):
        """A function that makes the recorded calls so many times more, on other arrays than those lent if need be."""
        return self._device.repetition(self._calls, lent)


@contextlib.contextmanager
def recording(device, layers):
    """Let layers compute on a new `Recorder` for the length of a ``with`` block."""
    recorder = Recorder(device)
    try:
        for layer in layers:
            layer.device = recorder
        yield recorder
    finally:
        for layer in layers:
            layer.device = device
