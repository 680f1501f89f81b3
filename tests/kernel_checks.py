"""One check for every numerical name of the kernels' table, the same for every device.

``CHECKS[name](device, data, **case)`` makes the inputs of one call, fills the outputs with garbage so that
a cell left unwritten is noticed, runs the device's kernel, compares with `reference` within rounding
error, makes sure that the inputs are unchanged, and returns the outputs as NumPy arrays.

How far a result may be off follows from `support.tolerance` and the size of the terms that were added
up (`scale`): the same formula with absolute values in place of values.
"""

import weakref
from contextlib import contextmanager
from functools import wraps

import numpy as np
import reference
from gpuconv.kernels import TABLE, cpu
from gpuconv.kernels.cpu import winograd
from gpuconv.kernels.geometry import correlation_geometry, pooled_part, pooling_geometry
from gpuconv.kernels.repetition import Counter, now
from support import assert_close, tolerance

MEMORY = {"empty", "zeros", "from_host", "to_host", "copy", "synchronize", "repetition"}
ALPHA = 0.3

CHECKS = {}

# Where infinities meet in these, it depends on the arrangement of the formula whether they make NaN.
NAN_ONLY = {
    "softmax_gradient",
    "batch_normalization_gradient",
    "cross_entropy",
    "sparse_cross_entropy",
    "sigmoid_binary_cross_entropy",
}
# Metrics only compare, and penalties skip regions without a penalty.
NOT_PROPAGATING = {"sparse_accuracy", "categorical_accuracy", "binary_accuracy", "regularize"}
UNPADDED = {"geometry": correlation_geometry((2, 6, 5, 3), (3, 2), 5), "activation": 1}


class Data:
    """Seeded numbers in one dtype.

    Parameters
    ----------
    seed : int
    dtype : dtype
        float32 or float64.
    special : sequence of float
        Values that `signal` strews over its arrays: NaN, infinities.
    """

    def __init__(self, seed, dtype, special=()):
        self.random = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.special = special

    def numbers(self, shape, low=-1.0, high=1.0):
        """Uniform numbers."""
        return self.random.uniform(low, high, shape).astype(self.dtype)

    def signal(self, shape, low=-1.0, high=1.0):
        """Uniform numbers, some of them replaced by the special values."""
        array = self.numbers(shape, low, high)
        for value in self.special:
            array.flat[self.random.integers(array.size)] = value
        return array

    def garbage(self, shape):
        """What an output holds before."""
        return np.full(shape, np.nan, self.dtype)


def check(function):
    """Register a check under the name of its kernel, and let NaN and infinity pass without warnings."""

    @wraps(function)
    def checked(*arguments, **case):
        with np.errstate(all="ignore"):
            return function(*arguments, **case)

    CHECKS[function.__name__.removeprefix("check_")] = checked
    return checked


def run(device, name, inputs, outputs):
    """Call a kernel of the table.

    Parameters
    ----------
    device : module
    name : str
    inputs, outputs : dict
        Arguments by name, arrays as NumPy arrays; `outputs` with what they hold before the call.

    Returns
    -------
    list of ndarray
        What the outputs hold after the call, in the order of the table.
    """
    order = TABLE[name].split()
    arguments = {**inputs, **outputs}
    assert arguments.keys() == set(order)
    placed = {
        key: device.from_host(value.copy()) if isinstance(value, np.ndarray) else value
        for key, value in arguments.items()
    }
    getattr(device, name)(*(placed[key] for key in order))
    device.synchronize()
    for key, value in inputs.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(device.to_host(placed[key]), value, f"{name} changed its input {key}")
    return [device.to_host(placed[key]) for key in order if key in outputs]


def magnitude(*arrays):
    """The absolute values of arrays, in float64."""
    sizes = [np.abs(reference.double(array)) for array in arrays]
    return sizes if len(sizes) > 1 else sizes[0]


# ---------------------------------------------------------------------------------------------------
# correlation and dense layers.  Where the slopes of an activation are at most 1, errors of z pass on to y
# undiminished at worst; slopes made from a value (1 - y**2) are off by a rounding error of 1.


def products(geometry):
    """Number of products in one output value of a correlation, bias included."""
    return geometry.kernel_height * geometry.kernel_width * (geometry.channels // geometry.groups) + 1


@check
def check_correlate2d(device, data, geometry, activation):
    g = geometry
    x, filters, bias = data.signal(g.input_shape), data.numbers(g.filters_shape), data.numbers(g.out_channels)
    inputs = {"x": x, "filters": filters, "bias": bias, "geometry": g, "activation": activation, "alpha": ALPHA}
    outputs = run(device, "correlate2d", inputs, {"y": data.garbage(g.output_shape)})
    expected = reference.correlate2d(x, filters, bias, g, activation, ALPHA)
    scale = reference.correlate2d(*magnitude(x, filters, bias), g, reference.LINEAR, ALPHA)
    assert_close(outputs[0], expected, data.dtype, products(g), scale)
    return outputs


def layer_value(data, shape, activation):
    """What a layer with this activation may have put out."""
    z = data.numbers(shape, -2, 2)
    z[z < -1.9] = 0  # the kink itself
    return reference.activation_value(activation, ALPHA, z).astype(data.dtype)


@check
def check_correlate2d_gradient_input(device, data, geometry, activation):
    g = geometry
    dy, filters = data.signal(g.output_shape), data.numbers(g.filters_shape)
    y = layer_value(data, g.output_shape, activation)
    inputs = {"dy": dy, "y": y, "filters": filters, "geometry": g, "activation": activation, "alpha": ALPHA}
    outputs = run(device, "correlate2d_gradient_input", inputs, {"dx": data.garbage(g.input_shape)})
    expected = reference.correlate2d_gradient_input(dy, y, filters, g, activation, ALPHA)
    scale = reference.correlate2d_gradient_input(*magnitude(dy, y, filters), g, reference.LINEAR, ALPHA)
    terms = g.kernel_height * g.kernel_width * (g.out_channels // g.groups)
    assert_close(outputs[0], expected, data.dtype, terms, scale)
    return outputs


@check
def check_correlate2d_gradient_filters(device, data, geometry, activation):
    g = geometry
    x, dy = data.signal(g.input_shape), data.signal(g.output_shape)
    y = layer_value(data, g.output_shape, activation)
    inputs = {"x": x, "dy": dy, "y": y, "geometry": g, "activation": activation, "alpha": ALPHA}
    outputs = {"dfilters": data.garbage(g.filters_shape), "dbias": data.garbage(g.out_channels)}
    outputs = run(device, "correlate2d_gradient_filters", inputs, outputs)
    expected = reference.correlate2d_gradient_filters(x, dy, y, g, activation, ALPHA)
    scales = reference.correlate2d_gradient_filters(*magnitude(x, dy, y), g, reference.LINEAR, ALPHA)
    terms = g.batch * g.out_height * g.out_width
    for got, exact, scale in zip(outputs, expected, scales, strict=True):
        assert_close(got, exact, data.dtype, terms, scale)
    return outputs


@check
def check_dense(device, data, shape, activation):
    rows, ins, outs = shape
    x, kernel, bias = data.signal((rows, ins)), data.numbers((ins, outs)), data.numbers(outs)
    inputs = {"x": x, "kernel": kernel, "bias": bias, "activation": activation, "alpha": ALPHA}
    outputs = run(device, "dense", inputs, {"y": data.garbage((rows, outs))})
    expected = reference.dense(x, kernel, bias, activation, ALPHA)
    scale = reference.dense(*magnitude(x, kernel, bias), reference.LINEAR, ALPHA)
    assert_close(outputs[0], expected, data.dtype, ins + 1, scale)
    return outputs


@check
def check_dense_gradient_input(device, data, shape, activation):
    rows, ins, outs = shape
    dy, kernel = data.signal((rows, outs)), data.numbers((ins, outs))
    y = layer_value(data, (rows, outs), activation)
    inputs = {"dy": dy, "y": y, "kernel": kernel, "activation": activation, "alpha": ALPHA}
    outputs = run(device, "dense_gradient_input", inputs, {"dx": data.garbage((rows, ins))})
    expected = reference.dense_gradient_input(dy, y, kernel, activation, ALPHA)
    scale = reference.dense_gradient_input(*magnitude(dy, y, kernel), reference.LINEAR, ALPHA)
    assert_close(outputs[0], expected, data.dtype, outs, scale)
    return outputs


@check
def check_dense_gradient_kernel(device, data, shape, activation):
    rows, ins, outs = shape
    x, dy = data.signal((rows, ins)), data.signal((rows, outs))
    y = layer_value(data, (rows, outs), activation)
    inputs = {"x": x, "dy": dy, "y": y, "activation": activation, "alpha": ALPHA}
    outputs = {"dkernel": data.garbage((ins, outs)), "dbias": data.garbage(outs)}
    outputs = run(device, "dense_gradient_kernel", inputs, outputs)
    expected = reference.dense_gradient_kernel(x, dy, y, activation, ALPHA)
    scales = reference.dense_gradient_kernel(*magnitude(x, dy, y), reference.LINEAR, ALPHA)
    for got, exact, scale in zip(outputs, expected, scales, strict=True):
        assert_close(got, exact, data.dtype, rows, scale)
    return outputs


# ---------------------------------------------------------------------------------------------------
# pooling and padding


def winner_garbage(geometry):
    """No cell of any window has the largest number of the type."""
    kind = np.uint8 if geometry.kernel_height * geometry.kernel_width <= 256 else np.uint16
    return np.full(geometry.output_shape, np.iinfo(kind).max, kind)


@check
def check_max_pool2d(device, data, geometry):
    # Few different values, so that equal cells meet; nothing is computed, so nothing is rounded.
    x = np.round(4 * data.signal(geometry.input_shape)) / 4
    outputs = {"y": data.garbage(geometry.output_shape), "winner": winner_garbage(geometry)}
    outputs = run(device, "max_pool2d", {"x": x, "geometry": geometry}, outputs)
    y, winner = reference.max_pool2d(x, geometry)
    np.testing.assert_array_equal(outputs[0], y)
    np.testing.assert_array_equal(outputs[1], winner)
    return outputs


@check
def check_max_pool2d_gradient(device, data, geometry):
    dy = data.signal(geometry.output_shape)
    _, winner = reference.max_pool2d(data.numbers(geometry.input_shape), geometry)
    winner = winner.astype(winner_garbage(geometry).dtype)
    inputs = {"dy": dy, "winner": winner, "geometry": geometry}
    outputs = run(device, "max_pool2d_gradient", inputs, {"dx": data.garbage(geometry.input_shape)})
    expected = reference.max_pool2d_gradient(dy, winner, geometry)
    scale = reference.max_pool2d_gradient(magnitude(dy), winner, geometry)
    assert_close(outputs[0], expected, data.dtype, geometry.kernel_height * geometry.kernel_width, scale)
    return outputs


# ---------------------------------------------------------------------------------------------------
# correlation and max pooling in one


def pooling_after(geometry, window):
    """Pooling of a correlation's output, by windows cut to its size."""
    return pooling_geometry(geometry.output_shape, np.minimum(window, geometry.output_shape[1:3]).tolist())


@contextmanager
def tiles_of_windows(device, geometry, dtype, window):
    """Winograd's tiles as the CPU takes them before max pooling, also for the correlation by itself."""
    before = winograd.get_winograd()
    if device is cpu:
        winograd.set_winograd(winograd.choose(geometry, dtype, window=window))
    try:
        yield
    finally:
        winograd.set_winograd(before)


@check
def check_correlate2d_max_pool2d(device, data, geometry, activation, window=(2, 2)):
    g, pool = geometry, pooling_after(geometry, window)
    x, filters, bias = data.signal(g.input_shape), data.numbers(g.filters_shape), data.numbers(g.out_channels)
    inputs = {"x": x, "filters": filters, "bias": bias, "geometry": g, "activation": activation, "alpha": ALPHA}
    outputs = {"y": data.garbage(pool.output_shape), "winner": winner_garbage(pool)}
    got = run(device, "correlate2d_max_pool2d", {**inputs, "pool": pool}, outputs)
    scale = reference.correlate2d(*magnitude(x, filters, bias), g, reference.LINEAR, ALPHA)
    expected, scale = (
        reference.max_pool2d(cells, pool)[0]
        for cells in (reference.correlate2d(x, filters, bias, g, activation, ALPHA), scale)
    )
    assert_close(got[0], expected, data.dtype, products(g), scale)
    # Which of nearly equal cells wins depends on rounding errors: those of one kernel after the other.
    part, window = pooled_part(g, pool), (pool.kernel_height, pool.kernel_width)
    with tiles_of_windows(device, part, data.dtype, window):
        (cells,) = run(device, "correlate2d", {**inputs, "geometry": part}, {"y": data.garbage(part.output_shape)})
    pool = pooling_geometry(part.output_shape, window)
    for one, other in zip(got, run(device, "max_pool2d", {"x": cells, "geometry": pool}, outputs), strict=True):
        np.testing.assert_array_equal(one, other)
    return got


def pooled_gradient(data, geometry, activation, window):
    """Inputs of both gradients, and those of the same signs for the sizes of the terms."""
    pool = pooling_after(geometry, window)
    dy, y = data.signal(pool.output_shape), layer_value(data, pool.output_shape, activation)
    winner = data.random.integers(0, pool.kernel_height * pool.kernel_width, pool.output_shape)
    inputs = {
        "dy": dy, "y": y, "winner": winner.astype(np.uint8), "geometry": geometry, "activation": activation,
        "alpha": ALPHA, "pool": pool,
    }  # fmt: skip
    return inputs, {**inputs, "dy": magnitude(dy), "activation": reference.LINEAR}


@check
def check_correlate2d_max_pool2d_gradient_input(device, data, geometry, activation, window=(2, 2)):
    g = geometry
    filters = data.numbers(g.filters_shape)
    inputs, sizes = pooled_gradient(data, g, activation, window)
    outputs = {"dx": data.garbage(g.input_shape)}
    outputs = run(device, "correlate2d_max_pool2d_gradient_input", {**inputs, "filters": filters}, outputs)
    expected = reference.correlate2d_max_pool2d_gradient_input(**inputs, filters=filters)
    scale = reference.correlate2d_max_pool2d_gradient_input(**sizes, filters=magnitude(filters))
    terms = g.kernel_height * g.kernel_width * (g.out_channels // g.groups)
    assert_close(outputs[0], expected, data.dtype, terms, scale)
    return outputs


@check
def check_correlate2d_max_pool2d_gradient_filters(device, data, geometry, activation, window=(2, 2)):
    g = geometry
    x = data.signal(g.input_shape)
    inputs, sizes = pooled_gradient(data, g, activation, window)
    outputs = {"dfilters": data.garbage(g.filters_shape), "dbias": data.garbage(g.out_channels)}
    outputs = run(device, "correlate2d_max_pool2d_gradient_filters", {**inputs, "x": x}, outputs)
    expected = reference.correlate2d_max_pool2d_gradient_filters(**inputs, x=x)
    scales = reference.correlate2d_max_pool2d_gradient_filters(**sizes, x=magnitude(x))
    terms = g.batch * g.out_height * g.out_width
    for got, exact, size in zip(outputs, expected, scales, strict=True):
        assert_close(got, exact, data.dtype, terms, size)
    return outputs


@check
def check_average_pool2d(device, data, geometry):
    x = data.signal(geometry.input_shape)
    outputs = run(device, "average_pool2d", {"x": x, "geometry": geometry}, {"y": data.garbage(geometry.output_shape)})
    scale = reference.average_pool2d(magnitude(x), geometry)
    terms = geometry.kernel_height * geometry.kernel_width
    assert_close(outputs[0], reference.average_pool2d(x, geometry), data.dtype, terms, scale)
    return outputs


@check
def check_average_pool2d_gradient(device, data, geometry):
    dy = data.signal(geometry.output_shape)
    inputs = {"dy": dy, "geometry": geometry}
    outputs = run(device, "average_pool2d_gradient", inputs, {"dx": data.garbage(geometry.input_shape)})
    scale = reference.average_pool2d_gradient(magnitude(dy), geometry)
    terms = geometry.kernel_height * geometry.kernel_width
    assert_close(outputs[0], reference.average_pool2d_gradient(dy, geometry), data.dtype, terms, scale)
    return outputs


@check
def check_correlate_image(device, data, shape, kernel_size, beyond):
    x, kernel = data.signal(shape), data.numbers(kernel_size)
    # Rows and columns of the picture in any order, some several times, some from beyond its edges.
    rows, columns = (
        data.random.integers(-1, extent, max(extent + more, cells)).astype(np.int32)
        for extent, more, cells in zip(shape, beyond, kernel_size, strict=True)
    )
    inputs = {"x": x, "rows": rows, "columns": columns, "fillvalue": 0.75, "kernel": kernel}
    y = data.garbage((rows.size - kernel_size[0] + 1, columns.size - kernel_size[1] + 1))
    outputs = run(device, "correlate_image", inputs, {"y": y})
    expected = reference.correlate_image(x, rows, columns, 0.75, kernel)
    scale = reference.correlate_image(magnitude(x), rows, columns, 0.75, magnitude(kernel))
    assert_close(outputs[0], expected, data.dtype, kernel.size, scale)
    return outputs


@check
def check_zero_pad2d(device, data, shape, padding):
    (top, bottom), (left, right) = padding
    batch, height, width, channels = shape
    padded = (batch, top + height + bottom, left + width + right, channels)
    x = data.signal(shape)
    outputs = run(device, "zero_pad2d", {"x": x, "top": top, "left": left}, {"y": data.garbage(padded)})
    np.testing.assert_array_equal(outputs[0], reference.zero_pad2d(x, top, left, padded))
    return outputs


@check
def check_crop2d(device, data, shape, padding):
    (top, bottom), (left, right) = padding
    batch, height, width, channels = shape
    x = data.signal((batch, top + height + bottom, left + width + right, channels))
    outputs = run(device, "crop2d", {"x": x, "top": top, "left": left}, {"y": data.garbage(shape)})
    np.testing.assert_array_equal(outputs[0], reference.crop2d(x, top, left, shape))
    return outputs


# ---------------------------------------------------------------------------------------------------
# activations


@check
def check_activate(device, data, shape, activation):
    x = data.signal(shape, -4, 4)
    inputs = {"x": x, "activation": activation, "alpha": ALPHA}
    outputs = run(device, "activate", inputs, {"y": data.garbage(shape)})
    # GELU subtracts nearly equal numbers on the far left, so its error goes with z.
    scale = magnitude(x) if activation == reference.GELU else None
    assert_close(outputs[0], reference.activate(x, activation, ALPHA), data.dtype, scale=scale)
    return outputs


@check
def check_activate_gradient(device, data, shape, activation):
    x, dy = data.signal(shape, -4, 4), data.signal(shape)
    x[np.abs(x) < 0.1] = 0  # the kink itself
    inputs = {"x": x, "dy": dy, "activation": activation, "alpha": ALPHA}
    outputs = run(device, "activate_gradient", inputs, {"dx": data.garbage(shape)})
    expected = reference.activate_gradient(x, dy, activation, ALPHA)
    assert_close(outputs[0], expected, data.dtype, scale=magnitude(dy))
    return outputs


def relu_signal(data, shape):
    """Multiples of 1/8, so that thresholds and caps are met exactly."""
    return np.round(8 * data.signal(shape, -2, 2)) / 8


@check
def check_relu(device, data, shape, negative_slope, max_value, threshold):
    x = relu_signal(data, shape)
    inputs = {"x": x, "negative_slope": negative_slope, "max_value": max_value, "threshold": threshold}
    outputs = run(device, "relu", inputs, {"y": data.garbage(shape)})
    assert_close(outputs[0], reference.relu(**inputs), data.dtype)
    return outputs


@check
def check_relu_gradient(device, data, shape, negative_slope, max_value, threshold):
    x, dy = relu_signal(data, shape), data.signal(shape)
    inputs = {"x": x, "dy": dy, "negative_slope": negative_slope, "max_value": max_value, "threshold": threshold}
    outputs = run(device, "relu_gradient", inputs, {"dx": data.garbage(shape)})
    assert_close(outputs[0], reference.relu_gradient(**inputs), data.dtype)
    return outputs


def spread(x):
    """1 + the width of each row: what a rounding error of ``x - max(x)`` is to its exponential."""
    x = reference.double(x)
    lowest = np.where(x == -np.inf, np.inf, x).min(axis=1)  # the exponential of -inf is 0, without error
    return 1 + (x.max(axis=1) - lowest)[:, np.newaxis]


@check
def check_softmax(device, data, shape):
    x = data.signal(shape, -100, 100)
    outputs = run(device, "softmax", {"x": x}, {"y": data.garbage(shape)})
    expected = reference.softmax(x)
    assert_close(outputs[0], expected, data.dtype, shape[1], expected * spread(x))
    return outputs


@check
def check_softmax_gradient(device, data, shape):
    y, dy = reference.softmax(data.numbers(shape, -3, 3)).astype(data.dtype), data.signal(shape)
    outputs = run(device, "softmax_gradient", {"y": y, "dy": dy}, {"dx": data.garbage(shape)})
    size = y * (magnitude(dy) + (y * magnitude(dy)).sum(axis=1, keepdims=True))
    assert_close(outputs[0], reference.softmax_gradient(y, dy), data.dtype, shape[1], size)
    return outputs


# ---------------------------------------------------------------------------------------------------
# normalization


@check
def check_batch_moments(device, data, shape):
    x = data.signal(shape, -1, 3)
    outputs = run(
        device, "batch_moments", {"x": x}, {"mean": data.garbage(shape[1]), "variance": data.garbage(shape[1])}
    )
    mean, variance = reference.batch_moments(x)
    size = magnitude(x).mean(axis=0)
    assert_close(outputs[0], mean, data.dtype, shape[0], size)
    # Around a mean that is off by d, the mean square is off by d**2.
    assert_close(outputs[1], variance, data.dtype, shape[0], variance + tolerance(data.dtype, shape[0]) * size**2)
    return outputs


def normalization_data(data, shape):
    """An input with its moments and a scale for every column."""
    x = data.signal(shape, -1, 3)
    mean, variance = (moment.astype(data.dtype) for moment in reference.batch_moments(x))
    return x, mean, variance, data.numbers(shape[1])


@check
def check_normalize(device, data, shape):
    x, mean, variance, gamma = normalization_data(data, shape)
    beta, epsilon = data.numbers(shape[1]), 1e-3
    inputs = {"x": x, "mean": mean, "variance": variance, "gamma": gamma, "beta": beta, "epsilon": epsilon}
    outputs = run(device, "normalize", inputs, {"y": data.garbage(shape)})
    deviation = np.sqrt(reference.double(variance) + epsilon)
    scale = magnitude(gamma) * (magnitude(x) + magnitude(mean)) / deviation + magnitude(beta)
    assert_close(outputs[0], reference.normalize(**inputs), data.dtype, scale=scale)
    return outputs


@check
def check_batch_normalization_gradient(device, data, shape):
    x, mean, variance, gamma = normalization_data(data, shape)
    dy, epsilon = data.signal(shape), 1e-3
    inputs = {"x": x, "mean": mean, "variance": variance, "gamma": gamma, "dy": dy, "epsilon": epsilon}
    outputs = {"dx": data.garbage(shape), "dgamma": data.garbage(shape[1]), "dbeta": data.garbage(shape[1])}
    outputs = run(device, "batch_normalization_gradient", inputs, outputs)
    deviation = np.sqrt(reference.double(variance) + epsilon)
    scaled = (magnitude(x) + magnitude(mean)) / deviation
    by_gamma, by_beta = (magnitude(dy) * scaled).sum(axis=0), magnitude(dy).sum(axis=0)
    by_x = magnitude(gamma) / deviation * (magnitude(dy) + by_beta / shape[0] + scaled * by_gamma / shape[0])
    expected = reference.batch_normalization_gradient(**inputs)
    for got, exact, scale in zip(outputs, expected, (by_x, by_gamma, by_beta), strict=True):
        assert_close(got, exact, data.dtype, shape[0], scale)
    return outputs


@check
def check_moving_average(device, data, size, momentum):
    new, average = data.signal(size), data.numbers(size)
    outputs = run(device, "moving_average", {"new": new, "momentum": momentum}, {"average": average})
    scale = momentum * magnitude(average) + (1 - momentum) * magnitude(new)
    assert_close(outputs[0], reference.moving_average(new, momentum, average), data.dtype, scale=scale)
    return outputs


# ---------------------------------------------------------------------------------------------------
# losses and metrics


def check_loss(device, data, name, inputs, losses_scale, gradient_scale):
    """Run a loss, and compare losses and gradients."""
    first = inputs[TABLE[name].split()[0]]
    outputs = {"losses": data.garbage(len(first)), "gradient": data.garbage(first.shape)}
    outputs = run(device, name, inputs, outputs)
    losses, gradient = getattr(reference, name)(**inputs)
    assert_close(outputs[0], losses, data.dtype, first.shape[1], losses_scale)
    assert_close(outputs[1], gradient, data.dtype, first.shape[1], gradient_scale)
    return outputs


def softmax_scales(logits, targets, scale):
    """Sizes of the terms of softmax with cross-entropy and of its gradient."""
    z, t = reference.double(logits), reference.double(targets)
    sizes = np.where(np.isinf(z), 0, magnitude(z))
    parts = sizes + sizes.max(axis=1, keepdims=True) + 1 + np.log(z.shape[1])
    gradient = reference.softmax(z) * spread(z) * t.sum(axis=1, keepdims=True) + t
    return (t * parts).sum(axis=1), scale * gradient


@check
def check_softmax_cross_entropy(device, data, shape):
    logits, targets = data.signal(shape, -100, 100), data.numbers(shape, 0, 1)
    targets[(targets < 0.2) | (logits == -np.inf)] = 0
    inputs = {"logits": logits, "targets": targets, "scale": 1 / shape[0]}
    return check_loss(device, data, "softmax_cross_entropy", inputs, *softmax_scales(**inputs))


def random_labels(data, shape):
    return data.random.integers(shape[1], size=shape[0]).astype(np.int32)


@check
def check_sparse_softmax_cross_entropy(device, data, shape):
    logits, labels = data.signal(shape, -100, 100), random_labels(data, shape)
    inputs = {"logits": logits, "labels": labels, "scale": 1 / shape[0]}
    scales = softmax_scales(logits, np.eye(shape[1])[labels], 1 / shape[0])
    return check_loss(device, data, "sparse_softmax_cross_entropy", inputs, *scales)


def random_probabilities(data, shape):
    """Positive rows that need not add up to one, and some that are certain: clipped on both sides."""
    p = data.signal(shape, 0.05, 1)
    certain = data.random.random(shape[0]) < 0.2
    p[certain] = np.eye(shape[1])[random_labels(data, shape)[certain]]
    return p


def cross_entropy_scales(probabilities, targets, scale):
    """Sizes of the terms of the cross-entropy of normalised rows and of its gradient."""
    p, t = reference.double(probabilities), reference.double(targets)
    total = p.sum(axis=1, keepdims=True)
    clipped = np.clip(p / total, 1e-7, 1 - 1e-7)
    by_share = t / clipped
    # A relative rounding error of a share is an absolute one of its logarithm.
    losses = (t * (np.abs(np.log(clipped)) + 1)).sum(axis=1)
    return losses, scale * (by_share / total + (by_share * p).sum(axis=1, keepdims=True) / total**2)


@check
def check_cross_entropy(device, data, shape):
    probabilities, targets = random_probabilities(data, shape), data.numbers(shape, 0, 1)
    inputs = {"probabilities": probabilities, "targets": targets, "scale": 1 / shape[0]}
    return check_loss(device, data, "cross_entropy", inputs, *cross_entropy_scales(**inputs))


@check
def check_sparse_cross_entropy(device, data, shape):
    probabilities, labels = random_probabilities(data, shape), random_labels(data, shape)
    inputs = {"probabilities": probabilities, "labels": labels, "scale": 1 / shape[0]}
    scales = cross_entropy_scales(probabilities, np.eye(shape[1])[labels], 1 / shape[0])
    return check_loss(device, data, "sparse_cross_entropy", inputs, *scales)


@check
def check_mean_squared_error(device, data, shape):
    predictions, targets = data.signal(shape), data.numbers(shape)
    inputs = {"predictions": predictions, "targets": targets, "scale": 1 / shape[0]}
    return check_loss(device, data, "mean_squared_error", inputs, None, None)


@check
def check_binary_cross_entropy(device, data, shape):
    p, t = data.signal(shape, 0.05, 0.95), data.numbers(shape, 0, 1)
    p[data.random.random(shape) < 0.1] = 0
    p[data.random.random(shape) < 0.1] = 1
    inputs = {"probabilities": p, "targets": t, "scale": 1 / shape[0]}
    c = np.clip(reference.double(p), 1e-7, 1 - 1e-7)
    t = reference.double(t)
    terms = t * np.abs(np.log(c)) + (1 - t) * np.abs(np.log(1 - c)) + 1
    gradient = (t / c + (1 - t) / (1 - c)) / shape[1] / shape[0]
    return check_loss(device, data, "binary_cross_entropy", inputs, terms.mean(axis=1), gradient)


@check
def check_sigmoid_binary_cross_entropy(device, data, shape):
    z, t = data.signal(shape, -100, 100), data.numbers(shape, 0, 1)
    inputs = {"logits": z, "targets": t, "scale": 1 / shape[0]}
    losses = (magnitude(z) * (1 + reference.double(t)) + 1).mean(axis=1)
    gradient = (reference.activation_value(reference.SIGMOID, 0, z) + t) / shape[1] / shape[0]
    return check_loss(device, data, "sigmoid_binary_cross_entropy", inputs, losses, gradient)


def check_metric(device, data, name, inputs):
    outputs = run(device, name, inputs, {"hits": data.garbage(len(inputs["predictions"]))})
    assert_close(outputs[0], getattr(reference, name)(**inputs), data.dtype)
    return outputs


def few_values(data, shape):
    """Multiples of 1/8 between 0 and 1, so that there are several maxima, and 1/2 itself."""
    return np.round(8 * data.numbers(shape, 0, 1)) / 8


def with_two_nan(data, values):
    """The same with two NaN in the first row, of which the first counts as the largest number."""
    columns = values.shape[1]
    values[0, data.random.permutation(columns)[:2]] = np.nan
    return values


@check
def check_sparse_accuracy(device, data, shape):
    predictions = with_two_nan(data, few_values(data, shape))
    # The first row is right, and of the others about half.
    right = data.random.random(shape[0]) < 0.5
    right[0] = True
    labels = np.where(right, predictions.argmax(axis=1), random_labels(data, shape))
    inputs = {"predictions": predictions, "labels": labels.astype(np.int32)}
    return check_metric(device, data, "sparse_accuracy", inputs)


@check
def check_categorical_accuracy(device, data, shape):
    predictions, targets = with_two_nan(data, few_values(data, shape)), few_values(data, shape)
    right = data.random.random(shape[0]) < 0.5
    targets[right] = predictions[right]
    # In the first row the targets are largest where the predictions have their first NaN.
    targets[0, predictions[0].argmax()] = 2
    return check_metric(device, data, "categorical_accuracy", {"predictions": predictions, "targets": targets})


@check
def check_binary_accuracy(device, data, shape):
    inputs = {"predictions": few_values(data, shape), "targets": few_values(data, shape), "threshold": 0.25}
    return check_metric(device, data, "binary_accuracy", inputs)


# ---------------------------------------------------------------------------------------------------
# random numbers


@check
def check_dropout(device, data, shape, rate, seed, stream, step):
    x = data.signal(shape)
    inputs = {"x": x, "rate": rate, "seed": seed, "stream": stream, "step": step}
    outputs = run(device, "dropout", inputs, {"y": data.garbage(shape)})
    assert_close(outputs[0], reference.dropout(**inputs), data.dtype)
    return outputs


# ---------------------------------------------------------------------------------------------------
# optimisers


@check
def check_regularize(device, data, size, regions):
    parameters, gradients = data.signal(size), data.numbers(size)
    parameters[np.abs(parameters) < 0.1] = 0  # where the sign is 0
    ends = np.sort(data.random.integers(0, size, regions, endpoint=True)).astype(np.int32)
    l1, l2 = data.numbers(regions, 0, 1), data.numbers(regions, 0, 1)
    l1[data.random.random(regions) < 0.3] = 0
    inputs = {"parameters": parameters, "ends": ends, "l1": l1, "l2": l2}
    outputs = run(device, "regularize", inputs, {"gradients": gradients, "penalty": data.garbage(1)})
    expected, penalty = reference.regularize(**inputs, gradients=gradients)
    size_of_gradients, _ = reference.regularize(magnitude(parameters), ends, l1, l2, magnitude(gradients))
    assert_close(outputs[0], expected, data.dtype, scale=size_of_gradients)
    assert_close(outputs[1], penalty, data.dtype, size)
    last = ends[-1] if regions else 0
    np.testing.assert_array_equal(outputs[0][last:], gradients[last:])
    return outputs


@check
def check_sgd(device, data, size, momentum, nesterov, weight_decay):
    gradients, parameters = data.signal(size), data.numbers(size)
    velocity = data.numbers(size) if momentum else data.numbers(1)
    inputs = {
        "gradients": gradients, "learning_rate": 0.05, "momentum": momentum, "nesterov": nesterov,
        "weight_decay": weight_decay,
    }  # fmt: skip
    outputs = run(device, "sgd", inputs, {"parameters": parameters, "velocity": velocity})
    p, v = reference.sgd(**inputs, parameters=parameters, velocity=velocity)
    size_of_velocity = momentum * magnitude(velocity) + 0.05 * magnitude(gradients) if momentum else 0
    size_of_parameters = magnitude(parameters) + 2 * size_of_velocity + 0.05 * magnitude(gradients)
    assert_close(outputs[0], p, data.dtype, scale=size_of_parameters)
    assert_close(outputs[1], v, data.dtype, scale=size_of_velocity)
    return outputs


@check
def check_adam(device, data, size, step, weight_decay):
    gradients, parameters = data.signal(size), data.numbers(size)
    mean, mean_square = data.numbers(size), data.numbers(size, 0, 1)
    inputs = {
        "gradients": gradients, "learning_rate": 0.05, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7,
        "step": step, "weight_decay": weight_decay,
    }  # fmt: skip
    outputs = {"parameters": parameters, "mean": mean, "mean_square": mean_square}
    p, m, s = reference.adam(**inputs, **outputs)
    outputs = run(device, "adam", inputs, outputs)
    size_of_mean = magnitude(mean) + magnitude(gradients)
    rate = 0.05 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    # Every device works out the bias corrections in float64, where they cancel most of their digits.
    cancelled = (1 / (1 - 0.999**step) + 1 / (1 - 0.9**step)) * tolerance(np.float64) / tolerance(data.dtype)
    size_of_parameters = magnitude(parameters) + rate * (1 + cancelled) * size_of_mean / np.sqrt(s)
    for got, exact, scale in zip(outputs, (p, m, s), (size_of_parameters, size_of_mean, s), strict=True):
        assert_close(got, exact, data.dtype, scale=scale)
    return outputs


@check
def check_rmsprop(device, data, size, momentum, centered, weight_decay):
    gradients, parameters = data.signal(size), data.numbers(size)
    mean_square = data.numbers(size, 0.5, 1.5)
    # What the case does not use has one element.
    mean = data.numbers(size, -0.5, 0.5) if centered else data.numbers(1)
    velocity = data.numbers(size) if momentum else data.numbers(1)
    inputs = {
        "gradients": gradients, "learning_rate": 0.05, "rho": 0.9, "momentum": momentum, "epsilon": 1e-7,
        "centered": centered, "weight_decay": weight_decay,
    }  # fmt: skip
    outputs = {"parameters": parameters, "mean": mean, "mean_square": mean_square, "velocity": velocity}
    p, m, s, v = reference.rmsprop(**inputs, **outputs)
    outputs = run(device, "rmsprop", inputs, outputs)
    size_of_mean = magnitude(mean) + magnitude(gradients) if centered else magnitude(mean)
    denominator = s - m**2 if centered else s
    # The subtraction under the root loses what it cancels.
    cancelled = (s + m**2) / denominator if centered else 1
    size_of_increment = 0.05 * magnitude(gradients) / np.sqrt(denominator) * (1 + cancelled)
    size_of_velocity = magnitude(velocity) + size_of_increment if momentum else magnitude(velocity)
    size_of_parameters = magnitude(parameters) + (size_of_velocity if momentum else size_of_increment)
    scales = (size_of_parameters, size_of_mean, s, size_of_velocity)
    for got, exact, scale in zip(outputs, (p, m, s, v), scales, strict=True):
        assert_close(got, exact, data.dtype, scale=scale)
    return outputs


# ---------------------------------------------------------------------------------------------------
# data


@check
def check_gather(device, data, source_rows, features, start, rows, kind=None):
    source = data.numbers((source_rows, features), -100, 100).astype(kind or data.dtype)
    order = data.random.permutation(source_rows).astype(np.int32)
    batch = np.full((rows, features), 77, source.dtype)
    outputs = run(device, "gather", {"source": source, "order": order, "start": start}, {"batch": batch})
    np.testing.assert_array_equal(outputs[0], reference.gather(source, order, start, rows))
    assert outputs[0].dtype == source.dtype
    return outputs


@check
def check_put(device, data, total, features, start, rows, kind=None):
    kind = kind or data.dtype
    batch, target = (data.numbers((count, features), -100, 100).astype(kind) for count in (rows, total))
    outputs = run(device, "put", {"batch": batch, "start": start}, {"rows": target})
    np.testing.assert_array_equal(outputs[0], reference.put(batch, start, target))
    return outputs


@check
def check_sum_into(device, data, size, place):
    values, totals = data.signal(size), data.numbers(place + 2)
    outputs = run(device, "sum_into", {"values": values, "place": place}, {"totals": totals})
    scale = magnitude(totals)
    scale[place] = magnitude(values).sum()
    assert_close(outputs[0], reference.sum_into(values, place, totals), data.dtype, size, scale)
    others = np.arange(place + 2) != place
    np.testing.assert_array_equal(outputs[0][others], totals[others])
    return outputs


def unpadded(name, case):
    """The case itself, or that of a correlation without padding.

    With padding, a kernel may, but need not, multiply the zeros around a picture by a gradient that is NaN.
    """
    return UNPADDED if name.startswith("correlate2d") else case


def check_special_values(device, name, dtype=np.float32, **case):
    """NaN and infinities end up where the formula puts them."""
    infinite = [] if name in NAN_ONLY else [(np.inf,), (-np.inf,), (np.nan, np.inf, -np.inf)]
    for seed, special in enumerate([(np.nan,), *infinite]):
        CHECKS[name](device, Data(seed, dtype, special), **case)


def check_memory(device):
    """What goes to the device comes back, in every dtype and shape that the library keeps there."""
    random = np.random.default_rng(0)
    for dtype in (np.float32, np.float64, np.int32, np.uint8):
        for shape in ((1,), (7,), (3, 5), (2, 3, 4, 5), (300, 301)):
            array = random.integers(0, 100, shape).astype(dtype)
            placed = device.from_host(array.copy())  # which the device may use as it stands
            back = device.to_host(placed)
            assert isinstance(back, np.ndarray)
            assert back.dtype == dtype
            np.testing.assert_array_equal(back, array)
            zeros = device.zeros(shape, dtype)
            np.testing.assert_array_equal(device.to_host(zeros), np.zeros(shape, dtype))
            destination = device.empty(shape, dtype)
            device.copy(placed, destination)
            device.copy(zeros, placed)
            device.synchronize()
            back = device.to_host(destination)
            assert back.dtype == dtype
            np.testing.assert_array_equal(back, array)


def check_repetition(device):
    """Calls are made again in their order, as often as is asked for, and counters grow from one time to the next.

    Lent arrays may be others after a restart, and nothing keeps them alive.
    """
    for dtype in (np.float32, np.float64):
        rows = np.arange(30, dtype=dtype).reshape(10, 3) ** 2
        order = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7], np.int32)
        source, order_there = device.from_host(rows.copy()), device.from_host(order.copy())
        batch, totals = device.empty((2, 3), dtype), device.zeros((5,), dtype)
        flat = batch.reshape(6)
        device.gather(source, order_there, 0, batch)
        device.sum_into(flat, 1, totals)
        repeat = device.repetition(
            [
                (device.gather, (source, order_there, Counter(0, 2), batch)),
                (device.sum_into, (flat, Counter(1, again=lambda: 4), totals)),
            ],
            (source, order_there),
        )
        expected = rows[order].reshape(5, 6).sum(axis=1)
        np.testing.assert_array_equal(device.to_host(totals), [0, expected[0], 0, 0, 0])
        repeat(1)
        np.testing.assert_array_equal(device.to_host(totals), [0, *expected[:2], 0, 0])
        repeat(0)
        repeat(2)
        np.testing.assert_array_equal(device.to_host(totals), [0, *expected[:4]])
        np.testing.assert_array_equal(device.to_host(batch), rows[order][6:8])
        repeat.restart((source, order_there))
        repeat(1)
        np.testing.assert_array_equal(device.to_host(totals), [0, *expected[:3], expected[0]])
        others = device.from_host(-rows[:4]), device.from_host(order[[0, 1, 3]].copy())
        repeat.restart(others)
        repeat(1)
        np.testing.assert_array_equal(device.to_host(totals), [0, *expected[:3], -expected[0]])
        here = weakref.ref(others[0])
        del others
        assert here() is None
        _check_repeated_steps(device, dtype)


def _check_repeated_steps(device, dtype):
    """Kernels whose numbers follow from a counter give the bits that they give without repetition."""
    first, times = 5, 3
    data = Data(0, dtype)
    x, parameters, moment = data.numbers(9), data.numbers(9), data.numbers(9, 0, 1)

    def calls(step):
        arrays = [device.from_host(array.copy()) for array in (x, parameters, moment, moment, x)]
        dropout = [arrays[0], 0.4, 2**63 + 5, 1, step, arrays[4]]
        adam = [arrays[0], 0.01, 0.9, 0.999, 1e-7, step, 0.0, *arrays[1:4]]
        return arrays[1:], [(device.dropout, dropout), (device.adam, adam)]

    repeated, recorded = calls(Counter(first))
    for kernel, given in recorded:
        kernel(*now(given))
    device.repetition(recorded)(times)
    plain, direct = calls(None)
    for step in range(first, first + times + 1):
        for kernel, given in direct:
            kernel(*(step if argument is None else argument for argument in given))
    for one, other in zip(repeated, plain, strict=True):
        assert device.to_host(one).tobytes() == device.to_host(other).tobytes()
