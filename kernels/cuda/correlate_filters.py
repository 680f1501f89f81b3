"""The gradients of a 2D cross-correlation by its filters and biases; `correlate` says what the products are.

The tiling is that of textbooks: both strips go through shared memory, entry by entry.
"""

import functools

import numpy as np

from ..geometry import int32_geometry
from . import tiles, toolkit
from .formulas import inline, pixel_gradient, pixel_place, quotient
from .toolkit import cuda


def correlate2d_gradient_filters(x, dy, y, geometry, activation, alpha, dfilters, dbias):
    """``dfilters`` and ``dbias``, in two steps of fixed order.

    The result has few tiles but its sums are long, so the pixels are split into chunks: each chunk's
    sums go to a workspace, and a second kernel adds the chunks one after another.
    """
    x, dy, y, dfilters, dbias = (toolkit.flat(array) for array in (x, dy, y, dfilters, dbias))
    g = int32_geometry(geometry)
    real = dfilters.dtype.type
    entries = geometry.kernel_height * geometry.kernel_width * (geometry.channels // geometry.groups)
    group_filters = geometry.out_channels // geometry.groups
    pixels = geometry.batch * geometry.out_height * geometry.out_width
    tile = tiles.product_tile(group_filters)
    blocks = tiles.product_blocks(tile, entries + 1, group_filters)
    splits, chunk = tiles.splits(pixels, blocks[0] * blocks[1] * geometry.groups)

    sums = toolkit.workspace(splits * (entries + 1) * geometry.out_channels, real)
    kernel = _gradient_filters_kernel(tile, real, int(activation))
    blocks = (*blocks, geometry.groups * splits)
    toolkit.launch(kernel, blocks, (tile.threads,), x, dy, y, g, real(alpha), np.int32(chunk), sums)
    blocks, threads = tiles.element_grid((entries + 1) * geometry.out_channels)
    toolkit.launch(_sum_chunks, blocks, threads, sums, np.int32(splits), dfilters, dbias)


@inline
def multiply_tiles(left, right, row, row_step, column, column_step, sums):
    """Add the product of two strips to this thread's sums.

    `left` is (depth, rows) and `right` (depth, columns), both in shared memory; the thread's rows are
    ``row + r * row_step``, its columns ``column + c * column_step``.
    """
    for k in range(left.shape[0]):
        for r in range(sums.shape[0]):
            for c in range(sums.shape[1]):
                sums[r, c] += left[k, row + r * row_step] * right[k, column + c * column_step]


@functools.cache
def _gradient_filters_kernel(tile, real, activation):
    rows, columns, depth, thread_rows, thread_columns = tile
    threads = tile.threads
    row_step, column_step = rows // thread_rows, columns // thread_columns
    # Both strips are fetched as they lie: consecutive threads take consecutive patch entries, or filters, of
    # one output pixel.
    patch_pixels = threads // rows
    patch_fetches = -(-depth // patch_pixels)
    gradient_pixels = threads // columns
    gradient_fetches = -(-depth // gradient_pixels)

    @cuda.jit(cache=True)
    def correlate2d_gradient_filters_kernel(x, dy, y, g, alpha, chunk, chunk_sums):
        patches = cuda.shared.array((depth, rows), real)
        gradients = cuda.shared.array((depth, columns), real)
        sums = cuda.local.array((thread_rows, thread_columns), real)

        thread = cuda.threadIdx.x
        row, column = thread // column_step, thread % column_step
        first_row, first_column = cuda.blockIdx.x * rows, cuda.blockIdx.y * columns
        split = quotient(cuda.blockIdx.z, g.groups)
        group = cuda.blockIdx.z - split * g.groups
        group_channels = quotient(g.channels, g.groups)
        group_filters = quotient(g.out_channels, g.groups)
        pixels = g.batch * g.out_height * g.out_width
        entries = g.kernel_height * g.kernel_width * group_channels
        begin = split * chunk
        end = begin + chunk
        if end > pixels:
            end = pixels

        for r in range(thread_rows):
            for c in range(thread_columns):
                sums[r, c] = real(0)

        # The patch entry that this thread fetches is the same for all pixels.  The one after the last is a
        # constant 1: its sums are those of dz alone, the gradient of the bias.
        entry = first_row + thread % rows
        cell = quotient(entry, group_channels)
        a = quotient(cell, g.kernel_width)
        b = cell - a * g.kernel_width
        channel = group * group_channels + entry - cell * group_channels
        above = a * g.dilation_height - g.pad_top
        before = b * g.dilation_width - g.pad_left
        f = first_column + thread % columns

        for first in range(begin, end, depth):
            for r in range(patch_fetches):
                k = thread // rows + r * patch_pixels
                if k < depth:
                    value = real(0)
                    if first + k < end:
                        if entry < entries:
                            picture, i, j = pixel_place(first + k, g.out_height, g.out_width)
                            u = i * g.stride_height + above
                            v = j * g.stride_width + before
                            if u >= 0 and u < g.height and v >= 0 and v < g.width:
                                value = x[((picture * g.height + u) * g.width + v) * g.channels + channel]
                        elif entry == entries:
                            value = real(1)
                    patches[k, thread % rows] = value

            for r in range(gradient_fetches):
                k = thread // columns + r * gradient_pixels
                if k < depth:
                    value = real(0)
                    if first + k < end and f < group_filters:
                        place = (first + k) * g.out_channels + group * group_filters + f
                        value = pixel_gradient(dy, y, place, activation, alpha)
                    gradients[k, thread % columns] = value

            cuda.syncthreads()
            multiply_tiles(patches, gradients, row, row_step, column, column_step, sums)
            cuda.syncthreads()

        for r in range(thread_rows):
            entry = first_row + row + r * row_step
            for c in range(thread_columns):
                f = first_column + column + c * column_step
                if entry <= entries and f < group_filters:
                    place = (split * (entries + 1) + entry) * g.out_channels + group * group_filters + f
                    chunk_sums[place] = sums[r, c]

    return correlate2d_gradient_filters_kernel


@cuda.jit(cache=True)
def _sum_chunks(chunk_sums, splits, dfilters, dbias):
    # One thread for each filter weight: neighbouring threads read neighbouring words of each chunk.
    size = dfilters.size + dbias.size
    i = cuda.grid(1)
    while i < size:
        total = chunk_sums[i]
        for split in range(1, splits):
            total += chunk_sums[split * size + i]
        if i < dfilters.size:
            dfilters[i] = total
        else:
            dbias[i - dfilters.size] = total
        i += cuda.gridsize(1)
