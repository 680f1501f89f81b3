"""2D cross-correlation and its two gradients, as products of tiles in shared memory.

Each is a matrix product, one factor of which is never stored.  With ``u = i s - p + a d`` and ``v``
likewise the input cell under filter cell ``(a, b)`` at output ``(i, j)``, for each group of channels::

    product           rows                  columns      terms of each sum
    y                 output pixels n, i, j filters f    patch entries a, b, c
    dx                input pixels n, u, v  channels c   filter entries a, b, f
    dfilters, dbias   patch entries a, b, c filters f    output pixels n, i, j

Tiling.  A block owns a tile of rows x columns (``blockIdx.x``, ``blockIdx.y``; the group is in
``blockIdx.z``) and walks along the terms, `depth` at a time: its threads fetch the two strips that meet
in the tile into shared memory, wait for each other, and each adds the products of its own rows and
columns to sums in registers.  Rows and columns of a thread lie a whole step of threads apart, so that a
warp reads neighbouring words: no bank conflicts in shared memory, whole sectors in the result.

Memory traffic.  Consecutive threads fetch consecutive channels (or filters), which lie side by side.
Every number fetched into a 64 x 64 tile serves 64 multiply-adds.

What bounds it.  With many channels, the multiply-adds, each of which costs half a read from shared memory
(8 reads for 4 x 4 sums); with few channels, as in a network's first layer, writing `y`.  Bias, activation
and the activation's gradient are applied on the way; the gradient costs reading `y`.

Every thread of a block reaches every barrier: what lies outside the matrices is fetched as zero, and
only the stores are masked.

Kernels are made for a tile, a floating type and an activation, which are constants to the compiler: loops
over registers unroll, and the branches of the other activations vanish.
"""

import functools

import numpy as np

from ..geometry import int32_geometry
from . import tiles, toolkit
from .correlate_filters import correlate2d_gradient_filters, multiply_tiles  # noqa: F401 (the first is offered here)
from .correlate_first import correlate_first, suits
from .formulas import activate, pixel_gradient, pixel_place, quotient
from .toolkit import cuda


def correlate2d(x, filters, bias, geometry, activation, alpha, y):
    """``y = activation(correlate2d(x, filters) + bias)``."""
    if y.dtype == np.float32 and suits(geometry):
        correlate_first(x, filters, bias, geometry, activation, alpha, y)
        return
    x, filters, bias, y = (toolkit.flat(array) for array in (x, filters, bias, y))
    g = int32_geometry(geometry)
    real = y.dtype.type
    tile = tiles.product_tile(geometry.out_channels // geometry.groups)
    blocks = tiles.product_blocks(
        tile, geometry.batch * geometry.out_height * geometry.out_width, geometry.out_channels // geometry.groups
    )
    kernel = _forward_kernel(tile, real, int(activation))
    blocks = (*blocks, geometry.groups)
    toolkit.launch(kernel, blocks, (tile.threads,), x, filters, bias, g, real(alpha), y)


def correlate2d_gradient_input(dy, y, filters, geometry, activation, alpha, dx):
    """``dx``, gathered: every input pixel looks up the output pixels that saw it."""
    dy, y, filters, dx = (toolkit.flat(array) for array in (dy, y, filters, dx))
    g = int32_geometry(geometry)
    real = dx.dtype.type
    tile = tiles.product_tile(geometry.channels // geometry.groups)
    blocks = tiles.product_blocks(
        tile, geometry.batch * geometry.height * geometry.width, geometry.channels // geometry.groups
    )
    kernel = _gradient_input_kernel(tile, real, int(activation))
    blocks = (*blocks, geometry.groups)
    toolkit.launch(kernel, blocks, (tile.threads,), dy, y, filters, g, real(alpha), dx)


@functools.cache
def _forward_kernel(tile, real, activation):
    rows, columns, depth, thread_rows, thread_columns = tile
    threads = tile.threads
    row_step, column_step = rows // thread_rows, columns // thread_columns
    # Fetching patches: consecutive threads take consecutive entries of one pixel's patch.  The
    # strip is stored entry by entry, its rows two words longer, so that these writes meet no bank twice.
    fetch_rows = threads // depth
    fetches = rows // fetch_rows
    padded_rows = rows + 2
    # Fetching filters: consecutive threads take consecutive filters of one entry.
    fetch_entries = threads // columns
    filter_fetches = -(-depth // fetch_entries)

    @cuda.jit(cache=True)
    def correlate2d_kernel(x, filters, bias, g, alpha, y):
        patches = cuda.shared.array((depth, padded_rows), real)
        weights = cuda.shared.array((depth, columns), real)
        sums = cuda.local.array((thread_rows, thread_columns), real)
        tops = cuda.local.array(fetches, np.int32)
        lefts = cuda.local.array(fetches, np.int32)
        lines = cuda.local.array(fetches, np.int32)

        thread = cuda.threadIdx.x
        row, column = thread // column_step, thread % column_step
        first_row, first_column = cuda.blockIdx.x * rows, cuda.blockIdx.y * columns
        group = cuda.blockIdx.z
        group_channels = quotient(g.channels, g.groups)
        group_filters = quotient(g.out_channels, g.groups)
        pixels = g.batch * g.out_height * g.out_width
        entries = g.kernel_height * g.kernel_width * group_channels

        for r in range(thread_rows):
            for c in range(thread_columns):
                sums[r, c] = real(0)

        # Where the patches begin whose entries this thread fetches; a pixel past the last has its patch
        # below the picture, where all is zero.
        fetch_entry, fetch_row = thread % depth, thread // depth
        for r in range(fetches):
            pixel = first_row + fetch_row + r * fetch_rows
            tops[r], lefts[r], lines[r] = g.height, 0, 0
            if pixel < pixels:
                picture, i, j = pixel_place(pixel, g.out_height, g.out_width)
                tops[r] = i * g.stride_height - g.pad_top
                lefts[r] = j * g.stride_width - g.pad_left
                lines[r] = picture * g.height

        for first in range(0, entries, depth):
            entry = first + fetch_entry
            cell = quotient(entry, group_channels)
            a = quotient(cell, g.kernel_width)
            b = cell - a * g.kernel_width
            channel = group * group_channels + entry - cell * group_channels
            for r in range(fetches):
                u = tops[r] + a * g.dilation_height
                v = lefts[r] + b * g.dilation_width
                value = real(0)
                if entry < entries and u >= 0 and u < g.height and v >= 0 and v < g.width:
                    value = x[((lines[r] + u) * g.width + v) * g.channels + channel]
                patches[fetch_entry, fetch_row + r * fetch_rows] = value

            f = first_column + thread % columns
            for r in range(filter_fetches):
                k = thread // columns + r * fetch_entries
                if k < depth:
                    value = real(0)
                    if first + k < entries and f < group_filters:
                        value = filters[(first + k) * g.out_channels + group * group_filters + f]
                    weights[k, thread % columns] = value

            cuda.syncthreads()
            multiply_tiles(patches, weights, row, row_step, column, column_step, sums)
            cuda.syncthreads()

        for r in range(thread_rows):
            pixel = first_row + row + r * row_step
            for c in range(thread_columns):
                f = first_column + column + c * column_step
                if pixel < pixels and f < group_filters:
                    f = group * group_filters + f
                    y[pixel * g.out_channels + f] = activate(activation, alpha, sums[r, c] + bias[f])

    return correlate2d_kernel


@functools.cache
def _gradient_input_kernel(tile, real, activation):
    rows, columns, depth, thread_rows, thread_columns = tile
    threads = tile.threads
    row_step, column_step = rows // thread_rows, columns // thread_columns
    # Both strips are fetched with consecutive threads on consecutive filters of one pixel, or of one
    # channel, and stored filter by filter.
    fetch_rows = threads // depth
    fetches = rows // fetch_rows
    padded_rows = rows + 2
    channel_fetches = -(-columns // fetch_rows)
    padded_columns = columns + 2

    @cuda.jit(cache=True)
    def correlate2d_gradient_input_kernel(dy, y, filters, g, alpha, dx):
        gradients = cuda.shared.array((depth, padded_rows), real)
        weights = cuda.shared.array((depth, padded_columns), real)
        sums = cuda.local.array((thread_rows, thread_columns), real)
        bottoms = cuda.local.array(fetches, np.int32)
        rights = cuda.local.array(fetches, np.int32)
        lines = cuda.local.array(fetches, np.int32)

        thread = cuda.threadIdx.x
        row, column = thread // column_step, thread % column_step
        first_row, first_column = cuda.blockIdx.x * rows, cuda.blockIdx.y * columns
        group = cuda.blockIdx.z
        group_channels = quotient(g.channels, g.groups)
        group_filters = quotient(g.out_channels, g.groups)
        pixels = g.batch * g.height * g.width
        entries = g.kernel_height * g.kernel_width * group_filters

        for r in range(thread_rows):
            for c in range(thread_columns):
                sums[r, c] = real(0)

        # Output pixel i saw input pixel u with filter cell a if  i s = u + p - a d  with 0 <= i < out_height:
        # u + p is kept; -1 for pixels past the last, which nothing saw.
        fetch_entry, fetch_row = thread % depth, thread // depth
        for r in range(fetches):
            pixel = first_row + fetch_row + r * fetch_rows
            bottoms[r], rights[r], lines[r] = -1, 0, 0
            if pixel < pixels:
                picture, u, v = pixel_place(pixel, g.height, g.width)
                bottoms[r] = u + g.pad_top
                rights[r] = v + g.pad_left
                lines[r] = picture * g.out_height

        for first in range(0, entries, depth):
            entry = first + fetch_entry
            cell = quotient(entry, group_filters)
            a = quotient(cell, g.kernel_width)
            b = cell - a * g.kernel_width
            f = group * group_filters + entry - cell * group_filters
            for r in range(fetches):
                down = bottoms[r] - a * g.dilation_height
                across = rights[r] - b * g.dilation_width
                value = real(0)
                if entry < entries and down >= 0 and across >= 0:
                    i = quotient(down, g.stride_height)
                    j = quotient(across, g.stride_width)
                    hit = i * g.stride_height == down and j * g.stride_width == across
                    if hit and i < g.out_height and j < g.out_width:
                        place = ((lines[r] + i) * g.out_width + j) * g.out_channels + f
                        value = pixel_gradient(dy, y, place, activation, alpha)
                gradients[fetch_entry, fetch_row + r * fetch_rows] = value

            for r in range(channel_fetches):
                c = fetch_row + r * fetch_rows
                if c < columns:
                    value = real(0)
                    if entry < entries and first_column + c < group_channels:
                        value = filters[(cell * group_channels + first_column + c) * g.out_channels + f]
                    weights[fetch_entry, c] = value

            cuda.syncthreads()
            multiply_tiles(gradients, weights, row, row_step, column, column_step, sums)
            cuda.syncthreads()

        for r in range(thread_rows):
            pixel = first_row + row + r * row_step
            for c in range(thread_columns):
                channel = first_column + column + c * column_step
                if pixel < pixels and channel < group_channels:
                    dx[pixel * g.channels + group * group_channels + channel] = sums[r, c]

    return correlate2d_gradient_input_kernel
