"""Arrays of the CPU device begin where lines of the cache do, and are arrays as NumPy's are."""

import pickle

import numpy as np
import pytest
from gpuconv.kernels import cpu
from gpuconv.kernels.cpu.memory import LARGE, LINE_BYTES
from numba import typeof

import gpuconv
from gpuconv import functional, layers, models, signal

rng = np.random.default_rng(0)
PICTURES = rng.standard_normal((4, 40, 40, 16), np.float32)
FILTERS = rng.standard_normal((3, 3, 16, 16), np.float32)
ROWS = PICTURES.reshape(-1, 40)

RESULTS = {
    "correlate2d": lambda: functional.correlate2d(PICTURES, FILTERS),
    "softmax of correlate2d": lambda: functional.correlate2d(PICTURES, FILTERS, activation="softmax"),
    "correlate2d_gradient_input": lambda: functional.correlate2d_gradient_input(PICTURES, FILTERS, (4, 42, 42, 16)),
    "max_pool2d": lambda: functional.max_pool2d(PICTURES, 2, strides=1),
    "average_pool2d": lambda: functional.average_pool2d(PICTURES, 2, strides=1),
    "dense": lambda: functional.dense(ROWS, np.eye(40, dtype=np.float32)),
    "softmax": lambda: functional.softmax(ROWS),
    "relu": lambda: functional.relu(PICTURES),
    "dropout": lambda: functional.dropout(PICTURES, 0.5, seed=1),
    "signal, direct": lambda: signal.correlate2d(ROWS, FILTERS[:, :, 0, 0], method="direct"),
    "signal, transforms": lambda: signal.correlate2d(ROWS, ROWS[:33, :33], method="fft"),
}


def begins_on_a_line(array):
    return array.ctypes.data % LINE_BYTES == 0


@pytest.mark.parametrize("name", RESULTS)
def test_results_begin_on_a_line(name):
    with gpuconv.use_device("cpu"):
        for _ in range(3):
            result = RESULTS[name]()
            assert result.nbytes >= LARGE
            assert begins_on_a_line(result)


@pytest.mark.parametrize("make", [cpu.empty, cpu.zeros])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int32"])
@pytest.mark.parametrize("shape", [(), (3, 0), (5, 7), (LARGE + 1,), (3, 111, 333), (1, 1 << 20)])
def test_arrays_are_as_numpys(make, shape, dtype):
    made, numpys = make(shape, np.dtype(dtype)), np.zeros(shape, dtype)
    assert typeof(made) == typeof(numpys)
    assert made.nbytes < LARGE or begins_on_a_line(made)
    if make is cpu.empty:
        made[...] = 0
    np.testing.assert_array_equal(made, numpys, strict=True)
    copied = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(copied, numpys, strict=True)


def test_results_are_the_callers():
    """No later call writes into an earlier one's result."""
    with gpuconv.use_device("cpu"):
        first = functional.relu(PICTURES)
        before = first.copy()
        functional.relu(-PICTURES)
        np.testing.assert_array_equal(first, before)
        assert first.flags.writeable
        assert not np.shares_memory(first, PICTURES)


def test_arrays_of_models():
    model = models.Sequential([layers.Dense(300, input_shape=(200,)), layers.Dense(10)], device="cpu")
    x = rng.standard_normal((100, 200), np.float32)
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((100, 10), np.float32), batch_size=100, verbose=0)
    assert begins_on_a_line(model.layers[0].kernel.value)
    arrays = [array for array in model._arrays.values() if array.nbytes >= LARGE]
    assert arrays
    assert all(map(begins_on_a_line, arrays))
