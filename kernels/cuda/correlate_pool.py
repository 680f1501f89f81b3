"""2D cross-correlation and max pooling after it, and the gradients of both together.

What lies between them stays in a workspace: it has a purpose of its own, since the gradient by filters asks for a
workspace too.

Forward, the correlation writes the cells that windows cover, and the pooling reads them; in first layers with windows
of 2 x 2 cells one kernel does both (`correlate_first`), and writes a quarter of the cells and their numbers.

Backward, one thread for each vector of neighbouring channels of a window makes dz of the window's cells:
``dy * slope_from_value(y)`` at the winner, where the activation's value is that of the pooling, and 0 elsewhere.  The
gradients are those of a correlation whose activation is linear.

What bounds it: as in `correlate`; what lies between is written and read once more.
"""

import functools

import numpy as np

from ..formulas import LINEAR
from ..geometry import pooled_part
from . import tiles, toolkit
from .correlate import correlate2d, correlate2d_gradient_filters, correlate2d_gradient_input
from .correlate_first import correlate_first_pooled, suits
from .formulas import quotient, slope_from_value
from .pool import max_pool2d
from .toolkit import cuda
from .vectors import read_vector, write_vector


def correlate2d_max_pool2d(x, filters, bias, geometry, activation, alpha, pool, y, winner):
    """``y = max_pool2d(activation(correlate2d(x, filters) + bias))``, and the winners."""
    part = pooled_part(geometry, pool)

    def at_once():
        correlate_first_pooled(x, filters, bias, part, activation, alpha, y, winner)

    def one_after_the_other():
        activated = toolkit.workspace(_cells(part), y.dtype, "between")
        correlate2d(x, filters, bias, part, activation, alpha, activated)
        max_pool2d(activated, pool._replace(height=part.out_height, width=part.out_width), y, winner)

    if y.dtype == np.float32 and pool.kernel_height == pool.kernel_width == 2 and suits(part):
        variant = toolkit.variant("correlate2d_max_pool2d of a first layer", geometry)
        toolkit.attempt(variant, at_once, one_after_the_other)
    else:
        one_after_the_other()


def correlate2d_max_pool2d_gradient_input(dy, y, winner, filters, geometry, activation, alpha, pool, dx):
    """``dx``, from the gradient by the pooled output."""
    part = pooled_part(geometry, pool)
    dz = _dz(dy, y, winner, part, activation, alpha, pool)
    correlate2d_gradient_input(dz, dz, filters, part, LINEAR, 0.0, dx)


def correlate2d_max_pool2d_gradient_filters(x, dy, y, winner, geometry, activation, alpha, pool, dfilters, dbias):
    """``dfilters`` and ``dbias``, from the gradient by the pooled output."""
    part = pooled_part(geometry, pool)
    dz = _dz(dy, y, winner, part, activation, alpha, pool)
    correlate2d_gradient_filters(x, dz, dz, part, LINEAR, 0.0, dfilters, dbias)


def _cells(part):
    """Cells of the correlation's output that windows cover."""
    return part.batch * part.out_height * part.out_width * part.out_channels


def _dz(dy, y, winner, part, activation, alpha, pool):
    """The gradient by the correlation's output before its activation, in a workspace."""
    real, kind = dy.dtype.type, winner.dtype.type
    dz = toolkit.workspace(_cells(part), real, "between")
    dy, y, winner, target = map(toolkit.address, (dy, y, winner, dz))
    width = tiles.row_width(real, pool.channels, dy, y, winner, target)
    vectors = pool.channels // width
    count = pool.batch * pool.out_height * pool.out_width * vectors
    extents = np.int32(pool.out_width), np.int32(vectors), np.int32(count)
    kernel = _unpool_kernel(real, kind, width, int(activation), pool.kernel_height, pool.kernel_width)
    toolkit.launch(kernel, *tiles.element_grid(count), dy, y, winner, *extents, real(alpha), target)
    return dz


@functools.cache
def _unpool_kernel(real, kind, width, activation, window_height, window_width):
    @cuda.jit(cache=True)
    def unpool_kernel(dy, y, winner, out_width, pixel_vectors, count, alpha, dz):
        gradient = cuda.local.array(width, real)
        value = cuda.local.array(width, real)
        cell = cuda.local.array(width, kind)
        vector = cuda.grid(1)
        while vector < count:
            read_vector(gradient, 0, dy, vector * width, width)
            read_vector(cell, 0, winner, vector * width, width)
            if activation != LINEAR:
                read_vector(value, 0, y, vector * width, width)
                for k in range(width):
                    gradient[k] *= slope_from_value(activation, alpha, value[k])
            window = quotient(vector, pixel_vectors)
            # All windows of all pictures lie in rows, one below the other.
            i = quotient(window, out_width)
            j = window - i * out_width
            for a in range(window_height):
                for b in range(window_width):
                    for k in range(width):
                        value[k] = gradient[k] if cell[k] == a * window_width + b else real(0)
                    pixel = (i * window_height + a) * (out_width * window_width) + j * window_width + b
                    place = pixel * pixel_vectors + vector - window * pixel_vectors
                    write_vector(value, 0, dz, place * width, width)
            vector += cuda.gridsize(1)

    return unpool_kernel
