"""Exponentials against those of twice as many digits, and results that go past the caches against those that do not."""

import itertools
import math

import numpy as np
import pytest
import reference
from gpuconv.kernels import cpu
from gpuconv.kernels.cpu import elementary, sliding, streaming
from gpuconv.kernels.cpu.local import local_array
from gpuconv.kernels.cpu.streaming import PIECE_ROOM
from gpuconv.kernels.cpu.threads import get_num_threads, set_num_threads
from gpuconv.kernels.formulas import RELU, SIGMOID
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from numba import njit

REAL = [np.float32, np.float64]


@njit(error_model="numpy")
def exponentials(x, y):
    for i in range(x.size):
        y[i] = elementary.exp_of_negative(x[i])


@njit(error_model="numpy")
def sigmoids(x, y):
    for i in range(x.size):
        y[i] = elementary.sigmoid(x[i])


@njit(error_model="numpy")
def exponentials_minus_1(x, y):
    for i in range(x.size):
        y[i] = elementary.expm1(x[i])


def computed(function, x):
    y = np.full_like(x, np.nan)
    function(x, y)
    return y


def units(got, exact):
    """Errors in units of the last place."""
    return np.abs(got.astype(exact.dtype) - exact) / np.spacing(np.abs(exact).astype(got.dtype)).astype(exact.dtype)


def negative_float32(down_to, step):
    """Every so-many-th float32 number from -0 down to a number, denormal ones included."""
    return np.arange(1 << 31, int(np.float32(down_to).view(np.uint32)), step, np.uint32).view(np.float32)


def test_exponentials_of_float32():
    x = negative_float32(-104, 1009)
    assert units(computed(exponentials, x), np.exp(x.astype(np.float64))).max() < 1.2


def test_exponentials_minus_1_of_float32():
    x = np.concatenate([negative_float32(-104, 2003), -negative_float32(-88.7, 2003)])
    x = x[np.abs(x) > 1e-30]  # NumPy's own result loses digits of denormal numbers
    assert units(computed(exponentials_minus_1, x), np.expm1(x.astype(np.float64))).max() < 1.9


def test_exponentials_of_float64():
    random = np.random.default_rng(0)
    x = -np.concatenate(
        [random.uniform(0, 1, 20000), random.uniform(0, 745, 20000), 10 ** random.uniform(-9, 2, 20000)]
    )
    # The C library's are within a unit themselves.
    assert units(computed(exponentials, x), np.array([math.exp(number) for number in x])).max() <= 2
    x = np.concatenate([x, random.uniform(0, 709, 20000)])
    assert units(computed(exponentials_minus_1, x), np.array([math.expm1(number) for number in x])).max() <= 3


@pytest.mark.parametrize(("dtype", "start", "stop"), [(np.float32, 88.0, 91.0), (np.float64, 709.0, 712.0)])
def test_exponentials_minus_1_overflow_to_infinity(dtype, start, stop):
    x = np.linspace(start, stop, 1000, dtype=dtype)
    got = computed(exponentials_minus_1, x)
    finite = x <= math.log(np.finfo(dtype).max)
    assert finite.any()
    assert (got[~finite] == np.inf).all()
    assert units(got[finite], np.array([math.expm1(number) for number in x[finite]])).max() <= 3


@pytest.mark.parametrize("dtype", REAL)
def test_ends_of_exponentials(dtype):
    lowest = {np.float32: -104.5, np.float64: -746.0}[dtype]
    x = np.array([-np.inf, np.finfo(dtype).min, lowest, -0.0, 0.0, np.nan], dtype)
    np.testing.assert_array_equal(computed(exponentials, x), np.array([0, 0, 0, 1, 1, np.nan], dtype))
    # The largest payload that a NaN can have must not become an exponent.
    payload = np.array([-1], {np.float32: np.int32, np.float64: np.int64}[dtype]).view(dtype)
    assert np.isnan(computed(exponentials, payload)).all()
    x = np.array([-np.inf, np.inf, 0.0, np.nan], dtype)
    np.testing.assert_array_equal(computed(exponentials_minus_1, x), np.array([-1, np.inf, 0, np.nan], dtype))


@pytest.mark.parametrize(("dtype", "lowest"), [(np.float32, -103.0), (np.float64, -744.0)])
def test_sigmoid(dtype, lowest):
    # Down to numbers that are no longer normal.
    x = np.concatenate([np.linspace(lowest, 40, 20000), 10.0 ** np.arange(-9, 2)]).astype(dtype)
    powers = [math.exp(-abs(number)) for number in x]
    expected = [(power if z < 0 else 1) / (1 + power) for z, power in zip(x, powers, strict=True)]
    got = computed(sigmoids, x)
    assert units(got, np.array(expected)).max() <= 3
    assert 0 < got[0] < np.finfo(dtype).tiny
    x = np.array([-np.inf, np.inf, -0.0, 0.0, np.nan], dtype)
    np.testing.assert_array_equal(computed(sigmoids, x), np.array([0, 1, 0.5, 0.5, np.nan], dtype))


# ------------------------------------------------------------------ softmax in place


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("columns", [1, 3, 4, 7, 8, 9, 10, 16, 17, 33])
def test_softmax_in_place(columns, dtype):
    x = np.random.default_rng(0).standard_normal((131, columns), dtype)
    y = np.full_like(x, np.nan)
    cpu.softmax(x, y)
    assert np.isfinite(y).all()
    cpu.softmax(x, x)
    np.testing.assert_array_equal(x, y)


# ------------------------------------------------------------------ past the caches


@njit(error_model="numpy")
def streamed_in_pieces(numbers, piece, target, start):
    """Stream all numbers to the target, from `start` on, in pieces of so many."""
    room = local_array(PIECE_ROOM, numbers)
    waiting = 0
    for place in range(0, numbers.size, piece):
        count = min(piece, numbers.size - place)
        for j in range(count):
            room[waiting + j] = numbers[place + j]
        is_end = place + count == numbers.size
        waiting = streaming.stream(room, waiting + count, target, start + place - waiting, is_end)
    streaming.finish_streaming()
    return waiting


@pytest.mark.parametrize("dtype", REAL)
def test_streamed_numbers(dtype):
    numbers = np.arange(1, 41, dtype=dtype)
    for count, start, piece in itertools.product(range(41), range(17), (1, 7, 40)):
        target = np.zeros(64, dtype)
        assert streamed_in_pieces(numbers[:count], piece, target, start) == 0
        np.testing.assert_array_equal(target[start : start + count], numbers[:count])
        assert np.count_nonzero(target) == count


def unaligned(shape, dtype):
    """An array that starts within a line of memory, and with the number before and the number behind it; all NaN."""
    whole = np.full(math.prod(shape) + 2, np.nan, dtype)
    return whole[1:-1].reshape(shape), whole


def past_the_caches(dtype):
    """Numbers, and an `unaligned` array for as many results."""
    x = np.random.default_rng(0).standard_normal(streaming.PAST_CACHES // np.dtype(dtype).itemsize + 333, dtype)
    return x, *unaligned(x.shape, dtype)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("columns", [3, 16, 33, 400, 700])
def test_softmax_past_the_caches(columns, dtype):
    rows = streaming.PAST_CACHES // np.dtype(dtype).itemsize // columns + 5
    x = np.random.default_rng(0).standard_normal((rows, columns), dtype)
    y, whole = unaligned(x.shape, dtype)
    parts = np.empty_like(x)
    before = get_num_threads()
    for threads in (1, 2):
        y[:] = np.nan
        set_num_threads(threads)
        cpu.softmax(x, y)
        set_num_threads(before)
        for start in range(0, rows, rows // 3):
            part = slice(start, start + rows // 3)
            cpu.softmax(x[part], parts[part])
        np.testing.assert_array_equal(y, parts)
        assert np.isnan(whole[[0, -1]]).all()


@pytest.mark.parametrize("dtype", REAL)
def test_activations_past_the_caches(dtype):
    x, y, whole = past_the_caches(dtype)
    size, parts = x.size, np.empty_like(x)
    cpu.activate(x, SIGMOID, 0.0, y)
    for part in (slice(size // 2), slice(size // 2, None)):
        cpu.activate(x[part], SIGMOID, 0.0, parts[part])
    np.testing.assert_array_equal(y, parts)
    assert np.isnan(whole[[0, -1]]).all()


@pytest.mark.parametrize("dtype", REAL)
def test_gradients_of_activations_past_the_caches(dtype):
    x, dx, whole = past_the_caches(dtype)
    dy = np.random.default_rng(1).standard_normal(x.shape, dtype)
    size, parts = x.size, np.empty_like(x)
    for activation in (RELU, SIGMOID):
        dx[:] = np.nan
        cpu.activate_gradient(x, dy, activation, 0.0, dx)
        for part in (slice(size // 2), slice(size // 2, None)):
            cpu.activate_gradient(x[part], dy[part], activation, 0.0, parts[part])
        np.testing.assert_array_equal(dx, parts)
        assert np.isnan(whole[[0, -1]]).all()
    cpu.activate_gradient(x, dy, SIGMOID, 0.0, dy)  # into the array that it reads
    np.testing.assert_array_equal(dy, parts)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("channels", [3, 23])
def test_gradient_of_average_pooling_past_the_caches(channels, dtype):
    """Two pictures with a column and a row that no window covers, against one after the other."""
    width = 311
    height = streaming.PAST_CACHES // np.dtype(dtype).itemsize // (2 * width * channels) | 1
    geometry, single = (pooling_geometry((batch, height, width, channels), 2) for batch in (2, 1))
    dy = np.random.default_rng(0).standard_normal(geometry.output_shape, dtype)
    dx, whole = unaligned(geometry.input_shape, dtype)
    part = np.empty_like(dx[:1])
    for g, given, taken, streamed in ((geometry, dy, dx, True), (single, dy[:1], part, False)):
        assert cpu.average_pool2d_gradient.prepare(given, g, taken)[1][-1] == streamed
    before = get_num_threads()
    for threads in (1, 2):
        dx[:] = np.nan
        set_num_threads(threads)
        cpu.average_pool2d_gradient(dy, geometry, dx)
        set_num_threads(before)
        for one in (slice(1), slice(1, 2)):
            cpu.average_pool2d_gradient(dy[one], single, part)
            np.testing.assert_array_equal(dx[one], part)
        assert np.isnan(whole[[0, -1]]).all()


@pytest.mark.parametrize("dtype", REAL)
def test_dropout_past_the_caches(dtype):
    x, y, whole = past_the_caches(dtype)
    size, part = x.size, np.empty_like(x[: x.size // 2])
    arguments = 0.3, 2**63 + 5, 2, 7
    cpu.dropout(x[: size // 2], *arguments, part)
    cpu.dropout(x, *arguments, y)
    np.testing.assert_array_equal(y[: size // 2], part)
    # The end, from the reference's mask of it.
    first = size - 700
    expected = np.where(reference.dropout_keeps(range(first, size), *arguments), x[first:] * dtype(1 / (1 - 0.3)), 0)
    np.testing.assert_array_equal(y[first:], expected)
    assert np.isnan(whole[[0, -1]]).all()


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_depthwise_correlations_past_the_caches(padding, dtype, monkeypatch):
    """Two pictures whose lines end within lines of memory, against one after the other."""
    monkeypatch.setattr(sliding, "STREAMED_BYTES", streaming.PAST_CACHES)
    random, width, channels = np.random.default_rng(0), 310, 23
    height = streaming.PAST_CACHES // np.dtype(dtype).itemsize // (4 * width * channels) + 9
    geometry, single = (
        correlation_geometry((batch, height, width, channels), 3, channels, padding=padding, groups=channels)
        for batch in (2, 1)
    )
    for backward in (False, True):
        streamed = [sliding._plan(g, np.dtype(dtype), backward)[0]["streamed"][0] for g in (geometry, single)]
        assert streamed == [True, False]
    filters, bias = (random.standard_normal(shape, dtype) for shape in ((3, 3, 1, channels), channels))
    x, dy = (random.standard_normal(shape, dtype) for shape in (geometry.input_shape, geometry.output_shape))
    y, whole = unaligned(geometry.output_shape, dtype)
    dx, whole_dx = unaligned(geometry.input_shape, dtype)
    cpu.correlate2d(x, filters, bias, geometry, SIGMOID, 0.0, y)
    cpu.correlate2d_gradient_input(dy, y, filters, geometry, SIGMOID, 0.0, dx)
    part, part_dx = np.empty_like(y[:1]), np.empty_like(x[:1])
    for one in (slice(1), slice(1, 2)):
        cpu.correlate2d(x[one], filters, bias, single, SIGMOID, 0.0, part)
        np.testing.assert_array_equal(y[one], part)
        cpu.correlate2d_gradient_input(dy[one], y[one], filters, single, SIGMOID, 0.0, part_dx)
        np.testing.assert_array_equal(dx[one], part_dx)
    for beside in (whole, whole_dx):
        assert np.isnan(beside[[0, -1]]).all()
