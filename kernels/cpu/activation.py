"""Activations of whole arrays, with gradients; softmax over rows."""

import math

import numpy as np
from numba import njit, prange

from . import formulas
from .threads import CHUNK


# Arrays of any rank go in as flat views, so that one compiled version serves all.
def activate(x, activation, alpha, y):
    """y = activation(x)."""
    _activate(x.reshape(-1), activation, alpha, y.reshape(-1))


def activate_gradient(x, dy, activation, alpha, dx):
    """dx = dy * activation'(x)."""
    _activate_gradient(x.reshape(-1), dy.reshape(-1), activation, alpha, dx.reshape(-1))


def relu(x, negative_slope, max_value, threshold, y):
    """Keras's general ReLU; see `gpuconv.kernels.formulas.clip_relu`."""
    _relu(x.reshape(-1), negative_slope, max_value, threshold, y.reshape(-1))


def relu_gradient(x, dy, negative_slope, max_value, threshold, dx):
    """dx = dy * relu'(x)."""
    _relu_gradient(x.reshape(-1), dy.reshape(-1), negative_slope, max_value, threshold, dx.reshape(-1))


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def _activate(x, activation, alpha, y):
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        for i in range(np.intp(chunk) * CHUNK, min(np.intp(chunk) * CHUNK + CHUNK, x.size)):
            y[i] = formulas.activate(activation, alpha, x[i])


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def _activate_gradient(x, dy, activation, alpha, dx):
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        for i in range(np.intp(chunk) * CHUNK, min(np.intp(chunk) * CHUNK + CHUNK, x.size)):
            dx[i] = dy[i] * formulas.slope(activation, alpha, x[i])


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def _relu(x, negative_slope, max_value, threshold, y):
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        for i in range(np.intp(chunk) * CHUNK, min(np.intp(chunk) * CHUNK + CHUNK, x.size)):
            y[i] = formulas.clip_relu(negative_slope, max_value, threshold, x[i])


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def _relu_gradient(x, dy, negative_slope, max_value, threshold, dx):
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        for i in range(np.intp(chunk) * CHUNK, min(np.intp(chunk) * CHUNK + CHUNK, x.size)):
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
