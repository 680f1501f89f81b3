"""Every CUDA kernel on a GPU against the reference: collected only where a GPU answers.

The cases of `cuda_cases` meet the edges of all tiles; to them come layers of real networks, which fill a GPU.
"""

import numpy as np
import pytest
import reference
from cuda_cases import CASES
from gpuconv.kernels import cuda, formulas, precision
from gpuconv.kernels.cuda import tiles, toolkit
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from kernel_checks import (
    CHECKS,
    NOT_PROPAGATING,
    Data,
    check_memory,
    check_repetition,
    check_special_values,
    unpadded,
)
from support import cases_of

# For every tile: long sums, many blocks, ragged ends, and the versions of a layer.
LARGE_CORRELATIONS = [
    {"geometry": geometry, "activation": formulas.RELU}
    for geometry in (
        correlation_geometry((8, 32, 32, 3), 3, 32, padding="same"),
        correlation_geometry((32, 28, 28, 1), 3, 32),
        correlation_geometry((16, 15, 15, 32), 3, 64),
        correlation_geometry((16, 6, 6, 64), 3, 64),
        correlation_geometry((4, 56, 56, 64), 3, 64, padding="same"),
        correlation_geometry((2, 28, 28, 128), 3, 128, padding="same"),
        correlation_geometry((4, 28, 28, 64), 1, 256),
        correlation_geometry((4, 28, 28, 32), 5, 64, padding="same"),
        correlation_geometry((4, 28, 28, 32), 3, 64, 2, padding="same"),
        correlation_geometry((4, 28, 28, 32), 3, 64, padding="same", dilation=2),
        correlation_geometry((4, 28, 28, 64), 3, 64, padding="same", groups=64),
        correlation_geometry((4, 29, 31, 37), 5, 37, 2, padding="same", groups=37),
        correlation_geometry((4, 57, 61, 3), 7, 64, 2, padding="same"),
        correlation_geometry((4, 33, 70, 7), (3, 5), 45, padding="same"),
        correlation_geometry((4, 28, 28, 66), 3, 45, padding="same", groups=3),
        correlation_geometry((2, 37, 41, 13), (2, 5), 51, padding="full"),
    )
]
LARGE_POOLINGS = [
    {"geometry": pooling_geometry((16, 30, 30, 32), 2)},
    {"geometry": pooling_geometry((4, 61, 47, 37), 3, 2, "same")},
]
LARGE_DENSES = [
    {"shape": (128, 1024, 64), "activation": formulas.RELU},
    {"shape": (513, 390, 259), "activation": formulas.TANH},
]
LARGE_MATRICES = [{"shape": (5000, 16)}, {"shape": (300, 1000)}]
LARGE_COLUMNS = [{"shape": (100_000, 32)}, {"shape": (3000, 515)}]
LARGE_SIZES = [{"size": 3_000_001}]
LARGE = {
    **cases_of(
        correlations=LARGE_CORRELATIONS,
        pooled_correlations=LARGE_CORRELATIONS,
        poolings=LARGE_POOLINGS,
        denses=LARGE_DENSES,
        columns=LARGE_COLUMNS,
    ),
    **dict.fromkeys(("softmax", "softmax_gradient", "softmax_cross_entropy", "sparse_accuracy"), LARGE_MATRICES),
    "activate": [{"shape": (3_000_001,), "activation": formulas.TANH}],
    "dropout": [{"shape": (3_000_001,), "rate": 0.3, "seed": 5, "stream": 2, "step": 7}],
    "adam": [{**size, "step": 3, "weight_decay": 0.01} for size in LARGE_SIZES],
    "regularize": [{**size, "regions": 4} for size in LARGE_SIZES],
    "sum_into": [{**size, "place": 1} for size in LARGE_SIZES],
}
ALL = [
    pytest.param(name, case, id=f"{name}-{size}-{number}")
    for size, cases_of in (("edges", CASES), ("large", LARGE))
    for name, cases in cases_of.items()
    for number, case in enumerate(cases)
]
FLOAT64 = sorted(CHECKS.keys())


@pytest.mark.parametrize(("name", "case"), ALL)
def test_kernel(name, case):
    CHECKS[name](cuda, Data(1, np.float32), **case)


@pytest.mark.parametrize("name", FLOAT64)
def test_kernel_in_float64(name):
    CHECKS[name](cuda, Data(0, np.float64), **CASES[name][0])


@pytest.mark.parametrize("name", sorted(CHECKS.keys() - NOT_PROPAGATING))
def test_nan_and_infinities_propagate(name):
    check_special_values(cuda, name, **unpadded(name, CASES[name][0]))


@pytest.mark.parametrize("name", LARGE)
def test_results_are_bitwise_repeatable(name):
    results = [CHECKS[name](cuda, Data(0, np.float32), **LARGE[name][-1]) for _ in range(3)]
    for first, *others in zip(*results, strict=True):
        assert {other.tobytes() for other in others} == {first.tobytes()}


def test_all_tiles_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(toolkit, "compute_capability", lambda: (8, 6))  # no tensor cores for float32
    results = set()
    for tile in tiles.REGISTER_TILES:
        monkeypatch.setattr(tiles, "REGISTER_TILES", (tile,))
        [y] = CHECKS["correlate2d"](cuda, Data(3, np.float32), **LARGE_CORRELATIONS[4])
        results.add(y.tobytes())
    assert len(results) == 1


# How far a factor may be off by rounding to TF32 and to bfloat16, and with it a product; and float32.
ROUNDING = {"float32": 2.0**-20, "tf32": 2 * 2.0**-10, "bf16": 2 * 2.0**-8}


@pytest.mark.parametrize("choice", precision.CHOICES)
@pytest.mark.parametrize("case", [3, 4, 8, 15])
def test_tensor_cores(choice, case, monkeypatch):
    geometry = LARGE_CORRELATIONS[case]["geometry"]
    data = Data(5, np.float32)
    x, filters = data.numbers(geometry.input_shape), data.numbers(geometry.filters_shape)
    bias = data.numbers(geometry.out_channels)
    before = precision.get_precision()
    precision.set_precision(choice)
    try:
        placed = [cuda.from_host(array) for array in (x, filters, bias, data.garbage(geometry.output_shape))]
        cuda.correlate2d(*placed[:3], geometry, formulas.LINEAR, 0.0, placed[3])
        y = cuda.to_host(placed[3])
    finally:
        precision.set_precision(before)
    error = np.abs(y - reference.correlate2d(x, filters, bias, geometry, reference.LINEAR, 0.0))
    sizes = [np.abs(array).astype(np.float64) for array in (x, filters, bias)]
    size = reference.correlate2d(*sizes, geometry, reference.LINEAR, 0.0)
    terms = geometry.kernel_height * geometry.kernel_width * geometry.channels // geometry.groups
    assert (error <= (ROUNDING[choice] + terms * 2.0**-23) * size).all()


def test_memory():
    check_memory(cuda)


def test_repetition():
    check_repetition(cuda)
