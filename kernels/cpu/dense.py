"""Dense layers: a matrix product with bias and activation, and its two gradients.

::

    y = activation(x kernel + bias)         dz = dy * activation'(z)
    dx = dz kernel^T        dkernel = x^T dz        dbias = sum of dz over the batch

Goodfellow, Bengio and Courville, "Deep Learning" (2016), algorithm 6.4.
"""

import numpy as np
from numba import njit, prange

from .formulas import activate, slope_from_value
from .threads import SERIAL_WORK

# Rows of the kernel's gradient that one task holds, so that they stay in the first-level cache.
INPUT_BLOCK = 8


@njit(cache=True, nogil=True, error_model="numpy")
def _forward_row(row, x, kernel, bias, activation, alpha, y):
    inputs, outputs = kernel.shape
    out = y[row]
    for f in range(outputs):
        out[f] = bias[f]
    for c in range(inputs):
        value = x[row, c]
        for f in range(outputs):
            out[f] += value * kernel[c, f]
    if activation:
        for f in range(outputs):
            out[f] = activate(activation, alpha, out[f])


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def dense(x, kernel, bias, activation, alpha, y):
    """Forward: rows of the batch are independent tasks."""
    rows = x.shape[0]
    if x.size * kernel.shape[1] < SERIAL_WORK:
        for row in range(rows):
            _forward_row(row, x, kernel, bias, activation, alpha, y)
    else:
        for row in prange(rows):
            _forward_row(np.intp(row), x, kernel, bias, activation, alpha, y)


# Reassociation lets the dot products use vector registers; NaN and infinity still propagate.
@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _input_gradient_row(row, dy, y, kernel, activation, alpha, dx):
    inputs, outputs = kernel.shape
    dz = np.empty(outputs, dx.dtype)
    for f in range(outputs):
        dz[f] = dy[row, f] * slope_from_value(activation, alpha, y[row, f])
    for c in range(inputs):
        total = dx.dtype.type(0)
        for f in range(outputs):
            total += dz[f] * kernel[c, f]
        dx[row, c] = total


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def dense_gradient_input(dy, y, kernel, activation, alpha, dx):
    """Gradient by input: rows of the batch are independent tasks."""
    rows = dy.shape[0]
    if dx.size * kernel.shape[1] < SERIAL_WORK:
        for row in range(rows):
            _input_gradient_row(row, dy, y, kernel, activation, alpha, dx)
    else:
        for row in prange(rows):
            _input_gradient_row(np.intp(row), dy, y, kernel, activation, alpha, dx)


@njit(cache=True, nogil=True, error_model="numpy")
def _kernel_gradient_block(task, x, dy, y, activation, alpha, dkernel, dbias):
    """The gradients of up to INPUT_BLOCK rows of the kernel, over the batch in order; block 0 takes the bias along."""
    inputs, outputs = dkernel.shape
    first = task * INPUT_BLOCK
    last = min(first + INPUT_BLOCK, inputs)
    dz = np.empty(outputs, x.dtype)
    dkernel[first:last] = 0
    if task == 0:
        dbias[:] = 0
    for row in range(x.shape[0]):
        for f in range(outputs):
            dz[f] = dy[row, f] * slope_from_value(activation, alpha, y[row, f])
        for c in range(first, last):
            value = x[row, c]
            for f in range(outputs):
                dkernel[c, f] += value * dz[f]
        if task == 0:
            for f in range(outputs):
                dbias[f] += dz[f]


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def dense_gradient_kernel(x, dy, y, activation, alpha, dkernel, dbias):
    """Gradient by kernel and bias: each task owns some rows, so that sums do not depend on the threads."""
    tasks = (x.shape[1] + INPUT_BLOCK - 1) // INPUT_BLOCK
    if x.size * dkernel.shape[1] < SERIAL_WORK:
        for task in range(tasks):
            _kernel_gradient_block(task, x, dy, y, activation, alpha, dkernel, dbias)
    else:
        for task in prange(tasks):
            _kernel_gradient_block(np.intp(task), x, dy, y, activation, alpha, dkernel, dbias)
