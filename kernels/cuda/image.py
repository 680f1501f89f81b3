"""Cross-correlation of one picture, without batch and channels, in float32 or float64.

::

    y[i, j] = sum_{a, b} X[i + a, j + b] kernel[a, b]

X is the picture x continued beyond its edges: ``X[p, q] = x[rows[p], columns[q]]``, and `fillvalue` where
rows[p] or columns[q] is -1.  So two vectors of indices hold every boundary: zeros, wrapped, mirrored.

One thread for each output pixel.  Neighbouring threads have neighbouring pixels: they read the kernel's cells
together, and of the picture what the cache already holds for their neighbours.
"""

from . import tiles, toolkit
from .formulas import quotient
from .toolkit import cuda


def correlate_image(x, rows, columns, fillvalue, kernel, y):
    """Every output pixel is one sum, in the order of the kernel's cells."""
    blocks, threads = tiles.element_grid(y.size)
    toolkit.launch(_sum_pixels, blocks, threads, x, rows, columns, y.dtype.type(fillvalue), kernel, y)


@cuda.jit(cache=True)
def _sum_pixels(x, rows, columns, fillvalue, kernel, y):
    place = cuda.grid(1)
    while place < y.size:
        i = quotient(place, y.shape[1])
        j = place - i * y.shape[1]
        total = y.dtype.type(0)
        for a in range(kernel.shape[0]):
            u = rows[i + a]
            for b in range(kernel.shape[1]):
                v = columns[j + b]
                value = fillvalue
                if u >= 0 and v >= 0:
                    value = x[u, v]
                total += value * kernel[a, b]
        y[i, j] = total
        place += cuda.gridsize(1)
