"""The shared scalar formulas as device functions, and small helpers that all kernels use.

`inline` makes device functions that NVIDIA's compiler puts into the kernels that call them.  Numba infers their types
and lowers them once for all kernels: its own ``inline="always"`` does so for each call, and takes three times as long.
Nothing here touches threads, blocks or barriers.
"""

import numpy as np

from .. import formulas
from .toolkit import SIMULATED, cuda

# The simulator has no such option.
inline = cuda.jit(device=True, **({} if SIMULATED else {"forceinline": True}))
# Numba's time well spent: the compiler then makes fewer instructions, or uses fewer registers.
inline_early = cuda.jit(device=True, inline="always")

activate = inline(formulas.activate)
slope_from_value = inline(formulas.slope_from_value)
slope = inline(formulas.slope)
clip_relu = inline(formulas.clip_relu)
clip_relu_slope = inline(formulas.clip_relu_slope)
philox4x32 = inline(formulas.philox4x32)


@inline_early
def quotient(a, b):
    """``a // b`` of numbers from 0 to 2**31 - 1: unsigned 32-bit division, the shortest there is."""
    return np.int32(np.uint32(a) // np.uint32(b))


@inline_early
def pixel_place(pixel, height, width):
    """Picture, row and column of pixel number `pixel`, pictures having `height` rows of `width` pixels."""
    line = quotient(pixel, width)
    picture = quotient(line, height)
    return picture, line - picture * height, pixel - line * width


@inline
def pixel_gradient(dy, y, place, activation, alpha):
    """``dz = dy * activation'(z)`` at one place, from the value y; a linear layer's y is not even read."""
    gradient = dy[place]
    if activation != 0:
        gradient = gradient * slope_from_value(activation, alpha, y[place])
    return gradient


@inline
def larger(a, b):
    """The larger of two numbers; NaN if either is."""
    return b if b > a or b != b else a
