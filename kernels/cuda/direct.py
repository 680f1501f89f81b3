"""Correlations one number at a time: every thread computes one output, and then the next, by its sum.

For what `product` does not do: float64, which gradient checks use, and groups of so few filters that a tile would stay
empty, down to depthwise correlations.  Neighbouring threads compute neighbouring channels, so that reads and writes
are of whole sectors.  Depthwise, each output costs ``2 kernel_height kernel_width`` reads, nearly all from the caches:
memory bounds it.
"""

import functools

from . import tiles, toolkit
from .formulas import activate, inline, pixel_gradient, pixel_place, quotient
from .toolkit import cuda


def correlate(x, filters, bias, g, activation, alpha, y):
    """``y = activation(correlate2d(x, filters) + bias)``; `g` in 32-bit integers."""
    real = y.dtype.type
    blocks, threads = tiles.element_grid(y.size)
    toolkit.launch(_forward_kernel(real, activation), blocks, threads, x, filters, bias, g, real(alpha), y)


def gradient_input(dy, y, filters, g, activation, alpha, dx):
    """``dx``, gathered: every input pixel looks up the output pixels that saw it; `g` in 32-bit integers."""
    real = dx.dtype.type
    blocks, threads = tiles.element_grid(dx.size)
    toolkit.launch(_gradient_kernel(real, activation), blocks, threads, dy, y, filters, g, real(alpha), dx)


@inline
def seen_from(place, cell, stride, dilation, pad, extent):
    """The output that sees an input at `place` through a cell of its window, or -1."""
    moved = place + pad - cell * dilation
    output = quotient(moved, stride) if moved >= 0 else -1
    return output if output < extent and output * stride == moved else -1


@functools.cache
def _forward_kernel(real, activation):
    @cuda.jit(cache=True)
    def direct_correlation(x, filters, bias, g, alpha, y):
        group_channels, group_filters = quotient(g.channels, g.groups), quotient(g.out_channels, g.groups)
        i = cuda.grid(1)
        while i < y.size:
            pixel = quotient(i, g.out_channels)
            f = i - pixel * g.out_channels
            picture, row, column = pixel_place(pixel, g.out_height, g.out_width)
            first_channel = quotient(f, group_filters) * group_channels
            total = real(0)
            for a in range(g.kernel_height):
                u = row * g.stride_height - g.pad_top + a * g.dilation_height
                for b in range(g.kernel_width):
                    v = column * g.stride_width - g.pad_left + b * g.dilation_width
                    if u >= 0 and u < g.height and v >= 0 and v < g.width:
                        source = ((picture * g.height + u) * g.width + v) * g.channels + first_channel
                        weight = (a * g.kernel_width + b) * group_channels * g.out_channels + f
                        for c in range(group_channels):
                            total += x[source + c] * filters[weight + c * g.out_channels]
            y[i] = activate(activation, alpha, total + bias[f])
            i += cuda.gridsize(1)

    return direct_correlation


@functools.cache
def _gradient_kernel(real, activation):
    @cuda.jit(cache=True)
    def direct_gradient(dy, y, filters, g, alpha, dx):
        group_channels, group_filters = quotient(g.channels, g.groups), quotient(g.out_channels, g.groups)
        i = cuda.grid(1)
        while i < dx.size:
            pixel = quotient(i, g.channels)
            channel = i - pixel * g.channels
            picture, u, v = pixel_place(pixel, g.height, g.width)
            group = quotient(channel, group_channels)
            first_filter = group * group_filters
            total = real(0)
            for a in range(g.kernel_height):
                row = seen_from(u, a, g.stride_height, g.dilation_height, g.pad_top, g.out_height)
                for b in range(g.kernel_width):
                    column = seen_from(v, b, g.stride_width, g.dilation_width, g.pad_left, g.out_width)
                    if row >= 0 and column >= 0:
                        source = ((picture * g.out_height + row) * g.out_width + column) * g.out_channels + first_filter
                        entry = (a * g.kernel_width + b) * group_channels + channel - group * group_channels
                        weight = entry * g.out_channels + first_filter
                        for f in range(group_filters):
                            total += pixel_gradient(dy, y, source + f, activation, alpha) * filters[weight + f]
            dx[i] = total
            i += cuda.gridsize(1)

    return direct_gradient
