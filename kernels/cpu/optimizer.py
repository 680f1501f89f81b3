"""Optimisers over the flat buffer that holds all parameters of a model, and its penalties.

Formulas as in Keras: `weight_decay` is the decoupled kind, epsilon of Adam stands outside
the bias-corrected root.  Moments that a setting does not use may be empty arrays.
"""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def regularize(parameters, ends, l1, l2, gradients, penalty):
    """Add the gradient of the L1 and L2 penalties, and write the penalty.

    Region r reaches from ends[r-1] to ends[r] and contributes l1 sum |p| + l2 sum p^2, with
    gradient l1 sign(p) + 2 l2 p.
    """
    real = parameters.dtype.type
    # Two sums over everything, so double precision costs nothing and saves the penalty's digits.
    total = 0.0
    first = 0
    for region in range(ends.size):
        last = ends[region]
        if l1[region] != 0 or l2[region] != 0:
            absolute = 0.0
            square = 0.0
            for i in range(first, last):
                p = parameters[i]
                absolute += abs(p)
                square += p * p
                gradients[i] += l1[region] * np.sign(p) + real(2) * l2[region] * p
            total += l1[region] * absolute + l2[region] * square
        first = last
    penalty[0] = total


@njit(cache=True, nogil=True, error_model="numpy")
def sgd(gradients, learning_rate, momentum, nesterov, weight_decay, parameters, velocity):
    """p -= rate g; with momentum v = momentum v - rate g and p += v, or p += momentum v - rate g (Nesterov)."""
    real = parameters.dtype.type
    rate = real(learning_rate)
    inertia = real(momentum)
    keep = real(1.0 - learning_rate * weight_decay)
    for i in range(parameters.size):
        p = parameters[i] * keep
        if momentum == 0.0:
            p -= rate * gradients[i]
        else:
            v = inertia * velocity[i] - rate * gradients[i]
            velocity[i] = v
            p += inertia * v - rate * gradients[i] if nesterov else v
        parameters[i] = p


@njit(cache=True, nogil=True, error_model="numpy")
def adam(gradients, learning_rate, beta_1, beta_2, epsilon, step, weight_decay, parameters, mean, mean_square):
    """Kingma and Ba, "Adam" (2015), in the form that precedes section 2.1.

    p -= rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(s) + epsilon)
    """
    real = parameters.dtype.type
    rate = real(learning_rate * math.sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step))
    new_1 = real(1.0 - beta_1)
    new_2 = real(1.0 - beta_2)
    keep = real(1.0 - learning_rate * weight_decay)
    for i in range(parameters.size):
        g = gradients[i]
        m = mean[i] + (g - mean[i]) * new_1
        s = mean_square[i] + (g * g - mean_square[i]) * new_2
        mean[i] = m
        mean_square[i] = s
        parameters[i] = parameters[i] * keep - rate * m / (math.sqrt(s) + real(epsilon))


@njit(cache=True, nogil=True, error_model="numpy")
def rmsprop(
    gradients, learning_rate, rho, momentum, epsilon, centered, weight_decay, parameters, mean, mean_square, velocity
):
    """p -= rate g / sqrt(s + epsilon) with s = rho s + (1 - rho) g^2 (Hinton, 2012).

    `centered` takes the square of the gradient's own moving mean from s.
    """
    real = parameters.dtype.type
    rate = real(learning_rate)
    old = real(rho)
    new = real(1.0 - rho)
    inertia = real(momentum)
    keep = real(1.0 - learning_rate * weight_decay)
    for i in range(parameters.size):
        g = gradients[i]
        s = old * mean_square[i] + new * g * g
        mean_square[i] = s
        denominator = s + real(epsilon)
        if centered:
            m = old * mean[i] + new * g
            mean[i] = m
            denominator -= m * m
        move = rate * g / math.sqrt(denominator)
        if momentum > 0.0:
            move += inertia * velocity[i]
            velocity[i] = move
        parameters[i] = parameters[i] * keep - move
