"""2D cross-correlation and its gradients, as products of matrices one of which is never stored.

With ``u = i s - p + a d`` and ``v`` likewise the input cell under filter cell ``(a, b)`` at output ``(i, j)``, for
each group of channels::

    product           rows                  columns      terms of each sum
    y                 output pixels n, i, j filters f    patch entries a, b, c
    dx                input pixels n, u, v  channels c   filter entries a, b, f
    dfilters, dbias   patch entries a, b, c filters f    output pixels n, i, j

`product` has the kernels of the first, and says how they work.  The second is a product of the same kind, or several,
one for each of its `phases`, all in one launch.  A first kernel turns the filters and, unless the layer is linear,
multiplies dy by the activation's slope, which else each of the ``kernel_height kernel_width`` patches that an output
lies in would do again, in the way of asynchronous copies.

`correlate_filters` has the third, `correlate_first` the first for pictures of few channels and `narrow` the second;
`depthwise` has all for channels that do not mix, and `direct` what else is too narrow for tiles.
"""

import functools

import numpy as np
from numpy import int32

from ..formulas import LINEAR
from ..geometry import LARGEST_INT32, int32_geometry
from . import depthwise, direct, narrow, product, tiles, toolkit
from .correlate_filters import correlate2d_gradient_filters  # noqa: F401 (offered here)
from .correlate_first import correlate_first, suits
from .formulas import inline
from .instructions import divide, move, store, store4
from .phases import hull_of, phase_place
from .slopes import dz4_if, dz_if
from .toolkit import cuda
from .vectors import read_vector, write_vector


def correlate2d(x, filters, bias, geometry, activation, alpha, y):
    """``y = activation(correlate2d(x, filters) + bias)``."""

    def as_first_layer():
        correlate_first(x, filters, bias, geometry, activation, alpha, y)

    def in_tiles():
        size = product.sums_size(geometry)
        sums = toolkit.address(toolkit.workspace(size, np.float32)) if size else None
        addresses = [toolkit.address(array) for array in (x, filters, bias)]
        product.multiply(*addresses, geometry, activation, alpha, toolkit.address(y), sums)

    def directly():
        arrays = (toolkit.flat(array) for array in (x, filters, bias))
        direct.correlate(*arrays, int32_geometry(geometry), int(activation), alpha, toolkit.flat(y))

    def by_channels():
        depthwise.correlate(x, filters, bias, geometry, activation, alpha, y)

    if y.dtype == np.float32 and suits(geometry):
        toolkit.attempt(toolkit.variant("correlate2d of a first layer", geometry), as_first_layer, directly)
    elif y.dtype == np.float32 and depthwise.suits(geometry):
        toolkit.attempt(toolkit.variant("correlate2d of channels by themselves", geometry), by_channels, directly)
    elif product.is_suited(geometry, y.dtype):
        toolkit.attempt(toolkit.variant("correlate2d in register tiles", geometry), in_tiles, directly)
    else:
        directly()


def correlate2d_gradient_input(dy, y, filters, geometry, activation, alpha, dx):
    """``dx``, the gradient by the input, from that by the output."""
    # With strides, all phases at once.
    phased = None if (geometry.stride_height, geometry.stride_width) == (1, 1) else geometry
    largest = hull_of(geometry)
    g = int32_geometry(geometry)

    def in_tiles():
        slopes = 0 if activation == LINEAR else _multiple_of_4(dy.size)
        sums_begin = slopes + _multiple_of_4(filters.size)
        workspace = toolkit.workspace(sums_begin + product.sums_size(largest, phased), np.float32)
        turned, sums = toolkit.address(workspace, slopes), toolkit.address(workspace, sums_begin)
        dz = toolkit.address(workspace if slopes else dy)
        addresses = [toolkit.address(array) for array in (dy, y, filters)]
        width = tiles.row_width(np.float32, dy.size, *addresses[:2], dz) if slopes else 1
        vectors = dy.size // width if slopes else 0
        filter_width = 4 if g.out_channels // g.groups % 4 == 0 and toolkit.is_aligned(addresses[2]) else 1
        channel_width = 4 if g.channels // g.groups % 4 == 0 and toolkit.is_aligned(turned) else 1
        blocks, threads = tiles.element_grid(vectors + filters.size // (filter_width * channel_width))
        kernel = _prepare_kernel(int(activation), width, filter_width, channel_width)
        toolkit.launch(kernel, blocks, threads, *addresses, g, np.float32(alpha), np.int32(vectors), dz, turned)
        product.multiply(dz, turned, None, largest, LINEAR, 0, toolkit.address(dx), sums, phased)

    def directly():
        arrays = (toolkit.flat(array) for array in (dy, y, filters))
        direct.gradient_input(*arrays, g, int(activation), alpha, toolkit.flat(dx))

    def of_few_channels():
        narrow.gradient_input(dy, y, filters, geometry, activation, alpha, dx)

    def by_channels():
        depthwise.gradient_input(dy, y, filters, geometry, activation, alpha, dx)

    name = "correlate2d_gradient_input"
    if dx.dtype == np.float32 and narrow.suits(geometry):
        toolkit.attempt(toolkit.variant(f"{name} of few channels", geometry), of_few_channels, directly)
    elif dx.dtype == np.float32 and depthwise.suits(geometry):
        toolkit.attempt(toolkit.variant(f"{name} of channels by themselves", geometry), by_channels, directly)
    elif _countable(dy, filters) and product.is_suited(largest, dx.dtype, phased):
        toolkit.attempt(toolkit.variant(f"{name} in register tiles", geometry), in_tiles, directly)
    else:
        directly()


def _countable(dy, filters):
    """Whether `_prepare_kernel` can count its elements in 32 bits, and the grid that it steps by past the last."""
    return dy.size + filters.size + tiles.MOST_ELEMENT_BLOCKS * tiles.ELEMENT_THREADS <= LARGEST_INT32


def _multiple_of_4(count):
    return -(-count // 4) * 4


_phase_place = inline(phase_place)


@functools.cache
def _prepare_kernel(activation, width, filter_width, channel_width):
    """The kernel of ``dz = dy * slope``, `width` numbers a thread, and of the filters of each phase, turned.

    Its first `vectors` threads have the one, none if the layer is linear; the others have a cell of `filter_width`
    neighbouring filters and `channel_width` channels each, neighbouring threads neighbouring channels of the turned
    filters.
    """
    sloped, held = activation != LINEAR, filter_width * channel_width

    @cuda.jit(cache=True)
    def prepare_gradient(dy, y, filters, g, alpha, vectors, dz, turned):
        weights = cuda.local.array(held, np.float32)
        line = cuda.local.array(filter_width, np.float32)
        group_channels, group_filters = divide(g.channels, g.groups), divide(g.out_channels, g.groups)
        channel_vectors = divide(group_channels, int32(channel_width))
        filter_vectors = divide(g.out_channels, int32(filter_width))
        count = int32(vectors + g.kernel_height * g.kernel_width * channel_vectors * filter_vectors)
        i = int32(cuda.grid(1))
        while i < count:
            if sloped and i < vectors:
                place = int32(i * width)
                if width == 4:
                    store4(move(dz, place), *dz4_if(True, dy, y, place, activation, alpha))
                else:
                    store(move(dz, place), dz_if(True, dy, y, place, activation, alpha))
            else:
                rest = divide(int32(i - vectors), channel_vectors)
                channel = int32((i - vectors - rest * channel_vectors) * channel_width)
                cell = divide(rest, filter_vectors)
                f = int32((rest - cell * filter_vectors) * filter_width)
                a = divide(cell, g.kernel_width)
                b = int32(cell - a * g.kernel_width)
                first_row, rows, row = _phase_place(a, g.kernel_height, g.stride_height, g.dilation_height, g.pad_top)
                first_column, columns, column = _phase_place(
                    b, g.kernel_width, g.stride_width, g.dilation_width, g.pad_left
                )
                group = divide(f, group_filters)
                place = first_row * g.kernel_width + rows * first_column + row * columns + column
                place = (place * group_filters + f - group * group_filters) * g.channels + channel
                target = move(turned, int32(place + group * group_channels))
                source = move(filters, int32((cell * group_channels + channel) * g.out_channels + f))
                for c in range(channel_width):
                    read_vector(line, 0, source, int32(c * g.out_channels), filter_width)
                    for k in range(filter_width):
                        weights[k * channel_width + c] = line[k]
                for k in range(filter_width):
                    write_vector(weights, k * channel_width, target, int32(k * g.channels), channel_width)
            i = int32(i + cuda.gridsize(1))

    return prepare_gradient
