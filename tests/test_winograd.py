"""Correlations by Winograd's tiles: what they compute, how exactly, and when they are taken."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import reference
from gpuconv.kernels import cpu
from gpuconv.kernels.cpu import threads, transforms, winograd
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import ALPHA, Data, layer_value, run
from support import FUSABLE, assert_close, explicit_padding, seeds, tolerance

# Sides of a tile's outputs and of the filters; two of them in float64 too, which has no code of its own.
FAMILIES = winograd.FAMILIES
TYPES = [(family, np.float32) for family in FAMILIES] + [((4, 3), np.float64), ((4, 5), np.float64)]
NAMES = ("correlate2d", "correlate2d_gradient_input", "correlate2d_gradient_filters")

# As many channels as a vector of any processor holds.
FEWEST = 16


def check(name, tile, data, geometry, activation):
    """Run one kernel by tiles, and compare it with the reference; returns what it computed.

    What is allowed is relative to the largest sum of all, not to each output's own: an output that sees little of a
    padded picture is made from large numbers, like any other of its tile.  It is the rounding of a sum of so many terms
    or, where they are few, that of the transforms, which is documented.
    """
    g = geometry
    x, filters, bias = (data.numbers(shape) for shape in (g.input_shape, g.filters_shape, g.out_channels))
    dy, y = data.numbers(g.output_shape), layer_value(data, g.output_shape, activation)
    if name == "correlate2d":
        inputs, outputs = {"x": x, "filters": filters, "bias": bias}, {"y": y.shape}
        terms = g.kernel_height * g.kernel_width * g.channels
    elif name == "correlate2d_gradient_input":
        inputs, outputs = {"dy": dy, "y": y, "filters": filters}, {"dx": x.shape}
        terms = g.kernel_height * g.kernel_width * g.out_channels
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
    transforms_error = winograd.ERRORS[tile, g.kernel_height] * np.finfo(data.dtype).eps / np.finfo(np.float32).eps
    growth = max(1, transforms_error / tolerance(data.dtype, terms))
    for result, exact, scale in zip(results, expected, scales, strict=True):
        assert_close(result, exact, data.dtype, terms, scale.max() * growth)
    return results


class Tiled:
    """The CPU, its correlations computed by tiles of one size."""

    def __init__(self, tile):
        self.tile = tile

    def __getattr__(self, name):
        if name in NAMES:
            return lambda *arguments: getattr(winograd, name)(*arguments, self.tile)
        return getattr(cpu, name)


@st.composite
def geometries(draw, taps):
    """Correlations of stride 1, of pictures smaller and larger than a tile, channels on both sides of vectors."""
    batch, height, width = (draw(st.integers(1, most)) for most in (5, 14, 14))
    channels, filters = (draw(st.integers(FEWEST, 50)) for _ in range(2))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3), (3, 2)]))
    padding = draw(st.one_of(st.sampled_from(["valid", "same", "full"]), explicit_padding((4, 4))))
    if padding not in ("same", "full"):
        height, width = (max(extent, (taps - 1) * d + 1) for extent, d in zip((height, width), dilation, strict=True))
    return correlation_geometry((batch, height, width, channels), taps, filters, padding=padding, dilation=dilation)


@pytest.mark.parametrize(("family", "dtype"), TYPES)
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), activation=st.sampled_from(FUSABLE), seed=seeds)
def test_tiles_compute_the_correlation(name, family, dtype, data, activation, seed):
    tile, taps = family
    check(name, tile, Data(seed, dtype), data.draw(geometries(taps)), activation)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_edges_of_vectors_panels_and_blocks(name, family):
    tile, taps = family
    for edge in (17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65):
        for shape, filters in (
            ((1, taps + 2, taps + 2, edge), FEWEST),
            ((1, taps + 2, taps + 2, FEWEST), edge),
            # A line of many tiles, and many pictures of one tile.
            ((2, taps, 5 * edge, FEWEST), FEWEST),
            ((7 * edge, taps + 1, taps, FEWEST), FEWEST),
        ):
            check(name, tile, Data(edge, np.float32), correlation_geometry(shape, taps, filters), 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_every_remainder_of_tiles_and_dilation(name, family):
    tile, taps = family
    for dilation in (1, 2):
        for more in range(2 * tile + 1):
            reach = (taps - 1) * dilation + 1
            geometry = correlation_geometry((2, reach, reach + more, 16), taps, 17, dilation=dilation)
            check(name, tile, Data(more, np.float32), geometry, 0)
            padded = correlation_geometry((1, more + 1, 2, 17), taps, 16, dilation=dilation, padding="same")
            check(name, tile, Data(more, np.float32), padded, 1)


@pytest.mark.parametrize("name", ["correlate2d", "correlate2d_gradient_input"])
def test_a_dilated_correlation_is_ordinary_ones_interleaved(name):
    """Bit for bit: the same tiles of the same numbers, from other places to other places."""
    data, dilation = Data(3, np.float32), 2
    whole = correlation_geometry((3, 20, 24, 16), 3, 18, dilation=dilation)
    part = correlation_geometry((3, 10, 12, 16), 3, 18)
    x, dy, weights = (data.numbers(shape) for shape in (whole.input_shape, whole.output_shape, whole.filters_shape))
    (sources, target), fixed = (([x], dy), [weights, data.numbers(18)])
    if name == "correlate2d_gradient_input":
        (sources, target), fixed = (([dy, dy], x), [weights])

    def run_tiles(sources, geometry, shape):
        result = np.empty(shape, np.float32)
        getattr(winograd, name)(*sources, *fixed, geometry, reference.LINEAR, 0.0, result, 4)
        return result

    result = run_tiles(sources, whole, target.shape)
    for i in range(dilation):
        for j in range(dilation):
            cells = [np.ascontiguousarray(source[:, i::dilation, j::dilation]) for source in sources]
            expected = run_tiles(cells, part, target[:, i::dilation, j::dilation].shape)
            np.testing.assert_array_equal(result[:, i::dilation, j::dilation], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_filters_beyond_the_cache(family):
    """All panels of a position are computed together then, the last one overlapping the one before."""
    tile, taps = family
    channels, filters = 17 * 16, 17 * 11
    side = 2 * tile + 1
    geometry = correlation_geometry((2, side, side + 2, channels), taps, filters, padding="same")
    positions = (tile + taps - 1) ** 2
    assert positions * channels * filters * 4 > winograd.FAR_FILTERS_BYTES
    for name in ("correlate2d", "correlate2d_gradient_input"):
        check(name, tile, Data(6, np.float32), geometry, reference.RELU)
    if tile % 2:
        return
    # With pooling, the same as one after the other.
    data, window = Data(7, np.float32), (2, 2)
    x, weights, bias = (data.numbers(shape) for shape in (geometry.input_shape, geometry.filters_shape, filters))
    y = np.empty(geometry.output_shape, np.float32)
    winograd.correlate2d(x, weights, bias, geometry, reference.RELU, 0.0, y, tile)
    pool = pooling_geometry(y.shape, window)
    expected, pooled = (np.empty(pool.output_shape, np.float32) for _ in range(2))
    winners = [np.empty(pool.output_shape, pool.winner_dtype) for _ in range(2)]
    cpu.max_pool2d(y, pool, expected, winners[0])
    winograd.correlate2d(x, weights, bias, geometry, reference.RELU, 0.0, pooled, tile, window, winners[1])
    np.testing.assert_array_equal(pooled, expected)
    np.testing.assert_array_equal(*winners)


def test_pictures_of_a_large_batch_are_computed_as_one_by_one():
    """Bit for bit: of a large target, lines are asked for before they are written, beyond its end too."""
    data, pictures = Data(4, np.float32), 17
    shape = (64, 64, FEWEST)
    batch, single = (correlation_geometry((count, *shape), 3, FEWEST, padding="same") for count in (pictures, 1))
    x, weights, bias = (data.numbers(shape) for shape in (batch.input_shape, batch.filters_shape, FEWEST))
    result, expected = np.empty(batch.output_shape, np.float32), np.empty(single.output_shape, np.float32)
    assert result.nbytes >= winograd.FAR_BYTES
    winograd.correlate2d(x, weights, bias, batch, reference.LINEAR, 0.0, result, 4)
    for picture in (0, pictures - 1):
        one = np.ascontiguousarray(x[picture : picture + 1])
        winograd.correlate2d(one, weights, bias, single, reference.LINEAR, 0.0, expected, 4)
        np.testing.assert_array_equal(result[picture], expected[0])


POINTS_AND_TAPS = [
    (points, taps)
    for points in (*transforms.POINTS.values(), (0, "1/2", "-1/2", 3, 5, -1))
    for taps in (3, 5)
    if len(points) + 1 >= taps  # tiles have outputs
]


@pytest.mark.parametrize(("points", "taps"), POINTS_AND_TAPS)
def test_matrices_make_a_correlation_of_every_input_and_filter(points, taps):
    inputs, filters, outputs = map(np.array, transforms.matrices(points, taps))
    size = len(inputs)
    # Both sides are linear in input and filter: it is enough to try the unit vectors.
    for cell in range(size):
        for tap in range(taps):
            x, g = np.eye(size)[cell], np.eye(taps)[tap]
            y = outputs @ ((filters @ g) * (inputs @ x))
            np.testing.assert_allclose(y, np.correlate(x, g, "valid"), rtol=0, atol=1e-12)


def test_inputs_and_outputs_are_transformed_by_exact_numbers():
    for outputs, taps in FAMILIES:
        points = transforms.POINTS[outputs + taps - 1]
        for kind in (transforms.INPUTS, transforms.OUTPUTS):
            for matrix in map(np.array, transforms.stages(points, taps, kind)):
                np.testing.assert_array_equal(matrix.astype(np.float32), matrix)


@pytest.mark.parametrize("kind", [transforms.INPUTS, transforms.FILTERS, transforms.OUTPUTS])
@pytest.mark.parametrize(("points", "taps"), POINTS_AND_TAPS)
def test_stages_multiply_to_the_matrix(points, taps, kind):
    product = functools.reduce(np.matmul, map(np.array, transforms.stages(points, taps, kind)))
    np.testing.assert_allclose(product, transforms.matrices(points, taps)[kind], rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("shape", "filters", "padding", "dilation"),
    [
        ((4, 15, 15, 32), 64, "valid", 1),
        ((4, 6, 6, 64), 64, "valid", 1),
        ((1, 56, 56, 64), 64, "same", 2),
        ((1, 28, 28, 128), 128, "same", 1),
        ((1, 7, 7, 512), 512, "same", 1),
    ],
)
def test_errors_stay_below_the_documented_bounds(shape, filters, padding, dilation, rectified, family):
    tile, taps = family
    g = correlation_geometry(shape, taps, filters, padding=padding, dilation=dilation)
    random = np.random.default_rng(1)
    x, dy = (random.standard_normal(shape, np.float32) for shape in (g.input_shape, g.output_shape))
    if rectified:
        x = np.maximum(x, 0)
    weights = random.standard_normal(g.filters_shape, np.float32) * np.float32(np.sqrt(2 / (taps**2 * g.channels)))
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
        assert np.abs(got - exact).max() <= winograd.ERRORS[family] * np.abs(exact).max()


@pytest.fixture
def number_of_threads():
    """`threads.set_num_threads`, undone afterwards."""
    before = threads.get_num_threads()
    yield threads.set_num_threads
    threads.set_num_threads(before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_results_are_bitwise_the_same_for_any_number_of_threads_and_again(name, family, number_of_threads):
    tile, taps = family
    geometry = correlation_geometry((9, 29, 31, 24), taps, 40, padding="same", dilation=tile // 2)
    results = []
    for count in (1, 2, 2, threads.WORKERS):
        number_of_threads(count)
        results.append([output.tobytes() for output in check(name, tile, Data(1, np.float32), geometry, 1)])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_special_values_reach_the_tiles_that_see_them_and_no_others(family, dilation, special):
    tile, taps = family
    g = correlation_geometry((2, 13, 14, 16), taps, 17, padding="same", dilation=dilation)
    random = np.random.default_rng(2)
    x, weights = (random.standard_normal(shape, np.float32) for shape in (g.input_shape, g.filters_shape))
    bias, before, after = (np.zeros(shape, np.float32) for shape in (17, g.output_shape, g.output_shape))
    winograd.correlate2d(x, weights, bias, g, reference.RELU, 0.0, before, tile)
    x[1, 6, 7, 3] = special
    winograd.correlate2d(x, weights, bias, g, reference.RELU, 0.0, after, tile)
    exact = reference.correlate2d(x, weights, bias, g, reference.LINEAR, 0.0)
    direct = ~np.isfinite(exact).all(axis=3)
    assert direct.sum() == taps**2
    # All of the tiles one cell of which sees the value.
    seen = np.zeros_like(direct)
    phases = [[np.arange(phase, extent, dilation) for phase in range(dilation)] for extent in direct.shape[1:]]
    vertical, horizontal = (
        [cells[start : start + tile] for cells in axis for start in range(0, cells.size, tile)] for axis in phases
    )
    for lines in vertical:
        for columns in horizontal:
            cells = 1, lines[:, np.newaxis], columns
            seen[cells] = direct[cells].any()
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
GRADIENTS = (None, "input", "filters")


def test_large_tiles_are_taken_where_they_pay(choice):
    choice("auto")
    assert all(winograd.choose(LARGE, DTYPE, gradient) >= 4 for gradient in GRADIENTS)
    for dilation in (1, 2):
        geometry = correlation_geometry((16, 28, 28, 64), 5, 64, padding="same", dilation=dilation)
        assert all(winograd.choose(geometry, DTYPE, gradient) == 4 for gradient in GRADIENTS)
    assert winograd.choose(correlation_geometry((64, 6, 6, 64), 5, 64), DTYPE) == 2
    # Nine tiles of 5 for 13 x 13 outputs or 15 x 15 inputs, not sixteen of 4; windows of 2 x 2 need an even side.
    middle = correlation_geometry((128, 15, 15, 32), 3, 64)
    assert all(winograd.choose(middle, DTYPE, gradient) == 5 for gradient in GRADIENTS)
    assert winograd.choose(middle, DTYPE, window=(2, 2)) == 4
    # A tile of four would compute sixteen outputs where four are wanted.
    assert winograd.choose(correlation_geometry((64, 4, 4, 64), 3, 64), DTYPE) == 2
    # One tile of the side of all outputs: of 4 forward, of 6 back.
    small = correlation_geometry((128, 6, 6, 64), 3, 64)
    assert (winograd.choose(small, DTYPE), winograd.choose(small, DTYPE, "input")) == (4, 6)
    # Most taps of a small picture's gradient by input lie outside, where the direct sum leaves them out.
    assert winograd.choose(correlation_geometry((128, 6, 6, 64), 5, 64), DTYPE, "input") == 0
    # Interleaved, these are pictures of one output.
    dilated = correlation_geometry((128, 6, 6, 64), 3, 64, dilation=2)
    assert not any(winograd.choose(dilated, DTYPE, gradient) for gradient in GRADIENTS)
    # The sums of a filter's gradient over tiles would take hundreds of megabytes.
    wide = correlation_geometry((16, 7, 7, 512), 3, 512, padding="same")
    assert winograd.choose(wide, DTYPE)
    assert not winograd.choose(wide, DTYPE, "filters")
    # Few channels pay, too; larger filters than the cache holds make larger tiles cost more than they spare.
    assert all(
        winograd.choose(correlation_geometry((32, 28, 28, 16), 3, 16), DTYPE, gradient) for gradient in GRADIENTS
    )
    assert winograd.choose(correlation_geometry((16, 28, 28, 128), 3, 128, padding="same"), DTYPE) == 4
    # A single tile leaves most of the product's rows empty.
    assert winograd.choose(correlation_geometry((1, 4, 4, 64), 3, 64), DTYPE) == 0


@pytest.mark.parametrize("forced", [0, 2, 4, 5, 6])
def test_the_choice_can_be_forced(forced, choice):
    choice(forced)
    assert winograd.get_winograd() == forced
    for gradient in GRADIENTS:
        assert winograd.choose(LARGE, DTYPE, gradient) == forced
        # There are no tiles of 5 and 6 for filters of 5 x 5.
        geometry = correlation_geometry((16, 28, 28, 64), 5, 64)
        assert winograd.choose(geometry, DTYPE, gradient) == (forced if forced < 5 else 0)
    choice(str(forced))
    assert winograd.get_winograd() == forced


@pytest.mark.parametrize(
    "case",
    [
        {"kernel_size": 7},
        {"kernel_size": (3, 1)},
        {"kernel_size": (3, 5)},
        {"strides": (1, 2)},
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


@pytest.mark.parametrize("wrong", [3, 8, "always", None, 2.5])
def test_a_wrong_choice_is_refused(wrong, choice):
    before = winograd.get_winograd()
    with pytest.raises(ValueError, match=r"winograd: expected 'auto', 0, 2, 4, 5 or 6, received"):
        choice(wrong)
    assert winograd.get_winograd() == before


def test_the_environment_chooses_at_the_start():
    program = "from gpuconv.kernels.cpu import winograd; print(winograd.get_winograd())"
    environment = {**os.environ, "GPUCONV_WINOGRAD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "2"
