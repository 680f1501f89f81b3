"""Losses with their gradients in one pass: ``losses[i]`` of each row, and ``scale`` times its gradient.

Cross-entropy of a softmax is computed from the logits, where loss and gradient are simple
and exact; the versions from probabilities clip at EPSILON as Keras does, and their gradient
is zero where the clip acts.  Bishop, "Pattern Recognition and Machine Learning" (2006),
section 4.3.
"""

import math

from numba import njit

# Keras's backend.epsilon().
EPSILON = 1e-7


@njit(cache=True, nogil=True, error_model="numpy")
def _log_sum_exp(row, largest):
    total = largest - largest
    for j in range(row.size):
        total += math.exp(row[j] - largest)
    return largest + math.log(total)


@njit(cache=True, nogil=True, error_model="numpy")
def _largest(row):
    largest = row[0]
    for j in range(1, row.size):
        # "not <=" lets NaN through, as a sum would.
        if not row[j] <= largest:
            largest = row[j]
    return largest


@njit(cache=True, nogil=True, error_model="numpy")
def softmax_cross_entropy(logits, targets, scale, losses, gradient):
    """losses = -sum_j t_j log softmax_j(z), gradient = scale (softmax(z) sum t - t)."""
    rows, columns = logits.shape
    real = logits.dtype.type
    for i in range(rows):
        normalizer = _log_sum_exp(logits[i], _largest(logits[i]))
        loss = real(0)
        weight = real(0)
        for j in range(columns):
            weight += targets[i, j]
            if targets[i, j] != 0:
                loss += targets[i, j] * (normalizer - logits[i, j])
        losses[i] = loss
        for j in range(columns):
            gradient[i, j] = real(scale) * (weight * math.exp(logits[i, j] - normalizer) - targets[i, j])


@njit(cache=True, nogil=True, error_model="numpy")
def sparse_softmax_cross_entropy(logits, labels, scale, losses, gradient):
    """`softmax_cross_entropy` for targets given as class numbers."""
    rows, columns = logits.shape
    real = logits.dtype.type
    for i in range(rows):
        normalizer = _log_sum_exp(logits[i], _largest(logits[i]))
        losses[i] = normalizer - logits[i, labels[i]]
        for j in range(columns):
            gradient[i, j] = real(scale) * math.exp(logits[i, j] - normalizer)
        gradient[i, labels[i]] -= real(scale)


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
def sigmoid_binary_cross_entropy(logits, targets, scale, losses, gradient):
    """losses = mean_j (max(z_j, 0) - z_j t_j + log(1 + e^-|z_j|)), gradient = scale (sigmoid(z) - t) / columns."""
    rows, columns = logits.shape
    real = logits.dtype.type
    factor = real(scale) / real(columns)
    for i in range(rows):
        total = real(0)
        for j in range(columns):
            z = logits[i, j]
            t = targets[i, j]
            decay = math.exp(-abs(z))
            above = real(0) if z < real(0) else z
            total += above - z * t + math.log1p(decay)
            sigmoid = (decay if z < real(0) else real(1)) / (real(1) + decay)
            gradient[i, j] = factor * (sigmoid - t)
        losses[i] = total / real(columns)
