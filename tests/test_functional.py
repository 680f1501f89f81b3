"""The stateless operations against the plain NumPy reference; refusals are in `test_bad_input`."""

import math

import numpy as np
import pytest
import reference
from gpuconv.kernels import formulas
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal
from support import assert_close, correlations, extents, matrices, poolings, seeds

from gpuconv import activations, functional, layers, models

CODES = {
    "linear": (formulas.LINEAR, 0.0),
    "relu": (formulas.RELU, 0.0),
    "leaky_relu": (formulas.LEAKY_RELU, 0.2),
    "sigmoid": (formulas.SIGMOID, 0.0),
    "tanh": (formulas.TANH, 0.0),
    "elu": (formulas.ELU, 1.0),
    "softplus": (formulas.SOFTPLUS, 0.0),
    "gelu": (formulas.GELU, 0.0),
}
NAMES = [None, *CODES, "relu6", "softmax"]
dtypes = st.sampled_from(["float32", "float64"])
small_correlations = correlations(largest=(3, 9, 9, 9, 9), small=4, largest_kernel=3)
small_poolings = poolings(largest=(3, 9, 9, 9), small=4, largest_window=3)


def expected_activation(name, z):
    """The activation called `name`, by the reference."""
    if name == "softmax":
        return reference.softmax(z.reshape(-1, z.shape[-1])).reshape(z.shape)
    if name == "relu6":
        return np.clip(z, 0, 6)
    return reference.activation_value(*CODES[name or "linear"], z)


def uniform(seed, *shapes, dtype="float64"):
    """Uniform numbers in [-1, 1), one array for each shape."""
    generator = np.random.default_rng(seed)
    return [generator.uniform(-1, 1, shape).astype(dtype) for shape in shapes]


def window(geometry):
    """The arguments that lead to a geometry of a correlation."""
    return {
        "strides": (geometry.stride_height, geometry.stride_width),
        "padding": ((geometry.pad_top, geometry.pad_bottom), (geometry.pad_left, geometry.pad_right)),
        "dilation_rate": (geometry.dilation_height, geometry.dilation_width),
        "groups": geometry.groups,
    }


@given(small_correlations, seeds, dtypes, st.sampled_from(NAMES), st.booleans())
def test_correlate2d(geometry, seed, dtype, activation, with_bias):
    x, filters, bias = uniform(seed, geometry.input_shape, geometry.filters_shape, geometry.out_channels, dtype=dtype)
    bias = bias if with_bias else None
    y = functional.correlate2d(x, filters, bias, activation=activation, **window(geometry))
    zeros = np.zeros(geometry.out_channels)
    z = reference.correlate2d(x, filters, zeros if bias is None else bias, geometry, formulas.LINEAR, 0.0)
    size = reference.correlate2d(
        abs(x), abs(filters), zeros if bias is None else abs(bias), geometry, formulas.LINEAR, 0.0
    )
    assert y.dtype == dtype
    # No activation's slope exceeds 1.13, and those that add up take a row together.
    assert_close(
        y, expected_activation(activation, z), dtype, math.prod(geometry.filters_shape[:3]), 2 * size.max() + 1
    )


@given(small_correlations, seeds, dtypes)
def test_gradients_of_correlate2d(geometry, seed, dtype):
    x, filters, dy = uniform(seed, geometry.input_shape, geometry.filters_shape, geometry.output_shape, dtype=dtype)
    dx = functional.correlate2d_gradient_input(dy, filters, x.shape, **window(geometry))
    plain = geometry, formulas.LINEAR, 0.0
    terms = geometry.kernel_height * geometry.kernel_width * geometry.out_channels
    expected = reference.correlate2d_gradient_input(dy, dy, filters, *plain)
    size = reference.correlate2d_gradient_input(abs(dy), dy, abs(filters), *plain)
    assert dx.dtype == dtype
    assert_close(dx, expected, dtype, terms, size)

    kernel_size = geometry.kernel_height, geometry.kernel_width
    results = functional.correlate2d_gradient_filters(x, dy, kernel_size, **window(geometry))
    expected = reference.correlate2d_gradient_filters(x, dy, dy, *plain)
    sizes = reference.correlate2d_gradient_filters(abs(x), abs(dy), dy, *plain)
    terms = geometry.batch * geometry.out_height * geometry.out_width
    for result, exact, size in zip(results, expected, sizes, strict=True):
        assert result.dtype == dtype
        assert_close(result, exact, dtype, terms, size)


@given(small_correlations, seeds, dtypes, st.booleans())
def test_convolve2d(geometry, seed, dtype, with_bias):
    x, filters, bias = uniform(seed, geometry.input_shape, geometry.filters_shape, geometry.out_channels, dtype=dtype)
    given = bias if with_bias else None
    y = functional.convolve2d(x, filters, given, activation="relu", **window(geometry))
    bias = bias if with_bias else np.zeros_like(bias)
    # By the definition: the filter is read backwards along both axes, which the reference is given forwards.
    backwards = np.empty_like(filters)
    for a, b in np.ndindex(filters.shape[:2]):
        backwards[a, b] = filters[filters.shape[0] - 1 - a, filters.shape[1] - 1 - b]
    z = reference.correlate2d(x, backwards, bias, geometry, formulas.LINEAR, 0.0)
    size = reference.correlate2d(abs(x), abs(backwards), abs(bias), geometry, formulas.LINEAR, 0.0)
    assert y.dtype == dtype
    assert_close(y, np.maximum(z, 0), dtype, math.prod(geometry.filters_shape[:3]), size)


@given(st.tuples(*[st.integers(1, 7)] * 4), st.sampled_from(["valid", "same", "full"]), seeds)
def test_convolve2d_is_scipys(extents, padding, seed):
    height, width, kernel_height, kernel_width = extents
    if padding == "valid":
        height, width = max(height, kernel_height), max(width, kernel_width)
    x, kernel = uniform(seed, (height, width), (kernel_height, kernel_width))
    y = functional.convolve2d(x[np.newaxis, :, :, np.newaxis], kernel[:, :, np.newaxis, np.newaxis], padding=padding)
    expected, size = (
        signal.convolve2d(*operands, mode="valid" if padding == "valid" else "full")
        for operands in ((x, kernel), (abs(x), abs(kernel)))
    )
    if padding == "same":
        # The middle of the full convolution; of two middles the later one.
        middle = (
            slice(kernel_height // 2, kernel_height // 2 + height),
            slice(kernel_width // 2, kernel_width // 2 + width),
        )
        expected, size = expected[middle], size[middle]
    assert_close(y[0, :, :, 0], expected, "float64", 2 * kernel.size, size)


def test_a_convolution_commutes_and_a_correlation_does_not():
    x, kernel = uniform(0, (1, 5, 6, 1), (1, 3, 2, 1))
    there, back = (
        functional.convolve2d(a, np.moveaxis(b, 0, -1), padding="full") for a, b in ((x, kernel), (kernel, x))
    )
    np.testing.assert_allclose(there, back, rtol=0, atol=1e-14)
    there, back = (
        functional.correlate2d(a, np.moveaxis(b, 0, -1), padding="full") for a, b in ((x, kernel), (kernel, x))
    )
    # It is turned instead.
    np.testing.assert_allclose(there, back[:, ::-1, ::-1], rtol=0, atol=1e-14)
    assert abs(there - back).max() > 0.1


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("strides", "dilation_rate"), [(1, 1), ((2, 1), 1), (1, (1, 2)), (3, 1)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv2d_is_the_layer(padding, strides, dilation_rate, groups):
    x, kernel = uniform(0, (2, 9, 8, 4), (3, 2, 4 // groups, 8), dtype="float32")
    settings = {"strides": strides, "padding": padding, "dilation_rate": dilation_rate}
    y = functional.conv2d(x, kernel, **settings)
    layer = layers.Conv2D(8, (3, 2), groups=groups, use_bias=False, input_shape=(9, 8, 4), **settings)
    model = models.Sequential([layer])
    model.set_weights([kernel])
    np.testing.assert_array_equal(y, model.predict(x, verbose=0))
    # As Keras users call it, by place.
    again = functional.conv2d(x, kernel, strides, padding, "channels_last", dilation_rate)
    np.testing.assert_array_equal(y, again)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, w: functional.conv2d(x, w, data_format="channels_first"), ValueError, "data_format: expected one"),
        (lambda x, w: functional.conv2d(x, w, padding="full"), ValueError, "padding: expected one of"),
        (lambda x, w: functional.conv2d(x, w, padding=1), ValueError, "padding: expected one of"),
        (lambda x, w: functional.conv2d(x, w[:, :, :3]), ValueError, "kernel: expected input channels that divide"),
        (lambda x, w: functional.conv2d(x[0], w), ValueError, "x: expected 4 axes"),
        (lambda x, w: functional.conv2d(x, w[0]), ValueError, "kernel: expected 4 axes"),
        (lambda x, w: functional.convolve2d(x, w[0]), ValueError, "filters: expected 4 axes"),
        (lambda x, w: functional.convolve2d(x, w[:, :, :3]), ValueError, "filters: expected 4 input channels"),
        (lambda x, w: functional.convolve2d(x[:, :2], w), ValueError, "kernel_size: expected a window that fits"),
        (lambda x, w: functional.convolve2d(x, w, np.ones(3)), ValueError, "bias: expected shape"),
    ],
)
def test_refusals_of_convolutions(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call(np.ones((1, 5, 5, 4)), np.ones((3, 3, 4, 8)))


def test_gradients_are_those_of_the_operation():
    # The operation is bilinear: a difference along any direction is exact, however long.
    x, filters, bias, dx, dfilters, dbias, dy = uniform(
        0, (2, 7, 6, 4), (3, 2, 2, 6), 6, (2, 7, 6, 4), (3, 2, 2, 6), 6, (2, 4, 3, 6)
    )
    settings = {"strides": 2, "padding": "same", "groups": 2}
    step = functional.correlate2d(x + dx, filters, bias, **settings) - functional.correlate2d(
        x, filters, bias, **settings
    )
    gradient = functional.correlate2d_gradient_input(dy, filters, x.shape, **settings)
    np.testing.assert_allclose((step * dy).sum(), (gradient * dx).sum(), rtol=1e-12)
    step = functional.correlate2d(x, filters + dfilters, bias + dbias, **settings) - functional.correlate2d(
        x, filters, bias, **settings
    )
    gradients = functional.correlate2d_gradient_filters(x, dy, (3, 2), **settings)
    expected = (gradients[0] * dfilters).sum() + (gradients[1] * dbias).sum()
    np.testing.assert_allclose((step * dy).sum(), expected, rtol=1e-12)


@given(small_poolings, seeds, dtypes)
def test_pooling(geometry, seed, dtype):
    (x,) = uniform(seed, geometry.input_shape, dtype=dtype)
    settings = window(geometry)
    settings = (geometry.kernel_height, geometry.kernel_width), settings["strides"], settings["padding"]
    y = functional.max_pool2d(x, *settings)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, reference.max_pool2d(x, geometry)[0])
    y = functional.average_pool2d(x, *settings)
    assert y.dtype == dtype
    terms = geometry.kernel_height * geometry.kernel_width
    assert_close(y, reference.average_pool2d(x, geometry), dtype, terms, reference.average_pool2d(abs(x), geometry))


def test_defaults_of_pooling():
    x = np.arange(25.0).reshape(1, 5, 5, 1)
    assert functional.max_pool2d(x).shape == (1, 2, 2, 1)
    assert functional.max_pool2d(x, 3, padding="same").shape == (1, 2, 2, 1)
    assert functional.average_pool2d(x, (1, 5)).ravel().tolist() == [2, 7, 12, 17, 22]
    # Windows of more than 256 cells count their winners in two bytes.
    x = np.zeros((1, 20, 20, 1))
    x[0, 19, 3] = 1
    assert functional.max_pool2d(x, 20).tolist() == [[[[1]]]]


@given(extents((20, 20, 20)), seeds, dtypes, st.sampled_from(NAMES), st.booleans())
def test_dense(shape, seed, dtype, activation, with_bias):
    rows, inputs, units = shape
    x, kernel, bias = uniform(seed, (rows, inputs), (inputs, units), units, dtype=dtype)
    bias = bias if with_bias else None
    y = functional.dense(x, kernel, bias, activation)
    z = reference.double(x) @ reference.double(kernel) + (0 if bias is None else bias)
    size = abs(reference.double(x)) @ abs(reference.double(kernel)) + 1
    assert y.dtype == dtype
    assert_close(y, expected_activation(activation, z), dtype, inputs, 2 * size.max())


@given(st.one_of(matrices((20, 20)), st.tuples(*[st.integers(1, 4)] * 4)), seeds, dtypes, st.sampled_from(NAMES))
def test_activations(shape, seed, dtype, name):
    x = 8 * uniform(seed, shape, dtype=dtype)[0]
    y = functional.activate(x, name)
    assert y.dtype == dtype
    assert_close(y, expected_activation(name, reference.double(x)), dtype, shape[-1], 1 + abs(x))
    function = activations.get(name)
    assert function(x).tobytes() == y.tobytes()
    assert functional.activate(x, function).tobytes() == y.tobytes()


def test_relu_and_softmax():
    x = np.array([[-1.0, 2.0], [0.0, -0.0]])
    assert functional.relu(x).tolist() == [[0, 2], [0, 0]]
    assert np.isnan(functional.relu([np.nan, 1.0])[0])
    assert functional.softmax(np.array([0.0, 0.0])).tolist() == [0.5, 0.5]
    assert functional.softmax(np.array([1000.0, 0.0])).tolist() == [1, 0]


def test_dropout():
    x = np.arange(1.0, 10_001.0)
    y = functional.dropout(x, 0.2, seed=3)
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / 0.8, rtol=1e-15)
    # Five standard deviations.
    assert abs(kept.mean() - 0.8) < 5 * np.sqrt(0.16 / x.size)
    assert functional.dropout(x, 0.2, seed=3).tobytes() == y.tobytes()
    assert functional.dropout(x, 0.2, seed=4).tobytes() != y.tobytes()
    assert functional.dropout(x, 0.2).tobytes() != functional.dropout(x, 0.2).tobytes()
    assert functional.dropout(x, 0.0).tobytes() == x.tobytes()
    # The mask does not depend on the type of the numbers, nor on the shape that they stand in.
    single = functional.dropout(x.astype(np.float32).reshape(100, 100), 0.2, seed=3)
    assert (kept == (single.ravel() != 0)).all()


def test_dropout_rounds_the_rate():
    x = np.arange(1.0, 2_001.0)
    number = reference.philox4x32((0, 0, 0, 0), (3, 0))[0] % 2**16
    for part, stays in ((0.0, True), (0.4, True), (0.6, False), (1.0, False)):
        assert (functional.dropout(x, (number + part) / 2**16, seed=3)[0] != 0) == stays
    assert functional.dropout(x, 2**-17, seed=3).all()
    assert not functional.dropout(x, 1 - 2**-17, seed=3).any()
    assert not functional.dropout(x, np.nextafter(1, 0), seed=3).any()


# ------------------------------------------------------------------ kinds of arrays


@pytest.mark.parametrize(
    ("x", "kernel", "expected"),
    [
        (np.float32, np.float32, np.float32),
        (np.float64, np.float64, np.float64),
        (np.float64, np.float32, np.float64),
        (np.float32, np.float64, np.float64),
        (np.int64, np.int64, np.float32),
        (np.uint8, np.float32, np.float32),
        (bool, np.float64, np.float64),
        (np.float16, np.int8, np.float32),
    ],
)
def test_float64_stays_and_all_else_becomes_float32(x, kernel, expected):
    y = functional.dense(np.ones((2, 3), x), np.ones((3, 1), kernel))
    assert y.dtype == expected
    assert y.tolist() == [[3], [3]]


def test_lists_are_arrays():
    assert functional.dense([[1, 2]], [[1], [1]], [1], activation="relu").tolist() == [[4]]
    # As numpy.asarray reads them: floats of Python are float64.
    assert functional.relu([1, -2]).dtype == np.float32
    assert functional.relu([1.0, -2.0]).dtype == np.float64


def test_memory_of_any_order_is_read_and_left_alone():
    x, filters = uniform(0, (2, 5, 6, 3), (3, 3, 3, 4))
    expected = functional.correlate2d(x, filters)
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=2)[:, :, ::2], x[::-1][::-1]):
        assert functional.correlate2d(other, np.asfortranarray(filters)).tobytes() == expected.tobytes()
    kept = x.tobytes(), filters.tobytes()
    x.flags.writeable = filters.flags.writeable = False
    functional.correlate2d(x, filters, activation="gelu")
    functional.max_pool2d(x)
    functional.activate(x, "softmax")
    functional.dropout(x, 0.5)
    assert (x.tobytes(), filters.tobytes()) == kept
    y = functional.relu(x)
    assert not np.shares_memory(x, y)


def test_nan_and_infinities_pass_through():
    x = np.ones((1, 3, 3, 1))
    x[0, 0, 0] = np.nan
    x[0, 2, 2] = np.inf
    y = functional.correlate2d(x, np.ones((2, 2, 1, 1)))[0, :, :, 0]
    assert np.isnan(y[0, 0])
    assert y[1, 1] == np.inf
    assert y[0, 1] == 4
    assert np.isnan(functional.max_pool2d(x, 2, 1)[0, 0, 0, 0])
