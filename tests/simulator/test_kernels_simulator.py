"""The CUDA kernels in Numba's simulator against the reference.

Every CUDA thread costs milliseconds there, so shapes are chosen by hand: just large enough that the
simulator's tiles (`gpuconv.kernels.cuda.tiles`) are crossed, with ragged ends.
"""

import inspect

import numpy as np
import pytest
from gpuconv.kernels import TABLE, cuda
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from kernel_checks import (
    CHECKS,
    MEMORY,
    NOT_PROPAGATING,
    Data,
    check_memory,
    check_repetition,
    check_special_values,
    unpadded,
)
from support import cases_of

CORRELATIONS = [
    {"geometry": correlation_geometry((2, 5, 4, 3), (3, 2), 5, padding="same"), "activation": 1},
    {"geometry": correlation_geometry((1, 6, 5, 2), (2, 3), 9, (2, 1), ((0, 2), (1, 0)), (2, 1)), "activation": 0},
    {"geometry": correlation_geometry((3, 3, 4, 4), 2, 6, padding="full", groups=2), "activation": 3},
    {"geometry": correlation_geometry((1, 7, 5, 3), 3, 6, (1, 2), "same", (1, 2), groups=3), "activation": 5},
    {"geometry": correlation_geometry((1, 7, 5, 9), 1, 1, (3, 2)), "activation": 6},
    {"geometry": correlation_geometry((2, 5, 6, 1), (5, 6), 3), "activation": 4},
    {"geometry": correlation_geometry((1, 4, 4, 4), (1, 2), 4, padding=((0, 0), (2, 1)), groups=4), "activation": 2},
]
# Channels by themselves, and few, with strides.
CORRELATIONS += [
    {"geometry": correlation_geometry((1, 5, 6, 4), 3, 4, 2, "same", groups=4), "activation": 1},
    {"geometry": correlation_geometry((1, 5, 6, 2), (3, 1), 4, 2), "activation": 0},
]
# Channels and filters that are fetched four at a time, or one of them; more cells than a mask has bits.
CORRELATIONS += [
    {"geometry": correlation_geometry((1, 5, 4, 8), 3, 20, padding="same"), "activation": 1},
    {"geometry": correlation_geometry((2, 4, 5, 12), (2, 3), 10, (2, 1), "same"), "activation": 0},
    {"geometry": correlation_geometry((1, 8, 9, 1), (6, 7), 4, padding="same"), "activation": 1},
]
POOLINGS = [
    {"geometry": pooling_geometry((2, 5, 4, 3), 2)},
    {"geometry": pooling_geometry((1, 5, 6, 3), 3, 1, "same")},
    {"geometry": pooling_geometry((1, 7, 5, 2), (2, 3), (3, 1), ((1, 0), (2, 1)))},
    {"geometry": pooling_geometry((2, 3, 4, 5), (2, 1), (1, 2))},
    {"geometry": pooling_geometry((1, 3, 5, 8), 2)},
]
POOLED_CORRELATIONS = [
    {"geometry": correlation_geometry((2, 5, 4, 3), (3, 2), 5, padding="same"), "activation": 1},
    {"geometry": correlation_geometry((1, 7, 5, 2), 2, 3, (1, 2)), "activation": 3, "window": (3, 1)},
]
PADDINGS = [
    {"shape": (2, 3, 4, 3), "padding": ((1, 2), (3, 0))},
    {"shape": (1, 2, 2, 1), "padding": ((0, 0), (0, 0))},
    {"shape": (1, 2, 3, 4), "padding": ((0, 1), (2, 0))},
]
DENSES = [
    {"shape": (9, 5, 10), "activation": 1},
    {"shape": (17, 18, 3), "activation": 3},
    {"shape": (1, 1, 1), "activation": 4},
    {"shape": (37, 2, 9), "activation": 0},
]
ARRAYS = [(53,), (3, 5), (2, 3, 2, 3)]
ACTIVATIONS = [{"shape": ARRAYS[number % 3], "activation": number} for number in range(8)]
RELUS = [
    {"shape": (53,), "negative_slope": 0.0, "max_value": np.inf, "threshold": 0.0},
    {"shape": (2, 3, 2, 3), "negative_slope": 0.25, "max_value": 1.0, "threshold": 0.5},
]
# Rows cross the rows of a block and the grid, columns the lanes of a row, and the other way round.
MATRICES = [{"shape": shape} for shape in ((11, 3), (3, 10), (1, 1), (3, 20))]
COLUMNS = [{"shape": shape} for shape in ((21, 5), (3, 9), (1, 2), (17, 8))]
SIZES = [{"size": 53}, {"size": 3}]
CASES = {
    **cases_of(
        correlations=CORRELATIONS,
        pooled_correlations=POOLED_CORRELATIONS,
        poolings=POOLINGS,
        paddings=PADDINGS,
        activations=ACTIVATIONS,
        relus=RELUS,
        denses=DENSES,
        columns=COLUMNS,
        matrices=MATRICES,
    ),
    "correlate_image": [
        {"shape": (6, 7), "kernel_size": (2, 3), "beyond": (2, 3)},
        {"shape": (1, 3), "kernel_size": (3, 5), "beyond": (0, 0)},
        {"shape": (1, 1), "kernel_size": (1, 1), "beyond": (0, 0)},
    ],
    "moving_average": [{**size, "momentum": 0.999} for size in SIZES],
    "dropout": [
        {"shape": (141,), "rate": 0.3, "seed": 2**63 + 5, "stream": 2, "step": 2**32 - 1},
        {"shape": (3, 5), "rate": 0.0, "seed": 0, "stream": 0, "step": 0},
    ],
    "regularize": [{"size": 203, "regions": 4}, {"size": 9, "regions": 1}],
    "sgd": [
        {"size": 53, "momentum": 0.0, "nesterov": False, "weight_decay": 0.01},
        {"size": 9, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
        {"size": 9, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ],
    "adam": [{"size": 53, "step": 1, "weight_decay": 0.0}, {"size": 9, "step": 40, "weight_decay": 0.01}],
    "rmsprop": [
        {"size": 53, "momentum": 0.0, "centered": False, "weight_decay": 0.0},
        {"size": 9, "momentum": 0.9, "centered": True, "weight_decay": 0.01},
        {"size": 9, "momentum": 0.9, "centered": False, "weight_decay": 0.0},
        {"size": 9, "momentum": 0.0, "centered": True, "weight_decay": 0.0},
    ],
    "gather": [
        {"source_rows": 12, "features": 7, "start": 3, "rows": 8},
        {"source_rows": 5, "features": 1, "start": 0, "rows": 5, "kind": np.int32},
        {"source_rows": 5, "features": 8, "start": 1, "rows": 3},
    ],
    "put": [
        {"total": 12, "features": 7, "start": 3, "rows": 8},
        {"total": 5, "features": 8, "start": 2, "rows": 3},
    ],
    "sum_into": [{"size": 203, "place": 1}, {"size": 5, "place": 0}],
}
FLOAT64 = [
    "correlate2d",
    "correlate2d_gradient_input",
    "correlate2d_gradient_filters",
    "dense_gradient_kernel",
    "max_pool2d",
    "batch_normalization_gradient",
    "softmax_cross_entropy",
    "adam",
]


def test_every_kernel_has_its_checks():
    assert CHECKS.keys() == CASES.keys() == TABLE.keys() - MEMORY


@pytest.mark.parametrize("name", TABLE)
def test_signatures_are_those_of_the_table(name):
    assert list(inspect.signature(getattr(cuda, name)).parameters) == TABLE[name].split()


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, cases in CASES.items() for number in range(len(cases))]
)
def test_kernel(name, number):
    CHECKS[name](cuda, Data(number, np.float32), **CASES[name][number])


@pytest.mark.parametrize("name", FLOAT64)
def test_kernel_in_float64(name):
    CHECKS[name](cuda, Data(0, np.float64), **CASES[name][0])


# The threads of the simulator do not see that the check lets NumPy's warnings pass.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", sorted(CHECKS.keys() - NOT_PROPAGATING))
def test_nan_and_infinities_propagate(name):
    check_special_values(cuda, name, **unpadded(name, CASES[name][0]))


# Sums that several blocks or threads add up.
@pytest.mark.parametrize(
    "name",
    [
        "correlate2d_gradient_filters",
        "dense_gradient_kernel",
        "softmax",
        "batch_moments",
        "batch_normalization_gradient",
        "regularize",
        "sum_into",
    ],
)
def test_results_are_bitwise_repeatable(name):
    results = [CHECKS[name](cuda, Data(0, np.float32), **CASES[name][0]) for _ in range(2)]
    for first, second in zip(*results, strict=True):
        assert first.tobytes() == second.tobytes()


def test_memory():
    check_memory(cuda)


def test_repetition():
    check_repetition(cuda)
