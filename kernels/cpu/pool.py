"""Max and average pooling with their gradients; windows may overlap.

Padding cells do not exist: a maximum never takes them and an average does not count them.
The gradients are gathers: every input cell sums over the windows that cover it, in order,
so that no two tasks write one cell.
"""

import numpy as np
from numba import njit

from .threads import share


def max_pool2d(x, geometry, y, winner):
    """The largest cell of each window, and its number within the window, row by row."""
    share(_max_rows, geometry.batch * geometry.out_height, x.size, x, geometry, y, winner)


@njit(cache=True, nogil=True, error_model="numpy")
def _max_rows(first_row, last_row, x, geometry, y, winner):
    g = geometry
    for row in range(first_row, last_row):
        picture, i = divmod(row, g.out_height)
        for j in range(g.out_width):
            best = y[picture, i, j]
            place = winner[picture, i, j]
            empty = True
            for a in range(g.kernel_height):
                u = i * g.stride_height - g.pad_top + a
                if u < 0 or u >= g.height:
                    continue
                for b in range(g.kernel_width):
                    v = j * g.stride_width - g.pad_left + b
                    if v < 0 or v >= g.width:
                        continue
                    cell = a * g.kernel_width + b
                    for c in range(g.channels):
                        value = x[picture, u, v, c]
                        # "not <=" rather than ">", so that NaN wins; best == best, so that nothing beats it.
                        if empty or (not value <= best[c] and best[c] == best[c]):
                            best[c] = value
                            place[c] = cell
                    empty = False


def max_pool2d_gradient(dy, winner, geometry, dx):
    """dx[cell] = sum of dy over the windows whose winner is the cell."""
    share(_max_gradient_rows, geometry.batch * geometry.height, dx.size, dy, winner, geometry, dx)


@njit(cache=True, nogil=True, error_model="numpy")
def _max_gradient_rows(first_row, last_row, dy, winner, geometry, dx):
    g = geometry
    for row in range(first_row, last_row):
        picture, u = divmod(row, g.height)
        dx[picture, u] = 0
        for a in range(g.kernel_height):
            i, remainder = divmod(u + g.pad_top - a, g.stride_height)
            if remainder or i < 0 or i >= g.out_height:
                continue
            for j in range(g.out_width):
                for b in range(g.kernel_width):
                    v = j * g.stride_width - g.pad_left + b
                    if v < 0 or v >= g.width:
                        continue
                    cell = a * g.kernel_width + b
                    for c in range(g.channels):
                        if winner[picture, i, j, c] == cell:
                            dx[picture, u, v, c] += dy[picture, i, j, c]


@njit(cache=True, nogil=True, error_model="numpy")
def _real_cells(first, kernel, extent):
    """How many of the cells first .. first + kernel - 1 lie within 0 .. extent - 1."""
    return min(first + kernel, extent) - max(first, 0)


def average_pool2d(x, geometry, y):
    """The mean of the real cells of each window."""
    share(_average_rows, geometry.batch * geometry.out_height, x.size, x, geometry, y)


@njit(cache=True, nogil=True, error_model="numpy")
def _average_rows(first_row, last_row, x, geometry, y):
    g = geometry
    line = np.empty(g.channels, x.dtype)
    for row in range(first_row, last_row):
        picture, i = divmod(row, g.out_height)
        top = i * g.stride_height - g.pad_top
        for j in range(g.out_width):
            left = j * g.stride_width - g.pad_left
            mean = y[picture, i, j]
            mean[:] = 0
            for u in range(max(top, 0), min(top + g.kernel_height, g.height)):
                # Line by line, so that the mean of a large window keeps its digits.
                line[:] = 0
                for v in range(max(left, 0), min(left + g.kernel_width, g.width)):
                    for c in range(g.channels):
                        line[c] += x[picture, u, v, c]
                for c in range(g.channels):
                    mean[c] += line[c]
            cells = _real_cells(top, g.kernel_height, g.height) * _real_cells(left, g.kernel_width, g.width)
            for c in range(g.channels):
                mean[c] /= x.dtype.type(cells)


def average_pool2d_gradient(dy, geometry, dx):
    """dx[cell] = sum over the windows that hold the cell of dy / (real cells of the window)."""
    share(_average_gradient_rows, geometry.batch * geometry.height, dx.size, dy, geometry, dx)


@njit(cache=True, nogil=True, error_model="numpy")
def _average_gradient_rows(first_row, last_row, dy, geometry, dx):
    g = geometry
    for row in range(first_row, last_row):
        picture, u = divmod(row, g.height)
        dx[picture, u] = 0
        for a in range(g.kernel_height):
            i, remainder = divmod(u + g.pad_top - a, g.stride_height)
            if remainder or i < 0 or i >= g.out_height:
                continue
            rows = _real_cells(i * g.stride_height - g.pad_top, g.kernel_height, g.height)
            for j in range(g.out_width):
                left = j * g.stride_width - g.pad_left
                cells = dx.dtype.type(rows * _real_cells(left, g.kernel_width, g.width))
                for v in range(max(left, 0), min(left + g.kernel_width, g.width)):
                    for c in range(g.channels):
                        dx[picture, u, v, c] += dy[picture, i, j, c] / cells
