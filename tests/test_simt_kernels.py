"""Every CUDA kernel, compiled to PTX and executed on the CPU, against the reference.

Shapes cross the edges of the tiles that a GPU gets (`gpuconv.kernels.cuda.tiles`), and every access is checked
on the way: bounds, alignment, reads of what nothing wrote, races, barriers.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from cuda_arguments import _CORRELATIONS, _LAYERS, _POOLS
from gpuconv.kernels import TABLE, formulas
from gpuconv.kernels.cuda.toolkit import cuda
from gpuconv.kernels.geometry import correlation_geometry
from kernel_checks import CHECKS, MEMORY, NOT_PROPAGATING, Data, check_memory, check_repetition, check_special_values
from simt import Counters, Gpu
from simt.errors import SimtError, UninitialisedError
from test_cuda_ptx import device  # skips this file where NVIDIA's compiler cannot be had

CAPABILITIES = ((7, 5), (9, 0))

# The same variants that are compiled for `test_cuda_ptx`, and a problem of several blocks each way.
CORRELATIONS = [{"geometry": geometry, "activation": activation} for geometry, activation in _CORRELATIONS.values()]
SEVERAL_BLOCKS = correlation_geometry((2, 9, 8, 5), 3, 70, padding="same")
CORRELATIONS.append({"geometry": SEVERAL_BLOCKS, "activation": formulas.TANH})
POOLINGS = [{"geometry": geometry} for geometry in _POOLS.values()]
PADDINGS = [{"shape": (2, 3, 4, 3), "padding": ((1, 2), (3, 1))}]
DENSES = [{"shape": layer[:3], "activation": layer[3]} for layer in _LAYERS.values()]
DENSES.append({"shape": (70, 33, 67), "activation": formulas.TANH})
ACTIVATIONS = [{"shape": (7, 41), "activation": number} for number in range(8)]
RELUS = [{"shape": (2, 3, 50), "negative_slope": 0.25, "max_value": 1.0, "threshold": 0.5}]
# Rows cross the four rows of a block, columns the 32 lanes of a row.
MATRICES = [{"shape": (11, 3)}, {"shape": (3, 41)}, {"shape": (1, 1)}]
COLUMNS = [{"shape": (37, 5)}, {"shape": (3, 35)}]
SIZES = [{"size": 300}, {"size": 3}]
CASES = {
    "correlate2d": CORRELATIONS,
    "correlate2d_gradient_input": CORRELATIONS,
    # The last one has pixels enough to be split.
    "correlate2d_gradient_filters": [
        *CORRELATIONS,
        {"geometry": correlation_geometry((2, 13, 12, 2), 1, 3), "activation": formulas.RELU},
    ],
    "correlate_image": [
        {"shape": (12, 24), "kernel_size": (2, 3), "beyond": (2, 3)},
        {"shape": (1, 3), "kernel_size": (3, 5), "beyond": (0, 0)},
    ],
    "max_pool2d": POOLINGS,
    "max_pool2d_gradient": POOLINGS,
    "average_pool2d": POOLINGS,
    "average_pool2d_gradient": POOLINGS,
    "zero_pad2d": PADDINGS,
    "crop2d": PADDINGS,
    "activate": ACTIVATIONS,
    "activate_gradient": ACTIVATIONS,
    "relu": RELUS,
    "relu_gradient": RELUS,
    "softmax": MATRICES,
    "softmax_gradient": MATRICES,
    "dense": DENSES,
    "dense_gradient_input": DENSES,
    "dense_gradient_kernel": DENSES,
    "batch_moments": COLUMNS,
    "normalize": COLUMNS,
    "batch_normalization_gradient": COLUMNS,
    "moving_average": [{**size, "momentum": 0.999} for size in SIZES],
    "softmax_cross_entropy": MATRICES,
    "sparse_softmax_cross_entropy": MATRICES,
    "cross_entropy": MATRICES,
    "sparse_cross_entropy": MATRICES,
    "mean_squared_error": MATRICES,
    "binary_cross_entropy": MATRICES,
    "sigmoid_binary_cross_entropy": MATRICES,
    "sparse_accuracy": MATRICES,
    "categorical_accuracy": MATRICES,
    "binary_accuracy": MATRICES,
    "dropout": [
        {"shape": (1037,), "rate": 0.3, "seed": 2**63 + 5, "stream": 2, "step": 2**32 - 1},
        {"shape": (3, 5), "rate": 0.0, "seed": 0, "stream": 0, "step": 0},
    ],
    "regularize": [{"size": 300, "regions": 4}, {"size": 9, "regions": 1}, {"size": 9, "regions": 0}],
    "sgd": [
        {"size": 300, "momentum": 0.0, "nesterov": False, "weight_decay": 0.01},
        {"size": 9, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
        {"size": 9, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ],
    "adam": [{"size": 300, "step": 1, "weight_decay": 0.0}, {"size": 9, "step": 40, "weight_decay": 0.01}],
    "rmsprop": [
        {"size": 300, "momentum": 0.0, "centered": False, "weight_decay": 0.0},
        {"size": 9, "momentum": 0.9, "centered": True, "weight_decay": 0.01},
    ],
    "gather": [
        {"source_rows": 12, "features": 37, "start": 3, "rows": 8},
        {"source_rows": 5, "features": 1, "start": 0, "rows": 5, "kind": np.int32},
    ],
    "sum_into": [{"size": 303, "place": 1}, {"size": 5, "place": 0}],
}
NUMBERED = [(name, number) for name, cases in CASES.items() for number in range(len(cases))]
FLOAT64 = ["correlate2d", "softmax_cross_entropy", "max_pool2d", "adam"]

both = pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")


def test_every_kernel_has_its_cases():
    assert CHECKS.keys() == CASES.keys() == TABLE.keys() - MEMORY


@both
@pytest.mark.parametrize(("name", "number"), NUMBERED)
def test_kernel(name, number, capability):
    with Gpu(capability).installed() as gpu:
        CHECKS[name](device, Data(number, np.float32), **CASES[name][number])
    assert gpu.launched


@pytest.mark.parametrize("name", FLOAT64)
def test_kernel_in_float64(name):
    with Gpu().installed():
        CHECKS[name](device, Data(0, np.float64), **CASES[name][0])


@pytest.mark.parametrize("name", sorted(CHECKS.keys() - NOT_PROPAGATING))
def test_nan_and_infinities_propagate(name):
    with Gpu().installed():
        check_special_values(device, name, **CASES[name][0])


@pytest.mark.parametrize(
    "name", ["correlate2d", "dense_gradient_kernel", "softmax", "batch_moments", "normalize", "sum_into"]
)
def test_the_order_of_warps_and_blocks_makes_no_difference(name):
    results = []
    for order in ("together", "warps"):
        with Gpu(order=order).installed():
            results.append(CHECKS[name](device, Data(0, np.float32), **CASES[name][0]))
    for first, second in zip(*results, strict=True):
        assert first.tobytes() == second.tobytes()


def test_memory():
    with Gpu().installed():
        check_memory(device)


def test_repetition():
    with Gpu().installed():
        check_repetition(device)


class Settings(NamedTuple):
    """A named tuple of unlike fields."""

    count: np.int16
    rate: np.float64


def test_arguments_are_flattened_as_numba_does():
    def kernel(matrix, scale, settings, line, out):
        # Extents, strides and items as the compiled code finds them.
        if cuda.grid(1) == 0:
            out[0], out[1], out[2] = matrix.shape[0], matrix.shape[1], matrix.size
            out[3], out[4] = matrix.strides[0], matrix.strides[1]
            out[5], out[6], out[7] = matrix[1, 2], scale, settings.count
            out[8], out[9], out[10] = settings.rate, line[3], line.strides[0]

    gpu = Gpu()
    with gpu.installed():
        numbers = np.arange(24, dtype=np.float32).reshape(4, 6)
        matrix = device.from_host(numbers)
        settings = Settings(np.int16(-3), np.float64(0.1))
        out = device.empty(11, np.float64)
        # Every second row, and one column: strided views.
        arguments = matrix[::2], np.float32(0.5), settings, matrix[:, 4], out
        gpu.launch(SimpleNamespace(py_func=kernel, targetoptions={}), (1,), (32,), *arguments)
        found = device.to_host(out).tolist()
    assert found == [2, 6, 12, 48, 4, numbers[2, 2], 0.5, -3, 0.1, numbers[3, 4], 24]


def test_host_arrays_and_unknown_options_are_refused():
    gpu = Gpu()
    with pytest.raises(SimtError, match="array of the host"):
        gpu.launch(SimpleNamespace(py_func=print, targetoptions={}), (1,), (32,), np.zeros(3))
    with pytest.raises(SimtError, match="fastmath"):
        gpu.launch(SimpleNamespace(py_func=print, targetoptions={"fastmath": True}), (1,), (32,))


def test_the_host_reads_only_what_was_written():
    with Gpu().installed():
        array = device.empty((3, 4), np.float32)
        with pytest.raises(UninitialisedError):
            device.to_host(array)
        device.copy(device.zeros((1, 4), np.float32), array[1:2])
        assert not device.to_host(array[1]).any()
        with pytest.raises(UninitialisedError):
            device.to_host(array)


def test_counters_of_an_elementwise_kernel():
    # 1024 numbers read and written once, four bytes each, in whole sectors.
    counters = Counters()
    with Gpu(counters=counters).installed():
        device.relu(device.from_host(np.ones(1024, np.float32)), 0.0, np.inf, 0.0, device.empty(1024, np.float32))
    assert counters.bytes_of("global", "ld") == counters.bytes_of("global", "st") == 4096
    assert counters.sector_bytes("ld") == counters.sector_bytes("st") == 4096
    assert counters.warps["st.global.f32"] == 32
    assert counters.lanes["ret"] == 1024
