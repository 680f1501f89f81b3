"""Arrays of the simulated GPU are computed there, and come back as such."""

import numpy as np
import pytest
from gpuconv.kernels.cuda.toolkit import cuda

from gpuconv import activations, functional, use_device

RANDOM = np.random.RandomState(0)


def uniform(*shape, dtype="float32"):
    """Uniform numbers in [-1, 1)."""
    return RANDOM.uniform(-1, 1, shape).astype(dtype)


X, FILTERS, BIAS, DY = uniform(2, 5, 4, 2), uniform(3, 2, 1, 4), uniform(4), uniform(2, 3, 2, 4)
MATRIX, KERNEL = uniform(3, 4), uniform(4, 2)
WINDOW = {"strides": 2, "padding": "same", "groups": 2}
CALLS = {
    "correlate2d": (lambda *a: functional.correlate2d(*a, **WINDOW, activation="relu"), (X, FILTERS, BIAS)),
    "correlate2d, gelu": (lambda *a: functional.correlate2d(*a, activation="gelu", groups=2), (X, FILTERS)),
    "gradient by input": (
        lambda *a: functional.correlate2d_gradient_input(*a, X.shape, **WINDOW),
        (DY, FILTERS),
    ),
    "gradients by filters and bias": (
        lambda *a: functional.correlate2d_gradient_filters(*a, (3, 2), **WINDOW),
        (X, DY),
    ),
    "max_pool2d": (lambda x: functional.max_pool2d(x, (2, 3), 1), (X,)),
    "average_pool2d": (lambda x: functional.average_pool2d(x, 2, padding="same"), (X,)),
    "dense": (lambda *a: functional.dense(*a, activation="tanh"), (MATRIX, KERNEL, uniform(2))),
    "relu": (functional.relu, (MATRIX,)),
    "relu6": (activations.relu6, (MATRIX,)),
    "softmax": (functional.softmax, (MATRIX,)),
    "softmax of pictures": (functional.softmax, (DY[:1],)),
    "dropout": (lambda x: functional.dropout(x, 0.4, seed=2), (MATRIX,)),
}


def results_of(call, arrays):
    """The results, always as a tuple."""
    results = call(*arrays)
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize(("call", "arrays"), CALLS.values(), ids=CALLS)
def test_device_arrays_come_back_as_device_arrays(call, arrays):
    with use_device("cpu"):
        expected = results_of(call, arrays)
        on_gpu = [cuda.to_device(array) for array in arrays]
        results = results_of(call, on_gpu)
    for result, exact in zip(results, expected, strict=True):
        assert isinstance(result, type(on_gpu[0]))
        host = result.copy_to_host()
        assert host.dtype == np.float32
        np.testing.assert_allclose(host, exact, rtol=1e-5, atol=1e-6)
    for array, kept in zip(on_gpu, arrays, strict=True):
        assert array.copy_to_host().tobytes() == kept.tobytes()


def test_host_arrays_are_computed_on_the_device_in_use():
    with use_device("cuda"):
        y = functional.dense(MATRIX.tolist(), KERNEL)
    assert isinstance(y, np.ndarray)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, MATRIX.astype(float) @ KERNEL, rtol=1e-12)


def test_float64_stays():
    y = functional.relu(cuda.to_device(MATRIX.astype(np.float64)))
    assert y.dtype == np.float64


def test_mixtures_and_other_types_are_refused():
    with pytest.raises(TypeError, match="x, kernel: expected all arrays on the GPU or none, received a mixture"):
        functional.dense(cuda.to_device(MATRIX), KERNEL)
    with pytest.raises(TypeError, match="x, kernel: expected GPU arrays of one dtype"):
        functional.dense(cuda.to_device(MATRIX), cuda.to_device(KERNEL.astype(np.float64)))
    with pytest.raises(TypeError, match="x: expected GPU arrays of one dtype"):
        functional.relu(cuda.to_device(np.ones(3, np.int32)))
    with pytest.raises(ValueError, match="x: expected 4 axes"):
        functional.max_pool2d(cuda.to_device(MATRIX))


def test_strided_device_arrays_are_refused():
    pictures = cuda.to_device(np.asfortranarray(X))
    with pytest.raises(ValueError, match=r"x: expected C-contiguous GPU arrays.*received strided"):
        functional.average_pool2d(pictures)
