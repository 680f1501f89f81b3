"""The shape of a sliding-window problem: one validated structure for every kernel.

A correlation or pooling problem is fixed by a handful of integers: how large the
pictures are, how large the window is, how it moves and how much padding surrounds
the picture.  `Geometry` holds them, and is the only place in which output extents
and padding are worked out; CPU kernels, CUDA kernels, layers and tests all read the
same eighteen numbers.

For a window of ``k`` cells with dilation ``d`` the reach is ``r = (k - 1) d + 1``.
On an axis of ``n`` cells with padding ``p`` before and ``q`` after, and stride ``s``,
the output has::

    o = floor((n + p + q - r) / s) + 1

cells, and output cell ``i`` sees the input cells ``i s - p + j d`` for ``j = 0 .. k-1``
(cells outside the picture count as zero in a correlation and do not exist for pooling).
See Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016).
"""

from functools import lru_cache
from numbers import Integral
from typing import NamedTuple

import numpy as np

LARGEST_INT32 = 2**31 - 1


class Geometry(NamedTuple):
    """All extents of one correlation or pooling problem.  Axes are N, H, W, C.

    Make one with `correlation_geometry` or `pooling_geometry`, which validate; the
    kernels trust what they are given.  A plain tuple of integers, so that Numba passes
    it to compiled code on either device.
    """

    batch: int
    height: int
    width: int
    channels: int
    kernel_height: int
    kernel_width: int
    stride_height: int
    stride_width: int
    dilation_height: int
    dilation_width: int
    pad_top: int
    pad_bottom: int
    pad_left: int
    pad_right: int
    groups: int
    out_height: int
    out_width: int
    out_channels: int

    @property
    def input_shape(self):
        """Shape of the input, ``(batch, height, width, channels)``."""
        return self.batch, self.height, self.width, self.channels

    @property
    def output_shape(self):
        """Shape of the output, ``(batch, out_height, out_width, out_channels)``."""
        return self.batch, self.out_height, self.out_width, self.out_channels

    @property
    def filters_shape(self):
        """Shape of the filters, ``(kernel_height, kernel_width, channels / groups, out_channels)``."""
        return self.kernel_height, self.kernel_width, self.channels // self.groups, self.out_channels

    @property
    def winner_dtype(self):
        """Type that numbers the cells of one window: one byte unless the window is huge."""
        cells = self.kernel_height * self.kernel_width
        return np.uint8 if cells <= 1 << 8 else np.uint16 if cells <= 1 << 16 else np.uint32

    def for_batch(self, batch):
        """The same problem for another number of pictures."""
        return self._replace(batch=batch)


def as_pair(name, value, smallest=1):
    """Read an integer or a pair of integers as ``(vertical, horizontal)``.

    Raises
    ------
    TypeError
        If `value` is neither an integer nor a pair of integers.
    ValueError
        If an entry is below `smallest`.

    Examples
    --------
    >>> as_pair("strides", 2)
    (2, 2)
    >>> as_pair("pool_size", (2, 3))
    (2, 3)
    """
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(is_integer(entry) for entry in pair):
        raise TypeError(f"{name}: expected an integer or a pair of integers, received {value!r}")
    if min(pair) < smallest:
        raise ValueError(f"{name}: expected integers >= {smallest}, received {value!r}")
    return int(pair[0]), int(pair[1])


def as_sides(padding):
    """Read explicit padding as ``((top, bottom), (left, right))``, from one number, a pair, or a pair of pairs.

    Examples
    --------
    >>> as_sides((1, 2))
    ((1, 1), (2, 2))
    """
    if isinstance(padding, (tuple, list)) and len(padding) == 2 and isinstance(padding[0], (tuple, list)):
        return as_pair("padding", padding[0], smallest=0), as_pair("padding", padding[1], smallest=0)
    vertical, horizontal = as_pair("padding", padding, smallest=0)
    return (vertical, vertical), (horizontal, horizontal)


def correlation_geometry(input_shape, kernel_size, out_channels, strides=1, padding="valid", dilation=1, groups=1):
    """Validate a 2D cross-correlation and work out its extents.

    Parameters
    ----------
    input_shape : tuple of int
        ``(batch, height, width, channels)``.
    kernel_size : int or pair of int
        Window height and width.
    out_channels : int
        Number of filters.
    strides, dilation : int or pair of int, default 1
        Vertical and horizontal step of the window, and spacing of its cells.
    padding : {'valid', 'same', 'full'}, int, pair, or pair of pairs, default 'valid'
        ``'valid'``: none.  ``'same'``: output extent ``ceil(n / s)``, the odd cell at the
        bottom and right, as in Keras.  ``'full'``: every overlap of window and picture.
        Explicit: one integer for all sides, ``(vertical, horizontal)``, or
        ``((top, bottom), (left, right))``.
    groups : int, default 1
        Channels are cut into this many equal groups, each with its own filters;
        ``groups == channels`` is a depthwise correlation.

    Returns
    -------
    Geometry

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what was received.

    Examples
    --------
    >>> correlation_geometry((32, 28, 28, 1), 3, 10, padding="same").output_shape
    (32, 28, 28, 10)
    >>> correlation_geometry((1, 4, 4, 1), 5, 1)
    Traceback (most recent call last):
        ...
    ValueError: kernel_size: expected a window that fits into the padded input, received a window \
reaching over 5 x 5 cells for an input of 4 x 4 with padding ((0, 0), (0, 0))
    """
    channels = _checked_input_shape(input_shape)[3]
    out_channels = _checked_count("out_channels", out_channels)
    groups = _checked_count("groups", groups)
    if channels % groups or out_channels % groups:
        raise ValueError(
            "groups: expected a divisor of the input channels and of the number of filters, "
            f"received {groups} for {channels} input channels and {out_channels} filters"
        )
    return _sliding_window("kernel_size", input_shape, kernel_size, strides, dilation, padding, groups, out_channels)


def pooling_geometry(input_shape, pool_size, strides=None, padding="valid"):
    """Validate a 2D pooling problem and work out its extents.

    Parameters
    ----------
    input_shape : tuple of int
        ``(batch, height, width, channels)``.
    pool_size : int or pair of int
        Window height and width.
    strides : int or pair of int, optional
        Step of the window; default: `pool_size`, so that windows do not overlap.
    padding : {'valid', 'same'}, int, pair, or pair of pairs, default 'valid'
        As in `correlation_geometry`; every window must keep at least one real cell.

    Returns
    -------
    Geometry
        With ``groups == channels == out_channels``.

    Examples
    --------
    >>> pooling_geometry((32, 7, 7, 10), 2).output_shape
    (32, 3, 3, 10)
    >>> pooling_geometry((32, 7, 7, 10), 2, padding="same").output_shape
    (32, 4, 4, 10)
    """
    channels = _checked_input_shape(input_shape)[3]
    window = as_pair("pool_size", pool_size)
    strides = window if strides is None else strides
    if padding == "full":
        raise ValueError("padding: expected 'valid', 'same' or explicit padding for pooling, received 'full'")
    geometry = _sliding_window("pool_size", input_shape, window, strides, 1, padding, channels, channels)
    if (
        max(geometry.pad_top, geometry.pad_bottom) >= geometry.kernel_height
        or max(geometry.pad_left, geometry.pad_right) >= geometry.kernel_width
    ):
        raise ValueError(
            "padding: expected less than pool_size, so that every window holds a real cell, "
            f"received {padding!r} with pool_size {window}"
        )
    return geometry


def poolable(geometry, pool):
    """Whether max pooling can be part of the kernel of the correlation before it.

    Its windows must stand side by side, without padding, and one byte must number the cells of one.

    Examples
    --------
    >>> correlation = correlation_geometry((32, 15, 15, 32), 3, 64)
    >>> poolable(correlation, pooling_geometry(correlation.output_shape, 2))
    True
    >>> poolable(correlation, pooling_geometry(correlation.output_shape, 3, 2))
    False
    """
    window = pool.kernel_height, pool.kernel_width
    return (
        pool.input_shape == geometry.output_shape
        and (pool.stride_height, pool.stride_width) == window
        and (pool.pad_top, pool.pad_bottom, pool.pad_left, pool.pad_right) == (0, 0, 0, 0)
        and pool.winner_dtype == np.uint8
    )


@lru_cache(maxsize=1024)
def pooled_part(geometry, pool):
    """The part of a correlation that the windows of a `poolable` pooling cover: the rest need not be computed.

    Examples
    --------
    >>> correlation = correlation_geometry((32, 15, 15, 32), 3, 64)
    >>> correlation.output_shape
    (32, 13, 13, 64)
    >>> pooled_part(correlation, pooling_geometry(correlation.output_shape, 2)).output_shape
    (32, 12, 12, 64)
    """
    return geometry._replace(
        out_height=pool.out_height * pool.kernel_height, out_width=pool.out_width * pool.kernel_width
    )


@lru_cache(maxsize=1024)
def int32_geometry(geometry):
    """The geometry in 32-bit integers, for the 32-bit index arithmetic of the CUDA kernels.

    Raises
    ------
    OverflowError
        If input, output or filters have more than 2**31 - 1 elements.
    """
    for name in ("input_shape", "output_shape", "filters_shape"):
        shape = getattr(geometry, name)
        if _product(shape) > LARGEST_INT32:
            raise OverflowError(
                f"{name}: expected at most 2**31 - 1 elements on CUDA, whose kernels index with 32 bits, "
                f"received {shape} with {_product(shape)}; use smaller batches"
            )
    return Geometry(*(np.int32(extent) for extent in geometry))


def _sliding_window(window_name, input_shape, window, strides, dilation, padding, groups, out_channels):
    batch, height, width, channels = (int(extent) for extent in input_shape)
    kernel_height, kernel_width = as_pair(window_name, window)
    stride_height, stride_width = as_pair("strides", strides)
    dilation_height, dilation_width = as_pair("dilation", dilation)
    reach_height = (kernel_height - 1) * dilation_height + 1
    reach_width = (kernel_width - 1) * dilation_width + 1
    vertical, horizontal = _checked_padding(
        padding, (height, width), (reach_height, reach_width), (stride_height, stride_width)
    )
    room_height = height + sum(vertical) - reach_height
    room_width = width + sum(horizontal) - reach_width
    if room_height < 0 or room_width < 0:
        raise ValueError(
            f"{window_name}: expected a window that fits into the padded input, received a window reaching "
            f"over {reach_height} x {reach_width} cells for an input of {height} x {width} "
            f"with padding {(vertical, horizontal)}"
        )
    return Geometry(
        batch, height, width, channels,
        kernel_height, kernel_width,
        stride_height, stride_width,
        dilation_height, dilation_width,
        *vertical, *horizontal,
        groups,
        room_height // stride_height + 1, room_width // stride_width + 1, out_channels,
    )  # fmt: skip


def _checked_padding(padding, extents, reaches, strides):
    """``((top, bottom), (left, right))`` for any accepted form of `padding`."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding == "full":
            return tuple((reach - 1, reach - 1) for reach in reaches)
        if padding == "same":
            return tuple(_same_padding(*axis) for axis in zip(extents, reaches, strides, strict=True))
        raise ValueError(f"padding: expected 'valid', 'same', 'full' or integers, received {padding!r}")
    return as_sides(padding)


def _same_padding(extent, reach, stride):
    total = max(0, (-(-extent // stride) - 1) * stride + reach - extent)
    return total // 2, total - total // 2


def _checked_input_shape(input_shape):
    shape = tuple(input_shape)
    if len(shape) != 4 or not all(is_integer(extent) and extent >= 1 for extent in shape):
        raise ValueError(
            f"input_shape: expected four extents >= 1, (batch, height, width, channels), received {input_shape!r}"
        )
    return shape


def _checked_count(name, value):
    if not is_integer(value) or value < 1:
        raise ValueError(f"{name}: expected an integer >= 1, received {value!r}")
    return int(value)


def is_integer(value):
    """Whether `value` is an integer, which True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, (bool, np.bool_))


def _product(extents):
    # Python integers: a NumPy product would wrap around, which is what is being tested for.
    product = 1
    for extent in extents:
        product *= int(extent)
    return product
