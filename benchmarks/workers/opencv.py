"""OpenCV's `filter2D`, which is a cross-correlation."""

import cv2
import numpy as np

from . import inputs
from .server import THREADS, serve

cv2.setNumThreads(THREADS)


def prepare(case):
    """Functions that compute the case: see `server.Prepared`."""
    picture, kernel = inputs.image(case)
    out = np.empty_like(picture)
    return {
        "new array": lambda: cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_CONSTANT),
        "array that exists": lambda: cv2.filter2D(picture, -1, kernel, dst=out, borderType=cv2.BORDER_CONSTANT),
    }


if __name__ == "__main__":
    serve(prepare, {"opencv": cv2.__version__})
