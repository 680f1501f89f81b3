"""Optimizers and penalties, over the flat buffer of all parameters: one launch serves all layers.

One thread for each vector of 16 bytes, in strides of the grid: it reads and writes the parameters, their gradients and
their moments once, and memory is what bounds it.  Bytes for each float32 parameter: 12 for gradient descent, 20 with
momentum, 28 for Adam, 20 to 36 for RMSprop, 12 for the gradient of penalties (where a region has one).
"""

import functools
import math

import numpy as np

from . import tiles, toolkit
from .counting import counted, current
from .sums import SUM_THREADS, WARPS, add_up, sum_of_block
from .toolkit import cuda
from .vectors import read, read_part, write, write_part


def regularize(parameters, ends, l1, l2, gradients, penalty):
    """Add the gradient of the L1 and L2 penalties of each region, and write the penalty's value."""
    real, size, regions = gradients.dtype.type, gradients.size, ends.size
    parameters, ends, l1, l2, gradients, value = map(toolkit.address, (parameters, ends, l1, l2, gradients, penalty))
    width = tiles.vector_width(real, parameters, gradients)
    blocks = tiles.sum_blocks(size, width)
    sums = value if blocks == 1 else toolkit.address(toolkit.workspace(blocks, real))
    toolkit.launch(
        _regularize_kernel(real, width), (blocks,), (SUM_THREADS,),
        parameters, ends, l1, l2, np.int32(regions), gradients, sums,
    )  # fmt: skip
    if blocks > 1:
        add_up(sums, blocks, real, 0, value)


def sgd(gradients, learning_rate, momentum, nesterov, weight_decay, parameters, velocity):
    """Gradient descent, with momentum and Nesterov's look ahead if wanted."""
    real, size = parameters.dtype.type, parameters.size
    gradients, parameters, velocity = map(toolkit.address, (gradients, parameters, velocity))
    width = tiles.vector_width(real, gradients, parameters, velocity)
    rates = real(learning_rate), real(momentum), real(1 - learning_rate * weight_decay)
    kernel = _sgd_kernel(real, width, bool(momentum), bool(nesterov))
    toolkit.launch(kernel, *tiles.vector_grid(size, width), gradients, *rates, np.int32(size), parameters, velocity)


def adam(gradients, learning_rate, beta_1, beta_2, epsilon, step, weight_decay, parameters, mean, mean_square):
    """Adam: Kingma and Ba (2015), in the form with the corrections of both moments in the rate."""
    real, size = parameters.dtype.type, parameters.size
    gradients, parameters, mean, mean_square = map(toolkit.address, (gradients, parameters, mean, mean_square))
    width = tiles.vector_width(real, gradients, parameters, mean, mean_square)
    rate = counted(step, lambda step: real(learning_rate * math.sqrt(1 - beta_2**step) / (1 - beta_1**step)))
    rates = *rate, real(1 - beta_1), real(1 - beta_2), real(epsilon), real(1 - learning_rate * weight_decay)
    moments = mean, mean_square
    kernel = _adam_kernel(real, width)
    toolkit.launch(kernel, *tiles.vector_grid(size, width), gradients, *rates, np.int32(size), parameters, *moments)


def rmsprop(
    gradients, learning_rate, rho, momentum, epsilon, centered, weight_decay, parameters, mean, mean_square, velocity
):
    """RMSprop, divided by the deviation instead of the root mean square if centered."""
    real, size = parameters.dtype.type, parameters.size
    moments = mean, mean_square, velocity
    gradients, parameters, *moments = map(toolkit.address, (gradients, parameters, *moments))
    width = tiles.vector_width(real, gradients, parameters, *moments)
    rates = real(learning_rate), real(rho), real(1 - rho), real(momentum), real(epsilon)
    keep = real(1 - learning_rate * weight_decay)
    kernel = _rmsprop_kernel(real, width, bool(momentum), bool(centered))
    blocks, threads = tiles.vector_grid(size, width)
    toolkit.launch(kernel, blocks, threads, gradients, *rates, keep, np.int32(size), parameters, *moments)


@functools.cache
def _regularize_kernel(real, width):
    @cuda.jit(cache=True)
    def regularize_kernel(parameters, ends, l1, l2, regions, gradients, sums):
        p = cuda.local.array(width, real)
        gradient = cuda.local.array(width, real)
        total = real(0)
        region = 0
        last = read(ends, regions - 1, np.int32) if regions > 0 else np.int32(0)
        place = cuda.grid(1) * width
        while place < last:
            read_part(p, 0, parameters, place, last, real(0), width)
            read_part(gradient, 0, gradients, place, last, real(0), width)
            for k in range(width):
                # A thread's places only grow, and so do the regions they fall into.
                while place + k < last and place + k >= read(ends, region, np.int32):
                    region += 1
                absolute, square = read(l1, region, real), read(l2, region, real)
                # What has no penalty may hold anything; what lies behind the last region is a zero here.
                if absolute != real(0) or square != real(0):
                    sign = real(0)
                    if p[k] > real(0):
                        sign = real(1)
                    elif p[k] < real(0):
                        sign = real(-1)
                    total += absolute * abs(p[k]) + square * p[k] * p[k]
                    gradient[k] += absolute * sign + real(2) * square * p[k]
            write_part(gradient, 0, gradients, place, last, width)
            place += cuda.gridsize(1) * width
        partial = cuda.shared.array(WARPS, real)
        total = sum_of_block(total, partial)
        if cuda.threadIdx.x == 0:
            write(sums, cuda.blockIdx.x, real, total)

    return regularize_kernel


@functools.cache
def _sgd_kernel(real, width, with_momentum, nesterov):
    @cuda.jit(cache=True)
    def sgd_kernel(gradients, rate, momentum, keep, size, parameters, velocity):
        p = cuda.local.array(width, real)
        move = cuda.local.array(width, real)
        speed = cuda.local.array(width, real)
        place = cuda.grid(1) * width
        while place < size:
            read_part(p, 0, parameters, place, size, real(0), width)
            read_part(move, 0, gradients, place, size, real(0), width)
            for k in range(width):
                move[k] *= -rate
            if with_momentum:
                read_part(speed, 0, velocity, place, size, real(0), width)
                for k in range(width):
                    speed[k] = momentum * speed[k] + move[k]
                    move[k] = momentum * speed[k] + move[k] if nesterov else speed[k]
                write_part(speed, 0, velocity, place, size, width)
            for k in range(width):
                p[k] = keep * p[k] + move[k]
            write_part(p, 0, parameters, place, size, width)
            place += cuda.gridsize(1) * width

    return sgd_kernel


@functools.cache
def _adam_kernel(real, width):
    @cuda.jit(cache=True)
    def adam_kernel(
        gradients, rate, rate_place, mean_rest, square_rest, epsilon, keep, size, parameters, mean, mean_square
    ):
        rate = current(rate, rate_place, real)
        p = cuda.local.array(width, real)
        g = cuda.local.array(width, real)
        m = cuda.local.array(width, real)
        s = cuda.local.array(width, real)
        place = cuda.grid(1) * width
        while place < size:
            read_part(p, 0, parameters, place, size, real(0), width)
            read_part(g, 0, gradients, place, size, real(0), width)
            read_part(m, 0, mean, place, size, real(0), width)
            read_part(s, 0, mean_square, place, size, real(0), width)
            for k in range(width):
                m[k] += (g[k] - m[k]) * mean_rest
                s[k] += (g[k] * g[k] - s[k]) * square_rest
                p[k] = keep * p[k] - rate * m[k] / (real(math.sqrt(s[k])) + epsilon)
            write_part(p, 0, parameters, place, size, width)
            write_part(m, 0, mean, place, size, width)
            write_part(s, 0, mean_square, place, size, width)
            place += cuda.gridsize(1) * width

    return adam_kernel


@functools.cache
def _rmsprop_kernel(real, width, with_momentum, centered):
    @cuda.jit(cache=True)
    def rmsprop_kernel(
        gradients, rate, rho, rho_rest, momentum, epsilon, keep, size, parameters, mean, mean_square, velocity
    ):
        p = cuda.local.array(width, real)
        g = cuda.local.array(width, real)
        m = cuda.local.array(width, real)
        s = cuda.local.array(width, real)
        v = cuda.local.array(width, real)
        place = cuda.grid(1) * width
        while place < size:
            read_part(p, 0, parameters, place, size, real(0), width)
            read_part(g, 0, gradients, place, size, real(0), width)
            read_part(s, 0, mean_square, place, size, real(0), width)
            for k in range(width):
                s[k] = rho * s[k] + rho_rest * g[k] * g[k]
            write_part(s, 0, mean_square, place, size, width)
            if centered:
                read_part(m, 0, mean, place, size, real(0), width)
                for k in range(width):
                    m[k] = rho * m[k] + rho_rest * g[k]
                    s[k] -= m[k] * m[k]
                write_part(m, 0, mean, place, size, width)
            for k in range(width):
                g[k] = rate * g[k] / real(math.sqrt(s[k] + epsilon))
            if with_momentum:
                read_part(v, 0, velocity, place, size, real(0), width)
                for k in range(width):
                    g[k] += momentum * v[k]
                write_part(g, 0, velocity, place, size, width)
            for k in range(width):
                p[k] = keep * p[k] - g[k]
            write_part(p, 0, parameters, place, size, width)
            place += cuda.gridsize(1) * width

    return rmsprop_kernel
