"""What every kernel of the table must compute, in plain NumPy and float64.

Written for obviousness, not for speed, and without the library's code: the most direct formula that
states the meaning, one function per name of ``gpuconv.kernels.TABLE``.  `test_reference.py` holds this
file to truths from outside.

Arguments have the names and order of the table, with three differences:

- outputs are returned (a tuple where there are several) instead of filled in;
- arrays that a kernel updates in place (`parameters`, `gradients`, moments, `average`, `totals`) are
  arguments here too, are left alone, and come back as new arrays;
- where the extent of the result is the extent of the output, it is an argument: `zero_pad2d` and `crop2d`
  end in ``shape``, the shape of `y`, and `gather` in ``rows``, the number of rows of `batch`.

Floating arguments may have any dtype; results are float64.
"""

import functools
import math

import numpy as np

# The numbers of the activations, repeated here because nothing is imported from the library.
LINEAR, RELU, LEAKY_RELU, SIGMOID, TANH, ELU, SOFTPLUS, GELU = range(8)

SMALLEST_PROBABILITY = 1e-7
LARGEST_PROBABILITY = 1 - 1e-7


def double(array):
    """The array in float64."""
    return np.asarray(array, dtype=np.float64)


# ---------------------------------------------------------------------------------------------------
# activations


def activation_value(activation, alpha, z):
    """The activation numbered `activation`, elementwise."""
    z = double(z)
    with np.errstate(over="ignore", invalid="ignore"):
        if activation == LINEAR:
            return z.copy()
        if activation == RELU:
            return np.where(z < 0, 0.0, z)
        if activation == LEAKY_RELU:
            return np.where(z < 0, alpha * z, z)
        if activation == SIGMOID:
            return 1 / (1 + np.exp(-z))
        if activation == TANH:
            return np.tanh(z)
        if activation == ELU:
            return np.where(z < 0, alpha * np.expm1(z), z)
        if activation == SOFTPLUS:
            return np.logaddexp(0, z)
        if activation == GELU:
            return z * 0.5 * _elementwise(math.erfc, -z / math.sqrt(2))
    raise ValueError(f"activation: expected 0 to 7, received {activation}")


def activation_slope(activation, alpha, z):
    """The derivative of the activation at `z`; at a kink, that of the side below."""
    z = double(z)
    with np.errstate(over="ignore", invalid="ignore"):
        if activation == LINEAR:
            return np.ones_like(z)
        if activation == RELU:
            return np.where(z <= 0, 0.0, 1.0)
        if activation == LEAKY_RELU:
            return np.where(z <= 0, alpha, 1.0)
        if activation == SIGMOID:
            return (1 / (1 + np.exp(-z))) * (1 / (1 + np.exp(z)))
        if activation == TANH:
            return 1 / np.cosh(z) ** 2
        if activation == ELU:
            return np.where(z < 0, alpha * np.exp(z), 1.0)
        if activation == SOFTPLUS:
            return 1 / (1 + np.exp(-z))
        if activation == GELU:
            distribution = 0.5 * _elementwise(math.erfc, -z / math.sqrt(2))
            return distribution + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    raise ValueError(f"activation: expected 0 to 7, received {activation}")


def slope_from_value(activation, alpha, y):
    """The derivative of a fused activation where its value is `y`."""
    y = double(y)
    if activation == LINEAR:
        return np.ones_like(y)
    if activation == RELU:
        return np.where(y <= 0, 0.0, 1.0)
    if activation == LEAKY_RELU:
        return np.where(y <= 0, alpha, 1.0)
    if activation == SIGMOID:
        return y * (1 - y)
    if activation == TANH:
        return 1 - y**2
    if activation == ELU:
        return np.where(y < 0, y + alpha, 1.0)
    if activation == SOFTPLUS:
        return 1 - np.exp(-y)
    raise ValueError(f"activation: expected 0 to 6, received {activation}")


def _elementwise(function, array):
    return np.array([function(value) for value in array.ravel()]).reshape(array.shape)


def activate(x, activation, alpha):
    return activation_value(activation, alpha, x)


def activate_gradient(x, dy, activation, alpha):
    return double(dy) * activation_slope(activation, alpha, x)


def relu(x, negative_slope, max_value, threshold):
    """Keras's ReLU: ``max_value`` from there up, ``x`` above the threshold, leaky up to it."""
    x = double(x)
    with np.errstate(invalid="ignore"):
        below = negative_slope * (x - threshold)
    return np.where(x >= max_value, max_value, np.where(x <= threshold, below, x))


def relu_gradient(x, dy, negative_slope, max_value, threshold):
    """The slope counts as 1 at the cap and as 0 at the threshold itself."""
    x = double(x)
    slope = np.where(x < threshold, negative_slope, 1.0)
    return double(dy) * np.where((x > max_value) | (x == threshold), 0.0, slope)


def softmax(x):
    x = double(x)
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def softmax_gradient(y, dy):
    """Row by row the product of dy with the Jacobian matrix diag(y) - y y'."""
    y, dy = double(y), double(dy)
    dx = np.empty_like(y)
    for row in range(len(y)):
        jacobian = np.diag(y[row]) - np.outer(y[row], y[row])
        dx[row] = jacobian @ dy[row]
    return dx


# ---------------------------------------------------------------------------------------------------
# sliding windows


def _pad(x, geometry, value=0.0):
    """The pictures with their padding."""
    vertical = (geometry.pad_top, geometry.pad_bottom)
    horizontal = (geometry.pad_left, geometry.pad_right)
    return np.pad(double(x), ((0, 0), vertical, horizontal, (0, 0)), constant_values=value)


def _unpad(padded, geometry):
    """The pictures without their padding."""
    rows = slice(geometry.pad_top, geometry.pad_top + geometry.height)
    columns = slice(geometry.pad_left, geometry.pad_left + geometry.width)
    return padded[:, rows, columns, :].copy()


def _windows(geometry):
    """For every output pixel its place, and the cells of the padded picture that it sees."""
    reach_height = (geometry.kernel_height - 1) * geometry.dilation_height + 1
    reach_width = (geometry.kernel_width - 1) * geometry.dilation_width + 1
    for row in range(geometry.out_height):
        top = row * geometry.stride_height
        for column in range(geometry.out_width):
            left = column * geometry.stride_width
            cells = (
                slice(None),
                slice(top, top + reach_height, geometry.dilation_height),
                slice(left, left + reach_width, geometry.dilation_width),
            )
            yield row, column, cells


def _groups(geometry):
    """For every group its input channels and its output channels."""
    channels = geometry.channels // geometry.groups
    out_channels = geometry.out_channels // geometry.groups
    for group in range(geometry.groups):
        yield (
            slice(group * channels, (group + 1) * channels),
            slice(group * out_channels, (group + 1) * out_channels),
        )


def correlate2d(x, filters, bias, geometry, activation, alpha):
    padded, filters = _pad(x, geometry), double(filters)
    z = np.zeros(geometry.output_shape)
    for row, column, cells in _windows(geometry):
        patches = padded[cells]
        for ins, outs in _groups(geometry):
            z[:, row, column, outs] = np.einsum("nijc,ijcf->nf", patches[..., ins], filters[..., outs])
    return activation_value(activation, alpha, z + double(bias))


def correlate2d_gradient_input(dy, y, filters, geometry, activation, alpha):
    dz, filters = double(dy) * slope_from_value(activation, alpha, y), double(filters)
    dx_padded = _pad(np.zeros(geometry.input_shape), geometry)
    for row, column, cells in _windows(geometry):
        dx_window = dx_padded[cells]  # a view: adding to it adds to dx_padded
        for ins, outs in _groups(geometry):
            dx_window[..., ins] += np.einsum("nf,ijcf->nijc", dz[:, row, column, outs], filters[..., outs])
    return _unpad(dx_padded, geometry)


def correlate2d_gradient_filters(x, dy, y, geometry, activation, alpha):
    """Returns ``(dfilters, dbias)``."""
    padded, dz = _pad(x, geometry), double(dy) * slope_from_value(activation, alpha, y)
    dfilters = np.zeros(geometry.filters_shape)
    for row, column, cells in _windows(geometry):
        patches = padded[cells]
        for ins, outs in _groups(geometry):
            dfilters[..., outs] += np.einsum("nijc,nf->ijcf", patches[..., ins], dz[:, row, column, outs])
    return dfilters, dz.sum(axis=(0, 1, 2))


def max_pool2d(x, geometry):
    """Returns ``(y, winner)``: the largest cell of each window, and its number in the window.

    Cells are compared one after another, so that the first of equals wins; NaN beats everything.
    """
    padded = _pad(x, geometry)
    real = _pad(np.ones(geometry.input_shape), geometry) == 1
    y = np.full(geometry.output_shape, np.nan)
    winner = np.zeros(geometry.output_shape, dtype=int)
    for row, column, cells in _windows(geometry):
        found = np.zeros((geometry.batch, geometry.channels), dtype=bool)
        best = np.zeros((geometry.batch, geometry.channels))
        place = np.zeros((geometry.batch, geometry.channels), dtype=int)
        for number in range(geometry.kernel_height * geometry.kernel_width):
            i, j = divmod(number, geometry.kernel_width)
            cell, exists = padded[cells][:, i, j], real[cells][:, i, j]
            with np.errstate(invalid="ignore"):
                better = exists & (~found | (cell > best) | (np.isnan(cell) & ~np.isnan(best)))
            best, place, found = np.where(better, cell, best), np.where(better, number, place), found | exists
        y[:, row, column], winner[:, row, column] = best, place
    return y, winner


def max_pool2d_gradient(dy, winner, geometry):
    dy, winner = double(dy), np.asarray(winner).astype(int)
    dx_padded = _pad(np.zeros(geometry.input_shape), geometry)
    for row, column, cells in _windows(geometry):
        dx_window = dx_padded[cells]
        for number in range(geometry.kernel_height * geometry.kernel_width):
            i, j = divmod(number, geometry.kernel_width)
            dx_window[:, i, j] += np.where(winner[:, row, column] == number, dy[:, row, column], 0.0)
    return _unpad(dx_padded, geometry)


def correlate2d_max_pool2d(x, filters, bias, geometry, activation, alpha, pool):
    """Returns ``(y, winner)`` of the pooling."""
    return max_pool2d(correlate2d(x, filters, bias, geometry, activation, alpha), pool)


def correlate2d_max_pool2d_gradient_input(dy, y, winner, filters, geometry, activation, alpha, pool):
    dz = max_pool2d_gradient(double(dy) * slope_from_value(activation, alpha, y), winner, pool)
    return correlate2d_gradient_input(dz, dz, filters, geometry, LINEAR, alpha)


def correlate2d_max_pool2d_gradient_filters(x, dy, y, winner, geometry, activation, alpha, pool):
    """Returns ``(dfilters, dbias)``."""
    dz = max_pool2d_gradient(double(dy) * slope_from_value(activation, alpha, y), winner, pool)
    return correlate2d_gradient_filters(x, dz, dz, geometry, LINEAR, alpha)


def average_pool2d(x, geometry):
    padded = _pad(x, geometry)
    real = _pad(np.ones(geometry.input_shape), geometry)
    y = np.zeros(geometry.output_shape)
    for row, column, cells in _windows(geometry):
        y[:, row, column] = padded[cells].sum(axis=(1, 2)) / real[cells].sum(axis=(1, 2))
    return y


def average_pool2d_gradient(dy, geometry):
    dy = double(dy)
    real = _pad(np.ones(geometry.input_shape), geometry)
    dx_padded = np.zeros_like(real)
    for row, column, cells in _windows(geometry):
        share = dy[:, row, column] / real[cells].sum(axis=(1, 2))
        dx_window = dx_padded[cells]
        dx_window += share[:, np.newaxis, np.newaxis, :]
    return _unpad(dx_padded, geometry)


def correlate_image(x, rows, columns, fillvalue, kernel):
    extended = np.array([[x[u, v] if u >= 0 and v >= 0 else fillvalue for v in columns] for u in rows])
    windows = np.lib.stride_tricks.sliding_window_view(double(extended), kernel.shape)
    return np.einsum("ijab,ab->ij", windows, double(kernel))


def zero_pad2d(x, top, left, shape):
    y = np.zeros(shape)
    y[:, top : top + x.shape[1], left : left + x.shape[2], :] = x
    return y


def crop2d(x, top, left, shape):
    return double(x)[:, top : top + shape[1], left : left + shape[2], :].copy()


# ---------------------------------------------------------------------------------------------------
# dense layers and normalization


def dense(x, kernel, bias, activation, alpha):
    return activation_value(activation, alpha, double(x) @ double(kernel) + double(bias))


def dense_gradient_input(dy, y, kernel, activation, alpha):
    dz = double(dy) * slope_from_value(activation, alpha, y)
    return dz @ double(kernel).T


def dense_gradient_kernel(x, dy, y, activation, alpha):
    """Returns ``(dkernel, dbias)``."""
    dz = double(dy) * slope_from_value(activation, alpha, y)
    return double(x).T @ dz, dz.sum(axis=0)


def batch_moments(x):
    """Returns ``(mean, variance)`` of every column."""
    mean = double(x).mean(axis=0)
    return mean, ((double(x) - mean) ** 2).mean(axis=0)


def normalize(x, mean, variance, gamma, beta, epsilon):
    scaled = (double(x) - double(mean)) / np.sqrt(double(variance) + epsilon)
    return double(gamma) * scaled + double(beta)


def batch_normalization_gradient(x, mean, variance, gamma, dy, epsilon):
    """Returns ``(dx, dgamma, dbeta)``, by the chain rule, one step at a time.

    centred = x - mean(x); variance = mean(centred**2); deviation = sqrt(variance + epsilon);
    y = gamma * centred / deviation + beta
    """
    x, dy, gamma = double(x), double(dy), double(gamma)
    rows = len(x)
    centred = x - double(mean)
    deviation = np.sqrt(double(variance) + epsilon)
    dgamma = (dy * centred / deviation).sum(axis=0)
    dbeta = dy.sum(axis=0)
    dscaled = dy * gamma
    ddeviation = -(dscaled * centred).sum(axis=0) / deviation**2
    dvariance = ddeviation / (2 * deviation)
    dcentred = dscaled / deviation + dvariance * 2 * centred / rows
    dmean = -dcentred.sum(axis=0)
    dx = dcentred + dmean / rows
    return dx, dgamma, dbeta


def moving_average(new, momentum, average):
    return momentum * double(average) + (1 - momentum) * double(new)


# ---------------------------------------------------------------------------------------------------
# losses: (losses, gradient)


def softmax_cross_entropy(logits, targets, scale):
    logits, targets = double(logits), double(targets)
    # A class that cannot be (logit -inf) costs nothing where nothing is expected of it.
    losses = -np.where(targets == 0, 0.0, targets * _log_softmax(logits)).sum(axis=1)
    gradient = softmax(logits) * targets.sum(axis=1, keepdims=True) - targets
    return losses, scale * gradient


def sparse_softmax_cross_entropy(logits, labels, scale):
    return softmax_cross_entropy(logits, _one_hot(labels, logits.shape[1]), scale)


def cross_entropy(probabilities, targets, scale):
    p, t = double(probabilities), double(targets)
    total = p.sum(axis=1, keepdims=True)
    q = p / total
    losses = -(t * np.log(_clip(q))).sum(axis=1)
    dq = np.where(_is_clipped(q), 0.0, -t / _clip(q))
    # q_j = p_j / total, so dq_j / dp_k = (j == k) / total - p_j / total**2
    gradient = dq / total - (dq * p).sum(axis=1, keepdims=True) / total**2
    return losses, scale * gradient


def sparse_cross_entropy(probabilities, labels, scale):
    return cross_entropy(probabilities, _one_hot(labels, probabilities.shape[1]), scale)


def mean_squared_error(predictions, targets, scale):
    difference = double(predictions) - double(targets)
    return (difference**2).mean(axis=1), scale * 2 * difference / difference.shape[1]


def binary_cross_entropy(probabilities, targets, scale):
    p, t = double(probabilities), double(targets)
    yes, no = _clip(p), _clip(1 - p)  # not 1 - yes, which has lost digits where the clip is active
    losses = -(t * np.log(yes) + (1 - t) * np.log(no)).mean(axis=1)
    gradient = np.where(_is_clipped(p), 0.0, -t / yes + (1 - t) / no) / p.shape[1]
    return losses, scale * gradient


def sigmoid_binary_cross_entropy(logits, targets, scale):
    z, t = double(logits), double(targets)
    # -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z)), where -log sigmoid(z) = log(1 + exp(-z))
    losses = (t * np.logaddexp(0, -z) + (1 - t) * np.logaddexp(0, z)).mean(axis=1)
    return losses, scale * (activation_value(SIGMOID, 0.0, z) - t) / z.shape[1]


def _log_softmax(z):
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _one_hot(labels, classes):
    return np.eye(classes)[np.asarray(labels)]


def _clip(p):
    return np.clip(p, SMALLEST_PROBABILITY, LARGEST_PROBABILITY)


def _is_clipped(p):
    return (p < SMALLEST_PROBABILITY) | (p > LARGEST_PROBABILITY)


# ---------------------------------------------------------------------------------------------------
# metrics: hits


def sparse_accuracy(predictions, labels):
    return double(np.argmax(predictions, axis=1) == np.asarray(labels))


def categorical_accuracy(predictions, targets):
    return double(np.argmax(predictions, axis=1) == np.argmax(targets, axis=1))


def binary_accuracy(predictions, targets, threshold):
    return double((double(predictions) > threshold) == (double(targets) > 0.5)).mean(axis=1)


# ---------------------------------------------------------------------------------------------------
# random numbers


def philox4x32(counter, key):
    """Philox 4x32-10 on Python integers: four words from a counter of four and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def dropout_keeps(places, rate, seed, stream, step):
    """For each of some elements, given by their places, whether dropout keeps it."""

    @functools.cache
    def numbers(block):
        words = philox4x32((block % 2**32, block // 2**32, stream, step), (seed % 2**32, seed // 2**32))
        return [half for word in words for half in (word % 2**16, word // 2**16)]

    keeps = []
    for place in places:
        tile, place = divmod(place, 256)
        side, place = divmod(place, 128)
        number = numbers(32 * tile + place // 4)[4 * side + place % 4]
        keeps.append(number >= round(rate * 2**16))
    return np.array(keeps, dtype=bool)


def dropout(x, rate, seed, stream, step):
    x = double(x)
    keeps = dropout_keeps(range(x.size), rate, seed, stream, step).reshape(x.shape)
    return np.where(keeps, x / (1 - rate), 0.0)


# ---------------------------------------------------------------------------------------------------
# optimisers


def regularize(parameters, ends, l1, l2, gradients):
    """Returns ``(gradients, penalty)``."""
    p, gradients, penalty = double(parameters), double(gradients).copy(), 0.0
    start = 0
    for end, a, b in zip(ends, l1, l2, strict=True):
        region = p[start:end]
        penalty += a * np.abs(region).sum() + b * (region**2).sum()
        gradients[start:end] += a * np.sign(region) + 2 * b * region
        start = end
    return gradients, np.array([penalty])


def sgd(gradients, learning_rate, momentum, nesterov, weight_decay, parameters, velocity):
    """Returns ``(parameters, velocity)``."""
    g, p, v = double(gradients), double(parameters), double(velocity).copy()
    p = p - learning_rate * weight_decay * p
    if momentum == 0:
        return p - learning_rate * g, v
    v = momentum * v - learning_rate * g
    return (p + momentum * v - learning_rate * g if nesterov else p + v), v


def adam(gradients, learning_rate, beta_1, beta_2, epsilon, step, weight_decay, parameters, mean, mean_square):
    """Returns ``(parameters, mean, mean_square)``."""
    g, p, m, s = double(gradients), double(parameters), double(mean), double(mean_square)
    p = p - learning_rate * weight_decay * p
    m = beta_1 * m + (1 - beta_1) * g
    s = beta_2 * s + (1 - beta_2) * g**2
    rate = learning_rate * math.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    return p - rate * m / (np.sqrt(s) + epsilon), m, s


def rmsprop(
    gradients, learning_rate, rho, momentum, epsilon, centered, weight_decay, parameters, mean, mean_square, velocity
):
    """Returns ``(parameters, mean, mean_square, velocity)``."""
    g, p, s = double(gradients), double(parameters), double(mean_square)
    m, v = double(mean).copy(), double(velocity).copy()
    p = p - learning_rate * weight_decay * p
    s = rho * s + (1 - rho) * g**2
    if centered:
        m = rho * m + (1 - rho) * g
        denominator = s - m**2 + epsilon
    else:
        denominator = s + epsilon
    increment = learning_rate * g / np.sqrt(denominator)
    if momentum > 0:
        v = momentum * v + increment
        increment = v
    return p - increment, m, s, v


# ---------------------------------------------------------------------------------------------------
# data


def gather(source, order, start, rows):
    """In the dtype of the source: data are moved, not computed."""
    return np.asarray(source)[np.asarray(order)[start : start + rows]].copy()


def put(batch, start, rows):
    """In the dtype of the batch."""
    rows = np.asarray(rows).copy()
    for number, row in enumerate(batch):
        rows[start + number] = row
    return rows


def sum_into(values, place, totals):
    totals = double(totals).copy()
    totals[place] = double(values).sum()
    return totals
