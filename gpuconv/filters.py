"""Filters made by hand, as image processing has used them long before networks learnt theirs.

Every function returns a kernel, an array ``(kernel_height, kernel_width)`` of float64, for a
cross-correlation: what is written is what is laid over the picture.  All but Sobel's look the
same from both sides, so that a convolution gives the same with them; Sobel's changes its sign.
`bank` makes of several kernels the filters that `functional.correlate2d` and
``Conv2D.set_weights`` take.

R. C. Gonzalez and R. E. Woods, "Digital Image Processing", 4th edition (2018), sections 3.5 and 3.6.
"""

import numpy as np

from . import checks


def box(size=3):
    """The mean of the pixels in a square: ``1 / size**2`` everywhere.

    Parameters
    ----------
    size : int, default 3
        Odd, so that the square has a centre.

    Returns
    -------
    numpy.ndarray, shape (size, size)

    Raises
    ------
    TypeError, ValueError
        If the size is not an odd integer of 1 or more.

    Examples
    --------
    >>> box(3).round(3)
    array([[0.111, 0.111, 0.111],
           [0.111, 0.111, 0.111],
           [0.111, 0.111, 0.111]])
    """
    size = _odd("size", size)
    return np.full((size, size), 1.0 / size**2)


def gaussian(sigma=1.0, size=None):
    """A mean weighted by a bell: ``g(i, j) = exp(-(i**2 + j**2) / (2 sigma**2))``, divided by its sum.

    Parameters
    ----------
    sigma : float, default 1.0
        Width of the bell in pixels.
    size : int, optional
        Odd.  Default: four times sigma to each side, rounded, as in SciPy.

    Returns
    -------
    numpy.ndarray, shape (size, size)

    Raises
    ------
    TypeError, ValueError
        If sigma is not a finite number above 0, or the size is not an odd integer of 1 or more.

    Examples
    --------
    >>> gaussian(1.0, 3).round(3)
    array([[0.075, 0.124, 0.075],
           [0.124, 0.204, 0.124],
           [0.075, 0.124, 0.075]])
    """
    sigma = checks.real("sigma", sigma, 0.0)
    if sigma == 0:
        raise ValueError("sigma: expected a finite number above 0, received 0")
    radius = int(4 * sigma + 0.5) if size is None else _odd("size", size) // 2
    # exp(-(i**2 + j**2) / ...) is a product of two bells of one variable.  Far out they underflow to zero.
    with np.errstate(under="ignore", over="ignore"):
        bell = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        bell /= bell.sum()
        return np.outer(bell, bell)


def sobel(axis):
    """Slope of brightness along one axis, smoothed along the other: edges across that axis.

    Positive where the picture grows brighter along the axis.  A ramp that rises by one a pixel gives 8.

    Parameters
    ----------
    axis : {0, 1}
        0: down the picture, for level edges.  1: to the right, for upright ones.

    Returns
    -------
    numpy.ndarray, shape (3, 3)

    Raises
    ------
    TypeError, ValueError
        If the axis is neither 0 nor 1.

    Examples
    --------
    >>> sobel(axis=1)
    array([[-1.,  0.,  1.],
           [-2.,  0.,  2.],
           [-1.,  0.,  1.]])
    """
    axis = checks.integer("axis", axis, 0)
    if axis > 1:
        raise ValueError(f"axis: expected 0 or 1, received {axis}")
    along_columns = np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0])
    return along_columns if axis == 1 else along_columns.T.copy()


def laplacian(diagonals=False):
    """The second derivatives added up: the neighbours' sum less their number times the pixel.

    Zero where brightness is level or rises evenly, of both signs beside edges.

    Parameters
    ----------
    diagonals : bool, default False
        Whether the four diagonal neighbours count too.

    Returns
    -------
    numpy.ndarray, shape (3, 3)

    Raises
    ------
    TypeError
        If `diagonals` is neither True nor False.

    Examples
    --------
    >>> laplacian()
    array([[ 0.,  1.,  0.],
           [ 1., -4.,  1.],
           [ 0.,  1.,  0.]])
    """
    if checks.boolean("diagonals", diagonals):
        kernel = np.ones((3, 3))
        kernel[1, 1] = -8.0
        return kernel
    return np.array([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])


def sharpen(amount=1.0, diagonals=False):
    """The picture less `amount` times its Laplacian, which makes edges steeper and leaves the brightness alone.

    Parameters
    ----------
    amount : float, default 1.0
        0: nothing changes.
    diagonals : bool, default False
        As in `laplacian`.

    Returns
    -------
    numpy.ndarray, shape (3, 3)

    Raises
    ------
    TypeError, ValueError
        If the amount is not a finite number of 0 or more, or `diagonals` is neither True nor False.

    Examples
    --------
    >>> sharpen()
    array([[ 0., -1.,  0.],
           [-1.,  5., -1.],
           [ 0., -1.,  0.]])
    """
    kernel = -checks.real("amount", amount, 0.0) * laplacian(diagonals)
    kernel[1, 1] += 1.0
    return kernel + 0.0  # no negative zeros


def bank(*kernels, dtype="float32"):
    """Kernels as the filters of one layer, for pictures of one channel.

    Smaller kernels are surrounded by zeros up to the extents of the largest, centre on centre, so that with
    ``padding='same'`` every kernel gives what it gives alone.

    Parameters
    ----------
    *kernels : array_like, shape (height, width)
        One or more, of odd extents.
    dtype : {'float32', 'float64'}, default 'float32'

    Returns
    -------
    numpy.ndarray, shape (largest height, largest width, 1, kernels)

    Raises
    ------
    TypeError, ValueError
        If there are no kernels, or one is not a matrix of odd extents.

    Examples
    --------
    >>> bank(box(3), gaussian(1.0)).shape
    (9, 9, 1, 2)
    """
    checks.choice("dtype", dtype, ("float32", "float64"))
    if not kernels:
        raise ValueError("kernels: expected at least one, received none")
    kernels = [checks.array_of_numbers("kernels", kernel) for kernel in kernels]
    for kernel in kernels:
        if kernel.ndim != 2 or not all(extent % 2 for extent in kernel.shape):
            raise ValueError(f"kernels: expected two axes of odd extents, received shape {kernel.shape}")
    height, width = (max(kernel.shape[axis] for kernel in kernels) for axis in (0, 1))
    filters = np.zeros((height, width, 1, len(kernels)), dtype)
    for number, kernel in enumerate(kernels):
        top, left = (height - kernel.shape[0]) // 2, (width - kernel.shape[1]) // 2
        filters[top : top + kernel.shape[0], left : left + kernel.shape[1], 0, number] = kernel
    return filters


def _odd(name, value):
    value = checks.integer(name, value, 1)
    if value % 2 == 0:
        raise ValueError(f"{name}: expected an odd integer, received {value}")
    return value
