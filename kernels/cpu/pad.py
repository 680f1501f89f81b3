"""Zeros around a picture, and the way back."""

from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def zero_pad2d(x, top, left, y):
    """y[:, top:top+height, left:left+width] = x, and zero elsewhere."""
    y[...] = 0
    y[:, top : top + x.shape[1], left : left + x.shape[2]] = x


@njit(cache=True, nogil=True, error_model="numpy")
def crop2d(x, top, left, y):
    """y = x[:, top:top+height, left:left+width], the gradient of `zero_pad2d`."""
    y[...] = x[:, top : top + y.shape[1], left : left + y.shape[2]]
