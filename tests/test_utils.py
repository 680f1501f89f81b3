"""Odds and ends: one-hot rows, seeds, the digits, initializers, regularizers, and what an import costs."""

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuconv import (
    activations,
    datasets,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    regularizers,
    utils,
)

# ------------------------------------------------------------------ utils


@pytest.mark.parametrize(
    ("x", "settings", "expected"),
    [
        ([0, 2, 1], {}, [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        ([[0], [1]], {}, [[1, 0], [0, 1]]),
        ([1], {"num_classes": 3}, [[0, 1, 0]]),
        (np.array([1.0, 0.0]), {}, [[0, 1], [1, 0]]),
        (np.array([True, False]), {}, [[0, 1], [1, 0]]),
        (np.array([[1], [0]], np.uint8), {"num_classes": np.int64(2)}, [[0, 1], [1, 0]]),
        ([[0, 1]], {}, [[[1, 0], [0, 1]]]),
        (1, {}, [0, 1]),
    ],
)
def test_to_categorical(x, settings, expected):
    rows = utils.to_categorical(x, **settings)
    assert rows.dtype == np.float64
    assert rows.tolist() == expected


def test_parameters_of_dense_layers():
    # The lecture's network: weights and biases of ten thousand hidden neurons, and of one output.
    assert utils.count_dense_parameters(10**6, 10**4, 1) == 10**10 + 10**4 + 10**4 + 1
    assert utils.count_dense_parameters(10**6, 10**4, 1, use_bias=False) == 10**10 + 10**4
    assert utils.count_dense_parameters(128 * 128 * 3, 1, use_bias=False) == 49152
    # Beyond 64 bits too.
    assert utils.count_dense_parameters(10**15, 10**15) == 10**30 + 10**15


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.booleans())
def test_parameters_of_dense_layers_are_those_of_models(widths, use_bias):
    inputs, *units = widths
    model = models.Sequential([layers.Input((inputs,)), *(layers.Dense(n, use_bias=use_bias) for n in units)])
    assert utils.count_dense_parameters(inputs, *units, use_bias=use_bias) == model.count_params()


@given(st.integers(1, 4), st.integers(1, 4), *[st.integers(1, 3)] * 3, st.booleans())
def test_parameters_of_correlations_are_those_of_models(height, width, groups, channels, filters, use_bias):
    channels, filters = groups * channels, groups * filters
    layer = layers.Conv2D(filters, (height, width), groups=groups, use_bias=use_bias, input_shape=(5, 6, channels))
    expected = models.Sequential([layer]).count_params()
    count = utils.count_correlation_parameters((height, width), channels, filters, groups, use_bias)
    assert count == expected


def test_parameters_of_correlations_of_other_axes():
    assert utils.count_correlation_parameters(3, 3, 10) == utils.count_correlation_parameters((3, 3), 3, 10) == 280
    assert utils.count_correlation_parameters((64,), 1, 16) == 65 * 16
    assert utils.count_correlation_parameters([3, 3, 3], 2, 5, use_bias=False) == 27 * 2 * 5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: utils.count_dense_parameters(3), ValueError, "units: expected the units of at least one layer"),
        (lambda: utils.count_dense_parameters(0, 1), ValueError, "inputs: expected an integer >= 1"),
        (lambda: utils.count_dense_parameters(1, 2.0), TypeError, "units: expected an integer >= 1"),
        (lambda: utils.count_dense_parameters(1, 2, use_bias=1), TypeError, "use_bias: expected True or False"),
        (lambda: utils.count_correlation_parameters((), 1, 1), ValueError, "kernel_size: expected at least one axis"),
        (lambda: utils.count_correlation_parameters((3, 0), 1, 1), ValueError, "kernel_size: expected an integer"),
        (lambda: utils.count_correlation_parameters("3", 1, 1), TypeError, "kernel_size: expected an integer"),
        (lambda: utils.count_correlation_parameters(3, True, 1), TypeError, "channels: expected an integer"),
        (lambda: utils.count_correlation_parameters(3, 4, 6, groups=3), ValueError, "groups: expected a divisor"),
        (lambda: utils.count_correlation_parameters(3, 6, 4, groups=3), ValueError, "groups: expected a divisor"),
    ],
)
def test_refusals_of_parameter_counts(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


def draw():
    """Something from every source of randomness."""
    kernel = initializers.get("glorot_uniform")((3, 4))
    seeded = initializers.GlorotUniform(seed=1)((3, 4))
    return kernel.tolist(), seeded.tolist(), random.random(), np.random.random(3).tolist()  # noqa: NPY002


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, np.int64(5)])
def test_a_seed_restarts_everything_random(seed):
    utils.set_random_seed(seed)
    first, second = draw(), draw()
    utils.set_random_seed(seed)
    assert (draw(), draw()) == (first, second)
    # Draws differ, but for the initializer that has a seed of its own.
    assert [ours == theirs for ours, theirs in zip(first, second, strict=True)] == [False, True, False, False]


def test_runs_without_a_seed_differ():
    script = "import gpuconv.initializers as i; print(i.RandomUniform()((4,)).tolist())"
    assert _python("-c", script).stdout != _python("-c", script).stdout


# ------------------------------------------------------------------ data


def test_digits():
    images, labels = datasets.digits.load_data()
    assert (images.shape, images.dtype) == ((1797, 8, 8), np.float64)
    assert (labels.shape, labels.dtype) == ((1797,), np.int64)
    assert (images.min(), images.max(), images.sum()) == (0, 16, 561718)
    assert (images == np.round(images)).all()
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert images[0, 1].tolist() == [0, 0, 13, 15, 10, 15, 5, 0]
    assert images[[0, 1, -1]].sum(axis=(1, 2)).tolist() == [294, 313, 392]
    # Every call gives arrays of its own.
    images[...] = labels[...] = 0
    assert datasets.digits.load_data()[0].sum() == 561718


def test_digits_are_those_of_scikit_learn():
    from sklearn import datasets as sklearn_datasets

    theirs = sklearn_datasets.load_digits()
    images, labels = datasets.digits.load_data()
    np.testing.assert_array_equal(images, theirs.images)
    np.testing.assert_array_equal(labels, theirs.target)


# ------------------------------------------------------------------ identifiers

REGISTRIES = {
    "activations": (activations, "relu", activations.ActivationFunction),
    "initializers": (initializers, "he_normal", initializers.Initializer),
    "regularizers": (regularizers, "l1_l2", regularizers.Regularizer),
    "losses": (losses, "mse", losses.Loss),
    "optimizers": (optimizers, "Adam", optimizers.Optimizer),
    "metrics": (metrics, "accuracy", metrics.Metric),
}


@pytest.mark.parametrize("room", REGISTRIES)
def test_identifiers(room):
    module, name, base = REGISTRIES[room]
    instance = module.get(name)
    assert isinstance(instance, base)
    assert module.get(instance) is instance
    if room != "activations":
        assert type(module.get(type(instance))) is type(instance)
        assert module.get(name) is not instance
    for known in module._REGISTRY:
        assert isinstance(module.get(known), base)
        # Messages show them.
        assert repr(module.get(known))


def test_none_is_linear_and_no_penalty():
    assert activations.get(None) is activations.linear
    assert regularizers.get(None) is None


# ------------------------------------------------------------------ initializers

RANDOM = [
    initializers.RandomUniform,
    initializers.RandomNormal,
    initializers.TruncatedNormal,
    initializers.VarianceScaling,
    initializers.GlorotUniform,
    initializers.GlorotNormal,
    initializers.HeUniform,
    initializers.HeNormal,
    initializers.LecunUniform,
    initializers.LecunNormal,
]
SHAPE = (3, 3, 16, 24)


@pytest.mark.parametrize("kind", RANDOM)
def test_seeds_of_initializers(kind):
    seeded = kind(seed=3)
    first = seeded(SHAPE)
    assert (first.shape, first.dtype) == (SHAPE, np.float32)
    # One initializer gives one array for a shape, and so does another of the same seed.
    assert first.tobytes() == seeded(SHAPE).tobytes() == kind(seed=3)(SHAPE).tobytes()
    assert first.tobytes() != kind(seed=4)(SHAPE).tobytes()
    assert kind()(SHAPE).tobytes() != kind()(SHAPE).tobytes()
    assert seeded(SHAPE, "float64").astype(np.float32).tobytes() == first.tobytes()


FAN_IN, FAN_OUT = 9 * 16, 9 * 24
FAN_MEAN = (FAN_IN + FAN_OUT) / 2
# Variance, and the largest size that can occur.
MOMENTS = {
    "GlorotUniform": (1 / FAN_MEAN, np.sqrt(3 / FAN_MEAN)),
    "HeUniform": (2 / FAN_IN, np.sqrt(6 / FAN_IN)),
    "LecunUniform": (1 / FAN_IN, np.sqrt(3 / FAN_IN)),
    "GlorotNormal": (1 / FAN_MEAN, 2 * np.sqrt(1 / FAN_MEAN) / 0.87962566),
    "HeNormal": (2 / FAN_IN, 2 * np.sqrt(2 / FAN_IN) / 0.87962566),
    "LecunNormal": (1 / FAN_IN, 2 * np.sqrt(1 / FAN_IN) / 0.87962566),
    "VarianceScaling": (1 / FAN_IN, 2 * np.sqrt(1 / FAN_IN) / 0.87962566),
    "RandomUniform": (0.1**2 / 12, 0.05),
    "RandomNormal": (0.05**2, np.inf),
    "TruncatedNormal": ((0.05 * 0.87962566) ** 2, 0.1),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_moments_of_initializers(kind):
    variance, largest = MOMENTS[kind.__name__]
    values = kind(seed=0)(SHAPE, "float64")
    # Six standard deviations of the mean, and of the variance of a normal variable, which no other one here exceeds.
    assert abs(values.mean()) < 6 * np.sqrt(variance / values.size)
    assert abs(values.var() / variance - 1) < 6 * np.sqrt(2 / values.size)
    assert np.abs(values).max() <= largest
    if np.isfinite(largest):
        assert np.abs(values).max() > 0.98 * largest


def test_fixed_initializers():
    assert initializers.Zeros()((2, 3)).tolist() == [[0, 0, 0]] * 2
    assert initializers.get("ones")((2,), "float64").dtype == np.float64
    assert initializers.Constant(0.5)((2,)).tolist() == [0.5, 0.5]
    layer = layers.Dense(2, kernel_initializer=initializers.Constant(2), bias_initializer="ones")
    models.Sequential([layers.Input((3,)), layer])
    assert layer.kernel.numpy().tolist() == [[2, 2]] * 3
    assert layer.bias.numpy().tolist() == [1, 1]


# ------------------------------------------------------------------ regularizers


@pytest.mark.parametrize(
    ("regularizer", "expected"),
    [
        (regularizers.L1(0.5), 0.5 * 6),
        (regularizers.L2(0.5), 0.5 * 14),
        (regularizers.L1L2(0.5, 0.25), 0.5 * 6 + 0.25 * 14),
        (regularizers.L1(), 0.01 * 6),
        (regularizers.L2(), 0.01 * 14),
        (regularizers.L1L2(), 0),
        (regularizers.get("l1"), 0.01 * 6),
        (regularizers.get("L2"), 0.01 * 14),
        (regularizers.get("l1_l2"), 0.01 * (6 + 14)),
        (regularizers.l2(2), 2 * 14),
    ],
)
def test_penalties(regularizer, expected):
    weights = np.array([[1.0, -2.0], [3.0, 0.0]])
    assert regularizer(weights) == pytest.approx(expected, rel=1e-15)
    # The same penalty in the loss of a model, and its gradient in a step of length 1.
    model = models.Sequential(dtype="float64")
    model.add(layers.Dense(2, input_shape=(2,), use_bias=False, kernel_regularizer=regularizer))
    model.compile(optimizers.SGD(1.0), "mse")
    model.set_weights([weights])
    x, y = np.zeros((3, 2)), np.zeros((3, 2))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-14)
    assert model.train_on_batch(x, y) == pytest.approx(expected, rel=1e-14)
    gradient = regularizer.l1 * np.sign(weights) + 2 * regularizer.l2 * weights
    np.testing.assert_allclose(model.get_weights()[0], weights - gradient, rtol=1e-14)


# ------------------------------------------------------------------ imports


def _python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


def test_importing_is_quiet_and_compiles_nothing():
    script = (
        "import sys, gpuconv; sys.stderr.write(' '.join(m for m in sys.modules if m.startswith(('numba', 'llvm'))))"
    )
    result = _python("-W", "error", "-c", script)
    assert (result.stdout, result.stderr) == ("", "")


def test_every_public_name_is_there():
    import gpuconv

    assert all(hasattr(gpuconv, name) for name in gpuconv.__all__)
    assert gpuconv.__version__
