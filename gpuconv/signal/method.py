"""Direct sums or Fourier transforms: what each costs, which one to take, and what a transform may do to integers.

With N outputs and a kernel of K cells, a direct sum takes N K multiply-adds.  A product of Fourier transforms takes
about n log2(n) steps, n being the size of the array that is transformed.  The direct sum is taken where it is the
cheaper of the two by this estimate::

    N K <= start + step n log2(n)

Both constants are in multiply-adds: what a transform costs before it begins, and its step.  They are large where the
direct sum is fast, which it is for pictures of real numbers, summed in vector registers.  Measured on the CPU, with one
thread and two: pictures of 64 to 2048 pixels a side with kernels of 5 to 63, sequences of 1000 to 500,000 numbers with
50 to 900 weights.  They serve for CUDA as well, where they have not been measured.

Pictures of real numbers are transformed on the CPU by a kernel of its own, unless the cheapest blocks have more than
`fourier.LARGEST` numbers; `gpuconv.kernels.cpu.fourier.cost` estimates that in the same unit from the blocks.

The direct sum is always taken for integers, whose direct sums are exact; for NaN and infinities, which a transform
would spread over the whole result; for numbers so large that a transform may overflow; and on CUDA where CuPy is not
installed.
"""

import math
from typing import NamedTuple

import numpy as np

METHODS = ("auto", "direct", "fft")


class Cost(NamedTuple):
    """What Fourier transforms cost, in multiply-adds of the direct sum."""

    start: int
    step: int


# By the number of axes, and whether the numbers are complex.
COSTS = {
    (1, False): Cost(500_000, 10),
    (1, True): Cost(500_000, 4),
    (2, False): Cost(30_000_000, 28),
    (2, True): Cost(500_000, 4),
}


def prefers_fft(axes, outputs, kernel_cells, transformed, dtype):
    """Whether the estimate favours Fourier transforms.

    Parameters
    ----------
    axes : {1, 2}
        1 for sequences, 2 for pictures.
    outputs : int
        Number of output values.
    kernel_cells : int
        Number of terms of each.
    transformed : int
        Number of values that are transformed.
    dtype : numpy.dtype
    """
    cost = COSTS[axes, dtype.kind == "c"]
    return outputs * kernel_cells > cost.start + cost.step * transformed * math.log2(max(transformed, 2))


def stays_finite(library, in1, in2, transformed, beyond=0):
    """Whether all numbers are finite, and so small that no Fourier transform can overflow.

    Parameters
    ----------
    library : module
        numpy, or cupy.
    in1, in2 : array
        What is convolved, floats or complex numbers, and the kernel.
    transformed : int
        Number of values that are transformed at once, at most.
    beyond : number, default 0
        What lies beyond the edges of `in1`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = library.abs(in1) if in1.dtype.kind == "c" else in1
        largest = float(np.max([abs(float(sizes.max())), abs(float(sizes.min())), abs(beyond)]))
        weights = float(library.abs(in2).sum(dtype=np.float64))
    # A transform is at most the sum of what is transformed.  The factor of 4 is for two blocks that are transformed as
    # one, real and imaginary parts that are added up, and rounding.  Comparisons with NaN are false.
    return 4 * transformed * (1 + largest) * (1 + weights) < float(np.finfo(in1.dtype).max)


def rounding_bound(in1, in2, full_size):
    """A bound of the rounding error of a convolution by Fourier transforms.

    ``4 eps log2(n) ||in1||_2 ||in2||_2``, with the Euclidean norms: three transforms, each with an error of at most
    a small multiple of ``eps log2(n)`` in the norm (Higham, "Accuracy and Stability of Numerical Algorithms",
    second edition, 2002, theorem 24.2).  It holds for the largest error anywhere: small results beside large ones
    have fewer correct digits than direct sums would give them.
    """
    real = np.result_type(in1.real.dtype, in2.real.dtype)
    eps = float(np.finfo(real if real.kind == "f" else np.float64).eps)
    norms = [float(np.linalg.norm(array.astype(np.result_type(array.dtype, np.float64)))) for array in (in1, in2)]
    return 4 * eps * max(math.log2(max(full_size, 1)), 1) * norms[0] * norms[1]


def integers_from(result, dtype, bound):
    """The integers that the sums must be, from sums that are off by `bound` at most.

    Raises
    ------
    ValueError
        If rounding errors may reach one half.
    """
    if bound >= 0.5:
        raise ValueError(
            "method: expected 'direct' for integers as large as these, whose sums Fourier transforms in float64 "
            f"do not give exactly (errors up to {bound:.2g}), received 'fft'"
        )
    # The modulus 2**bits, as in sums of this type; int64 holds every sum that passes the bound.
    return np.rint(result).astype(np.int64).astype(dtype)
