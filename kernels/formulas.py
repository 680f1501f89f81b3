"""Scalar formulas that both twins share: activations, their slopes, and Philox.

Each is a plain Python function of scalars that calls no other.  ``cpu`` compiles it with ``njit``, ``cuda``
as a device function, and the simulator runs it as it stands, so a formula is written
once.  ``type(z)(...)`` keeps every constant in the precision of ``z``: a bare ``0.0``
would turn float32 arithmetic into float64.
"""

import math

import numpy as np

# Activation codes.  The slope of those up to SOFTPLUS can be had from their value alone,
# so a layer that fuses them need not keep its pre-activation; GELU's cannot.
LINEAR, RELU, LEAKY_RELU, SIGMOID, TANH, ELU, SOFTPLUS, GELU = range(8)
LAST_FUSABLE = SOFTPLUS

# Dropout's mask.  A tile of so many elements has an eighth as many blocks, which are blocks of `philox4x32`: block b of
# an array has the counter (lower half of b, upper half of b, stream, step), and the seed's halves for a key.  Each word
# of a block is two numbers of 16 bits, the lower half first, and each number decides about one element::
#
#     words of a block:    0 and 1, their 4 numbers      0 and 1, ...      | 2 and 3, ...      2 and 3, ...
#     elements of a tile:  0 .. 3, of the first block    4 .. 7, of the second   ...   | 128 .. 131 of the first
#
# It is dropped if its number is below ``round(rate * 2**16)``: so the probability is within 2**-17 of the rate.
DROPOUT_TILE = 256


def activate(activation, alpha, z):
    """The activation numbered `activation` at `z`.

    `alpha` is the slope below zero of LEAKY_RELU and the depth of ELU.  NaN stays NaN.
    """
    zero = type(z)(0)
    one = type(z)(1)
    if activation == 1:  # RELU: max(z, 0)
        return zero if z < zero else z
    if activation == 2:  # LEAKY_RELU
        return type(z)(alpha) * z if z < zero else z
    if activation == 3:  # SIGMOID: the form that cannot overflow on either side
        decay = type(z)(math.exp(-abs(z)))
        return decay / (one + decay) if z < zero else one / (one + decay)
    if activation == 4:  # TANH
        return type(z)(math.tanh(z))
    if activation == 5:  # ELU: alpha (e^z - 1) below zero
        return type(z)(alpha) * type(z)(math.expm1(z)) if z < zero else z
    if activation == 6:  # SOFTPLUS: log(1 + e^z) without overflow
        tail = type(z)(math.log1p(type(z)(math.exp(-abs(z)))))
        return tail if z < zero else z + tail
    if activation == 7:  # GELU: z Phi(z), Hendrycks and Gimpel (2016)
        return type(z)(0.5) * z * (one + type(z)(math.erf(z * type(z)(0.7071067811865476))))
    return z


def slope_from_value(activation, alpha, y):
    """The derivative of a fusable activation, from its value ``y = activate(z)``."""
    zero = type(y)(0)
    one = type(y)(1)
    if activation == 1:
        return zero if y <= zero else one
    if activation == 2:
        return type(y)(alpha) if y <= zero else one
    if activation == 3:
        return y * (one - y)
    if activation == 4:
        return one - y * y
    if activation == 5:
        return y + type(y)(alpha) if y < zero else one
    if activation == 6:  # sigmoid(z) = 1 - e^-y
        return -type(y)(math.expm1(-y))
    return one


def slope(activation, alpha, z):
    """The derivative of any activation at its argument `z`."""
    zero = type(z)(0)
    one = type(z)(1)
    if activation == 1:
        return zero if z <= zero else one
    if activation == 2:
        return type(z)(alpha) if z <= zero else one
    if activation == 3:  # y (1 - y) in a form that is even in z
        decay = type(z)(math.exp(-abs(z)))
        return decay / ((one + decay) * (one + decay))
    if activation == 4:
        value = type(z)(math.tanh(z))
        return one - value * value
    if activation == 5:
        return type(z)(alpha) * type(z)(math.exp(z)) if z < zero else one
    if activation == 6:  # sigmoid(z)
        decay = type(z)(math.exp(-abs(z)))
        return decay / (one + decay) if z < zero else one / (one + decay)
    if activation == 7:  # Phi(z) + z phi(z)
        distribution = type(z)(0.5) * (one + type(z)(math.erf(z * type(z)(0.7071067811865476))))
        density = type(z)(0.3989422804014327) * type(z)(math.exp(type(z)(-0.5) * z * z))
        return distribution + z * density
    return one


def clip_relu(negative_slope, max_value, threshold, z):
    """Keras's general ReLU: capped at `max_value`, linear above `threshold`, leaky up to it."""
    if z >= type(z)(max_value):
        return type(z)(max_value)
    if z <= type(z)(threshold):
        return type(z)(negative_slope) * (z - type(z)(threshold))
    return z


def clip_relu_slope(negative_slope, max_value, threshold, z):
    """The derivative of `clip_relu`; at the kinks Keras's choice: 1 at the cap, 0 at the threshold."""
    if z > type(z)(max_value) or z == type(z)(threshold):
        return type(z)(0)
    if z < type(z)(threshold):
        return type(z)(negative_slope)
    return type(z)(1)


def philox4x32(c0, c1, c2, c3, k0, k1):
    """Four random 32-bit words from a counter of four words and a key of two.

    Philox 4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
    1, 2, 3" (2011).  Ten rounds of two 32 x 32 -> 64 bit products, crossed and keyed.
    """
    for _ in range(10):
        product0 = np.uint64(c0) * np.uint64(0xD2511F53)
        product1 = np.uint64(c2) * np.uint64(0xCD9E8D57)
        c0 = np.uint32(np.uint32(product1 >> np.uint64(32)) ^ np.uint32(c1) ^ np.uint32(k0))
        c2 = np.uint32(np.uint32(product0 >> np.uint64(32)) ^ np.uint32(c3) ^ np.uint32(k1))
        c1 = np.uint32(product1 & np.uint64(0xFFFFFFFF))
        c3 = np.uint32(product0 & np.uint64(0xFFFFFFFF))
        k0 = np.uint32((np.uint64(k0) + np.uint64(0x9E3779B9)) & np.uint64(0xFFFFFFFF))
        k1 = np.uint32((np.uint64(k1) + np.uint64(0xBB67AE85)) & np.uint64(0xFFFFFFFF))
    return c0, c1, c2, c3
