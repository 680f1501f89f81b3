"""Convolution of sequences, which is multiplication of polynomials, and as a product with a Toeplitz matrix.

Computed on the CPU, by NumPy's compiled loops or SciPy's Fourier transforms: what can be gained on one line of
numbers is less than the way to a GPU costs.
"""

import numpy as np

from .. import checks
from ..interchange import lives_on_gpu
from . import method as methods
from .operands import MODES, finite_vector, operand, pair


def convolve(in1, in2, mode="full", method="auto"):
    """The convolution of two sequences.

    ``y[k] = sum_i in1[i] in2[k - i]``, over all i for which both exist.  In `mode` 'full' that is every k for which
    there is such an i; 'same' is the middle part of it that is as long as `in1`; 'valid' is where the shorter
    sequence lies within the longer one.  The order of the sequences does not matter, but for the length in 'same'.

    Parameters
    ----------
    in1, in2 : array_like, shape (n,) and (m,)
        Integers, float32, float64 or complex numbers.
    mode : {'full', 'same', 'valid'}, default 'full'
        ``n + m - 1``, ``n`` and ``max(n, m) - min(n, m) + 1`` numbers.  As in `scipy.signal`; in `numpy.convolve`
        'same' is as long as the longer sequence.
    method : {'auto', 'direct', 'fft'}, default 'auto'
        'direct' adds products, 'fft' multiplies Fourier transforms, block by block where one sequence is much the
        longer (overlap-add: `scipy.signal.oaconvolve`).  'auto' estimates the cost: see `gpuconv.signal.method`,
        which also bounds the error of 'fft'.

    Returns
    -------
    ndarray
        Of the common dtype of both.  Integers are exact modulo 2**bits, by either method.

    Raises
    ------
    ValueError, TypeError
        If a sequence is empty or has several axes, for types that are not listed, for an unknown mode or method, and
        for integers too large for 'fft'.

    Examples
    --------
    >>> convolve([1, 2, 3], [0, 1, 2])
    array([0, 1, 4, 7, 6])
    >>> convolve([1, 2, 3], [0, 1, 2], mode="same")
    array([1, 4, 7])
    """
    checks.choice("mode", mode, MODES)
    checks.choice("method", method, methods.METHODS)
    for name, values in (("in1", in1), ("in2", in2)):
        if lives_on_gpu(values):
            raise TypeError(f"{name}: expected a NumPy array, received an array on a GPU; sequences are for the CPU")
    in1, in2 = pair(1, in1=in1, in2=in2)
    longer, shorter = (in1, in2) if in1.size >= in2.size else (in2, in1)
    full_size = in1.size + in2.size - 1
    outputs = longer.size - shorter.size + 1 if mode == "valid" else full_size
    if method == "auto":
        fast = in1.dtype.kind in "fc" and methods.prefers_fft(1, outputs, shorter.size, full_size, in1.dtype)
        method = "fft" if fast and methods.stays_finite(np, longer, shorter, full_size) else "direct"
    computed = "valid" if mode == "valid" else "full"
    if method == "direct":
        y = np.convolve(longer, shorter, computed)
    else:
        from scipy.signal import oaconvolve

        y = oaconvolve(longer, shorter, computed)
        if in1.dtype.kind in "iu":
            y = methods.integers_from(y, in1.dtype, methods.rounding_bound(in1, in2, full_size))
    if mode == "same":
        first = (in2.size - 1) // 2
        return y[first : first + in1.size].copy()
    return y


def polynomial_multiply(alpha, beta):
    """The coefficients of the product of two polynomials.

    With ``p(t) = sum_i alpha[i] t**i`` and ``s(t) = sum_j beta[j] t**j``, every product ``alpha[i] beta[j]`` belongs
    to the power ``i + j``, so that ``delta[l] = sum_{i + j = l} alpha[i] beta[j]``: the convolution of the
    coefficients, as a direct sum.

    Parameters
    ----------
    alpha, beta : array_like, shape (n,) and (m,)
        Finite coefficients, that of ``t**0`` first.

    Returns
    -------
    ndarray, shape (n + m - 1,)

    Raises
    ------
    ValueError, TypeError
        If coefficients are missing, not finite, or not numbers.

    Examples
    --------
    (1 + 2 t) (3 - t) = 3 + 5 t - 2 t**2:

    >>> polynomial_multiply([1, 2], [3, -1])
    array([ 3,  5, -2])
    """
    return convolve(finite_vector("alpha", alpha), finite_vector("beta", beta), method="direct")


def toeplitz_matrix(w, n):
    """The matrix whose product with a vector of n numbers is its convolution with `w`.

    ``T[i, j] = w[i - j]``, and zero where there is no such weight: each column is the one before it, moved down by
    one row, and every diagonal is constant, which is what makes it a Toeplitz matrix.  Since convolution does not
    ask which of the two is the kernel, ``toeplitz_matrix(alpha, len(beta)) @ beta`` and
    ``toeplitz_matrix(beta, len(alpha)) @ alpha`` are the same.

    Parameters
    ----------
    w : array_like, shape (m,)
        The weights.
    n : int
        Number of columns.

    Returns
    -------
    ndarray, shape (m + n - 1, n), of the dtype of `w`

    Raises
    ------
    ValueError, TypeError
        If `w` is not a vector of numbers, or `n` not a positive integer.

    See Also
    --------
    toeplitz_multiply : The product, without the matrix.

    Examples
    --------
    >>> toeplitz_matrix([1, 2, 3], 2)
    array([[1, 0],
           [2, 1],
           [3, 2],
           [0, 3]])
    """
    w = operand("w", w, 1)
    n = checks.integer("n", n, 1)
    matrix = np.zeros((w.size + n - 1, n), w.dtype)
    for j in range(n):
        matrix[j : j + w.size, j] = w
    return matrix


def toeplitz_multiply(w, x):
    """``toeplitz_matrix(w, len(x)) @ x``, without the matrix: ``m + n`` numbers of memory instead of ``(m + n) n``.

    Column j of the matrix is `w`, moved down by j rows: the product is the sum of the columns, each times ``x[j]``.
    Nothing has to be stored for that but the weights themselves, once.

    Parameters
    ----------
    w, x : array_like, shape (m,) and (n,)
        Integers, float32, float64 or complex numbers.

    Returns
    -------
    ndarray, shape (m + n - 1,)

    Raises
    ------
    ValueError, TypeError
        As `convolve`.

    Examples
    --------
    >>> toeplitz_multiply([1, 2, 3], [1, 10])
    array([ 1, 12, 23, 30])
    """
    w, x = pair(1, w=w, x=x)
    longer, shorter = (w, x) if w.size >= x.size else (x, w)  # few long additions are faster than many short ones
    y = np.zeros(w.size + x.size - 1, w.dtype)
    for j, number in enumerate(shorter):
        y[j : j + longer.size] += longer * number
    return y
