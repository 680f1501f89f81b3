"""Losses by row, each with its gradient in the same kernel.

One warp for each row, its lanes on neighbouring columns; partial sums go through shared memory and are
added in a fixed order.  Bounded by memory traffic, and for the few classes of a classifier by the time
that any launch takes: loss and gradient together read the row once from memory.
"""

import math

import numpy as np

from . import tiles, toolkit
from .formulas import inline, larger, largest_of_row, sum_of_row
from .toolkit import cuda

ROWS, LANES = tiles.ROWS_OF_BLOCK, tiles.ROW_LANES

SMALLEST_PROBABILITY = 1e-7
LARGEST_PROBABILITY = 1 - 1e-7

# Losses that are means over the columns, by number.
SQUARED_ERROR, BINARY_CROSS_ENTROPY, SIGMOID_BINARY_CROSS_ENTROPY = range(3)


def softmax_cross_entropy(logits, targets, scale, losses, gradient):
    """``-sum(t log softmax(z))`` and ``scale * (softmax(z) sum(t) - t)``."""
    _launch_by_row(_softmax_cross_entropy, logits, targets, scale, losses, gradient)


def sparse_softmax_cross_entropy(logits, labels, scale, losses, gradient):
    """`softmax_cross_entropy` with the number of the true class instead of targets."""
    _launch_by_row(_sparse_softmax_cross_entropy, logits, labels, scale, losses, gradient)


def cross_entropy(probabilities, targets, scale, losses, gradient):
    """``-sum(t log p)`` of probabilities that are first divided by their sum and clipped."""
    _launch_by_row(_cross_entropy, probabilities, targets, scale, losses, gradient)


def sparse_cross_entropy(probabilities, labels, scale, losses, gradient):
    """`cross_entropy` with the number of the true class instead of targets."""
    _launch_by_row(_sparse_cross_entropy, probabilities, labels, scale, losses, gradient)


def mean_squared_error(predictions, targets, scale, losses, gradient):
    """``mean((p - t)**2)``."""
    _launch_mean(SQUARED_ERROR, predictions, targets, scale, losses, gradient)


def binary_cross_entropy(probabilities, targets, scale, losses, gradient):
    """``-mean(t log p + (1 - t) log(1 - p))`` of clipped probabilities."""
    _launch_mean(BINARY_CROSS_ENTROPY, probabilities, targets, scale, losses, gradient)


def sigmoid_binary_cross_entropy(logits, targets, scale, losses, gradient):
    """`binary_cross_entropy` of ``sigmoid(z)``, in a form that cannot overflow."""
    _launch_mean(SIGMOID_BINARY_CROSS_ENTROPY, logits, targets, scale, losses, gradient)


def _launch_by_row(kernel, predictions, truth, scale, losses, gradient):
    blocks, threads = tiles.row_grid(predictions.shape[0])
    toolkit.launch(kernel, blocks, threads, predictions, truth, losses.dtype.type(scale), losses, gradient)


def _launch_mean(kind, predictions, targets, scale, losses, gradient):
    blocks, threads = tiles.row_grid(predictions.shape[0])
    scale = losses.dtype.type(scale)
    toolkit.launch(_mean_loss, blocks, threads, np.int32(kind), predictions, targets, scale, losses, gradient)


@cuda.jit(cache=True)
def _softmax_cross_entropy(logits, targets, scale, losses, gradient):
    real = logits.dtype.type
    partial = cuda.shared.array((ROWS, LANES), logits.dtype)
    target_partial = cuda.shared.array((ROWS, LANES), logits.dtype)
    product_partial = cuda.shared.array((ROWS, LANES), logits.dtype)
    lane, row_of_block = cuda.threadIdx.x, cuda.threadIdx.y
    rows, columns = logits.shape
    first_row = cuda.blockIdx.x * ROWS
    while first_row < rows:
        # Lanes past the last row have no columns to work on, but take part in every barrier.
        row = first_row + row_of_block
        end = columns if row < rows else 0

        largest = real(-math.inf)
        for column in range(lane, end, LANES):
            largest = larger(largest, logits[row, column])
        partial[row_of_block, lane] = largest
        cuda.syncthreads()
        largest = largest_of_row(partial, row_of_block)
        cuda.syncthreads()

        # log softmax = (z - largest) - log(powers), with powers = sum(exp(z - largest))
        powers, target_sum, product = real(0), real(0), real(0)
        for column in range(lane, end, LANES):
            distance = logits[row, column] - largest
            target = targets[row, column]
            powers += real(math.exp(distance))
            target_sum += target
            if target != real(0):  # a class that cannot be (logit -inf) costs nothing where nothing is expected of it
                product += target * distance
        partial[row_of_block, lane] = powers
        target_partial[row_of_block, lane] = target_sum
        product_partial[row_of_block, lane] = product
        cuda.syncthreads()
        powers = sum_of_row(partial, row_of_block)
        target_sum = sum_of_row(target_partial, row_of_block)
        product = sum_of_row(product_partial, row_of_block)
        cuda.syncthreads()

        if lane == 0 and row < rows:
            losses[row] = target_sum * real(math.log(powers)) - product
        for column in range(lane, end, LANES):
            softmax = real(math.exp(logits[row, column] - largest)) / powers
            gradient[row, column] = scale * (softmax * target_sum - targets[row, column])
        first_row += cuda.gridDim.x * ROWS


@cuda.jit(cache=True)
def _sparse_softmax_cross_entropy(logits, labels, scale, losses, gradient):
    real = logits.dtype.type
    partial = cuda.shared.array((ROWS, LANES), logits.dtype)
    lane, row_of_block = cuda.threadIdx.x, cuda.threadIdx.y
    rows, columns = logits.shape
    first_row = cuda.blockIdx.x * ROWS
    while first_row < rows:
        row = first_row + row_of_block
        end = columns if row < rows else 0

        largest = real(-math.inf)
        for column in range(lane, end, LANES):
            largest = larger(largest, logits[row, column])
        partial[row_of_block, lane] = largest
        cuda.syncthreads()
        largest = largest_of_row(partial, row_of_block)
        cuda.syncthreads()

        powers = real(0)
        for column in range(lane, end, LANES):
            powers += real(math.exp(logits[row, column] - largest))
        partial[row_of_block, lane] = powers
        cuda.syncthreads()
        powers = sum_of_row(partial, row_of_block)
        cuda.syncthreads()

        if lane == 0 and row < rows:
            losses[row] = real(math.log(powers)) - (logits[row, labels[row]] - largest)
        for column in range(lane, end, LANES):
            softmax = real(math.exp(logits[row, column] - largest)) / powers
            target = real(1) if column == labels[row] else real(0)
            gradient[row, column] = scale * (softmax - target)
        first_row += cuda.gridDim.x * ROWS


@inline
def clip_probability(p, smallest):
    """The probability, at least `smallest` and at most 1 - 1e-7; NaN stays NaN."""
    smallest, largest = type(p)(smallest), type(p)(LARGEST_PROBABILITY)
    if p < smallest:
        return smallest
    if p > largest:
        return largest
    return p


@inline
def is_clipped(p):
    """Whether `clip_probability` changes the probability."""
    return p < type(p)(SMALLEST_PROBABILITY) or p > type(p)(LARGEST_PROBABILITY)


@cuda.jit(cache=True)
def _cross_entropy(probabilities, targets, scale, losses, gradient):
    real = probabilities.dtype.type
    partial = cuda.shared.array((ROWS, LANES), probabilities.dtype)
    slope_partial = cuda.shared.array((ROWS, LANES), probabilities.dtype)
    lane, row_of_block = cuda.threadIdx.x, cuda.threadIdx.y
    rows, columns = probabilities.shape
    first_row = cuda.blockIdx.x * ROWS
    while first_row < rows:
        row = first_row + row_of_block
        end = columns if row < rows else 0

        total = real(0)
        for column in range(lane, end, LANES):
            total += probabilities[row, column]
        partial[row_of_block, lane] = total
        cuda.syncthreads()
        total = sum_of_row(partial, row_of_block)
        cuda.syncthreads()

        # q = p / total; dq = -t / q, or 0 where q is clipped; gradient = dq / total - sum(dq p) / total**2
        loss, slope_sum = real(0), real(0)
        for column in range(lane, end, LANES):
            q = probabilities[row, column] / total
            loss -= targets[row, column] * real(math.log(clip_probability(q, SMALLEST_PROBABILITY)))
            if not is_clipped(q):
                slope_sum -= targets[row, column] / q * q
        partial[row_of_block, lane] = loss
        slope_partial[row_of_block, lane] = slope_sum
        cuda.syncthreads()
        loss = sum_of_row(partial, row_of_block)
        slope_sum = sum_of_row(slope_partial, row_of_block)
        cuda.syncthreads()

        if lane == 0 and row < rows:
            losses[row] = loss
        for column in range(lane, end, LANES):
            q = probabilities[row, column] / total
            slope = real(0) if is_clipped(q) else -targets[row, column] / q
            gradient[row, column] = scale * ((slope - slope_sum) / total)
        first_row += cuda.gridDim.x * ROWS


@cuda.jit(cache=True)
def _sparse_cross_entropy(probabilities, labels, scale, losses, gradient):
    real = probabilities.dtype.type
    partial = cuda.shared.array((ROWS, LANES), probabilities.dtype)
    lane, row_of_block = cuda.threadIdx.x, cuda.threadIdx.y
    rows, columns = probabilities.shape
    first_row = cuda.blockIdx.x * ROWS
    while first_row < rows:
        row = first_row + row_of_block
        end = columns if row < rows else 0

        total = real(0)
        for column in range(lane, end, LANES):
            total += probabilities[row, column]
        partial[row_of_block, lane] = total
        cuda.syncthreads()
        total = sum_of_row(partial, row_of_block)
        cuda.syncthreads()

        if row < rows:
            label = labels[row]
            q = probabilities[row, label] / total
            if lane == 0:
                losses[row] = -real(math.log(clip_probability(q, SMALLEST_PROBABILITY)))
            label_slope = real(0) if is_clipped(q) else real(-1) / q
            slope_sum = label_slope * q
            for column in range(lane, end, LANES):
                slope = label_slope if column == label else real(0)
                gradient[row, column] = scale * ((slope - slope_sum) / total)
        first_row += cuda.gridDim.x * ROWS


@inline
def element_loss(kind, p, t):
    """One element's loss and its derivative by p."""
    one = type(p)(1)
    if kind == 0:  # SQUARED_ERROR
        return (p - t) * (p - t), type(p)(2) * (p - t)
    if kind == 1:  # BINARY_CROSS_ENTROPY: no slope where the clip is active
        # 1 - p is clipped on its own: in float32, what is left of 1 - (1 - 1e-7) is 19 % too large.
        yes, no = clip_probability(p, SMALLEST_PROBABILITY), clip_probability(one - p, 1 - LARGEST_PROBABILITY)
        loss = -(t * type(p)(math.log(yes)) + (one - t) * type(p)(math.log(no)))
        slope = type(p)(0) if is_clipped(p) else (one - t) / no - t / yes
        return loss, slope
    # SIGMOID_BINARY_CROSS_ENTROPY: max(z, 0) - z t + log(1 + e^-|z|), and sigmoid(z) - t
    decay = type(p)(math.exp(-abs(p)))
    positive = p if p > type(p)(0) else type(p)(0)
    loss = positive - p * t + type(p)(math.log1p(decay))
    sigmoid = decay / (one + decay) if p < type(p)(0) else one / (one + decay)
    return loss, sigmoid - t


@cuda.jit(cache=True)
def _mean_loss(kind, predictions, targets, scale, losses, gradient):
    real = predictions.dtype.type
    partial = cuda.shared.array((ROWS, LANES), predictions.dtype)
    lane, row_of_block = cuda.threadIdx.x, cuda.threadIdx.y
    rows, columns = predictions.shape
    first_row = cuda.blockIdx.x * ROWS
    while first_row < rows:
        row = first_row + row_of_block
        end = columns if row < rows else 0
        total = real(0)
        for column in range(lane, end, LANES):
            loss, slope = element_loss(kind, predictions[row, column], targets[row, column])
            total += loss
            gradient[row, column] = scale * slope / real(columns)
        partial[row_of_block, lane] = total
        cuda.syncthreads()
        if lane == 0 and row < rows:
            losses[row] = sum_of_row(partial, row_of_block) / real(columns)
        cuda.syncthreads()
        first_row += cuda.gridDim.x * ROWS
