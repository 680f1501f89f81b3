"""Dense layers: a matrix product with bias and activation, and its two gradients.

::

    y = activation(x kernel + bias)         dz = dy * activation'(z)
    dx = dz kernel^T        dkernel = x^T dz        dbias = sum of dz over the batch

Goodfellow, Bengio and Courville, "Deep Learning" (2016), algorithm 6.4.

Each is one product (`product`), whose tables say how A is stored::

    A             rows          columns       B                   C
    x             of the batch  inputs        kernel              y
    dz            of the batch  outputs       kernel, turned      dx
    x, turned     inputs        of the batch  dz                  dkernel

Tasks are blocks of rows of C.  Sums too long to be added up in one go, and those of a C narrower than a vector, are
made in scratch memory of the worker.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import njit

from ..formulas import LINEAR, RELU
from .compiling import INNER
from .epilogue import finish, multiply_by_slope
from .local import local_array
from .prepared import prepared
from .product import lanes, pack_panel, panel_start, panels, product
from .simd import REGISTER_BYTES, WIDE_ROWS
from .threads import WORKERS, share
from .workspace import workspace, zeros

# From so many rows on, copying B into panels costs less than it saves.
PACKING_ROWS = 192

# Terms that are added up before they join the total, for the sake of a long sum's last digits.
DEPTH_BLOCK = 1024

# Rows of C that a task computes: a tile, so that few rows are shared evenly.
ROW_BLOCK = WIDE_ROWS


@prepared
def dense(x, kernel, bias, activation, alpha, y):
    """Forward."""
    plan = _plan(x.shape[0], x.shape[1], kernel.shape[1], x.shape[1], 1, False, x.dtype)
    scratch = workspace(plan.scratch, x.dtype)
    return _forward, (x, kernel, bias, activation, alpha, y, plan.tables, plan.packing, plan.zeros, scratch)


@prepared
def dense_gradient_input(dy, y, kernel, activation, alpha, dx):
    """Gradient by input."""
    plan = _plan(dy.shape[0], dy.shape[1], kernel.shape[0], dy.shape[1], 1, True, dx.dtype)
    scratch = workspace(plan.scratch + dy.size, dx.dtype)
    arguments = dy, y, kernel, activation, alpha, dx, plan.tables, plan.packing, plan.zeros, scratch
    return _input_gradient, arguments


@prepared
def dense_gradient_kernel(x, dy, y, activation, alpha, dkernel, dbias):
    """Gradient by kernel and bias."""
    plan = _plan(x.shape[1], x.shape[0], dy.shape[1], 1, x.shape[1], False, x.dtype)
    scratch = workspace(plan.scratch + dy.size + dy.shape[1], x.dtype)
    arguments = x, dy, y, activation, alpha, dkernel, dbias, plan.tables, plan.packing, plan.zeros, scratch
    return _kernel_gradient, arguments


class _Plan(NamedTuple):
    """One product for one batch size.

    The tables of rows and columns of A, of rows of B and of rows of C stand in one array, because every argument of a
    compiled function costs time.
    """

    tables: np.ndarray
    packing: bool  # whether B is copied into panels
    zeros: np.ndarray  # as many as C has columns, and at least a panel of them
    scratch: int  # numbers of scratch memory


@functools.lru_cache(maxsize=256)
def _plan(rows, depth, width, row_step, column_step, turned, dtype):
    wide = lanes(dtype)
    packing = turned or width < wide or rows >= PACKING_ROWS
    tables = (
        np.arange(rows, dtype=np.int64) * row_step,
        np.arange(depth, dtype=np.int64) * column_step,
        np.arange(depth, dtype=np.int64) * (2 * wide if packing else width),
        np.arange(rows, dtype=np.int64) * width,
    )
    packed = panels(width, dtype) * depth * 2 * wide if packing else 0
    indirect = WORKERS * ROW_BLOCK * panels(width, dtype) * 2 * wide if width < wide or depth > DEPTH_BLOCK else 0
    scratch = packed + indirect
    return _Plan(np.concatenate(tables), packing, zeros(dtype, width), scratch)


@njit(cache=True, nogil=True, error_model="numpy")
def _forward(x, kernel, bias, activation, alpha, y, tables, packing, none, scratch):
    _product(x, kernel, packing, bool(0), bias, activation, alpha, y, x.shape[1], tables, none, scratch)


@njit(cache=True, nogil=True, error_model="numpy")
def _input_gradient(dy, y, kernel, activation, alpha, dx, tables, packing, none, scratch):
    dz = _dz(dy, y, activation, alpha, scratch)
    rest = scratch[dz.size :]
    _product(dz, kernel, packing, bool(1), none, np.intp(LINEAR), alpha, dx, dz.shape[1], tables, none, rest)


@njit(cache=True, nogil=True, error_model="numpy")
def _kernel_gradient(x, dy, y, activation, alpha, dkernel, dbias, tables, packing, none, scratch):
    dz = _dz(dy, y, activation, alpha, scratch)
    rest = scratch[dz.size :]
    _add_rows(dz, dbias, rest)
    _product(x, dz, packing, bool(0), none, np.intp(LINEAR), alpha, dkernel, dz.shape[0], tables, none, rest)


@njit(**INNER)
def _add_rows(dz, dbias, scratch):
    """The sum of dz over the batch, block after block."""
    rows, outputs = dz.shape
    block = scratch[:outputs]
    dbias[:] = 0
    for first in range(0, rows, DEPTH_BLOCK):
        block[:] = 0
        for row in range(first, min(first + DEPTH_BLOCK, rows)):
            for f in range(outputs):
                block[f] += dz[row, f]
        for f in range(outputs):
            dbias[f] += block[f]


@njit(**INNER)
def _dz(dy, y, activation, alpha, scratch):
    """dy times the activation's slope, at the start of the scratch memory."""
    dz = scratch[: dy.size]
    multiply_by_slope(dy.reshape(-1), y.reshape(-1), np.intp(0), dy.size, activation, alpha, dz, np.intp(0))
    return dz.reshape(dy.shape)


@njit(**INNER)
def _product(a, b, packing, turned, bias, activation, alpha, c, depth, tables, none, scratch):
    """C = A B with bias and activation, where B is given turned over or not."""
    lanes = REGISTER_BYTES // a.itemsize
    rows, width = c.shape
    panels = _panels(width, lanes)
    packed, rest = b.reshape(-1), scratch
    if packing:
        packed = scratch[: panels * depth * 2 * lanes]
        rest = scratch[packed.size :]
        share(_pack, (b, turned, width, packed), panels, packed.size)
    share(
        _product_rows,
        (a.reshape(-1), packed, packing, bias, activation, alpha, c, depth, tables, none, rest),
        (rows + ROW_BLOCK - 1) // ROW_BLOCK,
        rows * depth * width,
    )


@njit(**INNER)
def _pack(first, last, worker, b, turned, width, packed):
    """Copy B into panels: a task is one of them."""
    lanes = REGISTER_BYTES // b.itemsize
    depth = packed.size // (_panels(width, lanes) * 2 * lanes)
    flat = b.reshape(-1)
    for panel in range(first, last):
        start = panel_start(panel, max(width, lanes), lanes)
        place, step = (start * depth, depth) if turned else (start, width)
        count = min(2 * lanes, width - start)
        pack_panel(flat, place, step, depth, count, turned, packed, panel * depth * 2 * lanes)


@njit(**INNER)
def _product_rows(first, last, worker, a, packed, packing, bias, activation, alpha, c, depth, tables, none, scratch):
    lanes = REGISTER_BYTES // a.itemsize
    count, width = c.shape
    begin, end = first * ROW_BLOCK, min(last * ROW_BLOCK, count)
    rows, columns = tables[begin:end], tables[count : count + depth]
    b_rows = tables[count + depth : count + 2 * depth]
    c_rows = tables[count + 2 * depth + begin : count + 2 * depth + end]
    b_panel = depth * 2 * lanes if packing else 0
    floor = a.dtype.type(0) if activation == RELU else a.dtype.type(-np.inf)
    flat, zero = c.reshape(-1), np.intp(0)
    if width >= lanes and depth <= DEPTH_BLOCK:
        product(
            a, zero, rows, columns, packed, zero, b_rows, b_panel,
            bias, floor, flat, zero, c_rows, zero, width, bool(0),
        )  # fmt: skip
    else:
        size = _panels(width, lanes) * ROW_BLOCK * 2 * lanes
        for task in range(first, last):
            begin, end = task * ROW_BLOCK, min((task + 1) * ROW_BLOCK, count)
            sums = scratch[worker * size : (worker + 1) * size]
            _add_blocks(a, tables[begin:end], columns, packed, b_rows, b_panel, none, sums, width)
            for panel in range(_panels(width, lanes)):
                start = panel_start(panel, max(width, lanes), lanes)
                for row in range(begin, end):
                    place = (panel * ROW_BLOCK + row - begin) * 2 * lanes
                    for f in range(start, min(start + 2 * lanes, width)):
                        result = sums[place + f - start] + bias[f]
                        c[row, f] = floor if result < floor else result
    if activation > RELU:
        begin, end = first * ROW_BLOCK, min(last * ROW_BLOCK, count)
        finish(flat, begin * width, end * width, activation, alpha)


@njit(**INNER)
def _add_blocks(a, rows, columns, packed, b_rows, b_panel, none, sums, width):
    """A task's sums in panels of their own, block after block of the depth."""
    lanes = REGISTER_BYTES // a.itemsize
    places = local_array(ROW_BLOCK, np.int64)
    for row in range(ROW_BLOCK):
        places[row] = row * 2 * lanes
    sums[:] = 0
    zero, lowest = np.intp(0), a.dtype.type(-np.inf)
    for block in range(0, columns.size, DEPTH_BLOCK):
        part = slice(block, min(block + DEPTH_BLOCK, columns.size))
        product(
            a, zero, rows, columns[part], packed, zero, b_rows[part], b_panel,
            none, lowest, sums, zero, places[: rows.size], ROW_BLOCK * 2 * lanes, max(width, lanes), bool(1),
        )  # fmt: skip


@njit(**INNER)
def _panels(width, lanes):
    return (width + 2 * lanes - 1) // (2 * lanes)
