"""The kernels of the CPU against the reference, over drawn shapes, and what holds for all of them."""

import inspect

import numpy as np
import pytest
from gpuconv.kernels import TABLE, cpu
from gpuconv.kernels.cpu import narrow, plan, pointwise, pool, sliding, sliding_filters, winograd
from gpuconv.kernels.cpu.dense import PLAN, PLAN_SIZE, _plan
from gpuconv.kernels.cpu.epilogue import NO_WINDOW
from gpuconv.kernels.cpu.processor import BESIDE_ROWS
from gpuconv.kernels.cpu.product import lanes, panel_start, panels
from gpuconv.kernels.cpu.threads import WORKERS
from gpuconv.kernels.formulas import LINEAR, RELU, SIGMOID
from gpuconv.kernels.geometry import correlation_geometry, pooled_part, pooling_geometry
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import (
    CHECKS,
    MEMORY,
    NOT_PROPAGATING,
    Data,
    check_memory,
    check_repetition,
    check_special_values,
    run,
    unpadded,
)
from support import CASES, cases_of

import gpuconv

REAL = [np.float32, np.float64]

# For every kernel a case with work for several threads.
LARGE_CORRELATION = {"geometry": correlation_geometry((4, 21, 19, 16), 3, 24, 1, "same"), "activation": 1}
LARGE_POOLING = {"geometry": pooling_geometry((4, 65, 63, 8), 3, 2, "same")}
LARGE_PADDING = {"shape": (4, 65, 63, 8), "padding": ((1, 2), (3, 4))}
LARGE_DENSE = {"shape": (130, 70, 50), "activation": 3}
LARGE_ARRAY = {"shape": (4, 65, 63, 8)}
LARGE_RELU = {**LARGE_ARRAY, "negative_slope": 0.1, "max_value": 1.5, "threshold": 0.5}
LARGE_MATRIX = {"shape": (2600, 120)}
LARGE_SIZE = {"size": 300_001}
LARGE_CASES = {
    **cases_of(
        correlations=LARGE_CORRELATION,
        pooled_correlations=LARGE_CORRELATION,
        poolings=LARGE_POOLING,
        paddings=LARGE_PADDING,
        activations={**LARGE_ARRAY, "activation": 7},
        relus=LARGE_RELU,
        denses=LARGE_DENSE,
    ),
    "correlate_image": {"shape": (130, 170), "kernel_size": (5, 7), "beyond": (3, 2)},
    "moving_average": {**LARGE_SIZE, "momentum": 0.99},
    "dropout": {"shape": (50_001,), "rate": 0.3, "seed": 2**63 + 5, "stream": 2, "step": 2**32 - 1},
    "regularize": {**LARGE_SIZE, "regions": 5},
    "sgd": {**LARGE_SIZE, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {**LARGE_SIZE, "step": 3, "weight_decay": 0.01},
    "rmsprop": {**LARGE_SIZE, "momentum": 0.9, "centered": True, "weight_decay": 0.01},
    "gather": {"source_rows": 1300, "features": 120, "start": 7, "rows": 1200},
    "put": {"total": 1300, "features": 120, "start": 7, "rows": 1200},
    "sum_into": {**LARGE_SIZE, "place": 1},
}


# (batch, inputs, outputs) of products that are cut in all ways: into blocks of rows, of the depth and of columns, with
# copies of both matrices, and with a last block smaller than the others.
LARGE_PRODUCTS = [(130, 700, 50), (3, 1030, 5), (40, 300, 405), (300, 520, 610), (700, 400, 70), (1030, 65, 17)]


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", ["dense", "dense_gradient_input", "dense_gradient_kernel"])
@pytest.mark.parametrize("shape", LARGE_PRODUCTS)
def test_large_products(shape, name, dtype):
    before = gpuconv.get_num_threads()
    results = []
    for threads in (1, 2):
        gpuconv.set_num_threads(threads)
        results.append(CHECKS[name](cpu, Data(3, dtype), shape, activation=3))
    gpuconv.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", ["sparse_accuracy", "categorical_accuracy"])
@pytest.mark.parametrize("columns", [2, 4, 5, 7, 8, 9, 10, 16, 17, 31, 32, 33])
def test_accuracies_of_few_columns(columns, name, dtype):
    for rows in (1, 3, 4, 7, 8, 9, 15, 16, 17, 101):
        CHECKS[name](cpu, Data(rows, dtype), (rows, columns))


@pytest.mark.parametrize("width", [405, 517, 1033])
@pytest.mark.parametrize("rows", [7, 40, 130, 1000])
def test_tasks_of_a_product_write_columns_of_their_own(rows, width):
    plan = _plan(rows, 400, width, 400, 1, False, np.dtype(np.float32))
    numbers = plan.tables[:PLAN_SIZE].view(PLAN)[0]
    whole = 2 * lanes(np.float32)
    for first in range(numbers["group"], panels(width, np.float32), numbers["group"]):
        assert panel_start.py_func(first, width, whole // 2) == first * whole


def test_every_kernel_has_its_checks():
    assert CHECKS.keys() == CASES.keys() == TABLE.keys() - MEMORY


@pytest.mark.parametrize("name", TABLE)
def test_signatures_are_those_of_the_table(name):
    function = getattr(cpu, name)
    signature = inspect.signature(getattr(function, "py_func", function))
    assert list(signature.parameters) == TABLE[name].split()


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", CHECKS)
@given(data=st.data())
def test_kernel(name, dtype, data):
    case = data.draw(CASES[name], label="case")
    seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
    CHECKS[name](cpu, Data(seed, dtype), **case)


# One short of, at and one past the multiples of 6 to 64 that tiles and vectors of any processor have.
EDGES = (1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 23, 24, 25, 27, 28, 29, 31, 32, 33, 47, 48, 49, 63, 64, 65)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", [name for name in CHECKS if "2d" in name or name.startswith("dense")])
def test_edges_of_tiles(name, dtype):
    for edge in EDGES:
        data = Data(edge, dtype)
        for axis in range(3):
            shape = [3, 3, 3]
            shape[axis] = edge
            width, channels, filters = shape
            if name.startswith("correlate"):
                padding = ("valid", "same")[axis % 2]
                geometry = correlation_geometry((2, 3, width + 1, channels), 2, filters, padding=padding)
                CHECKS[name](cpu, data, geometry, axis)
            elif name.startswith("dense"):
                CHECKS[name](cpu, data, shape, axis)
            elif axis < 2:
                picture = (2, 3, width + 1, channels)
                if "pool" in name:
                    CHECKS[name](cpu, data, pooling_geometry(picture, 2, axis + 1))
                else:
                    CHECKS[name](cpu, data, picture, ((1, 0), (0, 2)))
    if name.startswith("correlate"):
        for channels, filters in ((17, 33), (33, 17), (65, 9)):
            CHECKS[name](cpu, Data(1, dtype), correlation_geometry((2, 9, 15, channels), 3, filters), 1)
        for groups in (5, 7, 9, 12, 15, 16, 17, 33):
            geometry = correlation_geometry((2, 5, 6, groups), 3, 2 * groups, groups=groups)
            CHECKS[name](cpu, Data(groups, dtype), geometry, 1)


def test_memory():
    check_memory(cpu)


def test_repetition():
    check_repetition(cpu)


@pytest.fixture
def threads():
    """`gpuconv.set_num_threads`, undone afterwards."""
    before = gpuconv.get_num_threads()
    yield gpuconv.set_num_threads
    gpuconv.set_num_threads(before)


@pytest.mark.parametrize("name", CHECKS)
def test_results_are_bitwise_the_same_for_any_number_of_threads_and_again(name, threads):
    case = LARGE_CASES.get(name, LARGE_MATRIX)
    results = []
    for count in (1, 2, 2, WORKERS):
        threads(count)
        outputs = CHECKS[name](cpu, Data(1, np.float32), **case)
        results.append([output.tobytes() for output in outputs])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("choice", ["auto", 0, 2, 4, 5, 6])
@pytest.mark.parametrize("name", [name for name in CHECKS if name.startswith("correlate2d")])
def test_tiles_are_taken_where_they_are_chosen(name, choice):
    geometry = correlation_geometry((2, 29, 31, 40), 3, 48, padding="same")
    gradient = name.rpartition("gradient_")[2] if "gradient" in name else None
    before = gpuconv.get_winograd()
    gpuconv.set_winograd(choice)
    try:
        tile = winograd.choose(geometry, np.dtype(np.float32), gradient)
        assert tile == choice if choice != "auto" else tile in winograd.TILES
        CHECKS[name](cpu, Data(1, np.float32), geometry, 1)
    finally:
        gpuconv.set_winograd(before)


@pytest.mark.parametrize("name", sorted(CHECKS.keys() - NOT_PROPAGATING))
def test_nan_and_infinities_propagate(name):
    check_special_values(cpu, name, **unpadded(name, LARGE_CASES.get(name, {"shape": (13, 11)})))


# Rows shorter than a vector, as long as one, and longer.
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("columns", [3, 8, 10])
@pytest.mark.parametrize("name", ["softmax", "softmax_cross_entropy", "sparse_softmax_cross_entropy"])
def test_nan_and_infinities_propagate_in_short_rows(name, columns, dtype):
    check_special_values(cpu, name, dtype, shape=(13, columns))


@pytest.mark.parametrize("activation", range(8))
def test_every_activation_keeps_nan(activation):
    x = np.array([np.nan, 1.0], np.float32)
    inputs = {"x": x, "activation": activation, "alpha": 0.3}
    (y,) = run(cpu, "activate", inputs, {"y": np.zeros(2, np.float32)})
    assert np.isnan(y).tolist() == [True, False]


def test_windows_of_more_than_256_cells():
    for geometry in (pooling_geometry((2, 21, 22, 3), (17, 16), 2), pooling_geometry((1, 270, 270, 1), 269, 1)):
        CHECKS["max_pool2d"](cpu, Data(1, np.float32), geometry)
        CHECKS["max_pool2d_gradient"](cpu, Data(1, np.float32), geometry)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("channels", [3, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 33])
def test_depthwise_gradients_of_many_pixels(channels, dtype):
    # Several blocks of pixels a slot: what is added up must be added once.
    for kernel_size, dilation in ((3, 1), (3, 2), ((2, 3), 1)):
        geometry = correlation_geometry(
            (4, 20, 20, channels), kernel_size, channels, 1, "same", dilation, groups=channels
        )
        CHECKS["correlate2d_gradient_filters"](cpu, Data(channels, dtype), geometry, 1)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("channels", [7, 8])
@pytest.mark.parametrize("filters", [63, 64, 65, 72, 80, 89])
def test_packed_gradients_of_filters(filters, channels, dtype):
    """Both sides of as many rows and filters as let dz be packed; blocks of pixels that are full, and the last one."""
    geometry = correlation_geometry((3, 15, 14, channels), 3, filters, 2, ((1, 0), (0, 1)))
    packed = plan.forward_plan(geometry, np.dtype(dtype), False).tables[: plan.PLAN_SIZE].view(plan.PLAN)
    assert bool(packed["dz_panel"][0]) == (filters >= 64 and channels == 8)
    # What is not multiplied by slopes is packed from dy.
    for activation in (LINEAR, SIGMOID):
        CHECKS["correlate2d_gradient_filters"](cpu, Data(filters, dtype), geometry, activation)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("channels", [4, 8, 12, 16, 20, 24, 28, 44])
def test_gradients_of_filters_whose_rows_lie_side_by_side(channels, kernel, dtype):
    """Tall and low tiles, and whatever rows are left for the last one; whole panels of filters, in groups too.

    Several blocks of pixels, and several tasks of a slot.
    """
    for groups in (1, 2):
        filters = 4 * lanes(np.dtype(dtype)) * groups
        geometry = correlation_geometry((3, 24, 21, channels * groups), kernel, filters, 2, groups=groups)
        beside = plan.forward_plan(geometry, np.dtype(dtype), False).tables[: plan.PLAN_SIZE].view(plan.PLAN)["beside"]
        assert bool(beside[0]) == bool(BESIDE_ROWS)
        for activation in (LINEAR, RELU):
            CHECKS["correlate2d_gradient_filters"](cpu, Data(channels, dtype), geometry, activation)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("filters", [1, 2, 4, 7, 8, 10, 15, 16, 17, 24, 33, 40])
def test_gradients_of_biases(filters, channels, dtype):
    """Filters that fill vectors, and those that do not; blocks of pixels of each remainder by four."""
    for width in (9, 10, 11, 12):
        geometry = correlation_geometry((1, 13, width, channels), 1, filters)
        CHECKS["correlate2d_gradient_filters"](cpu, Data(filters, dtype), geometry, LINEAR)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", ["max_pool2d_gradient", "average_pool2d_gradient"])
@pytest.mark.parametrize("shape", [(3, 10, 12, 16), (2, 9, 13, 37), (2, 70, 31, 3), (1, 3, 150, 129), (3, 2, 3, 8)])
def test_gradients_of_pooling_from_beyond_the_caches(shape, name, dtype, monkeypatch):
    monkeypatch.setattr(pool, "PAST_CACHES", 1)
    CHECKS[name](cpu, Data(1, dtype), pooling_geometry(shape, 2))


@pytest.mark.parametrize("dtype", REAL)
def test_gradients_of_large_depthwise_filters(dtype):
    """As many rows and filters as let dz be packed, but of channels that do not mix, for which it is not."""
    geometry = correlation_geometry((2, 12, 11, 64), 8, 64, groups=64)
    CHECKS["correlate2d_gradient_filters"](cpu, Data(1, dtype), geometry, 1)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"input_shape": (2, 9, 9, 8)}, True),
        ({"input_shape": (2, 9, 9, 8), "dilation": 2}, True),
        ({"input_shape": (2, 9, 9, 6)}, False),
        # Taps that lie side by side, and those that do not.
        ({"input_shape": (2, 9, 9, 1), "kernel_size": (3, 4)}, True),
        ({"input_shape": (2, 9, 9, 1), "kernel_size": (3, 4), "dilation": 2}, False),
        ({"input_shape": (2, 9, 9, 1), "kernel_size": 3}, False),
    ],
)
def test_fours_share_an_offset(case, expected):
    """What the tables say, and results for depths with each remainder by four."""
    geometry = correlation_geometry(**{"kernel_size": 3, "out_channels": 17, **case})
    for dtype in REAL:
        tables = plan.forward_plan(geometry, np.dtype(dtype)).tables
        numbers = tables[: plan.PLAN_SIZE].view(plan.PLAN)[0]
        phases = tables[plan.PLAN_SIZE : numbers["phases_end"]].view(plan.PHASE)
        assert [bool(fours) for fours in phases["fours"]] == [expected]
        CHECKS["correlate2d"](cpu, Data(1, dtype), geometry, 0)


def test_many_classes_of_large_filters_are_not_sorted():
    geometry = correlation_geometry((2, 20, 20, 40), 19, 8, padding="same")
    for name in ("correlate2d", "correlate2d_gradient_input"):
        CHECKS[name](cpu, Data(1, np.float32), geometry, 1)


# Few channels, whose gradient by input has pixels as lanes: every kind of border, several bands, groups, phases without
# taps, a line shorter than its zeros, and a picture that sees nothing but padding.
NARROW = {
    "valid": correlation_geometry((2, 13, 18, 3), 3, 17),
    "same": correlation_geometry((2, 13, 17, 1), (4, 3), 16, padding="same"),
    "full": correlation_geometry((2, 6, 33, 2), (2, 5), 19, padding="full"),
    "cropped": correlation_geometry((1, 9, 9, 3), 3, 16, padding=((5, 0), (0, 6))),
    "strides": correlation_geometry((2, 21, 19, 3), 3, 16, 2, "same"),
    "phases without taps": correlation_geometry((1, 17, 20, 3), (2, 1), 17, (3, 4)),
    "dilation": correlation_geometry((2, 20, 23, 3), 3, 18, padding="same", dilation=(2, 3)),
    "dilation and strides": correlation_geometry((1, 22, 25, 3), (3, 2), 16, (3, 2), dilation=(2, 3)),
    "groups": correlation_geometry((2, 12, 11, 6), 3, 48, padding="same", groups=3),
    "bands": correlation_geometry((3, 130, 67, 3), 5, 16, (1, 2), "same"),
    "one pixel": correlation_geometry((1, 1, 1, 3), 3, 16, padding=1),
}


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("case", NARROW)
def test_gradient_by_input_of_few_channels(case, dtype):
    geometry = NARROW[case]
    assert narrow.usable(geometry, np.dtype(dtype))
    for activation in (0, 1, 3):
        CHECKS["correlate2d_gradient_input"](cpu, Data(activation, dtype), geometry, activation)


def test_gradient_by_input_of_few_channels_is_bitwise_the_same_for_any_number_of_threads(threads):
    assert narrow._plan(NARROW["bands"], np.dtype(np.float32)).tables[narrow.PLAN.names.index("bands")] > 1
    for case in ("bands", "strides", "groups"):
        results = []
        for count in (1, 2, WORKERS):
            threads(count)
            (dx,) = CHECKS["correlate2d_gradient_input"](cpu, Data(1, np.float32), NARROW[case], 1)
            results.append(dx.tobytes())
        assert len(set(results)) == 1


def test_special_values_reach_what_they_should_in_gradients_of_few_channels():
    for case in ("valid", "phases without taps"):
        check_special_values(cpu, "correlate2d_gradient_input", geometry=NARROW[case], activation=1)


def test_few_channels_take_the_usual_way_where_that_is_better():
    usual = {
        "one cell": correlation_geometry((2, 9, 9, 3), 1, 16),
        "few filters": correlation_geometry((2, 9, 9, 3), 3, 3),
        "many channels": correlation_geometry((2, 9, 9, 16), 3, 16),
        "too many cells for the cache": correlation_geometry((1, 40, 300, 3), 31, 16),
    }
    for geometry in usual.values():
        assert not narrow.usable(geometry, np.dtype(np.float32))
        CHECKS["correlate2d_gradient_input"](cpu, Data(1, np.float32), geometry, 0)


# Depthwise filters three cells wide: lines that are narrower than a tile, hold one, and have a remainder; bands; every
# kind of border, tall filters, and lines that see nothing but padding.
SLIDING = {
    "valid": correlation_geometry((2, 7, 15, 16), 3, 16, groups=16),
    "same": correlation_geometry((2, 9, 21, 19), 3, 19, padding="same", groups=19),
    "narrow": correlation_geometry((3, 5, 5, 23), 3, 23, groups=23),
    "full": correlation_geometry((2, 6, 10, 16), 3, 16, padding="full", groups=16),
    "cropped": correlation_geometry((1, 9, 9, 17), 3, 17, padding=((5, 0), (0, 2)), groups=17),
    "tall and dilated": correlation_geometry((2, 20, 12, 16), (5, 3), 16, padding="same", dilation=(2, 1), groups=16),
    "one line": correlation_geometry((2, 6, 14, 18), (1, 3), 18, padding="same", groups=18),
    "bands": correlation_geometry((1, 90, 25, 16), 3, 16, padding="same", groups=16),
    "one pixel": correlation_geometry((1, 1, 1, 16), 3, 16, padding=1, groups=16),
    "beyond the picture": correlation_geometry((1, 2, 3, 16), 3, 16, padding=((4, 5), (2, 1)), groups=16),
}


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("case", SLIDING)
def test_depthwise_filters_three_cells_wide(case, dtype):
    geometry = SLIDING[case]
    assert sliding.usable(geometry, np.dtype(dtype))
    for activation in (0, 1, 3):
        CHECKS["correlate2d"](cpu, Data(activation, dtype), geometry, activation)
        CHECKS["correlate2d_gradient_input"](cpu, Data(activation, dtype), geometry, activation)


@pytest.mark.parametrize("columns", [(0, 6), (6, 4)])
def test_depthwise_filters_with_more_padding_than_cells(columns):
    geometry = correlation_geometry((1, 9, 9, 17), 3, 17, padding=((5, 0), columns), groups=17)
    assert not sliding.usable(geometry, np.dtype(np.float32))
    for name in ("correlate2d", "correlate2d_gradient_input"):
        CHECKS[name](cpu, Data(1, np.float32), geometry, 1)


@pytest.mark.parametrize("name", ["correlate2d", "correlate2d_gradient_input"])
def test_depthwise_filters_are_bitwise_the_same_for_any_number_of_threads(name, threads):
    numbers, _ = sliding._plan(SLIDING["bands"], np.dtype(np.float32), False)
    assert numbers["bands"][0] > 1
    for case in ("bands", "full"):
        results = []
        for count in (1, 2, WORKERS):
            threads(count)
            (output,) = CHECKS[name](cpu, Data(1, np.float32), SLIDING[case], 1)
            results.append(output.tobytes())
        assert len(set(results)) == 1


@pytest.mark.parametrize("name", ["correlate2d", "correlate2d_gradient_input"])
def test_special_values_reach_what_they_should_in_depthwise_filters(name):
    for case in ("valid", "same", "tall and dilated"):
        check_special_values(cpu, name, geometry=SLIDING[case], activation=1)


# The gradient by filters of 3 x 3 cells whose channels do not mix: lines of one piece and of several, with every kind
# of end; lines beyond the picture, also all that a line of the filter sees; a last vector that overlaps; several blocks
# of lines a slot, and slots that end within a picture.
SLIDING_FILTERS = {
    "valid": correlation_geometry((2, 7, 15, 16), 3, 16, groups=16),
    "same": correlation_geometry((2, 9, 41, 33), 3, 33, padding="same", groups=33),
    "narrow": correlation_geometry((3, 5, 5, 19), 3, 19, groups=19),
    "two pixels": correlation_geometry((2, 1, 2, 16), 3, 16, padding="same", groups=16),
    "one target pixel": correlation_geometry((1, 3, 2, 17), 3, 17, padding=((0, 0), (1, 0)), groups=17),
    "beyond the picture": correlation_geometry((2, 2, 30, 16), 3, 16, padding=((5, 4), (0, 1)), groups=16),
    "dilation": correlation_geometry((2, 20, 12, 16), 3, 16, padding=((2, 1), (1, 0)), dilation=(2, 1), groups=16),
    "slots": correlation_geometry((3, 90, 45, 17), 3, 17, padding="same", groups=17),
}


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("case", SLIDING_FILTERS)
def test_gradient_by_depthwise_filters(case, dtype):
    geometry = SLIDING_FILTERS[case]
    assert sliding_filters.usable(geometry, np.dtype(dtype))
    for activation in (0, 1, 3):
        CHECKS["correlate2d_gradient_filters"](cpu, Data(activation, dtype), geometry, activation)


def test_gradient_by_depthwise_filters_from_beyond_the_caches(monkeypatch):
    monkeypatch.setattr(sliding_filters, "PAST_CACHES", 1)
    sliding_filters._plan.cache_clear()
    for geometry in SLIDING_FILTERS.values():
        for activation in (0, 1):
            CHECKS["correlate2d_gradient_filters"](cpu, Data(activation, np.float32), geometry, activation)
    sliding_filters._plan.cache_clear()


def test_gradient_by_depthwise_filters_through_max_pooling():
    geometry = correlation_geometry((2, 9, 14, 17), 3, 17, groups=17)
    part = pooled_part(geometry, pooling_geometry(geometry.output_shape, 2))
    assert sliding_filters.usable(part, np.dtype(np.float32))
    for activation in (0, 1, 3):
        CHECKS["correlate2d_max_pool2d_gradient_filters"](cpu, Data(activation, np.float32), geometry, activation)


def test_gradient_by_depthwise_filters_is_bitwise_the_same_for_any_number_of_threads(threads):
    numbers, _ = sliding_filters._plan(SLIDING_FILTERS["slots"], np.dtype(np.float32), NO_WINDOW)
    assert numbers["slots"][0] > 2
    results = []
    for count in (1, 2, WORKERS):
        threads(count)
        outputs = CHECKS["correlate2d_gradient_filters"](cpu, Data(1, np.float32), SLIDING_FILTERS["slots"], 1)
        results.append([output.tobytes() for output in outputs])
    assert all(result == results[0] for result in results)


def test_special_values_reach_what_they_should_in_the_gradient_by_depthwise_filters():
    for seed, special in enumerate([(np.nan,), (np.inf,), (np.nan, np.inf, -np.inf)]):
        data = Data(seed, np.float32, special)
        CHECKS["correlate2d_gradient_filters"](cpu, data, SLIDING_FILTERS["valid"], 1)


# Filters of one cell: C wider than a vector, as wide and narrower, and of several panels, of which some tiles take two;
# blocks with and without a remainder; as few pixels as a tile has rows; several tasks.  Forward of one channel, and
# backward from one, up to four vectors of C are written side by side, of which the last may overlap the one before.
POINTWISE = {
    "wide": correlation_geometry((2, 9, 31, 70), 1, 33),
    "narrow to wide": correlation_geometry((2, 17, 19, 3), 1, 40),
    "two panels": correlation_geometry((2, 9, 13, 64), 1, 65),
    "panels and a vector": correlation_geometry((2, 11, 13, 99), 1, 140),
    "short sums of panels": correlation_geometry((2, 17, 19, 5), 1, 128),
    "narrow": correlation_geometry((1, 7, 7, 1), 1, 5),
    "one channel": correlation_geometry((1, 31, 33, 1), 1, 1),
    "from one channel": correlation_geometry((4, 60, 61, 1), 1, 80),
    **{f"from one channel to {width}": correlation_geometry((2, 9, 11, 1), 1, width) for width in (13, 20, 31, 45, 60)},
    "to one channel": correlation_geometry((2, 40, 41, 25), 1, 1),
    "a vector": correlation_geometry((3, 5, 5, 8), 1, 8),
    "a tile": correlation_geometry((1, 1, pointwise.MOST_ROWS, 4), 1, 9),
    "tasks": correlation_geometry((4, 40, 41, 24), 1, 16),
    "narrow tasks": correlation_geometry((4, 60, 61, 32), 1, 3),
}


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("case", POINTWISE)
def test_filters_of_one_cell(case, dtype):
    geometry = POINTWISE[case]
    assert pointwise.usable(geometry)
    for activation in (0, 1, 3):
        CHECKS["correlate2d"](cpu, Data(activation, dtype), geometry, activation)
        CHECKS["correlate2d_gradient_input"](cpu, Data(activation, dtype), geometry, activation)


@pytest.mark.parametrize("name", ["correlate2d", "correlate2d_gradient_input"])
def test_filters_of_one_cell_are_bitwise_the_same_for_any_number_of_threads(name, threads):
    for case in ("tasks", "narrow tasks", "from one channel"):
        numbers, _ = pointwise._plan(POINTWISE[case], np.dtype(np.float32), name != "correlate2d")
        assert numbers["tasks"][0] > 1
        results = []
        for count in (1, 2, WORKERS):
            threads(count)
            (output,) = CHECKS[name](cpu, Data(1, np.float32), POINTWISE[case], 1)
            results.append(output.tobytes())
        assert len(set(results)) == 1


@pytest.mark.parametrize("name", ["correlate2d", "correlate2d_gradient_input"])
def test_special_values_reach_what_they_should_in_filters_of_one_cell(name):
    for case in ("wide", "narrow to wide", "one channel", "from one channel", "to one channel"):
        check_special_values(cpu, name, geometry=POINTWISE[case], activation=1)


@pytest.mark.parametrize("activation", [0, 1, 3])
@pytest.mark.parametrize(
    ("shape", "strides"),
    [((1, 2, 3, 33), 1), ((3, 11, 13, 33), (2, 3)), ((2, 40, 30, 17), (2, 3))],
    ids=["few pixels", "whole pictures", "bands"],
)
def test_gradient_by_input_of_one_cell_needs_no_zeros(shape, strides, activation):
    geometry = correlation_geometry(shape, 1, 24, strides)
    assert not pointwise.usable(geometry)
    CHECKS["correlate2d_gradient_input"](cpu, Data(1, np.float32), geometry, activation)


# Pictures of several bands, with zeros around them: places are sorted by the cells of a filter that lie inside, and of
# some kinds there are fewer than a tile has rows.  Outputs of one to three panels, and narrower than a vector.
PADDED_BANDS = {
    "stride 1": correlation_geometry((1, 30, 29, 12), (3, 5), 40, padding="same", dilation=2),
    "stride 2": correlation_geometry((2, 50, 51, 8), 3, 65, 2, "same"),
    "strides": correlation_geometry((1, 61, 70, 16), 3, 100, (2, 1), ((1, 0), (0, 2))),
    "groups": correlation_geometry((1, 47, 48, 12), 5, 70, (1, 2), "same", groups=2),
    "narrow": correlation_geometry((1, 40, 41, 6), 3, 7, (1, 2), "same"),
    "a line of zeros": correlation_geometry((1, 40, 41, 16), 2, 33, 1, ((3, 3), (3, 3))),
}


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("case", PADDED_BANDS)
def test_padded_bands(case, dtype, threads):
    geometry = PADDED_BANDS[case]
    tables = plan.forward_plan(geometry, np.dtype(dtype)).tables
    assert tables[: plan.PLAN_SIZE].view(plan.PLAN)["bands"][0] > 1
    for activation in (0, 1, 3):
        for name in ("correlate2d", "correlate2d_gradient_input"):
            CHECKS[name](cpu, Data(activation, dtype), geometry, activation)
    results = []
    for count in (1, 2, WORKERS):
        threads(count)
        results.append(CHECKS["correlate2d"](cpu, Data(1, dtype), geometry, 1)[0].tobytes())
    assert len(set(results)) == 1
