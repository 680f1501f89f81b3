"""Dense layers: a matrix product with bias and activation, and its two gradients.

::

    y = activation(x kernel + bias)         dz = dy * activation'(z)
    dx = dz kernel^T        dkernel = x^T dz        dbias = sum of dz over the batch

Goodfellow, Bengio and Courville, "Deep Learning" (2016), algorithm 6.4.
"""

import numpy as np
from numba import njit

from .formulas import activate, slope_from_value
from .threads import share

# Rows of the kernel's gradient that one task holds, so that they stay in the first-level cache.
INPUT_BLOCK = 8

# Rows of the batch that are added up before they join the total, for the sake of the sum's last digits.
ROW_BLOCK = 256


def dense(x, kernel, bias, activation, alpha, y):
    """Forward: rows of the batch are independent tasks."""
    share(_forward_rows, x.shape[0], x.size * kernel.shape[1], x, kernel, bias, activation, alpha, y)


@njit(cache=True, nogil=True, error_model="numpy")
def _forward_rows(first_row, last_row, x, kernel, bias, activation, alpha, y):
    inputs, outputs = kernel.shape
    for row in range(first_row, last_row):
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


def dense_gradient_input(dy, y, kernel, activation, alpha, dx):
    """Gradient by input: rows of the batch are independent tasks."""
    share(_input_gradient_rows, dy.shape[0], dx.size * kernel.shape[1], dy, y, kernel, activation, alpha, dx)


# Reassociation lets the dot products use vector registers; NaN and infinity still propagate.
@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _input_gradient_rows(first_row, last_row, dy, y, kernel, activation, alpha, dx):
    inputs, outputs = kernel.shape
    dz = np.empty(outputs, dx.dtype)
    for row in range(first_row, last_row):
        for f in range(outputs):
            dz[f] = dy[row, f] * slope_from_value(activation, alpha, y[row, f])
        for c in range(inputs):
            total = dx.dtype.type(0)
            for f in range(outputs):
                total += dz[f] * kernel[c, f]
            dx[row, c] = total


def dense_gradient_kernel(x, dy, y, activation, alpha, dkernel, dbias):
    """Gradient by kernel and bias: each task owns INPUT_BLOCK rows of the kernel; the first takes the bias along."""
    tasks = -(-x.shape[1] // INPUT_BLOCK)
    work = x.size * dkernel.shape[1]
    share(_kernel_gradient_blocks, tasks, work, x, dy, y, activation, alpha, dkernel, dbias)


@njit(cache=True, nogil=True, error_model="numpy")
def _kernel_gradient_blocks(first_task, last_task, x, dy, y, activation, alpha, dkernel, dbias):
    inputs, outputs = dkernel.shape
    dz = np.empty(outputs, x.dtype)
    sums = np.empty((INPUT_BLOCK + 1, outputs), x.dtype)
    for task in range(first_task, last_task):
        first = task * INPUT_BLOCK
        last = min(first + INPUT_BLOCK, inputs)
        dkernel[first:last] = 0
        if task == 0:
            dbias[:] = 0
        for first_row in range(0, x.shape[0], ROW_BLOCK):
            # The last line of the sums is the bias's, as if it had an input of constant 1.
            sums[:] = 0
            for row in range(first_row, min(first_row + ROW_BLOCK, x.shape[0])):
                for f in range(outputs):
                    dz[f] = dy[row, f] * slope_from_value(activation, alpha, y[row, f])
                    sums[INPUT_BLOCK, f] += dz[f]
                for c in range(first, last):
                    value = x[row, c]
                    for f in range(outputs):
                        sums[c - first, f] += value * dz[f]
            for c in range(first, last):
                for f in range(outputs):
                    dkernel[c, f] += sums[c - first, f]
            if task == 0:
                for f in range(outputs):
                    dbias[f] += sums[INPUT_BLOCK, f]
