"""SciPy's three ways to correlate a picture: the environment says which one this process measures.

`correlate2d` and `ndimage` compute on one thread; `oaconvolve` has its Fourier transforms computed by several.
"""

import os

import numpy as np
import scipy
from scipy import fft, ndimage, signal

from . import inputs
from .server import THREADS, serve

METHOD = os.environ.get("BENCHMARK_LIBRARY", "scipy.signal")


def prepare(case):
    """Functions that compute the case: see `server.Prepared`."""
    picture, kernel = inputs.image(case)
    turned = np.ascontiguousarray(kernel[::-1, ::-1])
    out = np.empty_like(picture)

    def by_transforms():
        with fft.set_workers(THREADS):
            return signal.oaconvolve(picture, turned, mode="same")

    return {
        "scipy.signal": {"correlate2d": lambda: signal.correlate2d(picture, kernel, mode="same")},
        "scipy.ndimage": {"correlate": lambda: ndimage.correlate(picture, kernel, output=out, mode="constant")},
        "scipy.oaconvolve": {"oaconvolve": by_transforms},
    }[METHOD]


if __name__ == "__main__":
    serve(prepare, {"scipy": scipy.__version__})
