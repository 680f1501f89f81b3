"""Whole training runs whose CUDA kernels are executed from their PTX, against the CPU device: the same, to rounding.

Everything but the GPU is what a GPU would get: the launches with their grids and arguments, and the compiled code.
"""

import numpy as np
import pytest
from simt import Gpu
from test_cuda_ptx import device  # noqa: F401 (skips this file where NVIDIA's compiler cannot be had)

from gpuconv import datasets, layers, losses, models, optimizers, regularizers, utils

IMAGES, LABELS = datasets.digits.load_data()
X = (IMAGES[:11, ..., np.newaxis] / 16.0).astype(np.float32)
LABELS = LABELS[:11]
ONE_HOT = utils.to_categorical(LABELS, 10)

# Both devices round to float32, in other orders; a step passes rounding errors of a few dozen sums on to the next.
RELATIVE = 1e-5


@pytest.fixture(autouse=True)
def repeated_soon(monkeypatch):
    """The second step of an epoch is one graph of launches already."""
    monkeypatch.setattr(models, "_FEWEST_REPEATED", 2)


def digits_network(name):
    """The lecture's network for digits, as it is."""
    model = models.Sequential(device=name)
    penalty = regularizers.l2(1e-4)
    model.add(layers.Conv2D(10, (3, 3), input_shape=(8, 8, 1), activation="relu", kernel_regularizer=penalty))
    model.add(layers.MaxPooling2D(pool_size=(2, 2)))
    model.add(layers.Flatten())
    model.add(layers.Dense(50, activation="relu", kernel_regularizer=penalty))
    model.add(layers.Dense(10, activation="softmax", kernel_regularizer=penalty))
    model.compile(loss="categorical_crossentropy", optimizer=optimizers.SGD(lr=0.1), metrics=["accuracy"])
    return model, ONE_HOT


def deeper_network(name):
    """Two convolutional layers, one of them over the edges, dropout and Adam."""
    model = models.Sequential(device=name)
    model.add(layers.Conv2D(6, 3, padding="same", activation="relu", input_shape=(8, 8, 1)))
    model.add(layers.Conv2D(20, 3, strides=2, activation="relu"))
    model.add(layers.MaxPooling2D())
    model.add(layers.Dropout(0.25))
    model.add(layers.Flatten())
    model.add(layers.Dense(10))
    model.compile(optimizers.Adam(0.01), losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    return model, LABELS


def run(make, name):
    """Train on batches of three and one, evaluate and predict; return everything that can be compared."""
    utils.set_random_seed(1)
    model, y = make(name)
    history = model.fit(X, y, batch_size=3, epochs=1, verbose=0, validation_split=0.3).history
    evaluated = model.evaluate(X[:5], y[:5], verbose=0)
    return history, evaluated, model.get_weights(), model.predict(X[:5], batch_size=3, verbose=0)


# Both architectures: what differs between them, kernel by kernel, is for `test_simt_kernels`.
@pytest.mark.parametrize(("make", "capability"), [(digits_network, (9, 0)), (deeper_network, (7, 5))])
def test_training_is_that_of_the_cpu(make, capability):
    with Gpu(capability).installed() as gpu:
        history, evaluated, weights, predictions = run(make, "cuda")
    assert gpu.launched
    expected_history, expected_evaluated, expected_weights, expected_predictions = run(make, "cpu")
    assert history.keys() == expected_history.keys()
    for key, values in history.items():
        assert values == pytest.approx(expected_history[key], rel=RELATIVE), key
    assert evaluated == pytest.approx(expected_evaluated, rel=RELATIVE)
    for number, (weight, expected) in enumerate(zip(weights, expected_weights, strict=True)):
        assert weight.dtype == expected.dtype == np.float32
        assert np.abs(weight - expected).max() <= RELATIVE * max(np.abs(expected).max(), 0.1), number
    np.testing.assert_allclose(predictions, expected_predictions, rtol=10 * RELATIVE, atol=RELATIVE)


def test_training_is_bitwise_repeatable_whatever_the_order_of_warps():
    weights = []
    for order in ("together", "warps"):
        with Gpu(order=order).installed():
            utils.set_random_seed(1)
            model, y = deeper_network("cuda")
            model.train_on_batch(X[:1], y[:1])
            weights.append(model.get_weights())
    assert [weight.tobytes() for weight in weights[0]] == [weight.tobytes() for weight in weights[1]]


def test_batches_given_one_by_one_are_those_of_the_cpu():
    def run(name):
        utils.set_random_seed(1)
        model = models.Sequential([layers.Input((8,)), layers.ReLU(), layers.Dense(2)], device=name)
        model.compile(optimizers.Adam(0.01), "mse")
        return [model.train_on_batch(X[some : some + 2, 4, :, 0], X[some : some + 2, 3, :2, 0]) for some in range(6)]

    with Gpu().installed() as gpu:
        values = run("cuda")
    # Adam's moments are made by the first step, so that the third is the second with the same settings, and recorded;
    # those after it are a graph's, whose table counts steps.
    assert [name for name, _, _ in gpu.launched].count("_advance") == 3
    np.testing.assert_allclose(values, run("cpu"), rtol=RELATIVE)
