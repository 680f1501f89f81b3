"""Convolution, Fourier series and the driven oscillator against SciPy, and what must be refused."""

import math
import subprocess
import sys
import tracemalloc
from itertools import product

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.signal
from gpuconv.kernels.cpu import fourier, image
from gpuconv.kernels.cpu.streaming import PAST_CACHES
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support import seeds, tolerance

from gpuconv import get_num_threads, set_num_threads, signal, use_device
from gpuconv.device import DeviceError
from gpuconv.signal import pictures

MODES = ("full", "same", "valid")
BOUNDARIES = ("fill", "wrap", "symm")
METHODS = ("auto", "direct", "fft")
DTYPES = ("float32", "float64", "int8", "uint8", "int16", "int32", "int64", "uint64", "complex64", "complex128")
BOTH = ("correlate2d", "convolve2d")

modes, methods, dtypes = st.sampled_from(MODES), st.sampled_from(METHODS), st.sampled_from(DTYPES)


@pytest.fixture(autouse=True)
def _on_the_cpu():
    with use_device("cpu"):
        yield


def numbers(seed, shape, dtype):
    """Numbers of any dtype: integers that overflow the short types now and then, else from the unit square."""
    random, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind in "iu":
        return random.integers(0 if dtype.kind == "u" else -90, 90, shape).astype(dtype)
    values = random.uniform(-1, 1, shape)
    return (values + 1j * random.uniform(-1, 1, shape) if dtype.kind == "c" else values).astype(dtype)


def assert_same_sums(got, exact, like, method, terms, sizes, norms, transformed):
    """Assert that `got` has shape and dtype of SciPy's result `like`, and is `exact` within rounding.

    Direct sums may be off by a multiple of the sum of the absolute values of their terms (`sizes`); a complex
    product has four terms.  A transform may be off by ``4 eps log2(n)`` times the product of the norms.
    """
    assert (got.shape, got.dtype) == (like.shape, like.dtype)
    if got.dtype.kind in "iu":
        np.testing.assert_array_equal(got, like)
        return
    eps = np.finfo(got.dtype).eps
    allowed = tolerance(got.dtype, 4 * terms) * sizes
    if method != "direct":
        allowed = allowed + 4 * eps * max(math.log2(transformed), 1) * norms
    assert (np.abs(got - exact) <= allowed).all()


# ---------------------------------------------------------------------------------------------------
# sequences


def assert_convolves(seed, lengths, types, mode, method):
    a, b = numbers(seed, lengths[0], types[0]), numbers(seed + 1, lengths[1], types[1])
    like = scipy.signal.convolve(a, b, mode, "direct")
    wide = np.result_type(like.dtype, np.float64)
    exact = scipy.signal.convolve(a.astype(wide), b.astype(wide), mode, "direct")
    sizes = scipy.signal.convolve(np.abs(a.astype(wide)), np.abs(b.astype(wide)), mode, "direct")
    norms = np.linalg.norm(a.astype(wide)) * np.linalg.norm(b.astype(wide))
    got = signal.convolve(a, b, mode, method)
    assert_same_sums(got, exact, like, method, min(lengths), sizes, norms, sum(lengths) - 1)


@given(seeds, st.tuples(*[st.integers(1, 40)] * 2), st.tuples(dtypes, dtypes), modes, methods)
def test_convolve_is_scipys(seed, lengths, types, mode, method):
    assert_convolves(seed, lengths, types, mode, method)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [(20_000, 900), (900, 20_000)])
def test_long_sequences_are_transformed_block_by_block(lengths, mode):
    for dtype in ("float32", "float64", "complex128", "int16"):
        assert_convolves(0, lengths, (dtype, dtype), mode, "auto")
        assert_convolves(0, lengths, (dtype, dtype), mode, "fft")


def test_same_is_as_long_as_the_first_where_numpy_takes_the_longer():
    a, b = np.arange(3), np.ones(5, int)
    assert signal.convolve(a, b, "same").size == 3
    assert np.convolve(a, b, "same").size == 5


@given(seeds, st.tuples(*[st.integers(1, 12)] * 2), st.sampled_from(["int64", "float64", "complex128"]))
def test_convolution_commutes(seed, lengths, dtype):
    alpha, beta = numbers(seed, lengths[0], dtype), numbers(seed + 1, lengths[1], dtype)
    delta = signal.polynomial_multiply(alpha, beta)
    one = signal.toeplitz_matrix(alpha, beta.size) @ beta
    other = signal.toeplitz_matrix(beta, alpha.size) @ alpha
    everything = [
        signal.polynomial_multiply(beta, alpha), one, other, signal.toeplitz_multiply(alpha, beta),
        signal.toeplitz_multiply(beta, alpha), signal.convolve(alpha, beta), signal.convolve(beta, alpha),
    ]  # fmt: skip
    sizes = np.convolve(np.abs(alpha), np.abs(beta))
    for result in everything:
        if dtype == "int64":
            np.testing.assert_array_equal(result, delta)
        else:
            assert (np.abs(result - delta) <= 2 * tolerance(dtype, 4 * min(lengths)) * sizes).all()


@given(st.lists(st.integers(-999, 999), min_size=1, max_size=8), st.lists(st.integers(-9, 9), min_size=1, max_size=8))
def test_products_of_polynomials_have_the_product_of_their_values(alpha, beta):
    delta = signal.polynomial_multiply(alpha, beta)
    for t in (-2, -1, 0, 1, 3):
        p, s, z = (sum(int(c) * t**power for power, c in enumerate(row)) for row in (alpha, beta, delta))
        assert z == p * s


@given(seeds, st.integers(1, 12), st.integers(1, 12), dtypes)
def test_toeplitz_matrix_is_scipys(seed, m, n, dtype):
    w = numbers(seed, m, dtype)
    matrix = signal.toeplitz_matrix(w, n)
    first_column = np.concatenate([w, np.zeros(n - 1, dtype)])
    first_row = np.concatenate([w[:1], np.zeros(n - 1, dtype)])
    assert matrix.dtype == dtype
    np.testing.assert_array_equal(matrix, scipy.linalg.toeplitz(first_column, first_row))


def test_toeplitz_multiply_never_builds_the_matrix():
    w, x = np.ones(200), np.ones(20_000)
    tracemalloc.start()
    y = signal.toeplitz_multiply(w, x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert y[10_000] == 200
    assert peak < 8 * y.nbytes  # the matrix would take 20,000 times as much


# ---------------------------------------------------------------------------------------------------
# pictures


def assert_same_as_scipy(name, a, b, mode, boundary, fillvalue, method):
    like = getattr(scipy.signal, name)(a, b, mode, boundary, fillvalue)
    wide = np.result_type(like.dtype, np.float64)
    exact = getattr(scipy.signal, name)(a.astype(wide), b.astype(wide), mode, boundary, fillvalue)
    sizes = getattr(scipy.signal, name)(
        np.abs(a.astype(wide)), np.abs(b.astype(wide)), mode, boundary, np.abs(fillvalue)
    ).real
    # No norm of the continued picture exceeds that of the largest number everywhere.
    largest = max(np.abs(a.astype(wide)).max(), np.abs(b.astype(wide)).max(), abs(fillvalue))
    if mode == "valid":
        cells, kernel_cells = max(a.size, b.size), min(a.size, b.size)
    else:
        cells = math.prod(m + 2 * (k - 1) for m, k in zip(a.shape, b.shape, strict=True))
        kernel_cells = b.size
    norms = largest**2 * math.sqrt(cells * kernel_cells)
    got = getattr(signal, name)(a, b, mode, boundary, fillvalue, method)
    assert_same_sums(got, exact, like, method, min(a.size, b.size), sizes, norms, cells)


@pytest.mark.parametrize(("name", "dtype"), list(product(BOTH, DTYPES)))
def test_every_combination_is_scipys(name, dtype):
    shapes = [((5, 6), (2, 3)), ((3, 4), (4, 5)), ((4, 4), (4, 4)), ((3, 5), (1, 1)), ((1, 4), (1, 2))]
    for (a, b), mode, boundary, fillvalue, method in product(shapes, MODES, BOUNDARIES, (0, 2), METHODS):
        assert_same_as_scipy(name, numbers(1, a, dtype), numbers(2, b, dtype), mode, boundary, fillvalue, method)


@given(
    st.sampled_from(BOTH), seeds, st.tuples(*[st.integers(1, 9)] * 4), st.tuples(dtypes, dtypes), modes,
    st.sampled_from([*BOUNDARIES, "circular", "symmetric"]), st.sampled_from([0, 1, 2.5]), methods,
)  # fmt: skip
@example("correlate2d", 0, (2, 3, 5, 5), ("complex64", "complex128"), "valid", "fill", 0, "direct")
@example("correlate2d", 0, (1, 1, 9, 9), ("float32", "int8"), "full", "symm", 0, "fft")
def test_pictures_are_scipys(name, seed, extents, types, mode, boundary, fillvalue, method):
    a, b = numbers(seed, extents[:2], types[0]), numbers(seed + 1, extents[2:], types[1])
    larger, smaller = np.greater_equal(a.shape, b.shape), np.less_equal(a.shape, b.shape)
    assume(mode != "valid" or larger.all() or smaller.all())
    if np.result_type(a, b).kind in "iu":
        fillvalue = int(fillvalue)
    assert_same_as_scipy(name, a, b, mode, boundary, fillvalue, method)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int32"])
def test_large_pictures(name, dtype, monkeypatch):
    transformed = []
    by_fft = pictures._by_fft
    monkeypatch.setattr(pictures, "_by_fft", lambda *a: transformed.append(1) or by_fft(*a))
    a, b = numbers(0, (150, 190), dtype), numbers(1, (26, 31), dtype)
    for boundary in BOUNDARIES:
        for method in METHODS:
            assert_same_as_scipy(name, a, b, "same", boundary, 0, method)
    assert len(transformed) == (3 if dtype == "int32" else 6), "'auto' transforms what is costly, but never integers"


# Pictures of one block and of several, odd numbers of them too, in both directions; periods are powers of two, and
# an even or an odd number of digits makes other passes of the transforms.
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cells", [(1, 1), (3, 60), (33, 2), (20, 17)])
@pytest.mark.parametrize("shape", [(60, 61), (140, 300), (1, 700)])
def test_blocks_of_transforms(dtype, cells, shape):
    a, b = numbers(0, shape, dtype), numbers(1, cells, dtype)
    for mode, boundary in (("same", "fill"), ("full", "wrap")):
        assert_same_as_scipy("correlate2d", a, b, mode, boundary, 3, "fft")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_too_large_for_the_kernel(dtype, monkeypatch):
    monkeypatch.setattr(fourier, "LARGEST", 0)
    monkeypatch.setattr(fourier, "correlate_image", None)
    a, b = numbers(0, (41, 75), dtype), numbers(1, (7, 5), dtype)
    assert_same_as_scipy("correlate2d", a, b, "same", "symm", 0, "fft")


def test_auto_takes_direct_sums_for_small_kernels(monkeypatch):
    monkeypatch.setattr(pictures, "_by_fft", None)
    signal.convolve2d(np.ones((300, 300)), np.ones((3, 3)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_auto_takes_transforms_for_large_kernels(dtype, monkeypatch):
    transformed = np.zeros(1)
    monkeypatch.setattr(pictures, "_by_fft", lambda *_: transformed)
    large, small = np.ones((300, 300), dtype), np.ones((90, 90), dtype)
    assert signal.convolve2d(large, small, "valid") is transformed
    large[0, 0] = np.nan
    assert signal.convolve2d(large, small, "valid") is not transformed


# A block's transform, the sum of all its pixels, would be infinite where the sums are not.
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_auto_takes_direct_sums_for_numbers_that_overflow(dtype, monkeypatch):
    large = np.finfo(dtype).max / 300
    ones, mean = np.ones((128, 128), dtype), np.full((40, 40), 1 / 1600, dtype)
    transformed = np.zeros(1)
    monkeypatch.setattr(pictures, "_by_fft", lambda *_: transformed)
    assert signal.correlate2d(ones, mean, "valid") is transformed
    for picture, kernel, fillvalue in [
        (large * ones, mean, 0),
        (ones, mean, large),
        (1e-3 * ones, 800 * mean * large, 0),  # the kernel's own sum is infinite
    ]:
        got = signal.correlate2d(picture, kernel, fillvalue=fillvalue)
        assert np.isfinite(got).all()
        np.testing.assert_array_equal(got, signal.correlate2d(picture, kernel, fillvalue=fillvalue, method="direct"))
    sequence, weights = np.full(20_000, large, dtype), np.full(900, 1 / 900, dtype)
    assert np.isfinite(signal.convolve(sequence, weights)).all()


# Lines and columns of pictures and kernels on both sides of the tiles' edges: tiles of 4 or 6 lines, and of 8 to 64
# columns.
@given(
    seeds, st.tuples(st.integers(1, 15), st.integers(1, 140)), st.tuples(st.integers(1, 14), st.integers(1, 20)),
    st.sampled_from(["float32", "float64"]), modes, st.sampled_from(BOUNDARIES),
)  # fmt: skip
@settings(max_examples=80)
@example(0, (12, 64), (6, 3), "float32", "same", "fill")
@example(0, (13, 65), (5, 1), "float64", "same", "wrap")
def test_tiles_and_their_edges(seed, shape, kernel_shape, dtype, mode, boundary):
    assume(mode != "valid" or all(extent >= cells for extent, cells in zip(shape, kernel_shape, strict=True)))
    a, b = numbers(seed, shape, dtype), numbers(seed + 1, kernel_shape, dtype)
    assert_same_as_scipy("correlate2d", a, b, mode, boundary, 1, "direct")


@pytest.mark.parametrize("rows", [image.ROWS, image.SHORT_ROWS])
def test_tiles_read_no_further_than_the_scratch_memory(rows):
    step, lanes = 72, 16
    for height, kernel_height in product(range(1, 37), (1, 3, 7, 40)):
        last_tile = max(range(0, height, rows))
        lines_read = last_tile + rows + kernel_height - 1
        assert image.scratch_size(height, kernel_height, step, lanes) >= lines_read * step + image.ROWS * lanes


# Inner blocks of short kernels are read where they lie, in pictures whose rows are whole lines of memory and others.
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel_shape", [(1, 1), (3, 3), (4, 20), (7, 2)])
@pytest.mark.parametrize("shape", [(75, 128), (52, 131), (31, 40)])
def test_pixels_read_where_they_lie(dtype, kernel_shape, shape, monkeypatch):
    monkeypatch.setattr(pictures, "PAGE_BYTES", 256)  # sums of small pictures are placed as those of large ones
    for boundary in BOUNDARIES:
        a, b = numbers(0, shape, dtype), numbers(1, kernel_shape, dtype)
        assert_same_as_scipy("correlate2d", a, b, "same", boundary, 2, "direct")


# Rows that are whole lines of memory, and others.
@pytest.mark.parametrize("width", [1024, 1030])
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_past_the_caches(width, threads, few_threads):
    few_threads(threads)
    rows, kernel = PAST_CACHES // (2 * 4 * width) + 13, numbers(1, (3, 3), "float32")
    x = numbers(0, (rows, width), "float32")
    whole, reach = signal.correlate2d(x, kernel, "same"), rows // 2
    parts = [signal.correlate2d(part, kernel, "same") for part in (x[: reach + 1], x[reach - 1 :])]
    np.testing.assert_array_equal(whole, np.concatenate([parts[0][:-1], parts[1][1:]]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "complex64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_and_their_edges(dtype, threads, few_threads, small_blocks):
    few_threads(threads)
    a, b = numbers(0, (41, 75), dtype), numbers(1, (7, 5), dtype)
    for mode, boundary, method in product(MODES, BOUNDARIES, ("direct", "fft")):
        assert_same_as_scipy("correlate2d", a, b, mode, boundary, 2, method)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("method", ["direct", "fft"])
def test_pictures_are_the_same_for_any_number_of_threads(dtype, method, few_threads, small_blocks):
    a, b = numbers(0, (120, 150), dtype), numbers(1, (9, 12), dtype)
    results = []
    for threads in (1, 2):
        few_threads(threads)
        results.append(signal.correlate2d(a, b, "same", "symm", method=method))
    np.testing.assert_array_equal(*results)


@pytest.fixture
def few_threads():
    """`set_num_threads`, undone after the test."""
    before = get_num_threads()
    yield set_num_threads
    set_num_threads(before)


@pytest.fixture
def small_blocks(monkeypatch):
    """Pictures are cut into blocks however small they are."""
    monkeypatch.setattr(image, "BLOCK_ROWS", 6)
    monkeypatch.setattr(image, "PART_BYTES", 1)
    monkeypatch.setattr(pictures, "BLOCK", 8)


# More cells than are added in one chain: several bands of lines, and lines longer than a chain.
@pytest.mark.parametrize("kernel_shape", [(45, 40), (2, 1100), (1100, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_sums(kernel_shape, dtype):
    shape = tuple(cells + more for cells, more in zip(kernel_shape, (8, 19), strict=True))
    assert_same_as_scipy(
        "correlate2d", numbers(0, shape, dtype), numbers(1, kernel_shape, dtype), "valid", "fill", 0, "direct"
    )


def test_sums_of_many_cells_keep_their_digits():
    a, b = np.full((130, 140), 0.1, np.float32), np.ones((128, 128), np.float32)
    exact = float(np.float32(0.1)) * b.size
    # Added in one chain, these 16,384 terms would be off by more than 1000 eps.
    error = np.abs(signal.correlate2d(a, b, "valid", method="direct") - exact).max()
    assert error <= 200 * np.finfo(np.float32).eps * exact


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_nan_and_infinities_stay_where_they_are(special):
    a, b = numbers(0, (150, 150), "float64"), numbers(1, (25, 25), "float64")
    with_fill = signal.correlate2d(a, b, fillvalue=special)
    np.testing.assert_array_equal(np.isfinite(with_fill[24:-24, 24:-24]), True)
    assert not np.isfinite(with_fill[0]).any()
    a[70, 80] = special
    for height, width, dtype in product(range(1, 9), (1, 4), ("float32", "float64")):
        finite = np.isfinite(signal.correlate2d(a.astype(dtype), np.ones((height, width), dtype), "same"))
        assert np.count_nonzero(~finite) == height * width
    finite = np.isfinite(signal.correlate2d(a, b, "same"))
    assert np.count_nonzero(~finite) == b.size
    x = numbers(2, 20_000, "float64")
    x[9_000] = special
    assert np.count_nonzero(~np.isfinite(signal.convolve(x, np.ones(900)))) == 900


@given(seeds, st.tuples(*[st.integers(1, 8)] * 4), st.sampled_from(["int32", "complex128"]))
def test_what_sets_correlation_and_convolution_apart(seed, extents, dtype):
    a, b = numbers(seed, extents[:2], dtype), numbers(seed + 1, extents[2:], dtype)
    scale = tolerance("float64", 4 * b.size) * 90**2 * b.size
    turned = b[::-1, ::-1].conj()
    np.testing.assert_allclose(signal.correlate2d(a, b), signal.convolve2d(a, turned), rtol=0, atol=scale)
    np.testing.assert_allclose(signal.convolve2d(a, b), signal.convolve2d(b, a), rtol=0, atol=scale)


def test_inputs_are_not_changed():
    a, b = numbers(0, (5, 5), "float64"), numbers(1, (3, 3), "float64")
    copies = a.copy(), b.copy()
    for name, boundary, method in product(BOTH, BOUNDARIES, METHODS):
        getattr(signal, name)(a[::-1], b.T, "full", boundary, 1, method)
    np.testing.assert_array_equal(a, copies[0])
    np.testing.assert_array_equal(b, copies[1])


# ---------------------------------------------------------------------------------------------------
# Fourier series and the oscillator


def trigonometric(seed, count):
    """Coefficients of a trigonometric polynomial."""
    f, g = np.random.default_rng(seed).uniform(-1, 1, (2, count + 1))
    g[0] = 0
    return f, g


@given(seeds, st.integers(0, 9), st.sampled_from([0.2, 1.0, 7.5]))
@settings(max_examples=25)
def test_coefficients_come_back(seed, count, period):
    f, g = trigonometric(seed, count)
    t = np.arange(2 * count + 3) * period / (2 * count + 3)
    for source, error in (
        (signal.fourier_series(t, f, g, period), 1e-12),
        (lambda time: signal.fourier_series(time, f, g, period).item(), 1e-9),
    ):
        found = signal.fourier_coefficients(source, count, period)
        np.testing.assert_allclose(found, (f, g), rtol=0, atol=error)


@pytest.mark.parametrize("width", [0.1, 0.03])
def test_coefficients_of_the_square_wave(width):
    period, height, n = 0.2, 2.0, np.arange(1, 41)
    f, g = signal.fourier_coefficients(
        lambda t: signal.square_wave(t, period, width, height, delay=-width / 2).item(), 40, period
    )
    np.testing.assert_allclose(f[0], 2 * height * width / period, atol=1e-9)
    np.testing.assert_allclose(f[1:], 2 * height / (np.pi * n) * np.sin(n * np.pi * width / period), rtol=0, atol=1e-9)
    np.testing.assert_allclose(g, 0, atol=1e-9)


def test_square_wave_is_scipys():
    t = np.linspace(-1, 1, 501) + 1e-4  # no sample on a jump
    expected = 1 + scipy.signal.square(2 * np.pi * 5 * t)
    np.testing.assert_array_equal(signal.square_wave(t, 0.2, height=2), expected)
    quarter = scipy.signal.square(2 * np.pi * (t - 0.3), duty=0.25)
    np.testing.assert_array_equal(2 * signal.square_wave(t, width=0.25, delay=0.3) - 1, quarter)
    assert not signal.square_wave(t, width=0).any()
    assert signal.square_wave(t, width=1).all()


def test_series_approach_the_square_wave():
    t = np.linspace(0, 1, 1000, endpoint=False)
    wave = signal.square_wave(t)
    for count in (1, 9, 99):
        f, g = signal.fourier_coefficients(wave, count)
        error = np.mean((signal.fourier_series(t, f, g) - wave) ** 2)
        # Parseval: what is missing is the energy of the harmonics left out, about 1 / (pi**2 (count + 1)) of odd ones.
        np.testing.assert_allclose(error, np.mean(wave**2) - f[0] ** 2 / 4 - np.sum(f[1:] ** 2 + g[1:] ** 2) / 2)
        np.testing.assert_allclose(error, 1 / (np.pi**2 * (count + 1)), rtol=0.1)


@pytest.mark.parametrize(
    ("m", "eta", "k"), [(1.0, 2.0, 30.0), (0.5, 1.5, 100.0), (2.0, 9.0, 3.0)], ids=["light", "stiff", "overdamped"]
)
def test_driven_oscillator_after_the_transient(m, eta, k):
    period = 1.7
    f, g = signal.fourier_coefficients(signal.square_wave(np.arange(64) / 64, delay=0.1), 12)
    slowest = min(-np.roots([m, eta, k]).real)
    start = 30 / slowest  # exp(-30) = 1e-13 of the transient is left
    t = np.linspace(start, start + 2 * period, 41)

    def motion(time, state):
        force = signal.fourier_series(time, f, g, period).item()
        return [state[1], (force - eta * state[1] - k * state[0]) / m]

    solution = scipy.integrate.solve_ivp(
        motion, (0, t[-1]), [0.3, -1.0], "DOP853", t_eval=t, rtol=1e-9, atol=1e-11 / k, max_step=period / 12
    )
    x = signal.driven_oscillator(t, f, g, period, m, eta, k)
    np.testing.assert_allclose(x, solution.y[0], rtol=0, atol=1e-7 * np.abs(x).max())


@given(seeds, st.integers(0, 9), st.tuples(*[st.floats(0.1, 10)] * 4))
@settings(max_examples=50)
def test_driven_oscillator_solves_the_equation(seed, count, parameters):
    m, eta, k, period = parameters
    f, g = trigonometric(seed, count)
    t = np.arange(4 * count + 4) * period / (4 * count + 4)
    x = signal.driven_oscillator(t, f, g, period, m, eta, k)
    # Derivatives of a trigonometric polynomial, by the Fourier transform of its samples.
    factor = 2j * np.pi / period * np.arange(t.size // 2 + 1)
    transform = np.fft.rfft(x)
    terms = [np.fft.irfft(weight * transform, t.size) for weight in (m * factor**2, eta * factor, k)]
    size = np.abs(m * factor**2).max() + np.abs(eta * factor).max() + k
    allowed = 100 * np.finfo(float).eps * size * np.abs(x).max() * t.size + 1e-13
    assert np.abs(sum(terms) - signal.fourier_series(t, f, g, period)).max() <= allowed


def test_response():
    amplitude, delta = signal.oscillator_response([0.0, 2.0, 1e6], m=2.0, eta=0.5, k=8.0)
    np.testing.assert_allclose(amplitude, [1 / 8, 1 / (0.5 * 2), 1 / (2e12 - 8)], rtol=1e-9)
    np.testing.assert_allclose(delta, [0, np.pi / 2, np.pi], atol=1e-6)


# ---------------------------------------------------------------------------------------------------
# the convolution theorem


@given(
    seeds, st.integers(1, 2).flatmap(lambda rank: st.tuples(*[st.tuples(*[st.integers(1, 12)] * rank)] * 2)),
    st.sampled_from(["float32", "float64", "complex64", "complex128", "int16"]),
)  # fmt: skip
def test_convolution_theorem(seed, shapes, dtype):
    a, b = numbers(seed, shapes[0], dtype), numbers(seed + 1, shapes[1], dtype)
    result = signal.convolution_theorem(a, b)
    # SciPy has the same dtypes, but for integers.
    factor = 1.0 if dtype == "int16" else 1
    like = scipy.signal.convolve(factor * a, factor * b, method="direct")
    assert result.direct.dtype == result.product.dtype == like.dtype
    assert result.direct.shape == result.product.shape == like.shape
    eps = np.finfo(like.dtype).eps
    norm = float(np.linalg.norm(a.astype(complex)) * np.linalg.norm(b.astype(complex)))
    np.testing.assert_allclose(result.direct, like, rtol=0, atol=tolerance(like.dtype, 4 * b.size) * norm)
    np.testing.assert_allclose(result.error * norm, np.abs(result.product - result.direct).max(), rtol=1e-5)
    assert result.error <= result.bound + tolerance(like.dtype, 4 * b.size)
    np.testing.assert_allclose(result.bound, 4 * eps * max(math.log2(like.size), 1), rtol=1e-5)


# ---------------------------------------------------------------------------------------------------
# refusals

ONES = np.ones((3, 3))
HUGE = np.full((9, 9), 2**40)
MANY = np.full((500, 9), 2**40)  # more than one block
REFUSED = [
    (lambda: signal.convolve([], [1]), ValueError, "in1: expected at least one element, received an empty"),
    (lambda: signal.convolve([1], ONES), ValueError, "in2: expected 1 axis, received shape"),
    (lambda: signal.convolve([1], ["a"]), TypeError, "in2: expected numbers, received dtype"),
    (lambda: signal.convolve([True], [True]), TypeError, "in1, in2: expected integers, float32"),
    (lambda: signal.convolve([1], [1], "most"), ValueError, "mode: expected one of"),
    (lambda: signal.convolve([1], [1], method="fast"), ValueError, "method: expected one of"),
    (lambda: signal.convolve([2**60], [2**60], method="fft"), ValueError, "method: expected 'direct' for integers"),
    (lambda: signal.polynomial_multiply([1.0, np.nan], [1]), ValueError, "alpha: expected finite numbers, rec"),
    (lambda: signal.polynomial_multiply([1], [1, np.inf]), ValueError, "beta: expected finite numbers, received inf"),
    (lambda: signal.toeplitz_matrix([1], 0), ValueError, "n: expected an integer >= 1"),
    (lambda: signal.toeplitz_matrix([[1]], 2), ValueError, "w: expected 1 axis"),
    (lambda: signal.toeplitz_multiply([1], []), ValueError, "x: expected at least one element"),
    (lambda: signal.correlate2d(ONES[0], ONES), ValueError, "in1: expected 2 axes"),
    (lambda: signal.correlate2d([[1, 2], [3]], ONES), ValueError, "in1: expected rows of one length"),
    (lambda: signal.correlate2d(ONES, ONES[:0]), ValueError, "in2: expected at least one element"),
    (lambda: signal.convolve2d(ONES > 0, ONES > 0), TypeError, "in1, in2: expected int.*received bool and bool"),
    (lambda: signal.convolve2d(ONES.astype("e"), ONES.astype("e")), TypeError, "in1, in2: expected .*float16"),
    (lambda: signal.convolve2d(np.ones((2, 3)), np.ones((3, 2)), "valid"), ValueError, "in1, in2: expected one of"),
    (lambda: signal.convolve2d(ONES, ONES, "Full"), ValueError, "mode: expected one of"),
    (lambda: signal.convolve2d(ONES, ONES, boundary="reflect"), ValueError, "boundary: expected one of"),
    (lambda: signal.convolve2d(ONES, ONES, method=None), ValueError, "method: expected one of"),
    (lambda: signal.convolve2d(ONES, ONES, fillvalue=1j), ValueError, "fillvalue: expected one number that float64"),
    (lambda: signal.convolve2d(ONES, ONES, fillvalue=[1, 2]), ValueError, "fillvalue: expected one number"),
    (lambda: signal.convolve2d(ONES, ONES, fillvalue="0"), TypeError, "fillvalue: expected one number"),
    (lambda: signal.convolve2d(HUGE, HUGE, fillvalue=np.nan), ValueError, "fillvalue: expected one number that int64"),
    (lambda: signal.convolve2d(np.ones((2, 2), "u1"), [[True]], fillvalue=-1), ValueError, "that uint8 can hold"),
    (lambda: signal.convolve2d(HUGE, HUGE, method="fft"), ValueError, "method: expected 'direct' for integers"),
    (lambda: signal.convolve2d(MANY, HUGE, method="fft"), ValueError, "method: expected 'direct' for integers"),
    (lambda: signal.fourier_coefficients([1, 2, 3], 2), ValueError, "count: expected less than half of the 3"),
    (lambda: signal.fourier_coefficients([1, np.nan, 3], 1), ValueError, "function: expected finite numbers"),
    (lambda: signal.fourier_coefficients([1j, 0, 0], 1), TypeError, "function: expected real numbers"),
    (lambda: signal.fourier_coefficients(np.cos, -1), ValueError, "count: expected an integer >= 0"),
    (lambda: signal.fourier_coefficients(np.cos, 1, 0), ValueError, "period: expected a positive number"),
    (lambda: signal.fourier_coefficients(lambda t: np.nan, 1), ValueError, "function: expected one finite, real"),
    (lambda: signal.fourier_coefficients(lambda t: [t, t], 1), ValueError, "function: expected one finite, real"),
    (lambda: signal.fourier_series(0.0, [1, 2], [1]), ValueError, "g: expected 2 coefficients, as many as f has"),
    (lambda: signal.fourier_series([np.inf], [1], [1]), ValueError, "t: expected finite numbers"),
    (lambda: signal.square_wave(0.0, 1.0, 2.0), ValueError, "width: expected a finite number in"),
    (lambda: signal.driven_oscillator(0.0, [1, np.nan], [0, 0]), ValueError, "f: expected finite numbers"),
    (lambda: signal.driven_oscillator(0.0, [1], [0], eta=0), ValueError, "eta: expected a positive number"),
    (lambda: signal.oscillator_response(-1.0), ValueError, "omega: expected frequencies >= 0"),
    (lambda: signal.convolution_theorem([1.0, np.nan], [1.0]), ValueError, "in1: expected finite numbers"),
    (lambda: signal.convolution_theorem(np.ones((1, 1, 1)), [1.0]), ValueError, "in1: expected 1 or 2 axes"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), REFUSED, ids=[message[:30] for *_, message in REFUSED])
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_function_without_an_integral_is_refused():
    with pytest.raises(ValueError, match="function: expected one whose coefficients converge"):
        signal.fourier_coefficients(lambda t: math.sin(1 / (t + 1e-9)) / (t + 1e-9), 1)


def test_fft_on_cuda_wants_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match="method: expected 'auto' or 'direct' on CUDA without the package cupy"):
        pictures._toolbox("another device than the CPU")


def test_importing_is_light():
    code = "import sys, gpuconv.signal; print([n for n in ('scipy', 'numba', 'matplotlib') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
