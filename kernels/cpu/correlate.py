"""2D cross-correlation and its two gradients.

Forward, with ``u = i s - p + a d`` and ``v`` likewise the input cell under filter cell
``(a, b)`` at output ``(i, j)``::

    y[n, i, j, f] = activation( bias[f] + sum_{a, b, c} x[n, u, v, c] filters[a, b, c, f] )

With ``dz = dy * activation'(z)``, the gradients are products with the same (Toeplitz)
view of `x`::

    dfilters[a, b, c, f] = sum_{n, i, j} x[n, u, v, c] dz[n, i, j, f]
    dbias[f]             = sum_{n, i, j} dz[n, i, j, f]
    dx[n, u, v, c]       = sum_{a, b, f} dz[n, i, j, f] filters[a, b, c, f]

Goodfellow, Bengio and Courville, "Deep Learning" (2016), section 9.5.

Every innermost loop runs over output channels, which lie next to each other in all of
`y`, `dz` and the filters, so that it becomes vector instructions.
"""

import numpy as np
from numba import njit

from .formulas import activate, slope_from_value
from .threads import share

# Input channels whose filter gradients one task holds: 8 x 64 floats stay in the first-level cache.
CHANNEL_BLOCK = 8

# Pixels (rounded up to whole rows) that are added up before they join the total: sums of hundreds of thousands of
# float32 numbers one by one would lose three digits.
PIXEL_BLOCK = 256


def correlate2d(x, filters, bias, geometry, activation, alpha, y):
    """Forward: rows of output pixels are independent tasks."""
    rows = geometry.batch * geometry.out_height
    work = filters.size * rows * geometry.out_width
    share(_forward_rows, rows, work, x, filters, bias, geometry, activation, alpha, y)


@njit(cache=True, nogil=True, error_model="numpy")
def _forward_rows(first_row, last_row, x, filters, bias, geometry, activation, alpha, y):
    g = geometry
    group_channels = g.channels // g.groups
    group_filters = g.out_channels // g.groups
    for row in range(first_row, last_row):
        picture, i = divmod(row, g.out_height)
        for j in range(g.out_width):
            pixel = y[picture, i, j]
            for f in range(g.out_channels):
                pixel[f] = bias[f]
            for a in range(g.kernel_height):
                u = i * g.stride_height - g.pad_top + a * g.dilation_height
                if u < 0 or u >= g.height:
                    continue
                for b in range(g.kernel_width):
                    v = j * g.stride_width - g.pad_left + b * g.dilation_width
                    if v < 0 or v >= g.width:
                        continue
                    for group in range(g.groups):
                        first = group * group_filters
                        out = pixel[first : first + group_filters]
                        for c in range(group_channels):
                            value = x[picture, u, v, group * group_channels + c]
                            weights = filters[a, b, c, first : first + group_filters]
                            for f in range(group_filters):
                                out[f] += value * weights[f]
            if activation:
                for f in range(g.out_channels):
                    pixel[f] = activate(activation, alpha, pixel[f])


def correlate2d_gradient_input(dy, y, filters, geometry, activation, alpha, dx):
    """Gradient by input: rows of input pixels are independent tasks."""
    rows = geometry.batch * geometry.height
    work = filters.size * (dy.size // geometry.out_channels)
    share(_input_gradient_rows, rows, work, dy, y, filters, geometry, activation, alpha, dx)


# Reassociation lets the dot products below use vector registers; NaN and infinity still propagate.
@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _input_gradient_rows(first_row, last_row, dy, y, filters, geometry, activation, alpha, dx):
    # Each row of input pixels gathers from every output row whose window covers it.
    g = geometry
    group_channels = g.channels // g.groups
    group_filters = g.out_channels // g.groups
    dz = np.empty(g.out_channels, dx.dtype)
    for row in range(first_row, last_row):
        picture, u = divmod(row, g.height)
        dx[picture, u] = 0
        for a in range(g.kernel_height):
            i, remainder = divmod(u + g.pad_top - a * g.dilation_height, g.stride_height)
            if remainder or i < 0 or i >= g.out_height:
                continue
            for j in range(g.out_width):
                for f in range(g.out_channels):
                    dz[f] = dy[picture, i, j, f] * slope_from_value(activation, alpha, y[picture, i, j, f])
                for b in range(g.kernel_width):
                    v = j * g.stride_width - g.pad_left + b * g.dilation_width
                    if v < 0 or v >= g.width:
                        continue
                    for group in range(g.groups):
                        first = group * group_filters
                        for c in range(group_channels):
                            total = dx.dtype.type(0)
                            for f in range(first, first + group_filters):
                                total += dz[f] * filters[a, b, c, f]
                            dx[picture, u, v, group * group_channels + c] += total


def correlate2d_gradient_filters(x, dy, y, geometry, activation, alpha, dfilters, dbias):
    """Gradient by filters and bias.

    Each task owns the gradients of one filter cell for up to CHANNEL_BLOCK input channels and
    adds up all pixels in order; the last task is the bias.
    """
    blocks = -(-(geometry.channels // geometry.groups) // CHANNEL_BLOCK)
    tasks = geometry.kernel_height * geometry.kernel_width * blocks + 1
    work = dfilters.size * (dy.size // geometry.out_channels)
    share(_filters_gradient_blocks, tasks, work, x, dy, y, geometry, activation, alpha, dfilters, dbias)


@njit(cache=True, nogil=True, error_model="numpy")
def _filters_gradient_blocks(first_task, last_task, x, dy, y, geometry, activation, alpha, dfilters, dbias):
    g = geometry
    group_channels = g.channels // g.groups
    group_filters = g.out_channels // g.groups
    blocks = (group_channels + CHANNEL_BLOCK - 1) // CHANNEL_BLOCK
    dz = np.empty(g.out_channels, x.dtype)
    sums = np.empty((CHANNEL_BLOCK, g.out_channels), x.dtype)
    for task in range(first_task, last_task):
        cell, block = divmod(task, blocks)
        a, b = divmod(cell, g.kernel_width)
        if a == g.kernel_height:
            _bias_gradient(dy, y, activation, alpha, dbias)
            continue
        first_channel = block * CHANNEL_BLOCK
        last_channel = min(first_channel + CHANNEL_BLOCK, group_channels)
        dfilters[a, b, first_channel:last_channel] = 0
        sums[:] = 0
        pixels = 0
        for picture in range(g.batch):
            for i in range(g.out_height):
                pixels += g.out_width
                if pixels > PIXEL_BLOCK:
                    _move_sums(sums, dfilters[a, b, first_channel:last_channel])
                    pixels = g.out_width
                u = i * g.stride_height - g.pad_top + a * g.dilation_height
                if u < 0 or u >= g.height:
                    continue
                for j in range(g.out_width):
                    v = j * g.stride_width - g.pad_left + b * g.dilation_width
                    if v < 0 or v >= g.width:
                        continue
                    for f in range(g.out_channels):
                        dz[f] = dy[picture, i, j, f] * slope_from_value(activation, alpha, y[picture, i, j, f])
                    for group in range(g.groups):
                        first = group * group_filters
                        part = dz[first : first + group_filters]
                        for c in range(first_channel, last_channel):
                            value = x[picture, u, v, group * group_channels + c]
                            gradient = sums[c - first_channel, first : first + group_filters]
                            for f in range(group_filters):
                                gradient[f] += value * part[f]
        _move_sums(sums, dfilters[a, b, first_channel:last_channel])


@njit(cache=True, nogil=True, error_model="numpy")
def _move_sums(sums, total):
    """Add a block's sums to the total, and start them again."""
    for c in range(total.shape[0]):
        for f in range(total.shape[1]):
            total[c, f] += sums[c, f]
            sums[c, f] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def _bias_gradient(dy, y, activation, alpha, dbias):
    """Sum of dz over all pixels."""
    batch, height, width, channels = dy.shape
    sums = np.zeros((1, channels), dbias.dtype)
    total = dbias.reshape(1, channels)
    total[:] = 0
    pixels = 0
    for picture in range(batch):
        for i in range(height):
            pixels += width
            if pixels > PIXEL_BLOCK:
                _move_sums(sums, total)
                pixels = width
            for j in range(width):
                for f in range(channels):
                    sums[0, f] += dy[picture, i, j, f] * slope_from_value(activation, alpha, y[picture, i, j, f])
    _move_sums(sums, total)
