"""Every CUDA kernel, compiled to PTX and executed on the CPU, against the reference.

Shapes cross the edges of the tiles that a GPU gets (`gpuconv.kernels.cuda.tiles`), and every access is checked
on the way: bounds, alignment, reads of what nothing wrote, races, barriers.  `test_kernels_cuda` runs them on a GPU.
"""

import re
import sys
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from cuda_cases import CASES, DEPTHWISE_STRIDES, NARROW_STRIDES
from gpuconv.kernels import TABLE, formulas, precision
from gpuconv.kernels.cuda import toolkit
from gpuconv.kernels.cuda.repetition import graphs
from gpuconv.kernels.cuda.toolkit import cuda
from gpuconv.kernels.geometry import correlation_geometry, pooling_geometry
from gpuconv.kernels.repetition import Counter
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
from simt import Counters, Gpu
from simt.errors import SimtError, UninitialisedError
from test_cuda_ptx import device  # skips this file where NVIDIA's compiler cannot be had

CAPABILITIES = ((7, 5), (9, 0))

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
        check_special_values(device, name, **unpadded(name, CASES[name][0]))


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


def test_a_graph_is_kept_for_calls_with_the_same_arguments(monkeypatch):
    # The table has room for two repetitions.
    monkeypatch.setattr(sys.modules["gpuconv.kernels.cuda.repetition"], "ROWS", 2)
    rows, order = np.arange(36, dtype=np.float32).reshape(12, 3), np.random.default_rng(0).permutation(12)
    with Gpu().installed() as gpu:
        source, order_there = device.from_host(rows), device.from_host(order.astype(np.int32))
        batch, other = (device.empty((2, 3), np.float32) for _ in range(2))

        def gathered(start, times, target):
            device.gather(source, order_there, start, target)
            device.repetition([(device.gather, (source, order_there, Counter(start, 2), target))])(times)
            expected = rows[order[start + 2 * times :][:2]]
            np.testing.assert_array_equal(device.to_host(target), expected)
            return len(graphs)

        assert gathered(0, 5, batch) == 1
        # From another place on it is the same graph.
        assert gathered(1, 2, batch) == 1
        assert gathered(0, 1, other) == 2
        precision.set_precision("tf32")
        assert gathered(0, 1, other) == 3
        precision.set_precision("float32")
        assert gathered(0, 1, other) == 3
    # Each repetition advances the table, and gathers.
    names = [name for name, _, _ in gpu.launched]
    assert names.count("_advance") == 10
    assert names.count("gather_kernel") == 15


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


class Traffic(NamedTuple):
    """A call, and how many bytes it should read and write in vectors of 16 bytes."""

    inputs: dict
    outputs: dict
    read: int
    written: int


N = 1024
REAL = np.zeros(N, np.float32)
MATRIX = np.zeros((16, 64), np.float32)
PICTURES = np.zeros((2, 4, 8, 16), np.float32)
POOLED = np.zeros((2, 2, 4, 16), np.float32)
CHANNELS = np.ones(64, np.float32)
HALVES = {"geometry": pooling_geometry(PICTURES.shape, 2)}
TRAFFIC = {
    "activate": Traffic({"x": REAL, "activation": formulas.TANH, "alpha": 0.0}, {"y": REAL}, 4 * N, 4 * N),
    "relu_gradient": Traffic(
        {"x": REAL, "dy": REAL, "negative_slope": 0.0, "max_value": 1.0, "threshold": 0.0}, {"dx": REAL}, 8 * N, 4 * N
    ),
    "dropout": Traffic({"x": REAL, "rate": 0.5, "seed": 1, "stream": 2, "step": 3}, {"y": REAL}, 4 * N, 4 * N),
    "softmax": Traffic({"x": MATRIX}, {"y": MATRIX}, 4 * N, 4 * N),
    "softmax_gradient": Traffic({"y": MATRIX, "dy": MATRIX}, {"dx": MATRIX}, 8 * N, 4 * N),
    "softmax_cross_entropy": Traffic(
        {"logits": MATRIX, "targets": MATRIX, "scale": 1.0}, {"losses": MATRIX[:, 0], "gradient": MATRIX}, 8 * N, 4 * N
    ),
    "categorical_accuracy": Traffic({"predictions": MATRIX, "targets": MATRIX}, {"hits": MATRIX[:, 0]}, 8 * N, 0),
    "batch_moments": Traffic({"x": MATRIX}, {"mean": CHANNELS, "variance": CHANNELS}, 4 * N, 0),
    "max_pool2d": Traffic(
        {"x": PICTURES, **HALVES}, {"y": POOLED, "winner": POOLED.astype(np.uint8)}, PICTURES.nbytes, POOLED.nbytes
    ),
    "max_pool2d_gradient": Traffic(
        {"dy": POOLED, "winner": POOLED.astype(np.uint8), **HALVES}, {"dx": PICTURES}, POOLED.nbytes, PICTURES.nbytes
    ),
    "average_pool2d": Traffic({"x": PICTURES, **HALVES}, {"y": POOLED}, PICTURES.nbytes, POOLED.nbytes),
    "average_pool2d_gradient": Traffic({"dy": POOLED, **HALVES}, {"dx": PICTURES}, POOLED.nbytes, PICTURES.nbytes),
    "zero_pad2d": Traffic({"x": POOLED, "top": 1, "left": 1}, {"y": PICTURES}, POOLED.nbytes, PICTURES.nbytes),
    "sgd": Traffic(
        {"gradients": REAL, "learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0},
        {"parameters": REAL, "velocity": REAL}, 12 * N, 8 * N,
    ),
    "adam": Traffic(
        {
            "gradients": REAL, "learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "step": 1,
            "weight_decay": 0.0,
        },
        {"parameters": REAL, "mean": REAL, "mean_square": REAL}, 16 * N, 12 * N,
    ),
    "gather": Traffic(
        {"source": MATRIX, "order": np.arange(16, dtype=np.int32), "start": 0}, {"batch": MATRIX}, 4 * N, 4 * N
    ),
    "put": Traffic({"batch": MATRIX, "start": 0}, {"rows": MATRIX}, 4 * N, 4 * N),
    "sum_into": Traffic({"values": REAL, "place": 1}, {"totals": CHANNELS}, 4 * N, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAFFIC)
def test_memory_is_read_and_written_once_in_whole_sectors_128_bits_at_a_time(name):
    traffic, counters = TRAFFIC[name], Counters()
    with Gpu(counters=counters).installed() as gpu:
        run(device, name, traffic.inputs, traffic.outputs)
    assert len(gpu.launched) == 1
    wide = {
        direction: sum(
            16 * lanes
            for kind, lanes in counters.lanes.items()
            if re.fullmatch(rf"{direction}\.global\.v4\.[fub]32", kind)
        )
        for direction in ("ld", "st")
    }
    assert wide == {"ld": traffic.read, "st": traffic.written}
    for (space, direction, line), entry in counters.transfers.items():
        assert entry.efficiency == 1, f"{space} {direction} in line {line} of the PTX"
    assert counters.bank_conflicts() == 0


def test_rows_of_ten_classes_share_warps():
    counters = Counters()
    matrix = np.zeros((8, 10), np.float32)
    with Gpu(counters=counters).installed():
        run(device, "softmax", {"x": matrix}, {"y": matrix})
    # Two rows a warp, each number read and written once, and no barriers.
    assert counters.bytes_of("global", "ld") == counters.bytes_of("global", "st") == matrix.nbytes
    assert sum(entry.requests for key, entry in counters.transfers.items() if key[0] == "global") == 2 * 4
    assert not any(kind.startswith("bar") for kind in counters.warps)


def test_arrays_that_begin_anywhere_are_read_number_by_number():
    with Gpu().installed():
        x, y = device.from_host(np.linspace(-1, 1, 9, dtype=np.float32)), device.zeros(9, np.float32)
        device.relu(x[1:], 0.0, np.inf, 0.0, y[1:])
        np.testing.assert_array_equal(device.to_host(y), np.maximum(np.linspace(-1, 1, 9, dtype=np.float32), 0))


def test_how_many_kernels_a_call_launches():
    def launches(name, **case):
        with Gpu().installed() as gpu:
            CHECKS[name](device, Data(0, np.float32), **case)
        return len(gpu.launched)

    assert launches("regularize", size=500, regions=2) == 1
    assert launches("regularize", size=20_000, regions=2) == 2
    assert launches("sum_into", size=500, place=0) == 1
    assert launches("sum_into", size=20_000, place=0) == 2
    assert launches("batch_moments", shape=(100, 3)) == 1
    assert launches("batch_moments", shape=(300, 3)) == 2
    assert launches("batch_normalization_gradient", shape=(100, 3)) == 2
    assert launches("batch_normalization_gradient", shape=(300, 3)) == 3
    for case in DEPTHWISE_STRIDES + NARROW_STRIDES:
        assert launches("correlate2d_gradient_input", **case) == 1


@pytest.mark.parametrize("case", DEPTHWISE_STRIDES + NARROW_STRIDES)
def test_infinities_of_a_gradient_stay_with_the_pixels_that_were_seen(case):
    """Cells that a pixel does not have with strides are not multiplied as zeros: an infinity would make NaN of them."""
    for seed, special in enumerate(((np.nan,), (np.inf, -np.inf))):
        with Gpu().installed():
            CHECKS["correlate2d_gradient_input"](device, Data(seed, np.float32, special), **case)


class NvvmError(Exception):
    """By the name of numba-cuda's."""


class Refusing(Gpu):
    """A GPU for which none but the generic kernels of correlations compile."""

    def kernel(self, function, types, bounds=None):
        name = function.__name__
        if not name.startswith("direct") and name not in ("max_pool2d_kernel", "sum_chunks"):
            raise NvvmError(f"{name} does not compile")
        return super().kernel(function, types, bounds)


WITHOUT_GROUPS = correlation_geometry((1, 5, 6, 9), 2, 12)
FIRST_LAYER = correlation_geometry((1, 5, 6, 1), 3, 12)
BY_CHANNELS = DEPTHWISE_STRIDES[0]["geometry"]
VARIANTS = [
    ("correlate2d", "of a first layer", FIRST_LAYER),
    ("correlate2d", "of channels by themselves", BY_CHANNELS),
    ("correlate2d", "in register tiles", WITHOUT_GROUPS),
    ("correlate2d_max_pool2d", "of a first layer", FIRST_LAYER),
    ("correlate2d_gradient_input", "of few channels", FIRST_LAYER),
    ("correlate2d_gradient_input", "of channels by themselves", BY_CHANNELS),
    ("correlate2d_gradient_input", "in register tiles", WITHOUT_GROUPS),
    ("correlate2d_gradient_filters", "of channels by themselves", BY_CHANNELS),
    ("correlate2d_gradient_filters", "in register tiles", WITHOUT_GROUPS),
]


@pytest.mark.parametrize(("name", "variant", "geometry"), VARIANTS)
def test_kernels_that_do_not_compile_give_way_to_generic_ones(name, variant, geometry, monkeypatch):
    monkeypatch.setattr(toolkit, "_refused", set())

    def compute_twice():
        with Refusing().installed():
            for seed in range(2):
                CHECKS[name](device, Data(seed, np.float32), geometry=geometry, activation=formulas.RELU)

    with pytest.warns(RuntimeWarning) as warned:
        compute_twice()
    # One for each variant, however often it is asked for.
    messages = [str(warning.message) for warning in warned]
    assert messages[0].startswith(f"{name} {variant}, ")
    assert "received NvvmError: " in messages[0]
    assert len(set(messages)) == len(messages)


def test_gradients_by_filters_waste_no_memory_traffic():
    # A tile of its own, without ragged ends: whole sectors, and no bank of shared memory asked twice at once.
    counters = Counters()
    geometry = correlation_geometry((1, 8, 16, 64), 1, 64)
    with Gpu(counters=counters).installed():
        CHECKS["correlate2d_gradient_filters"](device, Data(0, np.float32), geometry=geometry, activation=formulas.RELU)
    assert counters.bank_conflicts() == 0
    assert counters.sector_bytes("ld") == counters.bytes_of("global", "ld")
    assert counters.sector_bytes("st") == counters.bytes_of("global", "st")


def test_first_layers_write_whole_sectors():
    counters = Counters()
    geometry = correlation_geometry((1, 18, 18, 3), 3, 32)
    with Gpu(counters=counters).installed():
        CHECKS["correlate2d"](device, Data(0, np.float32), geometry=geometry, activation=formulas.RELU)
    assert counters.bank_conflicts() == 0
    assert counters.sector_bytes("st") == counters.bytes_of("global", "st") == 16 * 16 * 32 * 4
