"""The yardstick of operations that memory bounds: `numpy.copyto`, on one thread, of as many bytes as they move."""

import numpy as np

from . import inputs
from .server import serve


def prepare(case):
    """A copy that reads half of the bytes and writes the other half."""
    source = inputs.normal(case["bytes"] // 2 // np.dtype(np.float32).itemsize)
    destination = np.empty_like(source)
    # Returns None: a copy has nothing in common with the operations whose bytes it moves.
    return {"copyto": lambda: np.copyto(destination, source)}


if __name__ == "__main__":
    serve(prepare, {"numpy": np.__version__})
