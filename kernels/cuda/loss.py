"""Losses by row, each with its gradient in the same kernel.

`rows` describes how rows are shared among lanes.  Predictions and targets are read once and the gradient is written
once, 12 bytes for each float32 number (8 with labels), unless a row is longer than what its lanes hold, 512 columns:
then each pass reads it again, from the cache.  Memory bounds it, and for the few classes of a classifier the time that
any launch takes.
"""

import functools
import math

import numpy as np

from . import tiles, toolkit
from .formulas import inline
from .lanes import sum_of_lanes
from .rows import column_of, read_largest, read_powers, read_row, row_of_lane, speaks_for_row, write_row
from .toolkit import cuda
from .vectors import read, write

SMALLEST_PROBABILITY = 1e-7
LARGEST_PROBABILITY = 1 - 1e-7

# Losses that are means over the columns, by number.
SQUARED_ERROR, BINARY_CROSS_ENTROPY, SIGMOID_BINARY_CROSS_ENTROPY = range(3)


def softmax_cross_entropy(logits, targets, scale, losses, gradient):
    """``-sum(t log softmax(z))`` and ``scale * (softmax(z) sum(t) - t)``."""
    _launch(_softmax_cross_entropy_kernel, logits, targets, scale, losses, gradient)


def sparse_softmax_cross_entropy(logits, labels, scale, losses, gradient):
    """`softmax_cross_entropy` with the number of the true class instead of targets."""
    _launch(_sparse_softmax_cross_entropy_kernel, logits, labels, scale, losses, gradient)


def cross_entropy(probabilities, targets, scale, losses, gradient):
    """``-sum(t log p)`` of probabilities that are first divided by their sum and clipped."""
    _launch(_cross_entropy_kernel, probabilities, targets, scale, losses, gradient)


def sparse_cross_entropy(probabilities, labels, scale, losses, gradient):
    """`cross_entropy` with the number of the true class instead of targets."""
    _launch(_sparse_cross_entropy_kernel, probabilities, labels, scale, losses, gradient)


def mean_squared_error(predictions, targets, scale, losses, gradient):
    """``mean((p - t)**2)``."""
    _launch(_mean_loss_kernel, predictions, targets, scale, losses, gradient, SQUARED_ERROR)


def binary_cross_entropy(probabilities, targets, scale, losses, gradient):
    """``-mean(t log p + (1 - t) log(1 - p))`` of clipped probabilities."""
    _launch(_mean_loss_kernel, probabilities, targets, scale, losses, gradient, BINARY_CROSS_ENTROPY)


def sigmoid_binary_cross_entropy(logits, targets, scale, losses, gradient):
    """`binary_cross_entropy` of ``sigmoid(z)``, in a form that cannot overflow."""
    _launch(_mean_loss_kernel, logits, targets, scale, losses, gradient, SIGMOID_BINARY_CROSS_ENTROPY)


def _launch(make, predictions, truth, scale, losses, gradient, *kind):
    real, (rows, columns) = gradient.dtype.type, gradient.shape
    predictions, truth, losses, gradient = map(toolkit.address, (predictions, truth, losses, gradient))
    tile = tiles.row_tile(real, columns, predictions, truth, gradient)
    toolkit.launch(
        make(real, tile, *kind), *tiles.row_grid(rows, tile),
        predictions, truth, np.int32(rows), np.int32(columns), real(scale), losses, gradient,
    )  # fmt: skip


@functools.cache
def _softmax_cross_entropy_kernel(real, t):
    held, width = t.held, t.width

    @cuda.jit(cache=True)
    def softmax_cross_entropy_kernel(logits, targets, rows, columns, scale, losses, gradient):
        z = cuda.local.array(held, real)
        target = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * t.rows
        while first_row < rows:
            row, begin, end, write_end = row_of_lane(first_row, rows, columns, width)

            largest = read_largest(z, logits, begin, end, width, t)

            # log softmax = (z - largest) - log(powers), with powers = sum(exp(z - largest))
            powers, target_sum, product = real(0), real(0), real(0)
            for first in range(0, t.covered, t.chunk):
                if t.covered > t.chunk:
                    read_row(z, logits, begin + first, end, real(-math.inf), width, t)
                read_row(target, targets, begin + first, end, real(0), width, t)
                for k in range(held):
                    distance = z[k] - largest
                    # A class that cannot be (logit -inf) costs nothing where nothing is expected of it.
                    if target[k] != real(0):
                        product += target[k] * distance
                    target_sum += target[k]
                    z[k] = real(math.exp(distance))
                    powers += z[k]
            powers = sum_of_lanes(powers, t.lanes)
            target_sum = sum_of_lanes(target_sum, t.lanes)
            product = sum_of_lanes(product, t.lanes)

            if speaks_for_row(write_end):
                write(losses, row, real, target_sum * real(math.log(powers)) - product)
            share = target_sum / powers
            for first in range(0, t.covered, t.chunk):
                if t.covered > t.chunk:
                    read_powers(z, logits, begin + first, end, largest, width, t)
                    read_row(target, targets, begin + first, end, real(0), width, t)
                for k in range(held):
                    z[k] = scale * (z[k] * share - target[k])
                write_row(z, gradient, begin + first, write_end, width, t)
            first_row += cuda.gridDim.x * t.rows

    return softmax_cross_entropy_kernel


@functools.cache
def _sparse_softmax_cross_entropy_kernel(real, t):
    held, width = t.held, t.width

    @cuda.jit(cache=True)
    def sparse_softmax_cross_entropy_kernel(logits, labels, rows, columns, scale, losses, gradient):
        z = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * t.rows
        while first_row < rows:
            row, begin, end, write_end = row_of_lane(first_row, rows, columns, width)
            true_place = row * columns + read(labels, row, np.int32)

            largest = read_largest(z, logits, begin, end, width, t)

            # log softmax = (z - largest) - log(powers), with powers = sum(exp(z - largest))
            powers, true_distance = real(0), real(0)
            for first in range(0, t.covered, t.chunk):
                if t.covered > t.chunk:
                    read_row(z, logits, begin + first, end, real(-math.inf), width, t)
                for k in range(held):
                    distance = z[k] - largest
                    if begin + first + column_of(k, width, t) == true_place:
                        true_distance = distance
                    z[k] = real(math.exp(distance))
                    powers += z[k]
            powers = sum_of_lanes(powers, t.lanes)
            true_distance = sum_of_lanes(true_distance, t.lanes)

            if speaks_for_row(write_end):
                write(losses, row, real, real(math.log(powers)) - true_distance)
            share = real(1) / powers
            for first in range(0, t.covered, t.chunk):
                if t.covered > t.chunk:
                    read_powers(z, logits, begin + first, end, largest, width, t)
                for k in range(held):
                    target = real(1) if begin + first + column_of(k, width, t) == true_place else real(0)
                    z[k] = scale * (z[k] * share - target)
                write_row(z, gradient, begin + first, write_end, width, t)
            first_row += cuda.gridDim.x * t.rows

    return sparse_softmax_cross_entropy_kernel


@inline
def clip_probability(p):
    """The probability, at least 1e-7 and at most 1 - 1e-7; NaN stays NaN."""
    smallest, largest = type(p)(SMALLEST_PROBABILITY), type(p)(LARGEST_PROBABILITY)
    if p < smallest:
        return smallest
    if p > largest:
        return largest
    return p


@inline
def is_clipped(p):
    """Whether `clip_probability` changes the probability."""
    return p < type(p)(SMALLEST_PROBABILITY) or p > type(p)(LARGEST_PROBABILITY)


@functools.cache
def _cross_entropy_kernel(real, t):
    held, width = t.held, t.width

    @cuda.jit(cache=True)
    def cross_entropy_kernel(probabilities, targets, rows, columns, scale, losses, gradient):
        p = cuda.local.array(held, real)
        target = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * t.rows
        while first_row < rows:
            row, begin, end, write_end = row_of_lane(first_row, rows, columns, width)

            total = real(0)
            for first in range(0, t.covered, t.chunk):
                read_row(p, probabilities, begin + first, end, real(0), width, t)
                for k in range(held):
                    total += p[k]
            total = sum_of_lanes(total, t.lanes)

            # q = p / total; dq = -t / q, or 0 where q is clipped; gradient = dq / total - sum(dq p) / total**2
            loss, slope_sum = real(0), real(0)
            for first in range(0, t.covered, t.chunk):
                if t.covered > t.chunk:
                    read_row(p, probabilities, begin + first, end, real(0), width, t)
                read_row(target, targets, begin + first, end, real(0), width, t)
                for k in range(held):
                    q = p[k] / total
                    loss -= target[k] * real(math.log(clip_probability(q)))
                    if not is_clipped(q):
                        slope_sum -= target[k] / q * q
            loss = sum_of_lanes(loss, t.lanes)
            slope_sum = sum_of_lanes(slope_sum, t.lanes)

            if speaks_for_row(write_end):
                write(losses, row, real, loss)
            for first in range(0, t.covered, t.chunk):
                if t.covered > t.chunk:
                    read_row(p, probabilities, begin + first, end, real(0), width, t)
                    read_row(target, targets, begin + first, end, real(0), width, t)
                for k in range(held):
                    q = p[k] / total
                    slope = real(0) if is_clipped(q) else -target[k] / q
                    p[k] = scale * ((slope - slope_sum) / total)
                write_row(p, gradient, begin + first, write_end, width, t)
            first_row += cuda.gridDim.x * t.rows

    return cross_entropy_kernel


@functools.cache
def _sparse_cross_entropy_kernel(real, t):
    held, width = t.held, t.width

    @cuda.jit(cache=True)
    def sparse_cross_entropy_kernel(probabilities, labels, rows, columns, scale, losses, gradient):
        p = cuda.local.array(held, real)
        first_row = cuda.blockIdx.x * t.rows
        while first_row < rows:
            row, begin, end, write_end = row_of_lane(first_row, rows, columns, width)
            true_place = row * columns + read(labels, row, np.int32)

            total, true_probability = real(0), real(0)
            for first in range(0, t.covered, t.chunk):
                read_row(p, probabilities, begin + first, end, real(0), width, t)
                for k in range(held):
                    total += p[k]
                    if begin + first + column_of(k, width, t) == true_place:
                        true_probability = p[k]
            total = sum_of_lanes(total, t.lanes)
            q = sum_of_lanes(true_probability, t.lanes) / total

            if speaks_for_row(write_end):
                write(losses, row, real, -real(math.log(clip_probability(q))))
            # The gradient of `_cross_entropy_kernel`, which needs no probability but the true one's.
            slope = real(0) if is_clipped(q) else real(-1) / q
            slope_sum = slope * q
            for first in range(0, t.covered, t.chunk):
                for k in range(held):
                    own = slope if begin + first + column_of(k, width, t) == true_place else real(0)
                    p[k] = scale * ((own - slope_sum) / total)
                write_row(p, gradient, begin + first, write_end, width, t)
            first_row += cuda.gridDim.x * t.rows

    return sparse_cross_entropy_kernel


@inline
def element_loss(kind, p, t):
    """One element's loss and its derivative by p."""
    one = type(p)(1)
    if kind == 0:  # SQUARED_ERROR
        return (p - t) * (p - t), type(p)(2) * (p - t)
    if kind == 1:  # BINARY_CROSS_ENTROPY: no slope where the clip is active
        # 1 - p is clipped on its own: in float32, what is left of 1 - (1 - 1e-7) is 19 % too large.
        yes, no = clip_probability(p), clip_probability(one - p)
        loss = -(t * type(p)(math.log(yes)) + (one - t) * type(p)(math.log(no)))
        slope = type(p)(0) if is_clipped(p) else (one - t) / no - t / yes
        return loss, slope
    # SIGMOID_BINARY_CROSS_ENTROPY: max(z, 0) - z t + log(1 + e^-|z|), and sigmoid(z) - t
    decay = type(p)(math.exp(-abs(p)))
    positive = p if p > type(p)(0) else type(p)(0)
    loss = positive - p * t + type(p)(math.log1p(decay))
    sigmoid = decay / (one + decay) if p < type(p)(0) else one / (one + decay)
    return loss, sigmoid - t


@functools.cache
def _mean_loss_kernel(real, t, kind):
    held, width = t.held, t.width

    @cuda.jit(cache=True)
    def mean_loss_kernel(predictions, targets, rows, columns, scale, losses, gradient):
        p = cuda.local.array(held, real)
        target = cuda.local.array(held, real)
        share = real(1) / real(columns)
        first_row = cuda.blockIdx.x * t.rows
        while first_row < rows:
            row, begin, end, write_end = row_of_lane(first_row, rows, columns, width)
            total = real(0)
            for first in range(0, t.covered, t.chunk):
                read_row(p, predictions, begin + first, end, real(0), width, t)
                read_row(target, targets, begin + first, end, real(0), width, t)
                for k in range(held):
                    loss, slope = element_loss(kind, p[k], target[k])
                    if begin + first + column_of(k, width, t) < end:
                        total += loss
                    p[k] = scale * share * slope
                write_row(p, gradient, begin + first, write_end, width, t)
            total = sum_of_lanes(total, t.lanes)
            if speaks_for_row(write_end):
                write(losses, row, real, total * share)
            first_row += cuda.gridDim.x * t.rows

    return mean_loss_kernel
