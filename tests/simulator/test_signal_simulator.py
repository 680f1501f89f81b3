"""`gpuconv.signal` on the simulated GPU."""

from itertools import product

import numpy as np
import pytest
from gpuconv.kernels.cuda.toolkit import cuda

from gpuconv import signal, use_device

RANDOM = np.random.RandomState(0)
PICTURE, KERNEL = RANDOM.uniform(-1, 1, (4, 5)), RANDOM.uniform(-1, 1, (2, 3))


@pytest.mark.parametrize("name", ["correlate2d", "convolve2d"])
@pytest.mark.parametrize(("mode", "boundary"), list(product(["full", "same", "valid"], ["fill", "wrap", "symm"])))
def test_device_arrays_come_back_as_device_arrays(name, mode, boundary):
    function = getattr(signal, name)
    for one, other in ((PICTURE, KERNEL), (KERNEL, PICTURE)):
        with use_device("cpu"):
            expected = function(one, other, mode, boundary, 0.5)
            result = function(cuda.to_device(one), cuda.to_device(other), mode, boundary, 0.5)
        assert result.dtype == np.float64
        np.testing.assert_allclose(result.copy_to_host(), expected, rtol=0, atol=1e-14)


def test_floats_are_computed_on_the_device_in_use_and_the_rest_on_the_cpu():
    with use_device("cuda"):
        floats = signal.correlate2d(PICTURE.astype(np.float32), KERNEL.astype(np.float32))
        integers = signal.correlate2d(np.eye(3, dtype=int), np.ones((2, 2), int), "valid")
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(integers, [[2, 1], [1, 2]])


def test_mixtures_other_types_and_sequences_are_refused():
    with pytest.raises(TypeError, match="in1, in2: expected all arrays on the GPU or none"):
        signal.correlate2d(cuda.to_device(PICTURE), KERNEL)
    with pytest.raises(TypeError, match="in1, in2: expected GPU arrays of one dtype"):
        signal.correlate2d(cuda.to_device(np.eye(2, dtype=int)), cuda.to_device(np.eye(2, dtype=int)))
    with pytest.raises(TypeError, match="in2: expected a NumPy array, received an array on a GPU"):
        signal.convolve([1.0], cuda.to_device(PICTURE[0]))
