"""Filters made by hand, laid over pictures by the library, against what SciPy's own filters give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from support import assert_close, seeds

from gpuconv import filters, functional

pictures = st.tuples(st.integers(1, 12), st.integers(1, 12))


def uniform(seed, shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def laid_over(picture, kernel):
    """The kernel over the picture, zeros around it."""
    bank = filters.bank(kernel, dtype="float64")
    return functional.correlate2d(picture[np.newaxis, :, :, np.newaxis], bank, padding="same")[0, :, :, 0]


def assert_same(kernel, picture, expected, roundings=0):
    """The kernel does what SciPy does; two-pass filters of SciPy's round once a pass more."""
    size = laid_over(abs(picture), abs(kernel))
    assert_close(laid_over(picture, kernel), expected, "float64", 2 * kernel.size + roundings, size)


@given(pictures, seeds, st.sampled_from([1, 3, 5, 9]))
def test_box(shape, seed, size):
    picture = uniform(seed, shape)
    # SciPy adds and takes away along the row, so its errors grow with the row.
    expected = ndimage.uniform_filter(picture, size, mode="constant")
    kernel = filters.box(size)
    assert kernel.shape == (size, size)
    assert_close(laid_over(picture, kernel), expected, "float64", size**2 + sum(shape), 1)


@given(pictures, seeds, st.floats(0.2, 3), st.sampled_from([None, 1, 3, 7]))
def test_gaussian(shape, seed, sigma, size):
    picture = uniform(seed, shape)
    radius = int(4 * sigma + 0.5) if size is None else size // 2
    kernel = filters.gaussian(sigma, size)
    assert kernel.shape == (2 * radius + 1, 2 * radius + 1)
    assert_same(kernel, picture, ndimage.gaussian_filter(picture, sigma, mode="constant", radius=radius), 8)
    assert abs(kernel.sum() - 1) < 1e-14
    np.testing.assert_array_equal(kernel, kernel.T)


@given(pictures, seeds, st.sampled_from([0, 1]))
def test_sobel(shape, seed, axis):
    picture = uniform(seed, shape)
    assert_same(filters.sobel(axis), picture, ndimage.sobel(picture, axis, mode="constant"))


@given(pictures, seeds)
def test_laplacian_and_sharpening(shape, seed):
    picture = uniform(seed, shape)
    expected = ndimage.laplace(picture, mode="constant")
    assert_same(filters.laplacian(), picture, expected)
    assert_same(filters.sharpen(2.5), picture, picture - 2.5 * expected)
    square = ndimage.convolve(picture, np.ones((3, 3)), mode="constant") - 9 * picture
    assert_same(filters.laplacian(diagonals=True), picture, square)
    assert_same(filters.sharpen(0.5, diagonals=True), picture, picture - 0.5 * square)


def test_extremes():
    assert filters.box(1).tolist() == filters.gaussian(0.01).tolist() == [[1]]
    nothing_changes = [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert filters.sharpen(0).tolist() == filters.gaussian(1e-200, 3).tolist() == nothing_changes
    np.testing.assert_allclose(filters.gaussian(1e6, 5), filters.box(5), rtol=1e-10)
    ramp = np.broadcast_to(np.arange(5.0), (5, 5))
    assert laid_over(ramp, filters.sobel(1))[1:-1, 1:-1].tolist() == [[8] * 3] * 3
    assert laid_over(ramp, filters.sobel(0))[1:-1, 1:-1].tolist() == [[0] * 3] * 3
    assert laid_over(ramp, filters.laplacian())[1:-1, 1:-1].tolist() == [[0] * 3] * 3


@given(pictures, seeds)
def test_a_bank_gives_what_its_kernels_give(shape, seed):
    kernels = [filters.sobel(0), filters.box(5), uniform(seed, (1, 7)), filters.laplacian()]
    picture = uniform(seed, shape)
    bank = filters.bank(*kernels, dtype="float64")
    assert bank.shape == (5, 7, 1, 4)
    together = functional.correlate2d(picture[np.newaxis, :, :, np.newaxis], bank, padding="same")[0]
    for number, kernel in enumerate(kernels):
        size = laid_over(abs(picture), abs(kernel))
        assert_close(together[..., number], laid_over(picture, kernel), "float64", 2 * kernel.size, size)


def test_results_belong_to_the_caller():
    for make in (filters.box, filters.gaussian, lambda: filters.sobel(0), filters.laplacian, filters.sharpen):
        kernel = make()
        assert kernel.dtype == np.float64
        kernel[...] = 7
        assert (make() != 7).all()
    assert filters.bank([[1]]).dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: filters.box(2), ValueError, "size: expected an odd integer, received 2"),
        (lambda: filters.box(0), ValueError, "size: expected an integer >= 1"),
        (lambda: filters.box(3.0), TypeError, "size: expected an integer"),
        (lambda: filters.gaussian(0), ValueError, "sigma: expected a finite number above 0"),
        (lambda: filters.gaussian(np.inf), ValueError, "sigma: expected a finite number"),
        (lambda: filters.gaussian(1.0, 4), ValueError, "size: expected an odd integer"),
        (lambda: filters.sobel(2), ValueError, "axis: expected 0 or 1, received 2"),
        (lambda: filters.sobel("x"), TypeError, "axis: expected an integer"),
        (lambda: filters.laplacian(1), TypeError, "diagonals: expected True or False"),
        (lambda: filters.sharpen(-1), ValueError, "amount: expected a finite number >= 0"),
        (filters.bank, ValueError, "kernels: expected at least one"),
        (lambda: filters.bank(np.ones((2, 3))), ValueError, "kernels: expected two axes of odd extents"),
        (lambda: filters.bank(np.ones(3)), ValueError, "kernels: expected two axes"),
        (lambda: filters.bank([["a"]]), TypeError, "kernels: expected numbers"),
        (lambda: filters.bank([[1]], dtype="int32"), ValueError, "dtype: expected one of"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()
