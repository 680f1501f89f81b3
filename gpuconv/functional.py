"""Stateless operations on arrays: validate, pick the device, call the kernel.

Arrays may be NumPy arrays (or whatever `numpy.asarray` reads), which are computed on the
device in use, or arrays that live on a GPU (CuPy, PyTorch, JAX, Numba), which are computed
there and come back in the caller's kind: see `gpuconv.interchange`.  float64 stays float64;
every other number becomes float32.  Pictures are ``(batch, height, width, channels)`` and
filters ``(kernel_height, kernel_width, in_channels / groups, out_channels)``.
"""

import numpy as np

from . import activations, checks, seeds
from .interchange import Borrowed, lives_on_gpu, shape_of
from .kernels.formulas import LINEAR
from .kernels.geometry import as_pair, correlation_geometry, pooling_geometry


def correlate2d(x, filters, bias=None, strides=1, padding="valid", dilation_rate=1, groups=1, activation=None):
    """2D cross-correlation of pictures with filters, with bias and activation.

    ``y[n, i, j, f] = activation(bias[f] + sum_{a, b, c} x[n, i s - p + a d, j s - p + b d, c]
    filters[a, b, c, f])`` for stride s, dilation d and padding p: the filters are not flipped,
    which is what sets a cross-correlation apart from a convolution.  Goodfellow, Bengio and
    Courville, "Deep Learning" (2016), equation 9.6.

    Parameters
    ----------
    x : array, shape (batch, height, width, in_channels)
    filters : array, shape (kernel_height, kernel_width, in_channels / groups, out_channels)
    bias : array, shape (out_channels,), optional
    strides, dilation_rate : int or pair of int, default 1
    padding : {'valid', 'same', 'full'}, int, pair, or pair of pairs, default 'valid'
        See `gpuconv.kernels.geometry.correlation_geometry`.
    groups : int, default 1
    activation : str or activation, optional

    Returns
    -------
    array, shape (batch, out_height, out_width, out_channels)

    Raises
    ------
    ValueError, TypeError
        If shapes, types or settings do not fit, naming the argument.

    Examples
    --------
    >>> x = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> correlate2d(x, np.ones((2, 2, 1, 1)))[0, :, :, 0]
    array([[ 8., 12.],
           [20., 24.]])
    """
    geometry = _correlation(shape_of("x", x, 4), filters, strides, padding, dilation_rate, groups)
    borrowed = _borrow_with_bias(geometry.out_channels, bias, x=x, filters=filters)
    function = activations.get(activation)
    z = borrowed.empty(geometry.output_shape)
    code, alpha = (function.code, function.alpha) if function.fusable else (LINEAR, 0.0)
    x, filters, bias = borrowed.arrays
    borrowed.device.correlate2d(x, filters, bias, geometry, code, alpha, z)
    return borrowed.give_back(_activated(borrowed, function, z))


def convolve2d(x, filters, bias=None, strides=1, padding="valid", dilation_rate=1, groups=1, activation=None):
    """2D convolution of pictures with filters, with bias and activation: `correlate2d` with the filters turned.

    ``y[n, i, j, f] = activation(bias[f] + sum_{a, b, c} x[n, i s - p + (h - 1 - a) d, j s - p + (w - 1 - b) d, c]
    filters[a, b, c, f])`` for filters of h x w cells, stride s, dilation d and padding p.  The picture is walked one
    way and the filter the other, which makes the operation commutative: with ``padding='full'`` picture and filter
    may change places.  A cross-correlation, which walks both the same way, lacks that, and is all the same what
    "convolutional" layers compute: where filters are learnt, a turned filter is as good as any other.  Goodfellow,
    Bengio and Courville, "Deep Learning" (2016), equations 9.4 to 9.6.

    Parameters
    ----------
    x : array, shape (batch, height, width, in_channels)
    filters : array, shape (kernel_height, kernel_width, in_channels / groups, out_channels)
        Turned by half a turn, that is flipped along both axes, before use.
    bias : array, shape (out_channels,), optional
    strides, dilation_rate : int or pair of int, default 1
    padding : {'valid', 'same', 'full'}, int, pair, or pair of pairs, default 'valid'
        As in `correlate2d`.  ``'same'`` puts the odd cell at the bottom and right, as Keras does, so that filters of
        an even size give what ``scipy.signal.convolve2d(mode='same')`` gives moved on by one pixel.
    groups : int, default 1
    activation : str or activation, optional

    Returns
    -------
    array, shape (batch, out_height, out_width, out_channels)

    Raises
    ------
    ValueError, TypeError
        If shapes, types or settings do not fit, naming the argument.

    Examples
    --------
    A filter with one bright corner moves the picture; the correlation moves it the other way.

    >>> x = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> corner = np.array([[1.0, 0.0], [0.0, 0.0]]).reshape(2, 2, 1, 1)
    >>> convolve2d(x, corner)[0, :, :, 0]
    array([[4., 5.],
           [7., 8.]])
    >>> correlate2d(x, corner)[0, :, :, 0]
    array([[0., 1.],
           [3., 4.]])
    """
    _correlation(shape_of("x", x, 4), filters, strides, padding, dilation_rate, groups)
    return correlate2d(x, _turned(filters), bias, strides, padding, dilation_rate, groups, activation)


def conv2d(x, kernel, strides=1, padding="valid", data_format=None, dilation_rate=1):
    """`correlate2d` under the name and with the arguments of ``keras.ops.conv`` and ``keras.backend.conv2d``.

    Like every library's "conv2d" it does not flip the kernel; what does is `convolve2d`.

    Parameters
    ----------
    x : array, shape (batch, height, width, in_channels)
    kernel : array, shape (kernel_height, kernel_width, in_channels / groups, out_channels)
        The number of groups follows from its channels and those of `x`.
    strides, dilation_rate : int or pair of int, default 1
    padding : {'valid', 'same'}, default 'valid'
        ``'same'``: as many output pixels as ``ceil(extent / stride)``, the odd cell at the bottom and right.
    data_format : {'channels_last'}, optional
        The default, and all there is: with ``'channels_first'``, transpose the pictures.

    Returns
    -------
    array, shape (batch, out_height, out_width, out_channels)

    Raises
    ------
    ValueError, TypeError
        If shapes, types or settings do not fit, naming the argument.

    Examples
    --------
    >>> conv2d(np.ones((1, 4, 4, 2)), np.ones((3, 3, 2, 5)), padding="same").shape
    (1, 4, 4, 5)
    """
    if data_format is not None:
        checks.choice("data_format", data_format, ("channels_last",))
    checks.choice("padding", padding, ("valid", "same"))
    channels, kernel_channels = shape_of("x", x, 4)[3], shape_of("kernel", kernel, 4)[2]
    if channels % kernel_channels:
        raise ValueError(
            f"kernel: expected input channels that divide the {channels} channels of x, received {kernel_channels}"
        )
    groups = channels // kernel_channels
    return correlate2d(x, kernel, None, strides, padding, dilation_rate, groups)


def correlate2d_gradient_input(dy, filters, input_shape, strides=1, padding="valid", dilation_rate=1, groups=1):
    """The gradient of `correlate2d` (without activation) by `x`.

    Parameters
    ----------
    dy : array, shape (batch, out_height, out_width, out_channels)
        The gradient by the output.
    filters : array, shape (kernel_height, kernel_width, in_channels / groups, out_channels)
    input_shape : tuple of int
        Shape of `x`, which `dy` does not determine when the stride is not 1.

    Returns
    -------
    array of shape `input_shape`

    Examples
    --------
    >>> correlate2d_gradient_input(np.ones((1, 1, 1, 1)), np.ones((2, 2, 1, 1)), (1, 2, 2, 1))[0, :, :, 0]
    array([[1., 1.],
           [1., 1.]])
    """
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(f"input_shape: expected four extents, received {input_shape!r}")
    geometry = _correlation(tuple(input_shape), filters, strides, padding, dilation_rate, groups)
    _expect_shape("dy", dy, geometry.output_shape)
    borrowed = Borrowed(dy=dy, filters=filters)
    dy, filters = borrowed.arrays
    dx = borrowed.empty(geometry.input_shape)
    borrowed.device.correlate2d_gradient_input(dy, dy, filters, geometry, LINEAR, 0.0, dx)
    return borrowed.give_back(dx)


def correlate2d_gradient_filters(x, dy, kernel_size, strides=1, padding="valid", dilation_rate=1, groups=1):
    """The gradients of `correlate2d` (without activation) by the filters and the bias.

    Parameters
    ----------
    x : array, shape (batch, height, width, in_channels)
    dy : array, shape (batch, out_height, out_width, out_channels)
        The gradient by the output.
    kernel_size : int or pair of int

    Returns
    -------
    dfilters : array, shape (kernel_height, kernel_width, in_channels / groups, out_channels)
    dbias : array, shape (out_channels,)
    """
    out_channels = shape_of("dy", dy, 4)[3]
    dilation = as_pair("dilation_rate", dilation_rate)
    geometry = correlation_geometry(shape_of("x", x, 4), kernel_size, out_channels, strides, padding, dilation, groups)
    _expect_shape("dy", dy, geometry.output_shape)
    borrowed = Borrowed(x=x, dy=dy)
    x, dy = borrowed.arrays
    dfilters, dbias = borrowed.empty(geometry.filters_shape), borrowed.empty((out_channels,))
    borrowed.device.correlate2d_gradient_filters(x, dy, dy, geometry, LINEAR, 0.0, dfilters, dbias)
    return borrowed.give_back(dfilters), borrowed.give_back(dbias)


def max_pool2d(x, pool_size=2, strides=None, padding="valid"):
    """The largest number of each window of each channel; padding is never taken.

    Parameters
    ----------
    x : array, shape (batch, height, width, channels)
    pool_size : int or pair of int, default 2
    strides : int or pair of int, optional
        Default: `pool_size`.
    padding : {'valid', 'same'}, int, pair, or pair of pairs, default 'valid'

    Returns
    -------
    array, shape (batch, out_height, out_width, channels)

    Examples
    --------
    >>> max_pool2d(np.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    geometry = pooling_geometry(shape_of("x", x, 4), pool_size, strides, padding)
    borrowed = Borrowed(x=x)
    y = borrowed.empty(geometry.output_shape)
    winner = borrowed.empty(geometry.output_shape, geometry.winner_dtype)
    borrowed.device.max_pool2d(*borrowed.arrays, geometry, y, winner)
    return borrowed.give_back(y)


def average_pool2d(x, pool_size=2, strides=None, padding="valid"):
    """The mean of each window of each channel; padding is not counted.

    Parameters and result as in `max_pool2d`.

    Examples
    --------
    >>> average_pool2d(np.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    geometry = pooling_geometry(shape_of("x", x, 4), pool_size, strides, padding)
    borrowed = Borrowed(x=x)
    y = borrowed.empty(geometry.output_shape)
    borrowed.device.average_pool2d(*borrowed.arrays, geometry, y)
    return borrowed.give_back(y)


def dense(x, kernel, bias=None, activation=None):
    """``activation(x kernel + bias)``.

    Parameters
    ----------
    x : array, shape (rows, inputs)
    kernel : array, shape (inputs, units)
    bias : array, shape (units,), optional
    activation : str or activation, optional

    Returns
    -------
    array, shape (rows, units)

    Examples
    --------
    >>> dense(np.array([[1.0, 2.0]]), np.eye(2), np.array([0.0, -5.0]), activation="relu")
    array([[1., 0.]])
    """
    rows, inputs = shape_of("x", x, 2)
    kernel_inputs, units = shape_of("kernel", kernel, 2)
    if kernel_inputs != inputs:
        raise ValueError(f"kernel: expected {inputs} rows, as x has columns, received shape {(kernel_inputs, units)}")
    function = activations.get(activation)
    borrowed = _borrow_with_bias(units, bias, x=x, kernel=kernel)
    z = borrowed.empty((rows, units))
    code, alpha = (function.code, function.alpha) if function.fusable else (LINEAR, 0.0)
    x, kernel, bias = borrowed.arrays
    borrowed.device.dense(x, kernel, bias, code, alpha, z)
    return borrowed.give_back(_activated(borrowed, function, z))


def activate(x, activation):
    """An activation of an array of any shape (softmax: over the last axis).

    Examples
    --------
    >>> activate(np.array([-1.0, 2.0]), "relu")
    array([0., 2.])
    """
    return activations.get(activation)(x)


def relu(x):
    """``max(x, 0)``; NaN stays NaN."""
    return activations.relu(x)


def softmax(x):
    """``exp(x_j) / sum_k exp(x_k)`` over the last axis.

    Examples
    --------
    >>> softmax(np.array([[0.0, 0.0]]))
    array([[0.5, 0.5]])
    """
    return activations.softmax(x)


def dropout(x, rate, seed=None):
    """Each number is zero with probability `rate`, else multiplied by 1 / (1 - rate).

    Parameters
    ----------
    x : array of any shape
    rate : float in [0, 1)
        The probability is the multiple of 2**-16 that is nearest to it, no more than 2**-17 = 0.0000076 away: up to
        2**-17 nothing is dropped, from 1 - 2**-17 on everything.
    seed : int, optional
        The same seed gives the same mask on every device.  Default: a new one each time.

    Examples
    --------
    >>> dropout(np.ones(4), 0.5, seed=1)
    array([...])
    """
    rate = checks.real("rate", rate, 0.0, 1.0, open_high=True)
    seed = seeds.next_seed() if seed is None else checks.integer("seed", seed, 0) % 2**64
    borrowed = Borrowed(x=x)
    y = borrowed.empty(borrowed.arrays[0].shape)
    borrowed.device.dropout(*borrowed.arrays, rate, seed, 0, 0, y)
    return borrowed.give_back(y)


def _correlation(input_shape, filters, strides, padding, dilation_rate, groups):
    kernel_height, kernel_width, in_channels, out_channels = shape_of("filters", filters, 4)
    dilation = as_pair("dilation_rate", dilation_rate)
    geometry = correlation_geometry(
        input_shape, (kernel_height, kernel_width), out_channels, strides, padding, dilation, groups
    )
    if geometry.filters_shape[2] != in_channels:
        raise ValueError(
            f"filters: expected {geometry.filters_shape[2]} input channels ({geometry.channels} channels of x in "
            f"{geometry.groups} groups), received {in_channels}"
        )
    return geometry


def _turned(filters):
    """Filters by half a turn, where they live."""
    if not lives_on_gpu(filters):
        return np.asarray(filters)[::-1, ::-1]
    # Filters are small: they are turned on the host, and back on the GPU they are Numba's.
    borrowed = Borrowed(filters=filters)
    host = borrowed.device.to_host(*borrowed.arrays)
    return borrowed.device.from_host(np.ascontiguousarray(host[::-1, ::-1]))


def _expect_shape(name, array, shape):
    if shape_of(name, array, len(shape)) != shape:
        raise ValueError(f"{name}: expected shape {shape}, received {tuple(np.shape(array))}")


def _borrow_with_bias(units, bias, **arrays):
    """Borrow the arrays and, behind them, the bias or zeros in its place."""
    if bias is not None:
        _expect_shape("bias", bias, (units,))
        return Borrowed(**arrays, bias=bias)
    borrowed = Borrowed(**arrays)
    borrowed.arrays.append(borrowed.device.zeros((units,), borrowed.dtype))
    return borrowed


def _activated(borrowed, function, z):
    """What is left to do after a kernel that has fused what it could."""
    if function.fusable:
        return z
    y = borrowed.empty(z.shape)
    function.forward(borrowed.device, z, y)
    return y
