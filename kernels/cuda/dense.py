"""Dense layers: a dense layer is a correlation with pictures of one pixel.

A row of the matrix `x` is a picture of one pixel whose channels are the layer's inputs, and its kernel is
filters of one cell, so the tiles of `product` do the work; tiling, memory traffic and what bounds them are described
there.  A batch of a few hundred rows has few tiles, and blocks share the inputs of each.  Then the kernel matrix
is the largest operand, and reading it bounds the layer; for the gradient by the input it is turned first, which
reads it once more and writes it.
"""

import functools

from ..geometry import correlation_geometry
from .correlate import correlate2d, correlate2d_gradient_filters, correlate2d_gradient_input


def dense(x, kernel, bias, activation, alpha, y):
    """``y = activation(x kernel + bias)``."""
    correlate2d(x, kernel, bias, _one_pixel(*x.shape, kernel.shape[1]), activation, alpha, y)


def dense_gradient_input(dy, y, kernel, activation, alpha, dx):
    """``dx = dz kernel'``."""
    correlate2d_gradient_input(dy, y, kernel, _one_pixel(*dx.shape, kernel.shape[1]), activation, alpha, dx)


def dense_gradient_kernel(x, dy, y, activation, alpha, dkernel, dbias):
    """``dkernel = x' dz`` and ``dbias``, the column sums of dz."""
    geometry = _one_pixel(*x.shape, dkernel.shape[1])
    correlate2d_gradient_filters(x, dy, y, geometry, activation, alpha, dkernel, dbias)


@functools.lru_cache(maxsize=1024)
def _one_pixel(rows, inputs, outputs):
    return correlation_geometry((rows, 1, 1, inputs), 1, outputs)
