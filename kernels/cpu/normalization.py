"""Batch normalisation of the columns of a matrix (rows, channels).

::

    z = (x - mean) / sqrt(variance + epsilon)        y = gamma z + beta

    dbeta = sum dy        dgamma = sum dy z
    dx = gamma / sqrt(variance + epsilon) (dy - dbeta / rows - z dgamma / rows)

where mean and (biased) variance are those of the batch: Ioffe and Szegedy, "Batch
normalization" (2015).  Sums over rows are kept as sums of blocks of rows, whose number
depends on the shape alone, so that they are accurate and repeatable.
"""

import math

import numpy as np
from numba import njit

# Rows that are added up before they join the total.
ROW_BLOCK = 256


@njit(cache=True, nogil=True, error_model="numpy")
def batch_moments(x, mean, variance):
    """Mean and biased variance of each column, in two passes."""
    rows, columns = x.shape
    part = np.empty(columns, x.dtype)
    mean[:] = 0
    variance[:] = 0
    for first in range(0, rows, ROW_BLOCK):
        part[:] = 0
        for i in range(first, min(first + ROW_BLOCK, rows)):
            for c in range(columns):
                part[c] += x[i, c]
        for c in range(columns):
            mean[c] += part[c]
    for c in range(columns):
        mean[c] /= x.dtype.type(rows)
    for first in range(0, rows, ROW_BLOCK):
        part[:] = 0
        for i in range(first, min(first + ROW_BLOCK, rows)):
            for c in range(columns):
                part[c] += (x[i, c] - mean[c]) * (x[i, c] - mean[c])
        for c in range(columns):
            variance[c] += part[c]
    for c in range(columns):
        variance[c] /= x.dtype.type(rows)


@njit(cache=True, nogil=True, error_model="numpy")
def normalize(x, mean, variance, gamma, beta, epsilon, y):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta."""
    rows, columns = x.shape
    scale = np.empty(columns, x.dtype)
    for c in range(columns):
        scale[c] = gamma[c] / math.sqrt(variance[c] + x.dtype.type(epsilon))
    for i in range(rows):
        for c in range(columns):
            y[i, c] = (x[i, c] - mean[c]) * scale[c] + beta[c]


@njit(cache=True, nogil=True, error_model="numpy")
def batch_normalization_gradient(x, mean, variance, gamma, dy, epsilon, dx, dgamma, dbeta):
    """The gradients through `normalize` and, by input, through the batch's own moments."""
    rows, columns = x.shape
    inverse = np.empty(columns, x.dtype)
    part_gamma = np.empty(columns, x.dtype)
    part_beta = np.empty(columns, x.dtype)
    for c in range(columns):
        inverse[c] = x.dtype.type(1) / math.sqrt(variance[c] + x.dtype.type(epsilon))
    dgamma[:] = 0
    dbeta[:] = 0
    for first in range(0, rows, ROW_BLOCK):
        part_gamma[:] = 0
        part_beta[:] = 0
        for i in range(first, min(first + ROW_BLOCK, rows)):
            for c in range(columns):
                part_gamma[c] += dy[i, c] * (x[i, c] - mean[c]) * inverse[c]
                part_beta[c] += dy[i, c]
        for c in range(columns):
            dgamma[c] += part_gamma[c]
            dbeta[c] += part_beta[c]
    count = x.dtype.type(rows)
    for i in range(rows):
        for c in range(columns):
            z = (x[i, c] - mean[c]) * inverse[c]
            dx[i, c] = gamma[c] * inverse[c] * (dy[i, c] - dbeta[c] / count - z * dgamma[c] / count)


@njit(cache=True, nogil=True, error_model="numpy")
def moving_average(new, momentum, average):
    """average = momentum * average + (1 - momentum) * new."""
    keep = average.dtype.type(momentum)
    take = average.dtype.type(1.0 - momentum)
    for c in range(average.size):
        average[c] = keep * average[c] + take * new[c]
