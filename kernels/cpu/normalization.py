"""Batch normalisation of the columns of a matrix (rows, channels).

::

    z = (x - mean) / sqrt(variance + epsilon)        y = gamma z + beta

    dbeta = sum dy        dgamma = sum dy z
    dx = gamma / sqrt(variance + epsilon) (dy - dbeta / rows - z dgamma / rows)

where mean and (biased) variance are those of the batch: Ioffe and Szegedy, "Batch
normalization" (2015).

The matrix is cut into *lines* of at most LINE numbers: where it has few columns, a line is several rows, so that loops
over a line are long; where it has many, a line is a part of a row.  Sums are double, one for each place of a line, in
a number of parts that the shape alone decides, so that they are accurate and repeatable.
"""

import math

import numpy as np
from numba import njit

from .blocks import BLOCK, MOVE
from .compiling import INNER, KERNEL
from .local import local_array
from .threads import share

# Numbers of a line, and parts of the lines that have sums of their own.
LINE = 512
PARTS = 16
SUMS = PARTS * LINE


@njit(**INNER)
def _cut(x):
    """How far one line stands from the next, and how many there are; the last one may be shorter."""
    columns = x.shape[1]
    step = columns if columns >= LINE else LINE // columns * columns
    return step, (x.size + step - 1) // step


@njit(**INNER)
def _lines_of_part(lines):
    return (lines + PARTS - 1) // PARTS


@njit(**INNER)
def _lines_of_task(width):
    return BLOCK // width + 1


@njit(**INNER)
def _add_up(sums, parts, width, start, totals):
    """totals[column] = the sum over all parts, and over all places in a line, of a column."""
    columns = totals.size
    for c in range(start, min(start + width, columns)):
        total = 0.0
        for place in range(c - start, width, columns):
            for part in range(parts):
                total += sums[part * LINE + place]
        totals[c] = total


@njit(**INNER)
def _moment(x, centre, power, totals):
    """totals[column] = sum over rows of x (power 1), or of (x - centre)^2 (power 2)."""
    sums, centres = local_array(SUMS, np.float64), local_array(LINE, x)
    step, lines = _cut(x)
    part = _lines_of_part(lines)
    parts = (lines + part - 1) // part
    for start in range(0, step, LINE):
        width = min(LINE, step - start)
        for c in range(width):
            centres[c] = centre[(start + c) % centre.size]
        arguments = x.reshape(-1), centres, power, sums, part, start, step, width
        share(_moment_of_parts, arguments, parts, x.size * MOVE)
        _add_up(sums, parts, width, start, totals)


@njit(**INNER)
def _moment_of_parts(first, last, worker, x, centres, power, sums, part, start, step, width):
    centre = local_array(LINE, x)
    for c in range(width):
        centre[c] = centres[c]
    for k in range(first, last):
        total = local_array(LINE, np.float64)
        for c in range(width):
            total[c] = 0.0
        stop = min((k + 1) * part * step, x.size)
        for place in range(k * part * step + start, stop, step):
            line = x[place : min(place + width, stop)]
            if power == 1:
                for c in range(line.size):
                    total[c] += line[c]
            else:
                for c in range(line.size):
                    difference = line[c] - centre[c]
                    total[c] += difference * difference
        for c in range(width):
            sums[k * LINE + c] = total[c]


@njit(**KERNEL)
def batch_moments(x, mean, variance):
    """Mean and biased variance of each column, in two passes."""
    _moment(x, mean, 1, mean)
    for c in range(mean.size):
        mean[c] /= x.dtype.type(x.shape[0])
    _moment(x, mean, 2, variance)
    for c in range(mean.size):
        variance[c] /= x.dtype.type(x.shape[0])


@njit(**KERNEL)
def normalize(x, mean, variance, gamma, beta, epsilon, y):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta."""
    centre, scale, shift = local_array(LINE, x), local_array(LINE, x), local_array(LINE, x)
    step, lines = _cut(x)
    for start in range(0, step, LINE):
        width = min(LINE, step - start)
        for c in range(width):
            column = (start + c) % x.shape[1]
            centre[c] = mean[column]
            scale[c] = gamma[column] / math.sqrt(variance[column] + x.dtype.type(epsilon))
            shift[c] = beta[column]
        some = _lines_of_task(width)
        arguments = x.reshape(-1), centre, scale, shift, y.reshape(-1), some, start, step, width
        share(_normalize, arguments, (lines + some - 1) // some, x.size * MOVE)


@njit(**INNER)
def _normalize(first, last, worker, x, centre, scale, shift, y, some, start, step, width):
    stop = min(last * some * step, x.size)
    for place in range(first * some * step + start, stop, step):
        line, out = x[place : min(place + width, stop)], y[place : min(place + width, stop)]
        for c in range(line.size):
            out[c] = (line[c] - centre[c]) * scale[c] + shift[c]


@njit(**KERNEL)
def batch_normalization_gradient(x, mean, variance, gamma, dy, epsilon, dx, dgamma, dbeta):
    """The gradients through `normalize` and, by input, through the batch's own moments."""
    sums_gamma, sums_beta = local_array(SUMS, np.float64), local_array(SUMS, np.float64)
    centre, inverse = local_array(LINE, x), local_array(LINE, x)
    shift, slope, scale = local_array(LINE, x), local_array(LINE, x), local_array(LINE, x)
    rows, columns = x.shape
    one = x.dtype.type(1)
    step, lines = _cut(x)
    part, count = _lines_of_part(lines), x.dtype.type(rows)
    parts = (lines + part - 1) // part
    for start in range(0, step, LINE):
        width = min(LINE, step - start)
        for c in range(width):
            column = (start + c) % columns
            centre[c] = mean[column]
            inverse[c] = one / math.sqrt(variance[column] + x.dtype.type(epsilon))
        arguments = x.reshape(-1), dy.reshape(-1), centre, inverse, sums_gamma, sums_beta, part, start, step, width
        share(_gradient_sums, arguments, parts, x.size * MOVE)
        _add_up(sums_gamma, parts, width, start, dgamma)
        _add_up(sums_beta, parts, width, start, dbeta)
        for c in range(width):
            column = (start + c) % columns
            shift[c] = dbeta[column] / count
            slope[c] = inverse[c] * dgamma[column] / count
            scale[c] = gamma[column] * inverse[c]
        some = _lines_of_task(width)
        arguments = x.reshape(-1), dy.reshape(-1), centre, shift, slope, scale, dx.reshape(-1), some, start, step, width
        share(_gradient_input, arguments, (lines + some - 1) // some, x.size * MOVE)


@njit(**INNER)
def _gradient_sums(first, last, worker, x, dy, centre, inverse, sums_gamma, sums_beta, part, start, step, width):
    by_gamma, by_beta = local_array(LINE, np.float64), local_array(LINE, np.float64)
    for k in range(first, last):
        for c in range(width):
            by_gamma[c] = 0.0
            by_beta[c] = 0.0
        stop = min((k + 1) * part * step, x.size)
        for place in range(k * part * step + start, stop, step):
            line, dy_line = x[place : min(place + width, stop)], dy[place : min(place + width, stop)]
            for c in range(line.size):
                by_gamma[c] += dy_line[c] * ((line[c] - centre[c]) * inverse[c])
            for c in range(line.size):
                by_beta[c] += dy_line[c]
        for c in range(width):
            sums_gamma[k * LINE + c] = by_gamma[c]
            sums_beta[k * LINE + c] = by_beta[c]


@njit(**INNER)
def _gradient_input(first, last, worker, x, dy, centre, shift, slope, scale, dx, some, start, step, width):
    stop = min(last * some * step, x.size)
    for place in range(first * some * step + start, stop, step):
        line, dy_line = x[place : min(place + width, stop)], dy[place : min(place + width, stop)]
        out = dx[place : min(place + width, stop)]
        for c in range(line.size):
            out[c] = scale[c] * (dy_line[c] - shift[c] - (line[c] - centre[c]) * slope[c])


@njit(**KERNEL)
def moving_average(new, momentum, average):
    """average = momentum * average + (1 - momentum) * new."""
    keep = average.dtype.type(momentum)
    take = average.dtype.type(1.0 - momentum)
    for c in range(average.size):
        average[c] = keep * average[c] + take * new[c]
