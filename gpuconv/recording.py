"""Steps of training that are called again: which kernel gets which arrays is found out once.

A step's arrays stay where they are, so that the second step of an epoch makes the same calls as the first.  A
`Recorder` stands in for the device during the first and keeps them; later ones call the kernels straight away, without
the layers' and the kernels' Python in between, which for small networks takes longer than the arithmetic.
"""

import contextlib

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
        self.calls = []

    def __getattr__(self, name):
        kernel = getattr(self._device, name)
        if name in _MEMORY:
            return kernel

        def recorded(*arguments):
            function = kernel
            if hasattr(kernel, "prepare"):
                function, arguments = kernel.prepare(*arguments)
            self.calls.append((function, arguments))
            function(*arguments)

        return recorded

    def repeat(self):
        """Make the recorded calls again."""
        for function, arguments in self.calls:
            function(*arguments)


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
