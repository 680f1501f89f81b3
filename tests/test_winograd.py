"""Correlations by Winograd's tiles: what they compute, how exactly, and when they are taken."""

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import reference
from gpuconv.kernels import cpu
from gpuconv.kernels.cpu import threads, winograd
from gpuconv.kernels.geometry import correlation_geometry
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import ALPHA, Data, layer_value, run
from support import FUSABLE, assert_close, explicit_padding, seeds

TILES = (2, 4)
REAL = (np.float32, np.float64)
NAMES = ("correlate2d", "correlate2d_gradient_input", "correlate2d_gradient_filters")

# As many channels as a vector of any processor holds.
FEWEST = 16


def check(name, tile, data, geometry, activation):
    """Run one kernel by tiles, and compare it with the reference; returns what it computed.

    What is allowed is relative to the largest sum of all, not to each output's own: an output that sees little of a
    padded picture is made from large numbers, like any other of its tile.
    """
    g = geometry
    x, filters, bias = (data.numbers(shape) for shape in (g.input_shape, g.filters_shape, g.out_channels))
    dy, y = data.numbers(g.output_shape), layer_value(data, g.output_shape, activation)
    if name == "correlate2d":
        inputs, outputs, terms = {"x": x, "filters": filters, "bias": bias}, {"y": y.shape}, 9 * g.channels
    elif name == "correlate2d_gradient_input":
        inputs, outputs, terms = {"dy": dy, "y": y, "filters": filters}, {"dx": x.shape}, 9 * g.out_channels
    else:
        inputs, outputs = {"x": x, "dy": dy, "y": y}, {"dfilters": filters.shape, "dbias": bias.shape}
        terms = g.batch * g.out_height * g.out_width
    inputs |= {"geometry": g, "activation": activation, "alpha": ALPHA}
    results = run(Tiled(tile), name, inputs, {key: data.garbage(shape) for key, shape in outputs.items()})
    sizes = {key: np.abs(value) if isinstance(value, np.ndarray) else value for key, value in inputs.items()}
    formula = getattr(reference, name)
    expected, scales = formula(**inputs), formula(**{**sizes, "activation": reference.LINEAR})
    if len(results) == 1:
        expected, scales = [expected], [scales]
    for result, exact, scale in zip(results, expected, scales, strict=True):
        assert_close(result, exact, data.dtype, terms, scale.max())
    return results


class Tiled:
    """The CPU, its 3 x 3 correlations computed by tiles of one size."""

    def __init__(self, tile):
        self.tile = tile

    def __getattr__(self, name):
        if name in NAMES:
            return lambda *arguments: getattr(winograd, name)(*arguments, self.tile)
        return getattr(cpu, name)


@st.composite
def geometries(draw):
    """3 x 3 correlations of stride 1, of pictures smaller and larger than a tile, channels on both sides of vectors."""
    batch, height, width = (draw(st.integers(1, most)) for most in (5, 14, 14))
    channels, filters = (draw(st.integers(FEWEST, 50)) for _ in range(2))
    padding = draw(st.one_of(st.sampled_from(["valid", "same", "full"]), explicit_padding((4, 4))))
    if padding not in ("same", "full"):
        height, width = max(height, 3), max(width, 3)
    return correlation_geometry((batch, height, width, channels), 3, filters, padding=padding)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", NAMES)
@given(geometry=geometries(), activation=st.sampled_from(FUSABLE), seed=seeds)
def test_tiles_compute_the_correlation(name, tile, dtype, geometry, activation, seed):
    check(name, tile, Data(seed, dtype), geometry, activation)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", NAMES)
def test_edges_of_vectors_panels_and_blocks(name, tile):
    for edge in (17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65):
        check(name, tile, Data(edge, np.float32), correlation_geometry((1, 5, 5, edge), 3, FEWEST), 1)
        check(name, tile, Data(edge, np.float32), correlation_geometry((1, 5, 5, FEWEST), 3, edge), 1)
        # A line of many tiles, and many pictures of one tile.
        check(name, tile, Data(edge, np.float32), correlation_geometry((2, 3, 5 * edge, 16), 3, 16), 1)
        check(name, tile, Data(edge, np.float32), correlation_geometry((7 * edge, 4, 3, 16), 3, 16), 1)


@pytest.mark.parametrize("points", [(0, 1, -1), (0, 1, -1, 2, -2), (0, Fraction(1, 2), Fraction(-1, 2), 3)])
def test_matrices_make_a_correlation_of_every_input_and_filter(points):
    inputs, filters, outputs = map(np.array, winograd._matrices([Fraction(point) for point in points]))
    size = len(inputs)
    # Both sides are linear in input and filter: it is enough to try the unit vectors.
    for cell in range(size):
        for tap in range(3):
            x, g = np.eye(size)[cell], np.eye(3)[tap]
            y = outputs @ ((filters @ g) * (inputs @ x))
            np.testing.assert_allclose(y, np.correlate(x, g, "valid"), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("shape", "filters", "padding"),
    [
        ((4, 15, 15, 32), 64, "valid"),
        ((4, 6, 6, 64), 64, "valid"),
        ((1, 56, 56, 64), 64, "same"),
        ((1, 28, 28, 128), 128, "same"),
        ((1, 7, 7, 512), 512, "same"),
    ],
)
def test_errors_stay_below_the_documented_bounds(shape, filters, padding, rectified, tile):
    g = correlation_geometry(shape, 3, filters, padding=padding)
    random = np.random.default_rng(1)
    x, dy = (random.standard_normal(shape, np.float32) for shape in (g.input_shape, g.output_shape))
    if rectified:
        x = np.maximum(x, 0)
    weights = random.standard_normal(g.filters_shape, np.float32) * np.float32(np.sqrt(2 / (9 * g.channels)))
    bias = np.zeros(filters, np.float32)
    y, dx, dweights, dbias = (np.empty_like(array) for array in (dy, x, weights, bias))
    winograd.correlate2d(x, weights, bias, g, reference.LINEAR, 0.0, y, tile)
    winograd.correlate2d_gradient_input(dy, y, weights, g, reference.LINEAR, 0.0, dx, tile)
    winograd.correlate2d_gradient_filters(x, dy, y, g, reference.LINEAR, 0.0, dweights, dbias, tile)
    expected = [
        (y, reference.correlate2d(x, weights, bias, g, reference.LINEAR, 0.0)),
        (dx, reference.correlate2d_gradient_input(dy, y, weights, g, reference.LINEAR, 0.0)),
        (dweights, reference.correlate2d_gradient_filters(x, dy, y, g, reference.LINEAR, 0.0)[0]),
    ]
    for got, exact in expected:
        assert np.abs(got - exact).max() <= winograd.ERRORS[tile] * np.abs(exact).max()


@pytest.fixture
def number_of_threads():
    """`threads.set_num_threads`, undone afterwards."""
    before = threads.get_num_threads()
    yield threads.set_num_threads
    threads.set_num_threads(before)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", NAMES)
def test_results_are_bitwise_the_same_for_any_number_of_threads_and_again(name, tile, number_of_threads):
    geometry = correlation_geometry((7, 29, 31, 24), 3, 40, padding="same")
    results = []
    for count in (1, 2, 2, threads.WORKERS):
        number_of_threads(count)
        results.append([output.tobytes() for output in check(name, tile, Data(1, np.float32), geometry, 1)])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("tile", TILES)
def test_special_values_reach_the_tiles_that_see_them_and_no_others(tile, special):
    g = correlation_geometry((2, 13, 14, 16), 3, 17, padding="same")
    random = np.random.default_rng(2)
    x, weights = random.standard_normal(g.input_shape), random.standard_normal(g.filters_shape)
    bias, before, after = np.zeros(g.out_channels), np.empty(g.output_shape), np.empty(g.output_shape)
    winograd.correlate2d(x, weights, bias, g, reference.RELU, 0.0, before, tile)
    x[1, 6, 7, 3] = special
    winograd.correlate2d(x, weights, bias, g, reference.RELU, 0.0, after, tile)
    exact = reference.correlate2d(x, weights, bias, g, reference.LINEAR, 0.0)
    direct = ~np.isfinite(exact).all(axis=3)
    assert direct.sum() == 9
    # All of the tiles one cell of which sees the value.
    seen = np.zeros_like(direct)
    for i in range(0, g.out_height, tile):
        for j in range(0, g.out_width, tile):
            seen[1, i : i + tile, j : j + tile] = direct[1, i : i + tile, j : j + tile].any()
    np.testing.assert_array_equal(after[~seen], before[~seen])
    assert np.isnan(after[direct]).any()
    if np.isnan(special):
        assert np.isnan(after[direct]).all()


@pytest.fixture
def choice():
    """`set_winograd`, undone afterwards."""
    before = winograd.get_winograd()
    yield winograd.set_winograd
    winograd.set_winograd(before)


LARGE = correlation_geometry((16, 28, 28, 64), 3, 64, padding="same")
DTYPE = np.dtype(np.float32)


def test_large_tiles_are_taken_where_they_pay(choice):
    choice("auto")
    for gradient in (None, "input", "filters"):
        assert winograd.choose(LARGE, DTYPE, gradient) == 4
    # A tile of four would compute sixteen outputs where four are wanted.
    assert winograd.choose(correlation_geometry((64, 4, 4, 64), 3, 64), DTYPE) == 2
    # Most taps of a small picture's gradient by input lie outside, where the direct sum leaves them out.
    small = correlation_geometry((128, 6, 6, 64), 3, 64)
    assert (winograd.choose(small, DTYPE), winograd.choose(small, DTYPE, "input")) == (4, 0)
    # The sums of a filter's gradient over tiles would take hundreds of megabytes.
    wide = correlation_geometry((16, 7, 7, 512), 3, 512, padding="same")
    assert (winograd.choose(wide, DTYPE), winograd.choose(wide, DTYPE, "filters")) == (4, 0)
    # A single tile leaves most of the product's rows empty.
    assert winograd.choose(correlation_geometry((1, 4, 4, 64), 3, 64), DTYPE) == 0


@pytest.mark.parametrize("forced", [0, 2, 4])
def test_the_choice_can_be_forced(forced, choice):
    choice(forced)
    assert winograd.get_winograd() == forced
    for gradient in (None, "input", "filters"):
        assert winograd.choose(LARGE, DTYPE, gradient) == forced
    choice(str(forced))
    assert winograd.get_winograd() == forced


@pytest.mark.parametrize(
    "case",
    [
        {"kernel_size": 5},
        {"kernel_size": (3, 1)},
        {"strides": (1, 2)},
        {"dilation": (2, 1)},
        {"groups": 2},
        {"out_channels": 15},
        {"input_shape": (16, 28, 28, 3)},
    ],
)
def test_other_correlations_are_left_to_the_direct_sum(case, choice):
    choice(4)
    arguments = {"input_shape": (16, 28, 28, 64), "kernel_size": 3, "out_channels": 64, "padding": "same"}
    geometry = correlation_geometry(**{**arguments, **case})
    assert not winograd.usable(geometry, DTYPE)
    assert winograd.choose(geometry, DTYPE) == 0


@pytest.mark.parametrize("wrong", [3, "always", None, 2.5])
def test_a_wrong_choice_is_refused(wrong, choice):
    before = winograd.get_winograd()
    with pytest.raises(ValueError, match=r"winograd: expected 'auto', 0, 2 or 4, received"):
        choice(wrong)
    assert winograd.get_winograd() == before


def test_the_environment_chooses_at_the_start():
    program = "from gpuconv.kernels.cpu import winograd; print(winograd.get_winograd())"
    environment = {**os.environ, "GPUCONV_WINOGRAD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "2"
