"""Zeros around a picture, and the way back."""

from numba import njit

from .blocks import BLOCK, MOVE
from .compiling import INNER, KERNEL
from .threads import share


@njit(**KERNEL)
def zero_pad2d(x, top, left, y):
    """y[:, top:top+height, left:left+width] = x, and zero elsewhere."""
    step = max(BLOCK // max(y.shape[2] * y.shape[3], 1), 1)
    tasks = (y.shape[0] * y.shape[1] + step - 1) // step
    share(_zero_pad_rows, (x, top, left, y, step), tasks, y.size * MOVE)


@njit(**INNER)
def _zero_pad_rows(first, last, worker, x, top, left, y, step):
    batch, height, width, channels = x.shape
    lines, padded = x.reshape(batch * height, width * channels), y.reshape(-1, y.shape[2] * y.shape[3])
    zero = y.dtype.type(0)
    begin, end = left * channels, (left + width) * channels
    for row in range(first * step, min(last * step, padded.shape[0])):
        picture, i = divmod(row, y.shape[1])
        line = padded[row]
        if i < top or i >= top + height:
            line[:] = zero
        else:
            line[:begin] = zero
            _copy(lines[picture * height + i - top], line[begin:end])
            line[end:] = zero


@njit(**KERNEL)
def crop2d(x, top, left, y):
    """y = x[:, top:top+height, left:left+width], the gradient of `zero_pad2d`."""
    step = max(BLOCK // max(y.shape[2] * y.shape[3], 1), 1)
    tasks = (y.shape[0] * y.shape[1] + step - 1) // step
    share(_crop_rows, (x, top, left, y, step), tasks, y.size * MOVE)


@njit(**INNER)
def _crop_rows(first, last, worker, x, top, left, y, step):
    batch, height, width, channels = y.shape
    lines, padded = y.reshape(batch * height, width * channels), x.reshape(-1, x.shape[2] * x.shape[3])
    begin, end = left * channels, (left + width) * channels
    for row in range(first * step, min(last * step, batch * height)):
        picture, i = divmod(row, height)
        _copy(padded[picture * x.shape[1] + top + i][begin:end], lines[row])


@njit(**INNER)
def _copy(source, target):
    for k in range(target.size):
        target[k] = source[k]
