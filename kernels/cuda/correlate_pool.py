"""2D cross-correlation and max pooling after it, and the gradients of both together.

What lies between them stays in a workspace: it has a purpose of its own, since the gradient by filters asks for a
workspace too.

Forward, the correlation writes the cells that windows cover, and the pooling reads them; in first layers with windows
of 2 x 2 cells one kernel does both (`correlate_first`), and writes a quarter of the cells and their numbers.

Backward, one thread for each of these cells makes its dz: ``dy * slope_from_value(y)`` at the winner of each window,
where the activation's value is that of the pooling, and 0 elsewhere.  Consecutive threads take consecutive channels.
The gradients are those of a correlation whose activation is linear.

What bounds it: as in `correlate`; what lies between is written and read once more.
"""

import functools

import numpy as np

from ..formulas import LINEAR
from ..geometry import int32_geometry, pooled_part
from . import tiles, toolkit
from .correlate import correlate2d, correlate2d_gradient_filters, correlate2d_gradient_input
from .correlate_first import correlate_first_pooled, suits
from .formulas import pixel_gradient, pixel_place, quotient
from .pool import max_pool2d
from .toolkit import cuda


def correlate2d_max_pool2d(x, filters, bias, geometry, activation, alpha, pool, y, winner):
    """``y = max_pool2d(activation(correlate2d(x, filters) + bias))``, and the winners."""
    part = pooled_part(geometry, pool)
    if y.dtype == np.float32 and pool.kernel_height == pool.kernel_width == 2 and suits(part):
        correlate_first_pooled(x, filters, bias, part, activation, alpha, y, winner)
        return
    activated = toolkit.workspace(_cells(part), y.dtype, "between")
    correlate2d(x, filters, bias, part, activation, alpha, activated)
    max_pool2d(activated, pool._replace(height=part.out_height, width=part.out_width), y, winner)


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
    dy, y, winner = (toolkit.flat(array) for array in (dy, y, winner))
    real, cells = dy.dtype.type, _cells(part)
    dz = toolkit.workspace(cells, real, "between")
    blocks, threads = tiles.element_grid(cells)
    kernel = _unpool_kernel(real, int(activation))
    toolkit.launch(kernel, blocks, threads, dy, y, winner, int32_geometry(pool), real(alpha), np.int32(cells), dz)
    return dz


@functools.cache
def _unpool_kernel(real, activation):
    @cuda.jit(cache=True)
    def unpool_kernel(dy, y, winner, g, alpha, cells, dz):
        height, width = g.out_height * g.kernel_height, g.out_width * g.kernel_width
        place = cuda.grid(1)
        while place < cells:
            pixel = quotient(place, g.channels)
            channel = place - pixel * g.channels
            picture, u, v = pixel_place(pixel, height, width)
            i, j = quotient(u, g.kernel_height), quotient(v, g.kernel_width)
            number = (u - i * g.kernel_height) * g.kernel_width + v - j * g.kernel_width
            window = ((picture * g.out_height + i) * g.out_width + j) * g.channels + channel
            value = real(0)
            if winner[window] == number:
                value = pixel_gradient(dy, y, window, activation, alpha)
            dz[place] = value
            place += cuda.gridsize(1)

    return unpool_kernel
