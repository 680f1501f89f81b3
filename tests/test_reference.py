"""The reference itself against truths from outside: SciPy, NumPy, loops, known answers, central differences."""

import inspect
from itertools import product

import numpy as np
import pytest
import reference
from gpuconv.kernels import TABLE
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from scipy import signal, special

MEMORY = {"empty", "zeros", "from_host", "to_host", "copy", "synchronize", "repetition"}

# strides, padding, dilation, groups: each away from its default at least once, and together
PROBLEMS = [
    (1, "valid", 1, 1),
    (1, "same", 1, 1),
    (1, "full", 1, 1),
    ((2, 3), "same", 1, 1),
    (1, ((0, 2), (1, 0)), (2, 1), 1),
    (1, "valid", 1, 2),
    ((2, 1), ((1, 2), (3, 0)), (1, 2), 2),
]


def problem(strides, padding, dilation, groups):
    return correlation_geometry((2, 6, 7, 4), (3, 2), 6, strides, padding, dilation, groups)


def random_problem(rng, geometry):
    x = rng.normal(size=geometry.input_shape)
    filters = rng.normal(size=geometry.filters_shape)
    bias = rng.normal(size=geometry.out_channels)
    return x, filters, bias


def central_difference(function, point, step=1e-6):
    """The gradient of a function of one array with one value."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        moved = point.copy()
        moved[index] += step
        above = function(moved)
        moved[index] -= 2 * step
        gradient[index] = (above - function(moved)) / (2 * step)
    return gradient


def assert_gradient(gradient, function, point):
    np.testing.assert_allclose(gradient, central_difference(function, point), rtol=1e-6, atol=1e-7)


def test_every_numerical_name_has_a_reference():
    for name in TABLE.keys() - MEMORY:
        parameters = list(inspect.signature(getattr(reference, name)).parameters)
        arguments = TABLE[name].split()
        shared = [parameter for parameter in parameters if parameter in arguments]
        assert set(parameters) - set(arguments) <= {"shape", "rows"}, name
        assert shared == [argument for argument in arguments if argument in shared], name


# ---------------------------------------------------------------------------------------------------
# correlation


@pytest.mark.parametrize(("strides", "padding", "dilation", "groups"), PROBLEMS)
def test_correlate2d_is_the_sixfold_loop(strides, padding, dilation, groups):
    geometry = problem(strides, padding, dilation, groups)
    x, filters, bias = random_problem(np.random.default_rng(1), geometry)
    y = np.zeros(geometry.output_shape)
    for n, row, column, f in np.ndindex(y.shape):
        group = f // (geometry.out_channels // groups)
        total = bias[f]
        for i, j, c in np.ndindex(filters.shape[:3]):
            from_row = row * geometry.stride_height - geometry.pad_top + i * geometry.dilation_height
            from_column = column * geometry.stride_width - geometry.pad_left + j * geometry.dilation_width
            if 0 <= from_row < geometry.height and 0 <= from_column < geometry.width:
                channel = group * (geometry.channels // groups) + c
                total += x[n, from_row, from_column, channel] * filters[i, j, c, f]
        y[n, row, column, f] = total
    got = reference.correlate2d(x, filters, bias, geometry, reference.LINEAR, 0.0)
    np.testing.assert_allclose(got, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mode", ["valid", "full"])
def test_correlate2d_is_scipys(mode):
    rng = np.random.default_rng(2)
    geometry = correlation_geometry((2, 8, 9, 3), (3, 4), 2, padding=mode)
    x, filters, bias = random_problem(rng, geometry)
    y = reference.correlate2d(x, filters, bias, geometry, reference.LINEAR, 0.0)
    for n, f in product(range(2), range(2)):
        planes = [signal.correlate2d(x[n, :, :, c], filters[:, :, c, f], mode) for c in range(3)]
        np.testing.assert_allclose(y[n, :, :, f], sum(planes) + bias[f], rtol=1e-12, atol=1e-13)


def test_correlate2d_same_is_scipys_for_odd_windows():
    geometry = correlation_geometry((1, 8, 9, 1), (3, 5), 1, padding="same")
    x, filters, bias = random_problem(np.random.default_rng(3), geometry)
    y = reference.correlate2d(x, filters, bias, geometry, reference.LINEAR, 0.0)
    expected = signal.correlate2d(x[0, :, :, 0], filters[:, :, 0, 0], "same") + bias[0]
    np.testing.assert_allclose(y[0, :, :, 0], expected, rtol=1e-12, atol=1e-13)


def test_turned_filters_give_scipys_convolution():
    geometry = correlation_geometry((1, 6, 7, 1), (3, 2), 1, padding="full")
    x, filters, _ = random_problem(np.random.default_rng(4), geometry)
    y = reference.correlate2d(x, filters[::-1, ::-1], np.zeros(1), geometry, reference.LINEAR, 0.0)
    expected = signal.convolve2d(x[0, :, :, 0], filters[:, :, 0, 0])
    np.testing.assert_allclose(y[0, :, :, 0], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("activation", range(7))
@pytest.mark.parametrize(("strides", "padding", "dilation", "groups"), PROBLEMS[::3])
def test_gradients_of_correlate2d(strides, padding, dilation, groups, activation):
    geometry = problem(strides, padding, dilation, groups)
    rng = np.random.default_rng(5)
    x, filters, bias = random_problem(rng, geometry)
    dy = rng.normal(size=geometry.output_shape)

    def loss(x, filters, bias):
        return (dy * reference.correlate2d(x, filters, bias, geometry, activation, 0.3)).sum()

    y = reference.correlate2d(x, filters, bias, geometry, activation, 0.3)
    dx = reference.correlate2d_gradient_input(dy, y, filters, geometry, activation, 0.3)
    dfilters, dbias = reference.correlate2d_gradient_filters(x, dy, y, geometry, activation, 0.3)
    assert_gradient(dx, lambda x: loss(x, filters, bias), x)
    assert_gradient(dfilters, lambda filters: loss(x, filters, bias), filters)
    assert_gradient(dbias, lambda bias: loss(x, filters, bias), bias)


# ---------------------------------------------------------------------------------------------------
# pooling and padding


POOLINGS = [
    (2, None, "valid"),
    (2, None, "same"),
    ((3, 2), (1, 2), "same"),
    ((3, 3), 2, ((2, 0), (1, 1))),
    ((2, 3), 3, "valid"),
]


@pytest.mark.parametrize(("window", "strides", "padding"), POOLINGS)
def test_pooling_is_the_loop(window, strides, padding):
    geometry = pooling_geometry((2, 7, 8, 3), window, strides, padding)
    # Few different values, so that equal cells meet.
    x = np.random.default_rng(6).integers(0, 4, geometry.input_shape).astype(float)
    y, winner = reference.max_pool2d(x, geometry)
    means = reference.average_pool2d(x, geometry)
    for n, row, column, c in np.ndindex(y.shape):
        cells = {}
        for i, j in np.ndindex(geometry.kernel_height, geometry.kernel_width):
            from_row = row * geometry.stride_height - geometry.pad_top + i
            from_column = column * geometry.stride_width - geometry.pad_left + j
            if 0 <= from_row < geometry.height and 0 <= from_column < geometry.width:
                cells[i * geometry.kernel_width + j] = x[n, from_row, from_column, c]
        first = min(number for number, cell in cells.items() if cell == max(cells.values()))
        assert y[n, row, column, c] == max(cells.values())
        assert winner[n, row, column, c] == first
        assert means[n, row, column, c] == pytest.approx(np.mean(list(cells.values())), rel=1e-14)


@pytest.mark.parametrize(("window", "strides", "padding"), POOLINGS)
def test_gradients_of_pooling(window, strides, padding):
    geometry = pooling_geometry((2, 5, 6, 2), window, strides, padding)
    rng = np.random.default_rng(7)
    x, dy = rng.normal(size=geometry.input_shape), rng.normal(size=geometry.output_shape)
    _, winner = reference.max_pool2d(x, geometry)
    by_max = reference.max_pool2d_gradient(dy, winner, geometry)
    by_mean = reference.average_pool2d_gradient(dy, geometry)
    assert_gradient(by_max, lambda x: (dy * reference.max_pool2d(x, geometry)[0]).sum(), x)
    assert_gradient(by_mean, lambda x: (dy * reference.average_pool2d(x, geometry)).sum(), x)


def test_max_pool_rules():
    geometry = pooling_geometry((1, 2, 2, 1), 2)
    nan, inf = np.nan, np.inf
    for cells, place in [
        ([1, 3, 3, 2], 1),
        ([1, nan, 3, nan], 1),
        ([nan, inf, 3, 2], 0),
        ([-inf, -inf, -inf, -inf], 0),
        ([-inf, -inf, -5, -inf], 2),
    ]:
        y, winner = reference.max_pool2d(np.reshape(cells, geometry.input_shape).astype(float), geometry)
        np.testing.assert_array_equal(y.ravel(), [cells[place]])
        assert winner.ravel() == [place]


def test_padding_cells_never_win():
    geometry = pooling_geometry((1, 2, 2, 1), 2, 1, padding=1)
    y, winner = reference.max_pool2d(np.full((1, 2, 2, 1), -np.inf), geometry)
    assert (y == -np.inf).all()
    assert winner[0, :, :, 0].tolist() == [[3, 2, 2], [1, 0, 0], [1, 0, 0]]


def test_zero_pad_and_crop_are_numpys():
    x = np.random.default_rng(8).normal(size=(2, 3, 4, 2))
    padded = reference.zero_pad2d(x, 1, 2, (2, 6, 9, 2))
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (1, 2), (2, 3), (0, 0))))
    np.testing.assert_array_equal(reference.crop2d(padded, 1, 2, x.shape), x)


# ---------------------------------------------------------------------------------------------------
# activations


def test_activations_are_scipys():
    z = np.concatenate([np.linspace(-40, 40, 401), [-1e4, 1e4]])
    got = [reference.activate(z, activation, 0.3) for activation in range(8)]
    np.testing.assert_array_equal(got[0], z)
    np.testing.assert_array_equal(got[1], np.maximum(z, 0))
    np.testing.assert_array_equal(got[2], np.maximum(z, 0) + 0.3 * np.minimum(z, 0))
    np.testing.assert_allclose(got[3], special.expit(z), rtol=1e-14)
    np.testing.assert_allclose(got[4], np.tanh(z), rtol=1e-14)
    np.testing.assert_allclose(got[5], np.maximum(z, 0) + 0.3 * np.expm1(np.minimum(z, 0)), rtol=1e-14)
    np.testing.assert_allclose(got[6], -special.log_expit(-z), rtol=1e-14)
    np.testing.assert_allclose(got[7], z * special.ndtr(z), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("activation", range(8))
def test_slopes(activation):
    z = np.linspace(-4, 4, 100)  # misses the kink at zero
    slope = reference.activation_slope(activation, 0.3, z)
    step = 1e-6
    above, below = (reference.activation_value(activation, 0.3, z + h) for h in (step, -step))
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6, atol=1e-8)
    if activation != reference.GELU:
        value = reference.activation_value(activation, 0.3, z)
        np.testing.assert_allclose(reference.slope_from_value(activation, 0.3, value), slope, rtol=1e-11)


def test_relu():
    x = np.array([-3.0, 0.5, 1.0, 2.0, 6.0, 7.0])
    np.testing.assert_allclose(reference.relu(x, 0.1, 6.0, 1.0), [-0.4, -0.05, 0.0, 2.0, 6.0, 6.0])
    ones = np.ones(6)
    np.testing.assert_allclose(reference.relu_gradient(x, ones, 0.1, 6.0, 1.0), [0.1, 0.1, 0.0, 1.0, 1.0, 0.0])


def test_softmax_is_scipys():
    x = np.random.default_rng(9).normal(size=(5, 7)) * 20
    np.testing.assert_allclose(reference.softmax(x), special.softmax(x, axis=1), rtol=1e-13)


def test_gradient_of_softmax():
    rng = np.random.default_rng(10)
    x, dy = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    dx = reference.softmax_gradient(reference.softmax(x), dy)
    assert_gradient(dx, lambda x: (dy * reference.softmax(x)).sum(), x)


# ---------------------------------------------------------------------------------------------------
# dense and normalization


@pytest.mark.parametrize("activation", range(7))
def test_dense_and_its_gradients(activation):
    rng = np.random.default_rng(11)
    x, kernel, bias, dy = (rng.normal(size=shape) for shape in [(4, 3), (3, 5), (5,), (4, 5)])

    def value(x, kernel, bias):
        return reference.dense(x, kernel, bias, activation, 0.3)

    z = np.array([[sum(row[k] * kernel[k, f] for k in range(3)) + bias[f] for f in range(5)] for row in x])
    y = value(x, kernel, bias)
    np.testing.assert_allclose(y, reference.activation_value(activation, 0.3, z), rtol=1e-12)
    dx = reference.dense_gradient_input(dy, y, kernel, activation, 0.3)
    dkernel, dbias = reference.dense_gradient_kernel(x, dy, y, activation, 0.3)
    assert_gradient(dx, lambda x: (dy * value(x, kernel, bias)).sum(), x)
    assert_gradient(dkernel, lambda kernel: (dy * value(x, kernel, bias)).sum(), kernel)
    assert_gradient(dbias, lambda bias: (dy * value(x, kernel, bias)).sum(), bias)


def test_normalization_and_its_gradients():
    rng = np.random.default_rng(12)
    x, dy = rng.normal(size=(6, 3)) * 2 + 1, rng.normal(size=(6, 3))
    gamma, beta = rng.normal(size=3), rng.normal(size=3)

    def value(x, gamma, beta):
        return reference.normalize(x, x.mean(axis=0), x.var(axis=0), gamma, beta, 1e-3)

    mean, variance = reference.batch_moments(x)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(variance, x.var(axis=0), rtol=1e-14)
    y = value(x, gamma, beta)
    np.testing.assert_allclose(y.mean(axis=0), beta, rtol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), np.abs(gamma) * np.sqrt(variance / (variance + 1e-3)), rtol=1e-12)
    dx, dgamma, dbeta = reference.batch_normalization_gradient(x, mean, variance, gamma, dy, 1e-3)
    assert_gradient(dx, lambda x: (dy * value(x, gamma, beta)).sum(), x)
    assert_gradient(dgamma, lambda gamma: (dy * value(x, gamma, beta)).sum(), gamma)
    assert_gradient(dbeta, lambda beta: (dy * value(x, gamma, beta)).sum(), beta)


def test_moving_average():
    np.testing.assert_allclose(reference.moving_average([1.0, 2.0], 0.9, [3.0, 4.0]), [2.8, 3.8])


# ---------------------------------------------------------------------------------------------------
# losses and metrics


def row_sums(function):
    """The sum of the losses of all rows, as a function of the first argument."""
    return lambda first: function(first)[0].sum()


def test_softmax_cross_entropy():
    rng = np.random.default_rng(13)
    z, t = rng.normal(size=(4, 5)) * 3, rng.uniform(size=(4, 5))
    losses, gradient = reference.softmax_cross_entropy(z, t, 1.0)
    np.testing.assert_allclose(losses, -(t * special.log_softmax(z, axis=1)).sum(axis=1), rtol=1e-13)
    assert_gradient(gradient, row_sums(lambda z: reference.softmax_cross_entropy(z, t, 1.0)), z)
    labels = np.array([0, 4, 2, 2])
    losses, gradient = reference.sparse_softmax_cross_entropy(z, labels, 0.25)
    np.testing.assert_allclose(losses, -special.log_softmax(z, axis=1)[np.arange(4), labels], rtol=1e-13)
    assert_gradient(4 * gradient, row_sums(lambda z: reference.sparse_softmax_cross_entropy(z, labels, 1.0)), z)


def test_cross_entropy():
    rng = np.random.default_rng(14)
    p, t = rng.uniform(0.1, 2, size=(4, 5)), rng.uniform(size=(4, 5))
    p[1] = [0, 0, 1, 0, 0]  # clipped on both sides: no gradient
    losses, gradient = reference.cross_entropy(p, t, 1.0)
    expected = -(t * np.log(np.clip(p / p.sum(axis=1, keepdims=True), 1e-7, 1 - 1e-7))).sum(axis=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-13)
    np.testing.assert_array_equal(gradient[1], np.zeros(5))
    others = [0, 2, 3]
    function = row_sums(lambda p: reference.cross_entropy(p, t[others], 1.0))
    assert_gradient(gradient[others], function, p[others])
    labels = np.array([0, 2, 3, 1])
    losses, gradient = reference.sparse_cross_entropy(p, labels, 2.0)
    one_hot = np.zeros((4, 5))
    one_hot[np.arange(4), labels] = 1
    expected, expected_gradient = reference.cross_entropy(p, one_hot, 2.0)
    np.testing.assert_array_equal(losses, expected)
    np.testing.assert_array_equal(gradient, expected_gradient)


def test_mean_squared_error():
    rng = np.random.default_rng(15)
    p, t = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    losses, gradient = reference.mean_squared_error(p, t, 1.0)
    np.testing.assert_allclose(losses, [np.mean((p[i] - t[i]) ** 2) for i in range(4)], rtol=1e-14)
    assert_gradient(gradient, row_sums(lambda p: reference.mean_squared_error(p, t, 1.0)), p)


def test_binary_cross_entropy():
    rng = np.random.default_rng(16)
    p, t = rng.uniform(0.05, 0.95, size=(4, 3)), rng.uniform(size=(4, 3))
    losses, gradient = reference.binary_cross_entropy(p, t, 1.0)
    expected = -(special.xlogy(t, p) + special.xlog1py(1 - t, -p)).mean(axis=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-13)
    assert_gradient(gradient, row_sums(lambda p: reference.binary_cross_entropy(p, t, 1.0)), p)
    losses, gradient = reference.binary_cross_entropy(np.array([[0.0, 1.0]]), np.array([[0.0, 0.0]]), 1.0)
    np.testing.assert_allclose(losses, [-np.log(1e-7) / 2 - np.log1p(-1e-7) / 2], rtol=1e-9)
    np.testing.assert_array_equal(gradient, [[0.0, 0.0]])


def test_sigmoid_binary_cross_entropy():
    rng = np.random.default_rng(17)
    z, t = rng.normal(size=(4, 3)) * 3, rng.uniform(size=(4, 3))
    losses, gradient = reference.sigmoid_binary_cross_entropy(z, t, 1.0)
    stable = np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))
    np.testing.assert_allclose(losses, stable.mean(axis=1), rtol=1e-12)
    by_probability, _ = reference.binary_cross_entropy(special.expit(z), t, 1.0)
    np.testing.assert_allclose(losses, by_probability, rtol=1e-11)
    assert_gradient(gradient, row_sums(lambda z: reference.sigmoid_binary_cross_entropy(z, t, 1.0)), z)


def test_metrics():
    predictions = np.array([[0.1, 0.7, 0.7], [0.9, 0.2, 0.6], [0.2, 0.3, 0.5]])
    targets = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert reference.sparse_accuracy(predictions, [1, 2, 2]).tolist() == [1, 0, 1]
    assert reference.categorical_accuracy(predictions, targets).tolist() == [1, 0, 1]
    np.testing.assert_allclose(reference.binary_accuracy(predictions, targets, 0.5), [2 / 3, 2 / 3, 2 / 3])


# ---------------------------------------------------------------------------------------------------
# random numbers

PHILOX_ANSWERS = [
    # the known-answer vectors that Random123 publishes for philox4x32-10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), PHILOX_ANSWERS)
def test_philox_known_answers(counter, key, answer):
    assert reference.philox4x32(counter, key) == answer


def test_dropout():
    x = np.full((50, 41), 3.0)
    y = reference.dropout(x, 0.3, 2**40 + 7, 2, 5)
    assert set(np.unique(y)) == {0.0, 3.0 / 0.7}
    kept = (y != 0).mean()
    assert abs(kept - 0.7) < 5 * np.sqrt(0.3 * 0.7 / x.size)  # five standard deviations
    # place 10 takes the lower half of word 1 of block 2, place 128 beyond it that of word 3; the next the upper halves
    words = reference.philox4x32((2, 0, 2, 5), (7, 2**8))
    for place, number in ((10, words[1] % 2**16), (11, words[1] >> 16), (138, words[3] % 2**16), (139, words[3] >> 16)):
        assert (y.ravel()[place] == 0) == (number < 0.3 * 2**16)
    # place 256 begins with block 32
    word = reference.philox4x32((32, 0, 2, 5), (7, 2**8))[0]
    assert (y.ravel()[256] == 0) == (word % 2**16 < 0.3 * 2**16)
    np.testing.assert_array_equal(reference.dropout(x, 0.0, 1, 2, 3), x)
    assert not reference.dropout(x, 1 - 2**-17, 1, 2, 3).any()


# ---------------------------------------------------------------------------------------------------
# optimisers and data


def test_regularize():
    rng = np.random.default_rng(18)
    p, g = rng.normal(size=9), rng.normal(size=9)
    ends, l1, l2 = [2, 5, 7], [0.1, 0.0, 0.3], [0.0, 0.2, 0.4]

    def penalty(p):
        return reference.regularize(p, ends, l1, l2, g)[1][0]

    gradients, value = reference.regularize(p, ends, l1, l2, g)
    by_hand = 0.1 * np.abs(p[:2]).sum() + 0.2 * (p[2:5] ** 2).sum()
    by_hand += 0.3 * np.abs(p[5:7]).sum() + 0.4 * (p[5:7] ** 2).sum()
    np.testing.assert_allclose(value, [by_hand], rtol=1e-14)
    assert_gradient(gradients - g, penalty, p)
    np.testing.assert_array_equal(gradients[7:], g[7:])


def test_sgd():
    g, p, v = np.array([2.0]), np.array([1.0]), np.array([0.5])
    assert reference.sgd(g, 0.1, 0.0, False, 0.0, p, v) == (pytest.approx(0.8), 0.5)
    assert reference.sgd(g, 0.1, 0.9, False, 0.0, p, v) == (pytest.approx(1.25), pytest.approx(0.25))
    assert reference.sgd(g, 0.1, 0.9, True, 0.0, p, v) == (pytest.approx(1.025), pytest.approx(0.25))
    assert reference.sgd(g, 0.1, 0.0, False, 0.5, p, v) == (pytest.approx(0.75), 0.5)


def test_adam_first_steps_have_the_length_of_the_learning_rate():
    # With bias correction and a constant gradient both moments are exact, so each step is lr * sign(g).
    g, p = np.array([3.0, -0.01]), np.array([1.0, 2.0])
    m, s = np.zeros(2), np.zeros(2)
    for step in (1, 2, 3):
        before = p
        p, m, s = reference.adam(g, 0.1, 0.9, 0.999, 0.0, step, 0.0, p, m, s)
        np.testing.assert_allclose(p - before, [-0.1, 0.1], rtol=1e-9)
    decayed, _, _ = reference.adam(g, 0.1, 0.9, 0.999, 0.0, 1, 0.5, np.ones(2), np.zeros(2), np.zeros(2))
    np.testing.assert_allclose(decayed, [0.95 - 0.1, 0.95 + 0.1], rtol=1e-9)


def test_rmsprop():
    one = np.array([1.0])
    g = np.array([2.0])
    p, m, s, v = reference.rmsprop(g, 0.1, 0.9, 0.0, 0.0, False, 0.0, one, one, one, one)
    assert (m, s, v) == (1.0, pytest.approx(1.3), 1.0)
    assert p == pytest.approx(1 - 0.2 / np.sqrt(1.3))
    p, m, s, v = reference.rmsprop(g, 0.1, 0.9, 0.5, 0.01, True, 0.5, one, 0 * one, one, one)
    assert (m, s) == (pytest.approx(0.2), pytest.approx(1.3))
    assert v == pytest.approx(0.5 + 0.2 / np.sqrt(1.3 - 0.04 + 0.01))
    assert p == pytest.approx(0.95 - v)


def test_gather_put_and_sum():
    source = np.arange(12, dtype=np.uint8).reshape(6, 2)
    batch = reference.gather(source, [5, 3, 1, 0], 1, 2)
    assert batch.tolist() == [[6, 7], [2, 3]]
    assert batch.dtype == np.uint8
    assert reference.put(batch, 1, source[:4]).tolist() == [[0, 1], [6, 7], [2, 3], [6, 7]]
    assert reference.sum_into([1.0, 2.5], 1, [7.0, 8.0, 9.0]).tolist() == [7.0, 3.5, 9.0]
