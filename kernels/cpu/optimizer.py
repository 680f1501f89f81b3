"""Optimisers over the flat buffer that holds all parameters of a model, and its penalties.

Formulas as in Keras: `weight_decay` is the decoupled kind, epsilon of Adam stands outside
the bias-corrected root.  Moments that a setting does not use may be empty arrays.
"""

import math

import numpy as np
from numba import njit

from .blocks import MOVE, blocks, within
from .compiling import INNER, KERNEL
from .local import local_array
from .threads import share
from .views import part

# Parts of the parameters whose penalties are added up on their own, and numbers that a part is a multiple of.
PARTS = 64
LINE = 64


@njit(**KERNEL)
def regularize(parameters, ends, l1, l2, gradients, penalty):
    """Add the gradient of the L1 and L2 penalties, and write the penalty.

    Region r reaches from ends[r-1] to ends[r] and contributes l1 sum |p| + l2 sum p^2, with
    gradient l1 sign(p) + 2 l2 p.
    """
    size = parameters.size
    step = (size // PARTS // LINE + 1) * LINE
    parts = (size + step - 1) // step
    # Two sums over everything, so double precision costs nothing and saves the penalty's digits.
    totals = local_array(PARTS, np.float64)
    share(_regularize, (parameters, ends, l1, l2, gradients, totals, step), parts, size * MOVE)
    total = 0.0
    for k in range(parts):
        total += totals[k]
    penalty[0] = total


@njit(**INNER)
def _regularize(first, last, worker, parameters, ends, l1, l2, gradients, totals, step):
    for k in range(first, last):
        totals[k] = 0.0
        start, stop = k * step, min((k + 1) * step, parameters.size)
        begin = 0
        for region in range(ends.size):
            end = ends[region]
            lower, upper = max(begin, start), min(end, stop)
            begin = end
            if lower >= upper:
                continue
            values, slopes = part(parameters, lower, upper - lower), part(gradients, lower, upper - lower)
            if l1[region] != 0:
                totals[k] += _l1_penalty(values, l1[region], slopes)
            if l2[region] != 0:
                totals[k] += _l2_penalty(values, l2[region], slopes)


# Both sums may be taken in the order that suits vectors.
@njit(fastmath={"reassoc", "contract"}, **INNER)
def _l1_penalty(parameters, l1, gradients):
    zero = parameters.dtype.type(0)
    total = 0.0
    for i in range(parameters.size):
        p = parameters[i]
        total += abs(p)
        gradients[i] += (l1 if p > zero else zero) - (l1 if p < zero else zero)
    return l1 * total


@njit(fastmath={"reassoc", "contract"}, **INNER)
def _l2_penalty(parameters, l2, gradients):
    two_l2 = parameters.dtype.type(2) * l2
    total = 0.0
    for i in range(parameters.size):
        p = np.float64(parameters[i])
        total += p * p
        gradients[i] += two_l2 * parameters[i]
    return l2 * total


@njit(**KERNEL)
def sgd(gradients, learning_rate, momentum, nesterov, weight_decay, parameters, velocity):
    """p -= rate g; with momentum v = momentum v - rate g and p += v, or p += momentum v - rate g (Nesterov)."""
    keep = 1.0 - learning_rate * weight_decay
    tasks, work = blocks(parameters.size), parameters.size * MOVE
    if momentum == 0.0:
        share(_sgd, (gradients, learning_rate, keep, parameters), tasks, work)
    else:
        arguments = gradients, learning_rate, momentum, nesterov, keep, parameters, velocity
        share(_sgd_with_momentum, arguments, tasks, work)


@njit(**INNER)
def _sgd(first, last, worker, gradients, learning_rate, keep, parameters):
    real = parameters.dtype.type
    rate, keep = real(learning_rate), real(keep)
    gradients, parameters = within(gradients, first, last), within(parameters, first, last)
    for i in range(parameters.size):
        parameters[i] = parameters[i] * keep - rate * gradients[i]


@njit(**INNER)
def _sgd_with_momentum(first, last, worker, gradients, learning_rate, momentum, nesterov, keep, parameters, velocity):
    real = parameters.dtype.type
    rate, inertia, keep = real(learning_rate), real(momentum), real(keep)
    gradients, parameters = within(gradients, first, last), within(parameters, first, last)
    velocity = within(velocity, first, last)
    for i in range(parameters.size):
        move = rate * gradients[i]
        v = inertia * velocity[i] - move
        velocity[i] = v
        parameters[i] = parameters[i] * keep + (inertia * v - move if nesterov else v)


@njit(**KERNEL)
def adam(gradients, learning_rate, beta_1, beta_2, epsilon, step, weight_decay, parameters, mean, mean_square):
    """Kingma and Ba, "Adam" (2015), in the form that precedes section 2.1.

    p -= rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(s) + epsilon)
    """
    rate = learning_rate * math.sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step)
    keep = 1.0 - learning_rate * weight_decay
    arguments = gradients, rate, 1.0 - beta_1, 1.0 - beta_2, epsilon, keep, parameters, mean, mean_square
    share(_adam, arguments, blocks(parameters.size), 2 * parameters.size * MOVE)


@njit(**INNER)
def _adam(first, last, worker, gradients, rate, new_1, new_2, epsilon, keep, parameters, mean, mean_square):
    real = parameters.dtype.type
    rate, new_1, new_2, epsilon, keep = real(rate), real(new_1), real(new_2), real(epsilon), real(keep)
    gradients, parameters = within(gradients, first, last), within(parameters, first, last)
    mean, mean_square = within(mean, first, last), within(mean_square, first, last)
    for i in range(parameters.size):
        g = gradients[i]
        m = mean[i] + (g - mean[i]) * new_1
        s = mean_square[i] + (g * g - mean_square[i]) * new_2
        mean[i] = m
        mean_square[i] = s
        parameters[i] = parameters[i] * keep - rate * m / (math.sqrt(s) + epsilon)


@njit(**KERNEL)
def rmsprop(
    gradients, learning_rate, rho, momentum, epsilon, centered, weight_decay, parameters, mean, mean_square, velocity
):
    """p -= rate g / sqrt(s + epsilon) with s = rho s + (1 - rho) g^2 (Hinton, 2012).

    `centered` takes the square of the gradient's own moving mean from s.
    """
    keep = 1.0 - learning_rate * weight_decay
    arguments = (
        gradients, learning_rate, rho, 1.0 - rho, momentum, epsilon, centered, keep,
        parameters, mean, mean_square, velocity,
    )  # fmt: skip
    share(_rmsprop, arguments, blocks(parameters.size), 2 * parameters.size * MOVE)


@njit(**INNER)
def _rmsprop(
    first, last, worker, gradients, rate, old, new, momentum, epsilon, centered, keep,
    parameters, mean, mean_square, velocity,
):  # fmt: skip
    real = parameters.dtype.type
    rate, old, new, inertia = real(rate), real(old), real(new), real(momentum)
    epsilon, keep = real(epsilon), real(keep)
    gradients, parameters = within(gradients, first, last), within(parameters, first, last)
    mean_square = within(mean_square, first, last)
    # What a setting does not use is neither read nor written: it may have one element.
    if centered:
        mean = within(mean, first, last)
    if momentum > 0.0:
        velocity = within(velocity, first, last)
    for i in range(parameters.size):
        g = gradients[i]
        s = old * mean_square[i] + new * g * g
        mean_square[i] = s
        denominator = s + epsilon
        if centered:
            m = old * mean[i] + new * g
            mean[i] = m
            denominator -= m * m
        move = rate * g / math.sqrt(denominator)
        if momentum > 0.0:
            move += inertia * velocity[i]
            velocity[i] = move
        parameters[i] = parameters[i] * keep - move
