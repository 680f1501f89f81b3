"""Losses with their gradients in one pass: ``losses[i]`` of each row, and ``scale`` times its gradient.

Cross-entropy of a softmax is computed from the logits, where loss and gradient are simple
and exact; the versions from probabilities clip at EPSILON as Keras does, and their gradient
is zero where the clip acts.  Bishop, "Pattern Recognition and Machine Learning" (2006),
section 4.3.
"""

import math

from numba import njit

from .activation import ROWS_BLOCK, rows_of_task
from .blocks import FORMULA
from .compiling import INNER, KERNEL
from .elementary import exp_of_negative, log, log1p, sigmoid, without_scale
from .local import local_array
from .rows import LANE_SUMS, ROWS_AT_ONCE, cross_entropy_of_rows, exponentials_of_rows, row_sum, scale_rows
from .threads import share

# Keras's backend.epsilon().
EPSILON = 1e-7


@njit(**KERNEL)
def softmax_cross_entropy(logits, targets, scale, losses, gradient):
    """losses = -sum_j t_j log softmax_j(z), gradient = scale (softmax(z) sum t - t)."""
    rows = rows_of_task(logits.shape[1])
    tasks = (logits.shape[0] + rows - 1) // rows
    arguments = logits, targets, logits.dtype.type(scale), losses, gradient, rows
    share(_softmax_cross_entropy, arguments, tasks, logits.size * FORMULA)


@njit(**INNER)
def _exponentials(logits, first, last, columns, totals, losses, gradient):
    """Scaled e^(z - max z) of each row into `gradient`, their sums into `totals`, log sum e^z into `losses`."""
    minus_largest, some_totals = local_array(ROWS_AT_ONCE, logits), local_array(ROWS_AT_ONCE, logits)
    sums = local_array(LANE_SUMS, logits)
    for row in range(first, last, ROWS_AT_ONCE):
        count, place = min(ROWS_AT_ONCE, last - row), row * columns
        exponentials_of_rows(logits, place, columns, count, gradient, place, minus_largest, some_totals, sums)
        for i in range(count):
            totals[row - first + i] = some_totals[i]
            losses[row + i] = log(without_scale(some_totals[i])) - minus_largest[i]


@njit(**INNER)
def _softmax_cross_entropy(first, last, worker, all_logits, all_targets, scale, losses, all_gradient, rows):
    count, columns = all_logits.shape
    logits, targets, gradient = all_logits.reshape(-1), all_targets.reshape(-1), all_gradient.reshape(-1)
    totals = local_array(ROWS_BLOCK, logits)
    for task in range(first, last):
        begin, end = task * rows, min((task + 1) * rows, count)
        _exponentials(logits, begin, end, columns, totals, losses, gradient)
        cross_entropy_of_rows(
            logits, targets, gradient, begin * columns, columns, end - begin, scale, totals, losses[begin:end]
        )


@njit(**KERNEL)
def sparse_softmax_cross_entropy(logits, labels, scale, losses, gradient):
    """`softmax_cross_entropy` for targets given as class numbers."""
    rows = rows_of_task(logits.shape[1])
    tasks = (logits.shape[0] + rows - 1) // rows
    arguments = logits, labels, logits.dtype.type(scale), losses, gradient, rows
    share(_sparse_softmax_cross_entropy, arguments, tasks, logits.size * FORMULA)


@njit(**INNER)
def _sparse_softmax_cross_entropy(first, last, worker, all_logits, labels, factor, losses, all_gradient, rows):
    count, columns = all_logits.shape
    logits, gradient = all_logits.reshape(-1), all_gradient.reshape(-1)
    totals = local_array(ROWS_BLOCK, logits)
    for task in range(first, last):
        begin, end = task * rows, min((task + 1) * rows, count)
        _exponentials(logits, begin, end, columns, totals, losses, gradient)
        for i in range(end - begin):
            totals[i] = factor / totals[i]
        scale_rows(gradient, begin * columns, columns, end - begin, totals, gradient, begin * columns)
        for i in range(begin, end):
            place = i * columns + labels[i]
            losses[i] -= logits[place]
            gradient[place] -= factor


@njit(**KERNEL)
def cross_entropy(probabilities, targets, scale, losses, gradient):
    """losses = -sum_j t_j log q_j with q = p / sum p, clipped to [EPSILON, 1 - EPSILON].

    With c_j = t_j where the clip does not act, else 0: dL/dp_k = (sum_j c_j - c_k / q_k) / sum p.
    """
    rows, columns = probabilities.shape
    real = probabilities.dtype.type
    low = real(EPSILON)
    high = real(1) - low
    for i in range(rows):
        total = real(0)
        for j in range(columns):
            total += probabilities[i, j]
        loss = real(0)
        unclipped = real(0)
        for j in range(columns):
            share = probabilities[i, j] / total
            if share < low:
                loss -= targets[i, j] * math.log(low)
            elif share > high:
                loss -= targets[i, j] * math.log(high)
            else:
                loss -= targets[i, j] * math.log(share)
                unclipped += targets[i, j]
        losses[i] = loss
        for j in range(columns):
            share = probabilities[i, j] / total
            inside = real(0) if share < low or share > high else targets[i, j] / share
            gradient[i, j] = real(scale) * (unclipped - inside) / total


@njit(**KERNEL)
def sparse_cross_entropy(probabilities, labels, scale, losses, gradient):
    """`cross_entropy` for targets given as class numbers."""
    rows, columns = probabilities.shape
    real = probabilities.dtype.type
    low = real(EPSILON)
    high = real(1) - low
    for i in range(rows):
        total = real(0)
        for j in range(columns):
            total += probabilities[i, j]
        share = probabilities[i, labels[i]] / total
        clipped = share < low or share > high
        losses[i] = -math.log(low if share < low else high if share > high else share)
        for j in range(columns):
            gradient[i, j] = real(0) if clipped else real(scale) / total
        if not clipped:
            gradient[i, labels[i]] -= real(scale) / (share * total)


@njit(**KERNEL)
def mean_squared_error(predictions, targets, scale, losses, gradient):
    """losses = mean_j (p_j - t_j)^2, gradient = scale 2 (p - t) / columns."""
    rows, columns = predictions.shape
    real = predictions.dtype.type
    factor = real(2) * real(scale) / real(columns)
    for i in range(rows):
        total = real(0)
        for j in range(columns):
            difference = predictions[i, j] - targets[i, j]
            total += difference * difference
            gradient[i, j] = factor * difference
        losses[i] = total / real(columns)


@njit(**KERNEL)
def binary_cross_entropy(probabilities, targets, scale, losses, gradient):
    """losses = -mean_j (t_j log p_j + (1 - t_j) log(1 - p_j)), p clipped to [EPSILON, 1 - EPSILON]."""
    rows, columns = probabilities.shape
    real = probabilities.dtype.type
    low = real(EPSILON)
    high = real(1) - low
    factor = real(scale) / real(columns)
    for i in range(rows):
        total = real(0)
        for j in range(columns):
            p = probabilities[i, j]
            t = targets[i, j]
            clipped = p < low or p > high
            # Each is clipped on its own: in float32, what is left of 1 - (1 - 1e-7) is 19 % too large.
            yes = low if p < low else high if p > high else p
            no = high if p < low else low if p > high else real(1) - p
            total -= t * math.log(yes) + (real(1) - t) * math.log(no)
            gradient[i, j] = real(0) if clipped else factor * ((real(1) - t) / no - t / yes)
        losses[i] = total / real(columns)


@njit(**KERNEL)
def sigmoid_binary_cross_entropy(logits, targets, scale, losses, gradient):
    """losses = mean_j (max(z_j, 0) - z_j t_j + log(1 + e^-|z_j|)), gradient = scale (sigmoid(z) - t) / columns."""
    rows = rows_of_task(logits.shape[1])
    tasks = (logits.shape[0] + rows - 1) // rows
    arguments = logits, targets, logits.dtype.type(scale), losses, gradient, rows
    share(_sigmoid_binary_cross_entropy, arguments, tasks, logits.size * FORMULA)


@njit(**INNER)
def _sigmoid_binary_cross_entropy(first, last, worker, all_logits, all_targets, scale, all_losses, all_gradient, rows):
    zero = type(scale)(0)
    columns = all_logits.shape[1]
    factor = scale / type(scale)(columns)
    for task in range(first, last):
        part = slice(task * rows, min((task + 1) * rows, all_logits.shape[0]))
        losses = all_losses[part]
        # Across the ends of rows: the terms of the losses first, then the gradient in their place.
        logits, targets = all_logits[part].reshape(-1), all_targets[part].reshape(-1)
        gradient = all_gradient[part].reshape(-1)
        for k in range(gradient.size):
            z = logits[k]
            above = zero if z < zero else z
            gradient[k] = above - z * targets[k] + log1p(exp_of_negative(-abs(z)))
        for i in range(losses.size):
            losses[i] = row_sum(gradient, i * columns, columns) / type(scale)(columns)
        for k in range(gradient.size):
            gradient[k] = factor * (sigmoid(logits[k]) - targets[k])
