"""The convolution theorem, in numbers."""

from typing import NamedTuple

import numpy as np

from . import method as methods
from .operands import operand, pair
from .pictures import convolve2d
from .sequences import convolve


class ConvolutionTheorem(NamedTuple):
    """Both sides of the theorem, and how far they are apart.

    Attributes
    ----------
    direct : ndarray
        The convolution as a direct sum.
    product : ndarray
        The inverse Fourier transform of the product of the Fourier transforms.
    error : float
        The largest difference between them, divided by ``||in1||_2 ||in2||_2``, which no sum exceeds.
    bound : float
        What rounding may make of it: ``4 eps log2(n)`` for n outputs; see `gpuconv.signal.method.rounding_bound`.
    """

    direct: np.ndarray
    product: np.ndarray
    error: float
    bound: float


def convolution_theorem(in1, in2):
    """The Fourier transform of a convolution is the product of the Fourier transforms: check it in numbers.

    ``in1 * in2 = ifft(fft(in1) fft(in2))``, where both are first continued by zeros to the length of the full
    convolution, ``n + m - 1``: without the zeros the product belongs to the *circular* convolution, in which what
    leaves at the end comes in again at the beginning.

    The discrete transform is ``fft(x)[q] = sum_p x[p] exp(-2 pi i p q / N)``, and its inverse has the factor 1 / N.
    For the continuous transform, a factor ``1 / (2 pi)`` may likewise stand in one direction only (or its root in
    both): with ``1 / (2 pi)`` in both, the inverse would not be one.

    Parameters
    ----------
    in1, in2 : array_like, shape (n,) and (m,), or two pictures
        Finite integers, floats or complex numbers; integers are taken as float64.

    Returns
    -------
    ConvolutionTheorem
        ``(direct, product, error, bound)``.

    Raises
    ------
    ValueError, TypeError
        If an operand is empty, not finite, of other types, or has neither one axis nor two.

    Examples
    --------
    >>> direct, product, error, bound = convolution_theorem([1.0, 2.0, 3.0], [0.0, 1.0, 0.5])
    >>> direct
    array([0. , 1. , 2.5, 4. , 1.5])
    >>> bool(np.allclose(product, direct)), error <= bound
    (True, True)
    """
    from scipy import fft

    rank = np.ndim(in1)
    if rank not in (1, 2):
        raise ValueError(f"in1: expected 1 or 2 axes, received {rank}")
    in1, in2 = (operand(name, values, rank) for name, values in (("in1", in1), ("in2", in2)))
    if np.result_type(in1, in2).kind in "biu":
        in1, in2 = in1.astype(np.float64), in2.astype(np.float64)
    in1, in2 = pair(rank, in1=in1, in2=in2)
    for name, array in (("in1", in1), ("in2", in2)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers, received {array[~np.isfinite(array)].flat[0]}")
    direct = (convolve if rank == 1 else convolve2d)(in1, in2, method="direct")
    transform, inverse = (fft.fftn, fft.ifftn) if in1.dtype.kind == "c" else (fft.rfftn, fft.irfftn)
    product = inverse(transform(in1, direct.shape) * transform(in2, direct.shape), direct.shape)
    unit = float(np.linalg.norm(in1)) * float(np.linalg.norm(in2)) or 1.0
    error = float(np.abs(product - direct).max()) / unit
    return ConvolutionTheorem(direct, product, error, methods.rounding_bound(in1, in2, direct.size) / unit)
