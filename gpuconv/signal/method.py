"""Direct sums or Fourier transforms: what each costs, which one to take, and what a transform may do to integers.

With N outputs and a kernel of K cells, a direct sum takes N K multiply-adds.  A product of Fourier transforms takes
about n log2(n) steps, n being the size of the array that is transformed.  The direct sum is taken where it is the
cheaper of the two by this estimate::

    N K <= START + step n log2(n)

A step takes as long as 24 multiply-adds of real numbers, which become vector instructions, and as long as 4 of
complex ones, which do not; `START`, in multiply-adds, is what a transform costs before it begins.  These numbers
were measured on the CPU (pictures of 64, 256 and 1024 pixels a side, kernels of 3 to 63), and serve for CUDA as well,
where they have not been measured.  The direct sum is always taken for integers, whose direct sums are exact, for NaN
and infinities, which a transform would spread over the whole result, and on CUDA where CuPy is not installed.
"""

import math

import numpy as np

METHODS = ("auto", "direct", "fft")

START = 500_000
REAL_STEP = 24
COMPLEX_STEP = 4


def prefers_fft(outputs, kernel_cells, transformed, dtype):
    """Whether the estimate favours Fourier transforms.

    Parameters
    ----------
    outputs : int
        Number of output values.
    kernel_cells : int
        Number of terms of each.
    transformed : int
        Number of values that are transformed.
    dtype : numpy.dtype
    """
    step = COMPLEX_STEP if dtype.kind == "c" else REAL_STEP
    return outputs * kernel_cells > START + step * transformed * math.log2(max(transformed, 2))


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
