"""Optimizers and penalties, over the flat buffer of all parameters.

One thread for each parameter, in strides of the grid: each reads and writes the parameter, its gradient and its
moments once, and memory traffic is all that bounds it (Adam: 28 bytes for each float32 parameter).
One launch serves all layers.
"""

import math

import numpy as np

from . import tiles, toolkit
from .toolkit import cuda

SUM_THREADS = tiles.SUM_THREADS


def regularize(parameters, ends, l1, l2, gradients, penalty):
    """Add the gradient of the L1 and L2 penalties of each region, and write the penalty's value.

    Each of a fixed number of blocks sums the penalty of the parameters it touches; a second kernel adds the
    blocks' sums.
    """
    blocks = (tiles.SUM_BLOCKS,)
    sums = toolkit.workspace(tiles.SUM_BLOCKS, penalty.dtype)
    toolkit.launch(_regularize, blocks, (SUM_THREADS,), parameters, ends, l1, l2, gradients, sums)
    toolkit.launch(_add_blocks, (1,), (1,), sums, np.int32(tiles.SUM_BLOCKS), penalty)


def sgd(gradients, learning_rate, momentum, nesterov, weight_decay, parameters, velocity):
    """Gradient descent, with momentum and Nesterov's look ahead if wanted."""
    real = parameters.dtype.type
    blocks, threads = tiles.element_grid(parameters.size)
    rates = real(learning_rate), real(momentum), np.int32(bool(nesterov)), real(learning_rate * weight_decay)
    toolkit.launch(_sgd, blocks, threads, gradients, *rates, parameters, velocity)


def adam(gradients, learning_rate, beta_1, beta_2, epsilon, step, weight_decay, parameters, mean, mean_square):
    """Adam: Kingma and Ba (2015), in the form with the corrections of both moments in the rate."""
    real = parameters.dtype.type
    blocks, threads = tiles.element_grid(parameters.size)
    rate = learning_rate * math.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    rates = real(rate), real(1 - beta_1), real(1 - beta_2), real(epsilon), real(learning_rate * weight_decay)
    toolkit.launch(_adam, blocks, threads, gradients, *rates, parameters, mean, mean_square)


def rmsprop(
    gradients, learning_rate, rho, momentum, epsilon, centered, weight_decay, parameters, mean, mean_square, velocity
):
    """RMSprop, divided by the deviation instead of the root mean square if centered."""
    real = parameters.dtype.type
    blocks, threads = tiles.element_grid(parameters.size)
    rates = real(learning_rate), real(rho), real(1 - rho), real(momentum), real(epsilon)
    choices = np.int32(bool(centered)), real(learning_rate * weight_decay)
    toolkit.launch(_rmsprop, blocks, threads, gradients, *rates, *choices, parameters, mean, mean_square, velocity)


@cuda.jit(cache=True)
def _regularize(parameters, ends, l1, l2, gradients, block_sums):
    real = parameters.dtype.type
    partial = cuda.shared.array((1, SUM_THREADS), parameters.dtype)
    total = real(0)
    region = 0
    last = ends[ends.size - 1] if ends.size > 0 else 0
    i = cuda.grid(1)
    # A thread's places only grow, and so do the regions they fall into.
    while i < last:
        while i >= ends[region]:
            region += 1
        if l1[region] != real(0) or l2[region] != real(0):
            p = parameters[i]
            sign = real(0)
            if p > real(0):
                sign = real(1)
            elif p < real(0):
                sign = real(-1)
            total += l1[region] * abs(p) + l2[region] * p * p
            gradients[i] += l1[region] * sign + real(2) * l2[region] * p
        i += cuda.gridsize(1)
    partial[0, cuda.threadIdx.x] = total
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        total = real(0)
        for k in range(SUM_THREADS):
            total += partial[0, k]
        block_sums[cuda.blockIdx.x] = total


@cuda.jit(cache=True)
def _add_blocks(block_sums, count, penalty):
    total = block_sums[0]
    for k in range(1, count):
        total += block_sums[k]
    penalty[0] = total


@cuda.jit(cache=True)
def _sgd(gradients, rate, momentum, nesterov, decay, parameters, velocity):
    zero = parameters.dtype.type(0)
    i = cuda.grid(1)
    while i < parameters.size:
        p = parameters[i]
        if decay != zero:
            p -= decay * p
        move = -rate * gradients[i]
        if momentum != zero:
            speed = momentum * velocity[i] + move
            velocity[i] = speed
            move = momentum * speed + move if nesterov else speed
        parameters[i] = p + move
        i += cuda.gridsize(1)


@cuda.jit(cache=True)
def _adam(gradients, rate, mean_rest, square_rest, epsilon, decay, parameters, mean, mean_square):
    real = parameters.dtype.type
    i = cuda.grid(1)
    while i < parameters.size:
        p = parameters[i]
        g = gradients[i]
        if decay != real(0):
            p -= decay * p
        m = mean[i] + (g - mean[i]) * mean_rest
        s = mean_square[i] + (g * g - mean_square[i]) * square_rest
        mean[i] = m
        mean_square[i] = s
        parameters[i] = p - rate * m / (real(math.sqrt(s)) + epsilon)
        i += cuda.gridsize(1)


@cuda.jit(cache=True)
def _rmsprop(
    gradients, rate, rho, rho_rest, momentum, epsilon, centered, decay, parameters, mean, mean_square, velocity
):
    real = parameters.dtype.type
    i = cuda.grid(1)
    while i < parameters.size:
        p = parameters[i]
        g = gradients[i]
        if decay != real(0):
            p -= decay * p
        s = rho * mean_square[i] + rho_rest * g * g
        mean_square[i] = s
        denominator = s + epsilon
        if centered:
            m = rho * mean[i] + rho_rest * g
            mean[i] = m
            denominator = s - m * m + epsilon
        move = rate * g / real(math.sqrt(denominator))
        if momentum > real(0):
            move = momentum * velocity[i] + move
            velocity[i] = move
        parameters[i] = p - move
        i += cuda.gridsize(1)
