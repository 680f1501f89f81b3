"""The scalar formulas that both devices share, as plain Python and compiled."""

import math

import numpy as np
import pytest
from gpuconv.kernels import formulas
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from scipy import special

ALPHA = 0.3
REAL = [np.float32, np.float64]
KINKED = [formulas.RELU, formulas.LEAKY_RELU, formulas.ELU]

# Numba would compile the formulas anew for every type: once each is enough.
COMPILED = {
    name: njit(getattr(formulas, name), error_model="numpy")
    for name in ("activate", "slope_from_value", "slope", "clip_relu", "clip_relu_slope", "philox4x32")
}

TRUTHS = {
    formulas.LINEAR: lambda z: z,
    formulas.RELU: lambda z: np.maximum(z, 0),
    formulas.LEAKY_RELU: lambda z: np.where(z < 0, ALPHA * z, z),
    formulas.SIGMOID: special.expit,
    formulas.TANH: np.tanh,
    formulas.ELU: lambda z: np.where(z < 0, ALPHA * np.expm1(np.minimum(z, 0)), z),
    formulas.SOFTPLUS: lambda z: -special.log_expit(-z),
    formulas.GELU: lambda z: z * special.ndtr(z),
}
CODES = list(TRUTHS)
FUSABLE = [code for code in CODES if code <= formulas.LAST_FUSABLE]


@pytest.fixture(params=["python", "compiled"])
def form(request):
    """A function that finds a formula by name, as Python or compiled."""
    return COMPILED.__getitem__ if request.param == "compiled" else lambda name: getattr(formulas, name)


def values(function, activation, points):
    return np.array([function(activation, ALPHA, point) for point in points])


def test_codes():
    assert list(range(8)) == CODES


@pytest.mark.parametrize("activation", CODES)
def test_activations_are_scipys(form, activation):
    z = np.linspace(-30, 30, 301)
    got = values(form("activate"), activation, z)
    # The sum under GELU, 1 + erf, cancels on the left.
    np.testing.assert_allclose(got, TRUTHS[activation](z), rtol=1e-14, atol=1e-14 if activation == 7 else 0)


@pytest.mark.parametrize("activation", CODES)
def test_slopes_are_central_differences(form, activation):
    z = np.linspace(-6, 6, 100)  # misses the kinks at zero
    step = 1e-6
    slope = (TRUTHS[activation](z + step) - TRUTHS[activation](z - step)) / (2 * step)
    np.testing.assert_allclose(values(form("slope"), activation, z), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("activation", FUSABLE)
def test_slopes_from_values_are_the_slopes(form, activation):
    z = np.linspace(-6, 6, 101)  # with the kinks at zero
    by_argument = values(form("slope"), activation, z)
    by_value = values(form("slope_from_value"), activation, values(form("activate"), activation, z))
    np.testing.assert_allclose(by_value, by_argument, rtol=1e-10)


@pytest.mark.parametrize("activation", KINKED[:2])
def test_slope_at_the_kink_is_that_of_the_side_below(form, activation):
    below = 0 if activation == formulas.RELU else ALPHA
    assert form("slope")(activation, ALPHA, 0.0) == below
    assert form("slope_from_value")(activation, ALPHA, 0.0) == below


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("activation", CODES)
def test_the_dtype_stays_in_python(activation, dtype):
    for z in (-0.75, 0.0, 0.75):
        assert type(formulas.activate(activation, ALPHA, dtype(z))) is dtype
        assert type(formulas.slope(activation, ALPHA, dtype(z))) is dtype
        if activation in FUSABLE:
            assert type(formulas.slope_from_value(activation, ALPHA, dtype(z))) is dtype


@pytest.mark.parametrize("name", ["activate", "slope", "slope_from_value", "clip_relu", "clip_relu_slope"])
def test_the_dtype_stays_when_compiled(name):
    numbers = (1, ALPHA) if "relu" not in name else (0.1, 6.0, 0.0)
    for dtype in REAL:
        COMPILED[name](*numbers, dtype(0.5))
    # Compiled code hands out Python's float either way; what Numba inferred tells.
    inferred = {signature.args[-1]: signature.return_type for signature in COMPILED[name].nopython_signatures}
    assert {str(kind) for kind in inferred} == {"float32", "float64"}
    assert all(given == returned for given, returned in inferred.items())


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("activation", CODES)
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_nothing_overflows(form, activation, dtype, size):
    with np.errstate(over="raise", invalid="raise"):
        for z in (dtype(-size), dtype(size)):
            y = form("activate")(activation, ALPHA, z)
            slope = form("slope")(activation, ALPHA, z)
            assert math.isfinite(y)
            assert math.isfinite(slope)
            assert -1e-6 <= slope <= 1
            assert y == pytest.approx(float(TRUTHS[activation](np.float64(z))), rel=1e-6, abs=1e-30)
            if activation in FUSABLE:
                assert form("slope_from_value")(activation, ALPHA, dtype(y)) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("activation", CODES)
def test_nan_stays_nan(form, activation, dtype):
    assert math.isnan(form("activate")(activation, ALPHA, dtype(np.nan)))


@given(
    st.floats(0, 1),
    st.one_of(st.just(math.inf), st.floats(1, 10)),
    st.floats(0, 1),
    st.floats(-20, 20),
)
def test_clip_relu(negative_slope, max_value, threshold, z):
    value = formulas.clip_relu(negative_slope, max_value, threshold, z)
    slope = formulas.clip_relu_slope(negative_slope, max_value, threshold, z)
    if z > max_value:
        assert (value, slope) == (max_value, 0)
    elif z == max_value:
        assert value == max_value
        assert slope == (0 if z == threshold else 1)
    elif z > threshold:
        assert (value, slope) == (z, 1)
    elif z == threshold:
        assert (value, slope) == (0, 0)
    else:
        assert (value, slope) == (negative_slope * (z - threshold), negative_slope)
    arguments = (negative_slope, max_value, threshold, z)
    assert COMPILED["clip_relu"](*arguments) == pytest.approx(value, rel=1e-15)
    assert COMPILED["clip_relu_slope"](*arguments) == slope


@pytest.mark.parametrize("dtype", REAL)
def test_clip_relu_keeps_nan_and_dtype(dtype):
    assert math.isnan(formulas.clip_relu(0.1, 6.0, 0.0, dtype(np.nan)))
    assert math.isnan(COMPILED["clip_relu"](0.1, 6.0, 0.0, dtype(np.nan)))
    for z in (-1.0, 0.5, 7.0):
        assert type(formulas.clip_relu(0.1, 6.0, 0.0, dtype(z))) is dtype
        assert type(formulas.clip_relu_slope(0.1, 6.0, 0.0, dtype(z))) is dtype


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        # the known-answer vectors that Random123 publishes for philox4x32-10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(form, counter, key, answer):
    words = form("philox4x32")(*map(np.uint32, (*counter, *key)))
    assert tuple(map(int, words)) == answer
