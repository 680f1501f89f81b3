"""Activations of whole arrays, with gradients; softmax over rows."""

import math

from numba import njit

from . import formulas
from .threads import share

# An exponential takes about as long as this many multiply-adds.
FORMULA_WORK = 8


# Arrays of any rank go in as flat views, so that one compiled version serves all; elements are the tasks.
def activate(x, activation, alpha, y):
    """y = activation(x)."""
    share(_activate, x.size, x.size * FORMULA_WORK, x.reshape(-1), activation, alpha, y.reshape(-1))


def activate_gradient(x, dy, activation, alpha, dx):
    """dx = dy * activation'(x)."""
    flat = x.reshape(-1), dy.reshape(-1), activation, alpha, dx.reshape(-1)
    share(_activate_gradient, x.size, x.size * FORMULA_WORK, *flat)


def relu(x, negative_slope, max_value, threshold, y):
    """Keras's general ReLU; see `gpuconv.kernels.formulas.clip_relu`."""
    share(_relu, x.size, x.size, x.reshape(-1), negative_slope, max_value, threshold, y.reshape(-1))


def relu_gradient(x, dy, negative_slope, max_value, threshold, dx):
    """dx = dy * relu'(x)."""
    flat = x.reshape(-1), dy.reshape(-1), negative_slope, max_value, threshold, dx.reshape(-1)
    share(_relu_gradient, x.size, x.size, *flat)


@njit(cache=True, nogil=True, error_model="numpy")
def _activate(first, last, x, activation, alpha, y):
    for i in range(first, last):
        y[i] = formulas.activate(activation, alpha, x[i])


@njit(cache=True, nogil=True, error_model="numpy")
def _activate_gradient(first, last, x, dy, activation, alpha, dx):
    for i in range(first, last):
        dx[i] = dy[i] * formulas.slope(activation, alpha, x[i])


@njit(cache=True, nogil=True, error_model="numpy")
def _relu(first, last, x, negative_slope, max_value, threshold, y):
    for i in range(first, last):
        y[i] = formulas.clip_relu(negative_slope, max_value, threshold, x[i])


@njit(cache=True, nogil=True, error_model="numpy")
def _relu_gradient(first, last, x, dy, negative_slope, max_value, threshold, dx):
    for i in range(first, last):
        dx[i] = dy[i] * formulas.clip_relu_slope(negative_slope, max_value, threshold, x[i])


@njit(cache=True, nogil=True, error_model="numpy")
def softmax(x, y):
    """y[i] = exp(x[i] - max x[i]) / sum: rows that add up to one, without overflow."""
    rows, columns = x.shape
    for i in range(rows):
        largest = x[i, 0]
        for j in range(1, columns):
            if x[i, j] > largest:
                largest = x[i, j]
        total = x.dtype.type(0)
        for j in range(columns):
            y[i, j] = math.exp(x[i, j] - largest)
            total += y[i, j]
        for j in range(columns):
            y[i, j] /= total


@njit(cache=True, nogil=True, error_model="numpy")
def softmax_gradient(y, dy, dx):
    """dx[i] = y[i] * (dy[i] - dy[i] . y[i]), from the softmax `y` itself."""
    rows, columns = y.shape
    for i in range(rows):
        dot = y.dtype.type(0)
        for j in range(columns):
            dot += dy[i, j] * y[i, j]
        for j in range(columns):
            dx[i, j] = y[i, j] * (dy[i, j] - dot)
