"""Cross-correlation of one picture, without batch and channels, in any dtype.

::

    y[i, j] = sum_{a, b} X[i + a, j + b] kernel[a, b]

X is the picture x continued beyond its edges: ``X[p, q] = x[rows[p], columns[q]]``, and `fillvalue` where
rows[p] or columns[q] is -1.  So two vectors of indices hold every boundary: zeros, wrapped, mirrored.

The innermost loop runs along a row of X and a row of y, which both lie next to each other in memory, so that it
becomes vector instructions in every dtype.
"""

import numpy as np
from numba import njit

from .threads import share


def correlate_image(x, rows, columns, fillvalue, kernel, y):
    """Rows of output pixels are independent tasks; the continued picture is made once, by NumPy."""
    extended = x[rows[:, np.newaxis], columns]
    extended[rows < 0] = fillvalue
    extended[:, columns < 0] = fillvalue
    share(_sum_rows, y.shape[0], y.size * kernel.size, extended, kernel, y)


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_rows(first, last, x, kernel, y):
    width = y.shape[1]
    for i in range(first, last):
        total = y[i]
        total[:] = 0
        for a in range(kernel.shape[0]):
            line = x[i + a]
            for b in range(kernel.shape[1]):
                weight = kernel[a, b]
                shifted = line[b : b + width]
                for j in range(width):
                    total[j] += weight * shifted[j]
